//! Authenticated encryption behind one small trait, and the keying material it starts from.
//!
//! The only back end so far is `ring`. ESP needs nothing but "seal and open in place, tag apart", so that is the trait.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

/// Bytes of the authentication tag. All three ciphers are used with the full 16 (RFC 4106 §6, RFC 7634 §2).
pub const TAG_LEN: usize = 16;
/// Bytes of the AEAD nonce: 4 of salt, 8 of IV (RFC 4106 §4, RFC 7634 §2).
pub const NONCE_LEN: usize = 12;
/// Bytes of salt behind the cipher key in the keying material (RFC 4106 §8.1, RFC 7634 §2).
pub const SALT_LEN: usize = 4;
/// Keying material of the largest cipher.
const MAX_MATERIAL: usize = 32 + SALT_LEN;

/// The ciphers a tunnel may be configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    pub const ALL: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// As in the policy file.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "aes-128-gcm",
            Cipher::Aes256Gcm => "aes-256-gcm",
            Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Bytes of the cipher key.
    pub fn key_len(self) -> usize {
        self.algorithm().key_len()
    }

    /// Bytes of the whole keying material: key, then salt.
    pub fn material_len(self) -> usize {
        self.key_len() + SALT_LEN
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Cipher key and salt of one security association. Zeroed when dropped; prints as its cipher's name.
pub struct KeyMaterial {
    cipher: Cipher,
    bytes: Zeroizing<[u8; MAX_MATERIAL]>,
}

impl KeyMaterial {
    /// `bytes` is key then salt. `None` where the length is not [`Cipher::material_len`].
    pub fn new(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        let mut own = Zeroizing::new([0; MAX_MATERIAL]);
        if bytes.len() != cipher.material_len() {
            return None;
        }
        own[..bytes.len()].copy_from_slice(bytes);
        Some(Self { cipher, bytes: own })
    }

    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.cipher.key_len()]
    }

    pub(crate) fn salt(&self) -> [u8; SALT_LEN] {
        let at = self.cipher.key_len();
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(&self.bytes[at..at + SALT_LEN]);
        salt
    }

    /// Says whether two keys are the same without keeping either.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &self.bytes[..self.cipher.material_len()]).as_ref());
        KeyId(id)
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({})", self.cipher)
    }
}

/// The part of the nonce that is keying material (RFC 4106 §4). It is never printed.
#[derive(Clone, Copy)]
pub(crate) struct Salt(pub [u8; SALT_LEN]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

/// A digest of keying material, to compare only: it is never printed.
///
/// The same key must never serve both directions of a tunnel, or two tunnels: their nonces would meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 32]);

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyId(…)")
    }
}

/// Sealing: the text is too long for the cipher. Opening: the tag does not fit the text, the AAD or the nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AeadError;

/// One key of one cipher. Calls are independent, so one key serves all workers.
pub trait Aead: Send + Sync + fmt::Debug {
    /// Encrypts `text` in place and returns the tag. The caller never uses a nonce twice.
    ///
    /// # Errors
    /// Only for texts beyond the cipher's limit (64 GiB).
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError>;

    /// Decrypts `text` in place.
    ///
    /// # Errors
    /// Where the tag is wrong; `text` then holds nothing of the plaintext.
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError>;
}

/// The best back end for this cipher on this machine.
pub fn new_aead(material: &KeyMaterial) -> Box<dyn Aead> {
    Box::new(RingAead::new(material))
}

/// `ring`: hand-written assembly, chosen by what the CPU offers.
pub struct RingAead {
    key: LessSafeKey,
}

impl RingAead {
    pub fn new(material: &KeyMaterial) -> Self {
        let key = UnboundKey::new(material.cipher().algorithm(), material.key())
            .expect("KeyMaterial holds exactly the algorithm's key length");
        Self { key: LessSafeKey::new(key) }
    }
}

impl fmt::Debug for RingAead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingAead({:?})", self.key.algorithm())
    }
}

