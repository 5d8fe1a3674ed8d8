//! STUN and TURN: magic cookie and length (RFC 8489 §5), the classic messages without it (RFC 3489 §11), and channel data
//! (RFC 8656 §12.4); in streams also framed (RFC 6544 §3, RFC 4571). The realm (RFC 8489 §14.9) is noted as the host.
//!
//! The class is kept open: where DTLS or RTP come to share the flow (RFC 7983), that is what it is, and a realm comes with
//! the answer to the second request.

use crate::l7::infra::read::{fills, u16_at, u32_at};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

const COOKIE: u32 = 0x2112_a442;
const HEADER: usize = 20;
const REALM: u16 = 0x0014;
const SOFTWARE: u16 = 0x8022;
const MOST_ATTRIBUTES: usize = 64;
/// Messages of a stream that are gone over.
const MOST_MESSAGES: usize = 32;
const PORTS: [u16; 2] = [3478, 3479];

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let on_port = PORTS.iter().any(|p| look.has_port(*p));
    match d[0] >> 6 {
        0 => {}
        1 if on_port && channel_data(look) => return Verdict::payload(Class::Stun),
        _ => return Verdict::No,
    }
    let Some(len) = look.u16(2).map(usize::from) else { return Verdict::No };
    if look.u32(4) == Some(COOKIE) && d.len() >= HEADER {
        // Some add to a message what its length does not count.
        let whole = HEADER + len == d.len() || on_port && HEADER + len < d.len();
        return if whole { certain(d, notes) } else { Verdict::No };
    }
    if HEADER + len == d.len() && classic(d, on_port) { Verdict::payload(Class::Stun) } else { Verdict::No }
}

pub fn look_tcp(look: &Look, notes: &mut Notes) -> Verdict {
    let mut rest = look.data;
    let mut found = None;
    // Behind the length of a frame stands a message of that length.
    let framed = u16_at(rest, 4).zip(u16_at(rest, 0)).is_some_and(|(len, frame)| Some(len) == frame.checked_sub(20));
    if framed && u32_at(rest, 6).is_none_or(|cookie| cookie == COOKIE) {
        return if rest.len() < 2 + HEADER { Verdict::More } else { certain(&rest[2..], notes) };
    }
    for _ in 0..MOST_MESSAGES {
        let (Some(kind), Some(len)) = (u16_at(rest, 0), u16_at(rest, 2).map(usize::from)) else { break };
        let size = match kind >> 14 {
            0 => match u32_at(rest, 4) {
                Some(COOKIE) => HEADER + len,
                Some(_) => break,
                None => return found.unwrap_or(Verdict::More),
            },
            // Padded to four bytes over TCP (RFC 8656 §12.5); of itself no proof.
            1 if found.is_some() => 4 + len.next_multiple_of(4),
            _ => break,
        };
        if kind >> 14 == 0 {
            let message = &rest[..rest.len().min(size)];
            if message.len() >= HEADER {
                let verdict = certain(message, notes);
                if matches!(verdict, Verdict::Done(_)) {
                    return verdict;
                }
                found = Some(verdict);
            }
        }
        let Some(after) = rest.get(size..) else { return found.unwrap_or(Verdict::More) };
        rest = after;
    }
    let short = rest.len() < 8 && rest.first().is_none_or(|b| b >> 6 == 0) && found.is_none();
    found.unwrap_or(if short { Verdict::More } else { Verdict::No })
}

