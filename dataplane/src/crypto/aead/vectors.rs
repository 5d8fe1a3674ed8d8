//! Published vectors, against every back end that runs here.
#![allow(clippy::unwrap_used)]

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