impl Aead for RingAead {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), text).map_err(|_| AeadError)?;
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(tag), text, 0..)
            .map(|_| ())
            .map_err(|_| AeadError)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::testing::hex;

    struct Vector {
        cipher: Cipher,
        key: &'static str,
        nonce: &'static str,
        aad: &'static str,
        plain: &'static str,
        sealed: &'static str,
        tag: &'static str,
    }

    /// McGrew & Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 2, 4, 14, 16;
    /// RFC 8439 §2.8.2.
    const VECTORS: &[Vector] = &[
        Vector {
            cipher: Cipher::Aes128Gcm,
            key: "00000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plain: "00000000000000000000000000000000",
            sealed: "0388dace60b6a392f328c2b971b2fe78",
            tag: "ab6e47d42cec13bdf53a67b21257bddf",
        },
        Vector {
            cipher: Cipher::Aes128Gcm,
            key: "feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                    b16aedf5aa0de657ba637b39",
            sealed: "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05\
                     1ba30b396a0aac973d58e091",
            tag: "5bc94fbc3221a5db94fae95ae7121a47",
        },
        Vector {
            cipher: Cipher::Aes256Gcm,
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            nonce: "000000000000000000000000",
            aad: "",
            plain: "00000000000000000000000000000000",
            sealed: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            cipher: Cipher::Aes256Gcm,
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            nonce: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                    b16aedf5aa0de657ba637b39",
            sealed: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
                     c5f61e6393ba7a0abcc9f662",
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
        Vector {
            cipher: Cipher::ChaCha20Poly1305,
            key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            nonce: "070000004041424344454647",
            aad: "50515253c0c1c2c3c4c5c6c7",
            plain: "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a20496620492063\
                    6f756c64206f6666657220796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73\
                    637265656e20776f756c642062652069742e",
            sealed: "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
                     1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                     3ff4def08e4b7a9de576d26586cec64b6116",
            tag: "1ae10b594f09e26a7e902ecbd0600691",
        },
    ];

    fn aead(v: &Vector) -> Box<dyn Aead> {
        let material = [hex(v.key), vec![0; SALT_LEN]].concat();
        new_aead(&KeyMaterial::new(v.cipher, &material).unwrap())
    }

    #[test]
    fn published_vectors_both_ways() {
        for v in VECTORS {
            let (key, nonce, aad) = (aead(v), hex(v.nonce).try_into().unwrap(), hex(v.aad));
            let mut text = hex(v.plain);
            let tag = key.seal(nonce, &aad, &mut text).unwrap();
            assert_eq!((text.clone(), tag.to_vec()), (hex(v.sealed), hex(v.tag)), "{} {}", v.cipher, v.nonce);
            key.open(nonce, &aad, &mut text, tag).unwrap();
            assert_eq!(text, hex(v.plain));
        }
    }

    #[test]
    fn nothing_but_the_same_tag_nonce_aad_and_text_opens() {
        for v in VECTORS {
            let key = aead(v);
            let (nonce, aad): ([u8; 12], _) = (hex(v.nonce).try_into().unwrap(), hex(v.aad));
            let (sealed, tag): (_, [u8; 16]) = (hex(v.sealed), hex(v.tag).try_into().unwrap());
            let refuse = |nonce, aad: &[u8], text: &[u8], tag, what: &str| {
                let mut text = text.to_vec();
                assert_eq!(key.open(nonce, aad, &mut text, tag), Err(AeadError), "{what}");
                let plain = hex(v.plain);
                assert!(plain.iter().all(|b| *b == 0) || text != plain, "plaintext left behind: {what}");
            };
            for bit in 0..128 {
                let mut bad = tag;
                bad[bit / 8] ^= 1 << (bit % 8);
                refuse(nonce, &aad, &sealed, bad, "tag bit");
            }
            refuse(nonce, &aad, &sealed, [0; 16], "zero tag");
            refuse(nonce, &aad, &sealed, [0xff; 16], "ones tag");
            refuse(nonce, &aad, &sealed, tag.map(|b| !b), "inverted tag");
            for byte in 0..12 {
                let mut bad = nonce;
                bad[byte] ^= 0x80;
                refuse(bad, &aad, &sealed, tag, "nonce");
            }
            refuse(nonce, &[&aad[..], &[0]].concat(), &sealed, tag, "longer AAD");
            refuse(nonce, &aad, &sealed[..sealed.len() - 1], tag, "shorter text");
            refuse(nonce, &aad, &[&sealed[..], &[0]].concat(), tag, "longer text");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let material = KeyMaterial::new(Cipher::Aes128Gcm, &[0xAB; 20]).unwrap();
        for shown in [format!("{material:?}"), format!("{:?}", new_aead(&material)), format!("{:?}", material.id())] {
            let lower = shown.to_lowercase();
            assert!(!lower.contains("ab, ab") && !lower.contains("abab") && !lower.contains("171"), "{shown}");
        }
        assert_eq!(format!("{material:?}"), "KeyMaterial(aes-128-gcm)");
    }

    #[test]
    fn only_the_exact_length_is_keying_material() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_name(cipher.name()), Some(cipher));
            for n in 0..64 {
                assert_eq!(KeyMaterial::new(cipher, &vec![1; n]).is_some(), n == cipher.material_len());
            }
        }
    }
}