/// Notes what a message with the cookie tells.
fn certain(d: &[u8], notes: &mut Notes) -> Verdict {
    let mut rest = d.get(HEADER..).unwrap_or(&[]);
    for _ in 0..MOST_ATTRIBUTES {
        let (Some(kind), Some(len)) = (u16_at(rest, 0), u16_at(rest, 2).map(usize::from)) else { break };
        let Some(value) = rest.get(4..4 + len) else { break };
        match kind {
            REALM if notes.host.get().is_none() => notes.host.push(value),
            SOFTWARE => notes.facts.put(Fact::Server, value.strip_suffix(b"\0").unwrap_or(value)),
            _ => {}
        }
        rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    let found = Found::payload(Class::Stun);
    if notes.host.get().is_some() { Verdict::Done(found) } else { Verdict::Class(found) }
}

/// Bindings and shared secrets with attributes that fill the message, of the types there are (RFC 3489 §11.2).
fn classic(d: &[u8], on_port: bool) -> bool {
    let Some(0x0001 | 0x0101 | 0x0111 | 0x0002 | 0x0102 | 0x0112) = u16_at(d, 0) else { return false };
    let body = &d[HEADER..];
    let attribute = |a: &[u8]| {
        let (kind, len) = (u16_at(a, 0)?, usize::from(u16_at(a, 2)?));
        let size = match kind {
            // Addresses.
            1 | 2 | 4 | 5 | 11 => len == 8 && a.get(5) == Some(&1),
            3 => len == 4,
            6..=10 => len % 4 == 0,
            0x8020 | 0x8022 => true,
            _ => false,
        };
        size.then_some(4 + len.next_multiple_of(4))
    };
    // Four fixed bytes alone need the port.
    if body.is_empty() { on_port } else { fills(body, 4, MOST_ATTRIBUTES, attribute) }
}

/// A channel in use, of the same number as that of the datagram before.
fn channel_data(look: &Look) -> bool {
    let same = look.before.first_chunk::<2>() == look.data.first_chunk::<2>();
    let channel = look.u16(0).is_some_and(|n| (0x4000..=0x4fff).contains(&n));
    let whole = look.u16(2).is_some_and(|len| (0..4).contains(&(look.data.len() as isize - 4 - len as isize)));
    same && channel && whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, host, is_tcp, is_udp, tcp, udp, udp_after};

    const ID: &str = "b7e7a701bc34d686fa87dfae";

    fn message(kind: &str, body: &str) -> Vec<u8> {
        let body = hex(body);
        [hex(kind), (body.len() as u16).to_be_bytes().to_vec(), hex("2112a442"), hex(ID), body].concat()
    }

    #[test]
    fn with_the_cookie() {
        let d = message("0001", "80220004 61626364");
        is_udp(look_udp, &d, 9, Class::Stun);
        is_tcp(look_tcp, &d, 9, Class::Stun);
        let refused = message("0113", "00140004 612e6578");
        assert_eq!(host(look_udp, &refused, 9).as_deref(), Some("a.ex"));
        // Not padded, as some clients send.
        is_udp(look_udp, &message("0003", "40000002 0102"), 9, Class::Stun);
        is_tcp(look_tcp, &[&[0, d.len() as u8][..], &d].concat(), 9, Class::Stun);
        let mut bad = d;
        bad[3] = 9;
        assert_eq!(udp(look_udp, &bad, 9), None);
    }

    #[test]
    fn the_realm_of_a_stream_s_second_message() {
        let d = [message("0003", "00190004 11000000"), message("0003", "00140004 612e6578")].concat();
        is_tcp(look_tcp, &d, 3478, Class::Stun);
        assert_eq!(host(look_tcp, &d, 3478).as_deref(), Some("a.ex"));
        assert!(matches!(tcp(look_tcp, &d[..28], FromInitiator, 3478), Verdict::Class(_)));
        assert!(matches!(tcp(look_tcp, &d, FromInitiator, 3478), Verdict::Done(_)));
    }

    #[test]
    fn without_it() {
        let d = hex(
            "01010024 0102030405060708090a0b0c0d0e0f10 00010008 00010d96 0a000001 00040008 00010d96 0a000001 00050008 00010d96 0a000001",
        );
        is_udp(look_udp, &d, 9, Class::Stun);
        let request = hex("00010000 0102030405060708090a0b0c0d0e0f10");
        assert_eq!((udp(look_udp, &request, 9), udp(look_udp, &request, 3478)), (None, Some(Class::Stun)));
        let mut bad = d;
        bad[21] = 12;
        assert_eq!(udp(look_udp, &bad, 3478), None);
    }

    #[test]
    fn channels() {
        let d = hex("40010004 01020304");
        assert_eq!(udp_after(look_udp, &d, &d, 3478), Some(Class::Stun));
        assert_eq!((udp_after(look_udp, &d, &d, 9), udp(look_udp, &d, 3478)), (None, None));
    }
}
