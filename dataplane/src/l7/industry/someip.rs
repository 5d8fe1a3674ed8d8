//! SOME/IP: messages whose lengths add up, with known version, type and return code (AUTOSAR "SOME/IP Protocol
//! Specification" §4.1.2), over UDP and TCP.

use crate::l7::infra::read::{u16_at, u32_at};
use crate::l7::{Class, Look, Notes, Verdict};

const HEADER: usize = 16;
/// Bytes that the length does not count.
const UNCOUNTED: usize = 8;
const VERSION: u8 = 1;
/// Request, without return, notification, answer, error, each also with the acknowledgement bit; of segments the bit 0x20.
const TYPES: [u8; 10] = [0x00, 0x01, 0x02, 0x40, 0x41, 0x42, 0x80, 0x81, 0xc0, 0xc1];
const SEGMENT: u8 = 0x20;
const LAST_RETURN_CODE: u8 = 0x5e;
const MOST_MESSAGES: usize = 64;
/// Longest message that is believed.
const MOST: usize = 1 << 20;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let mut rest = look.data;
    for _ in 0..MOST_MESSAGES {
        match message(rest) {
            Some(Some(0)) => break,
            Some(Some(len)) => rest = &rest[len..],
            Some(None) => return Verdict::More,
            None => return Verdict::No,
        }
        if rest.is_empty() {
            return Verdict::payload(Class::Someip);
        }
    }
    Verdict::No
}

/// Length of the message that `d` begins with; `Some(None)` if it is not all there, `None` if it is none.
fn message(d: &[u8]) -> Option<Option<usize>> {
    let (Some(service), Some(len)) = (u16_at(d, 0), u32_at(d, 4)) else { return Some(None) };
    let len = len as usize;
    if !(HEADER - UNCOUNTED..=MOST).contains(&len) || service == 0 {
        return None;
    }
    let Some([version, _, kind, code]) = d.get(12..HEADER) else {
        return if d.get(12).is_none_or(|v| *v == VERSION) { Some(None) } else { None };
    };
    let kind = kind & !SEGMENT;
    // Requests and notifications carry return code 0 (§4.2.6.1).
    let known =
        *version == VERSION && TYPES.contains(&kind) && (*code == 0 || kind & 0x80 != 0 && *code <= LAST_RETURN_CODE);
    if !known {
        return None;
    }
    Some((UNCOUNTED + len <= d.len()).then_some(UNCOUNTED + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, is_tcp, is_udp, tcp, udp};

    #[test]
    fn messages() {
        let d = hex("0101 0009 0000000c 0000 0005 01 01 20 00 01020304");
        is_udp(look, &d, 9, Class::Someip);
        is_tcp(look, &d, 9, Class::Someip);
        let two = [&d[..], &hex("ffff 8100 00000008 0000 0001 01 01 02 00")].concat();
        assert_eq!(udp(look, &two, 30490), Some(Class::Someip));
        for (at, value) in [(0, 0), (7, 0xd), (7, 7), (12, 2), (14, 3), (15, 1)] {
            let mut bad = d.clone();
            bad[at] = value;
            if at == 0 {
                bad[1] = 0;
            }
            assert_eq!(udp(look, &bad, 30490), None, "{at}");
        }
        assert_eq!(tcp(look, b"GET / HTTP/1.1\r\n", FromInitiator, 30490), Verdict::No);
    }
}
