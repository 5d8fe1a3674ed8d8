//! IKE: ISAKMP's header of versions 1 and 2 (RFC 2408 §3.1, RFC 7296 §3.1), on port 4500 behind the non-ESP marker (RFC 3948
//! §2.2), over TCP behind `IKETCP` (RFC 9329 §4); and ESP in UDP (RFC 3948 §2.1).

use crate::l7::infra::read::{u16_at, u32_at};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const NAT_PORT: u16 = 4500;
const HEADER: usize = 28;
const STREAM: &[u8] = b"IKETCP";
/// SPIs below are reserved (RFC 4303 §2.1).
const FIRST_SPI: u32 = 256;
/// ESP's header, the shortest content, and the shortest check value.
const ESP_LEAST: usize = 8 + 4 + 12;

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let message = d.strip_prefix(&[0; 4]).filter(|_| look.has_port(NAT_PORT)).unwrap_or(d);
    match version(message) {
        Some(text) => {
            notes.facts.put(Fact::Version, text);
            Verdict::handshake(Class::Ike)
        }
        None => Verdict::No,
    }
}

pub fn look_tcp(look: &Look, _: &mut Notes) -> Verdict {
    match look.begins(STREAM) {
        Some(true) => Verdict::handshake(Class::Ike),
        Some(false) => Verdict::No,
        None => Verdict::More,
    }
}

/// Says the version of a message whose length is that of `d`.
fn version(d: &[u8]) -> Option<&'static [u8]> {
    let length = u32_at(d, 24)? as usize;
    if length != d.len() || length < HEADER || d[..8] == [0; 8] {
        return None;
    }
    let (payload, exchange) = (d[16], d[18]);
    match d[17] {
        // Phase 1, informational, quick mode, new group; commit, encryption and authentication flags.
        0x10 if matches!(exchange, 1..=5 | 6 | 32 | 33) && payload <= 21 | 128 && d[19] & !7 == 0 => Some(b"1"),
        // RFC 7296 §3.1, RFC 9242, RFC 9370.
        0x20..=0x2f if matches!(exchange, 34..=44) && matches!(payload, 0 | 33..=54) && d[19] & !0x38 == 0 => {
            Some(b"2")
        }
        _ => None,
    }
}

/// Two packets of one association whose sequence numbers follow each other, on the port that NAT traversal has.
pub fn look_esp(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let follows = look.u32(0).is_some_and(|spi| spi >= FIRST_SPI)
        && look.before.first_chunk::<4>() == d.first_chunk::<4>()
        && u32_at(look.before, 4).map(|n| n.wrapping_add(1)) == look.u32(4);
    let sized = d.len() >= ESP_LEAST && d.len().is_multiple_of(4) && u16_at(d, 4).is_some();
    if look.has_port(NAT_PORT) && follows && sized { Verdict::payload(Class::Ipsec) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{fact, hex, is_tcp, is_udp, udp, udp_after};

    const COOKIES: &str = "864330ac30e6564d 0000000000000000";

    #[test]
    fn both_versions() {
        let v2 = hex(&format!("{COOKIES} 21 20 22 08 00000000 00000024 0000000801010101"));
        is_udp(look_udp, &v2, 500, Class::Ike);
        assert_eq!(fact(look_udp, &v2, 500, Fact::Version).as_deref(), Some("2"));
        is_udp(look_udp, &[&[0; 4][..], &v2].concat(), NAT_PORT, Class::Ike);
        assert_eq!(udp(look_udp, &[&[0; 4][..], &v2].concat(), 500), None);
        let v1 = hex(&format!("{COOKIES} 01 10 02 00 00000000 00000024 0000000801010101"));
        assert_eq!(fact(look_udp, &v1, 500, Fact::Version).as_deref(), Some("1"));
        for (at, value) in [(27, 0x25), (17, 0x30), (18, 45), (16, 99)] {
            let mut bad = v2.clone();
            bad[at] = value;
            assert_eq!(udp(look_udp, &bad, 500), None, "{at}");
        }
        is_tcp(look_tcp, b"IKETCP\0\x20", 4500, Class::Ike);
    }

    #[test]
    fn esp_in_udp() {
        let esp = |n: u8| [&[0xc0, 1, 2, 3, 0, 0, 0, n][..], &[9; 32]].concat();
        assert_eq!(udp_after(look_esp, &esp(4), &esp(5), NAT_PORT), Some(Class::Ipsec));
        for (before, port) in [(esp(3), NAT_PORT), (esp(4), 9), (vec![], NAT_PORT)] {
            assert_eq!(udp_after(look_esp, &before, &esp(5), port), None);
        }
    }
}
