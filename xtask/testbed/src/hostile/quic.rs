//! A client's Initial packets, sealed as RFC 9001 §5 says, whatever is in them.
#![allow(clippy::unwrap_used)] // lengths are constants that fit

use ring::aead::quic::{AES_128, HeaderProtectionKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

/// RFC 9001 §5.2.
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f,
    0x0a,
];

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label (RFC 8446 §7.1) without a context.
fn expand(prk: &Prk, label: &str, len: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let info = [&(len as u16).to_be_bytes()[..], &[label.len() as u8], label.as_bytes(), &[0]].concat();
    let mut out = vec![0; len];
    prk.expand(&[&info], Len(len)).unwrap().fill(&mut out).unwrap();
    out
}

fn varint(n: usize) -> [u8; 2] {
    (0x4000 | n as u16).to_be_bytes()
}

/// A CRYPTO frame (RFC 9000 §19.6).
pub fn crypto(offset: usize, bytes: &[u8]) -> Vec<u8> {
    [&[6][..], &varint(offset), &varint(bytes.len()), bytes].concat()
}

/// A datagram with one Initial packet of these frames, at least 1,200 bytes long.
pub fn initial(dcid: &[u8], number: u32, frames: &[u8]) -> Vec<u8> {
    let secret = Salt::new(HKDF_SHA256, &SALT).extract(dcid);
    let client = expand(&secret, "client in", 32);
    let client = Prk::new_less_safe(HKDF_SHA256, &client);
    let (key, mut iv) = (expand(&client, "quic key", 16), expand(&client, "quic iv", 12));
    let hp = HeaderProtectionKey::new(&AES_128, &expand(&client, "quic hp", 16)).unwrap();
    let mut body = frames.to_vec();
    body.resize(body.len().max(1160), 0);
    let mut packet = vec![0xc3, 0, 0, 0, 1, dcid.len() as u8];
    packet.extend(dcid);
    packet.extend([0, 0]);
    packet.extend(varint(4 + body.len() + 16));
    let number_at = packet.len();
    packet.extend(number.to_be_bytes());
    iv[8..].iter_mut().zip(number.to_be_bytes()).for_each(|(a, b)| *a ^= b);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&iv).unwrap();
    key.seal_in_place_append_tag(nonce, Aad::from(&packet), &mut body).unwrap();
    packet.extend(body);
    let mask = hp.new_mask(&packet[number_at + 4..number_at + 20]).unwrap();
    packet[0] ^= mask[0] & 0x0f;
    packet[number_at..number_at + 4].iter_mut().zip(&mask[1..]).for_each(|(a, b)| *a ^= b);
    packet
}
