//! Hash, key derivation and handshake cipher (the paper §5.4): BLAKE2s, HKDF over HMAC-BLAKE2s, ChaCha20-Poly1305.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::secret::Secret;

/// Bytes of the cipher's tag.
pub(super) const TAG_LEN: usize = 16;
/// What BLAKE2s compresses at once.
const BLOCK_LEN: usize = 64;

/// A key of one step, zeroed when dropped. What is kept between messages is a [`Secret`].
pub(super) type Key = Zeroizing<[u8; 32]>;

/// HASH of the paper, of the parts one after the other.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// MAC of the paper: BLAKE2s with a key of up to 32 bytes, 16 bytes of output.
pub(super) fn mac(key: &[u8], message: &[&[u8]]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("keys here have 16 or 32 bytes");
    for part in message {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// HMAC-BLAKE2s (RFC 2104).
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    let with = |pad: u8| {
        let mut block = Zeroizing::new([pad; BLOCK_LEN]);
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let mut inner = Blake2s256::new();
    Digest::update(&mut inner, with(0x36));
    for part in parts {
        Digest::update(&mut inner, part);
    }
    let inner: Key = Zeroizing::new(inner.finalize().into());
    Zeroizing::new(hash(&[&*with(0x5c), &*inner]))
}

/// KDF of the paper: the first `N` outputs of HKDF (RFC 5869) without `info`.
fn kdf<const N: usize>(chain: &[u8; 32], input: &[u8]) -> [Key; N] {
    let secret = hmac(chain, &[input]);
    let mut last = Key::default();
    let mut count = 0_u8;
    [(); N].map(|()| {
        let before: &[u8] = if count == 0 { &[] } else { &*last };
        count += 1;
        last = hmac(&secret, &[before, &[count]]);
        last.clone()
    })
}

/// A handshake's chaining key and transcript hash. Prints nothing of itself.
pub(super) struct Transcript {
    chain: Secret<32>,
    hash: [u8; 32],
}

impl Transcript {
    /// Before the first message to the holder of the static key `responder`.
    pub(super) fn new(responder: &[u8; 32]) -> Self {
        let chain = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let start = hash(&[&chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        Self { chain: Secret::new(&chain), hash: hash(&[&start, responder]) }
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// An ephemeral public key goes into both.
    pub(super) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_key(public);
        self.mix_hash(public);
    }

    pub(super) fn mix_key(&mut self, input: &[u8; 32]) {
        let [chain] = kdf(self.chain.expose(), input);
        *self.chain.expose_mut() = *chain;
    }

    /// Mixes `input` in and yields a key for one message.
    pub(super) fn mix_key_and_cipher(&mut self, input: &[u8; 32]) -> Key {
        let [chain, key] = kdf(self.chain.expose(), input);
        *self.chain.expose_mut() = *chain;
        key
    }

    /// The preshared key goes into both, and yields a key for one message.
    pub(super) fn mix_psk(&mut self, psk: &[u8; 32]) -> Key {
        let [chain, hash, key] = kdf(self.chain.expose(), psk);
        *self.chain.expose_mut() = *chain;
        self.mix_hash(&*hash);
        key
    }

    /// The initiator's sending and receiving keys.
    pub(super) fn split(&self) -> [Secret<32>; 2] {
        kdf::<2>(self.chain.expose(), &[]).map(|key| Secret::new(&key))
    }

    /// Fills `out` with `text`, encrypted, and its tag. `out` is longer than `text` by [`TAG_LEN`].
    pub(super) fn seal(&mut self, key: &Key, text: &[u8], out: &mut [u8]) {
        let (place, tag_place) = out.split_at_mut(text.len());
        place.copy_from_slice(text);
        let tag = ChaCha20Poly1305::new((&**key).into())
            .encrypt_inout_detached(&Nonce::default(), &self.hash, place.into())
            .expect("a few bytes are within the cipher's limit");
        tag_place.copy_from_slice(&tag);
        self.mix_hash(out);
    }

    /// Fills `out` with what is in `sealed`, which is longer by [`TAG_LEN`]. `None` where it does not authenticate; `out`
    /// is then zero.
    pub(super) fn open(&mut self, key: &Key, sealed: &[u8], out: &mut [u8]) -> Option<()> {
        let (text, tag) = sealed.split_at_checked(out.len())?;
        let tag = Tag::try_from(tag).ok()?;
        out.copy_from_slice(text);
        let opened = ChaCha20Poly1305::new((&**key).into()).decrypt_inout_detached(
            &Nonce::default(),
            &self.hash,
            (&mut *out).into(),
            &tag,
        );
        if opened.is_err() {
            out.zeroize();
            return None;
        }
        self.mix_hash(sealed);
        Some(())
    }
}

impl Clone for Transcript {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), hash: self.hash }
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        self.hash.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::hex;

    /// RFC 7693 appendix B; the others as Python's `hashlib.blake2s` and `hmac` compute them.
    #[test]
    fn known_answers() {
        let abc = hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"a", b"bc"])[..], abc);
        assert_eq!(mac(&[b'k'; 32], &[b"ab", b"c"])[..], hex("da5b50d8f2073c6d2bc49dc3f556bde3"));
        let hmacked = hex("f4d43998935a4cd786ec4700eb60528f19e992aeac274db4ffb999efabe9a5d4");
        assert_eq!(hmac(&[b'k'; 32], &[b"what do ya want ", b"for nothing?"])[..], hmacked);
    }
}
