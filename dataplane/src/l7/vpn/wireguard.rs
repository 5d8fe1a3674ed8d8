//! WireGuard: messages by type, reserved zeros and exact length (Donenfeld, "WireGuard", NDSS 2017, §5.4).
//!
//! Transport data has little that is fixed: two messages of one receiver, whose counters follow each other, are certain.

use crate::l7::infra::read::{le16_at, le32_at};
use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 51820;
const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE: u32 = 3;
const DATA: u32 = 4;
const INITIATION_LEN: usize = 148;
const RESPONSE_LEN: usize = 92;
const COOKIE_LEN: usize = 64;
/// Header and tag: a keepalive.
const DATA_LEAST: usize = 32;
/// Messages that may have been lost between two.
const LOST: u64 = 64;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    // The type is one byte, and three are zero.
    let good = match (look.u32_le(0), d.len()) {
        (Some(INITIATION), INITIATION_LEN) | (Some(RESPONSE), RESPONSE_LEN) => true,
        (Some(COOKIE), COOKIE_LEN) => look.has_port(PORT),
        // The content is padded to sixteen bytes (§5.4.6).
        (Some(DATA), DATA_LEAST..) => d.len().is_multiple_of(16) && follows(look.before, d),
        _ => false,
    };
    if good { Verdict::handshake(Class::Wireguard) } else { Verdict::No }
}

fn follows(before: &[u8], d: &[u8]) -> bool {
    let counter = |d: &[u8]| Some(u64::from(le32_at(d, 12)?) << 32 | u64::from(le32_at(d, 8)?));
    let same = before.first_chunk::<8>() == d.first_chunk::<8>() && le16_at(d, 4).is_some();
    let step = counter(d).zip(counter(before)).map(|(now, then)| now.wrapping_sub(then));
    same && step.is_some_and(|n| (1..=LOST).contains(&n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{is_udp, udp, udp_after};

    fn message(kind: u8, len: usize, counter: u8) -> Vec<u8> {
        let mut d = vec![0x5a; len];
        d[..4].copy_from_slice(&[kind, 0, 0, 0]);
        d[8..16].copy_from_slice(&u64::from(counter).to_le_bytes());
        d
    }

    #[test]
    fn handshakes_and_data() {
        is_udp(look, &message(1, 148, 0), 9, Class::Wireguard);
        is_udp(look, &message(2, 92, 0), 9, Class::Wireguard);
        is_udp(look, &message(3, 64, 0), PORT, Class::Wireguard);
        assert_eq!(udp(look, &message(3, 64, 0), 9), None);
        let mut reserved = message(1, 148, 0);
        reserved[1] = 7;
        assert_eq!(udp(look, &reserved, PORT), None);
        let data = |n| message(4, 96, n);
        assert_eq!(udp_after(look, &data(1), &data(2), 9), Some(Class::Wireguard));
        assert_eq!((udp_after(look, &data(2), &data(2), 9), udp_after(look, &data(3), &data(2), 9)), (None, None));
        assert_eq!(udp_after(look, &data(1), &message(4, 97, 2), 9), None);
        let mut other = data(2);
        other[5] = 1;
        assert_eq!(udp_after(look, &data(1), &other, 9), None);
    }
}
