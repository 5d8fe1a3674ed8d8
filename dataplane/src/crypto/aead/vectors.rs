//! Published vectors, against every back end that runs here. `wycheproof.txt` has a choice of Project Wycheproof's.
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

/// A key in every back end that runs here.
fn keys(cipher: Cipher, key: &str) -> Vec<AeadKey> {
    BackEnd::all(cipher).map(|back| AeadKey::with(back, cipher, &hex(key)).unwrap()).collect()
}

#[test]
fn published_vectors_both_ways() {
    for v in VECTORS {
        let (nonce, aad): ([u8; 12], _) = (hex(v.nonce).try_into().unwrap(), hex(v.aad));
        for key in keys(v.cipher, v.key) {
            let mut text = hex(v.plain);
            let tag = key.seal(nonce, &aad, &mut text).unwrap();
            assert_eq!((text.clone(), tag.to_vec()), (hex(v.sealed), hex(v.tag)), "{key:?} {}", v.nonce);
            key.open(nonce, &aad, &mut text, tag).unwrap();
            assert_eq!(text, hex(v.plain), "{key:?}");
        }
    }
}

/// RFC 8439 appendix A.5, as WireGuard's peers and IPsec's do it: only opening is asked for.
#[test]
fn rfc_8439_decryption_example() {
    let sealed = hex("64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0
         bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855
         9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9
         9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a
         0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130
         305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b");
    let tag = hex("eead9d67890cbb22392336fea1851f38").try_into().unwrap();
    let nonce = hex("000000000102030405060708").try_into().unwrap();
    for key in keys(Cipher::ChaCha20Poly1305, "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0") {
        let mut text = sealed.clone();
        key.open(nonce, &hex("f33388860000000000004e91"), &mut text, tag).unwrap();
        assert!(text.starts_with(b"Internet-Drafts are draft documents valid for a maximum of six months"), "{key:?}");
    }
}

/// Edge cases of tags, Poly1305 keys and sums, key stream and text. See the head of the file.
#[test]
fn wycheproof_edge_cases() {
    let mut seen = 0;
    for line in include_str!("wycheproof.txt").lines().filter(|line| !line.starts_with('#')) {
        let field: Vec<&str> = line.split(' ').map(|f| if f == "-" { "" } else { f }).collect();
        let [cipher, result, id, flag, key, nonce, aad, plain, sealed, tag] = field[..] else { panic!("{line}") };
        let cipher = Cipher::from_name(cipher).unwrap();
        let (nonce, tag): ([u8; 12], [u8; 16]) = (hex(nonce).try_into().unwrap(), hex(tag).try_into().unwrap());
        for key in keys(cipher, key) {
            let what = format!("{key:?}, test {id} ({flag})");
            let mut text = hex(sealed);
            let opened = key.open(nonce, &hex(aad), &mut text, tag);
            if result == "valid" {
                assert_eq!((opened, &text), (Ok(()), &hex(plain)), "{what}");
                assert_eq!(key.seal(nonce, &hex(aad), &mut text), Ok(tag), "{what}");
                assert_eq!(text, hex(sealed), "{what}");
            } else {
                assert_eq!(opened, Err(AeadError), "{what}");
                assert!(plain.is_empty() || text != hex(plain), "plaintext left behind: {what}");
            }
            seen += 1;
        }
    }
    assert!(seen > 100);
}

/// All bits of a nonce count, none carries into another, and block counters do not spill into the nonce.
#[test]
fn nonces_of_all_ones_are_as_any_other() {
    for cipher in Cipher::ALL {
        let key = "ff".repeat(cipher.key_len());
        let mut all = keys(cipher, &key).into_iter().map(|key| {
            let mut text = vec![0xFF; 2100];
            let tag = key.seal([0xFF; 12], &[0xFF; 12], &mut text).unwrap();
            (text, tag)
        });
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first), "{cipher}");
    }
}

#[test]
fn nothing_but_the_same_tag_nonce_aad_and_text_opens() {
    for v in VECTORS {
        let (nonce, aad): ([u8; 12], _) = (hex(v.nonce).try_into().unwrap(), hex(v.aad));
        let (sealed, tag): (_, [u8; 16]) = (hex(v.sealed), hex(v.tag).try_into().unwrap());
        for key in keys(v.cipher, v.key) {
            let refuse = |nonce, aad: &[u8], text: &[u8], tag, what: &str| {
                let mut text = text.to_vec();
                assert_eq!(key.open(nonce, aad, &mut text, tag), Err(AeadError), "{key:?}: {what}");
                let plain = hex(v.plain);
                assert!(plain.iter().all(|b| *b == 0) || text != plain, "plaintext left behind: {key:?}, {what}");
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
}

/// Every back end, in batches and one by one, is the same as `ring` alone.
#[test]
fn all_back_ends_agree_on_all_lengths() {
    for cipher in Cipher::ALL {
        let all = keys(cipher, &"42".repeat(cipher.key_len()));
        let aad = [7; 12];
        for n in (0..300).chain([511, 512, 513, 1023, 1024, 1400, 1500, 2047, 2048, 4096, 9000]) {
            let plain: Vec<u8> = (0..n).map(|i| (i * 31 % 251) as u8).collect();
            let mut want = plain.clone();
            let tag = all[0].seal([n as u8; 12], &aad[..n % 13], &mut want).unwrap();
            for key in &all {
                let (mut text, mut other) = (plain.clone(), plain.clone());
                assert_eq!(key.seal([n as u8; 12], &aad[..n % 13], &mut text), Ok(tag), "{key:?}, {n} bytes");
                let mut jobs = [Job::new([n as u8; 12], &aad[..n % 13], &mut other, [0; 16]).unwrap()];
                key.seal_many(&mut jobs);
                assert!(jobs[0].ok && jobs[0].tag == tag && *jobs[0].text == want, "{key:?}, {n} bytes");
                key.open_many(&mut jobs);
                assert!(jobs[0].ok && *jobs[0].text == plain && text == want, "{key:?}, {n} bytes");
            }
        }
    }
}
