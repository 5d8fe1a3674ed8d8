//! Initial keys, which follow from the version and the client's first destination alone (RFC 9001 §5.2), and what is
//! sealed with them. They keep nothing secret from anybody who sees the packet.

use std::ops::Range;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey, quic};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::version::Version;

/// Bytes between the packet number's start and the sample, and the sample (RFC 9001 §5.4.2).
const SAMPLE_AT: usize = 4;
const SAMPLE: usize = 16;
/// Least that a packet with a sample says of its length.
pub const LEAST: u64 = (SAMPLE_AT + SAMPLE) as u64;

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 §7.1).
fn expand(prk: &Prk, label: &[u8], out: &mut [u8]) -> Option<()> {
    let len = (out.len() as u16).to_be_bytes();
    let whole = [b"tls13 ".len() as u8 + label.len() as u8];
    prk.expand(&[&len, &whole, b"tls13 ", label, &[0]], Len(out.len())).ok()?.fill(out).ok()
}

/// Key, nonce base and header protection of what the client sends.
struct Keys {
    key: [u8; 16],
    iv: [u8; 12],
    hp: [u8; 16],
}

impl Keys {
    fn of_client(version: &Version, dcid: &[u8]) -> Option<Self> {
        let initial = Salt::new(HKDF_SHA256, version.salt).extract(dcid);
        let mut secret = [0; 32];
        expand(&initial, b"client in", &mut secret)?;
        let secret = Prk::new_less_safe(HKDF_SHA256, &secret);
        let labels: [&[u8]; 3] = if version.second {
            [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"]
        } else {
            [b"quic key", b"quic iv", b"quic hp"]
        };
        let mut keys = Self { key: [0; 16], iv: [0; 12], hp: [0; 16] };
        expand(&secret, labels[0], &mut keys.key)?;
        expand(&secret, labels[1], &mut keys.iv)?;
        expand(&secret, labels[2], &mut keys.hp)?;
        Some(keys)
    }
}

/// Opens a client's Initial in place; `number_at` is where its packet number starts. Gives where the frames stand in
/// `packet`. `None`, and `packet` spoilt, where it is not sealed with these keys.
pub fn open(version: &Version, dcid: &[u8], packet: &mut [u8], number_at: usize) -> Option<Range<usize>> {
    let keys = Keys::of_client(version, dcid)?;
    let sample = packet.get(number_at + SAMPLE_AT..number_at + SAMPLE_AT + SAMPLE)?;
    let mask = quic::HeaderProtectionKey::new(&quic::AES_128, &keys.hp).ok()?.new_mask(sample).ok()?;
    packet[0] ^= mask[0] & 0x0f;
    let len = usize::from(packet[0] & 3) + 1;
    let mut nonce = keys.iv;
    for i in 0..len {
        packet[number_at + i] ^= mask[1 + i];
        nonce[12 - len + i] ^= packet[number_at + i];
    }
    let (head, sealed) = packet.split_at_mut(number_at + len);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &keys.key).ok()?);
    let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&head), sealed).ok()?.len();
    Some(number_at + len..number_at + len + plain)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    const DCID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    /// RFC 9001 appendix A.1.
    #[test]
    fn keys_of_version_1() {
        let keys = Keys::of_client(&Version::of(1).unwrap(), &DCID).unwrap();
        assert_eq!(hex(&keys.key), "1f369613dd76d5467730efcbe3b1a22d");
        assert_eq!(hex(&keys.iv), "fa044b2f42a3fd3b46fb255c");
        assert_eq!(hex(&keys.hp), "9f50449e04a0e810283a1e9933adedd2");
    }

    /// RFC 9369 appendix A.1.
    #[test]
    fn keys_of_version_2() {
        let keys = Keys::of_client(&Version::of(0x6b33_43cf).unwrap(), &DCID).unwrap();
        assert_eq!(hex(&keys.key), "8b1a0bc121284290a29e0971b5cd045d");
        assert_eq!(hex(&keys.iv), "91f73e2351d8fa91660e909f");
        assert_eq!(hex(&keys.hp), "45b95e15235d6f45a6b19cbcb0294ba9");
    }

    /// Seals frames as a client would: `head` ends where the packet number of one byte, 0, is to stand.
    pub(in crate::l7::web::quic) fn seal(version: &Version, dcid: &[u8], head: &[u8], frames: &[u8]) -> Vec<u8> {
        let keys = Keys::of_client(version, dcid).unwrap();
        let head = [head, &[0]].concat();
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &keys.key).unwrap());
        let mut sealed = frames.to_vec();
        let nonce = Nonce::assume_unique_for_key(keys.iv);
        key.seal_in_place_append_tag(nonce, Aad::from(&head), &mut sealed).unwrap();
        let at = head.len() - 1;
        let mut packet = [head, sealed].concat();
        let hp = quic::HeaderProtectionKey::new(&quic::AES_128, &keys.hp).unwrap();
        let mask = hp.new_mask(&packet[at + SAMPLE_AT..at + SAMPLE_AT + SAMPLE]).unwrap();
        packet[0] ^= mask[0] & 0x0f;
        packet[at] ^= mask[1];
        packet
    }
}
