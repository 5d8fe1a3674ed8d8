//! DHCP and BOOTP: the magic cookie behind the fixed part (RFC 2131 §3, RFC 951), and the client's name (option 12,
//! RFC 2132 §3.14).

use super::read::u32_at;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const COOKIE_AT: usize = 236;
const COOKIE: u32 = 0x6382_5363;
const REQUEST: u8 = 1;
const PAD: u8 = 0;
const HOST_NAME: u8 = 12;
const MESSAGE_TYPE: u8 = 53;
const VENDOR_CLASS: u8 = 60;
const END: u8 = 255;
const MOST_OPTIONS: usize = 128;
const TYPES: [&str; 8] = ["discover", "offer", "request", "decline", "ack", "nak", "release", "inform"];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    // A hardware address has at most the 16 bytes that its field has.
    if !matches!(d[0], 1 | 2) || d.get(2).is_none_or(|len| *len > 16) {
        return Verdict::No;
    }
    match u32_at(d, COOKIE_AT) {
        Some(COOKIE) => {}
        // BOOTP has a vendor area of 64 bytes there, or another cookie.
        _ if look.ports == (68, 67) && d.len() == 300 && d[1] == 1 && d[2] == 6 => {
            return Verdict::payload(Class::Dhcp);
        }
        _ => return Verdict::No,
    }
    let mut rest = &d[COOKIE_AT + 4..];
    for _ in 0..MOST_OPTIONS {
        match rest {
            [PAD, tail @ ..] => rest = tail,
            [END, ..] => break,
            [code, len, tail @ ..] => {
                let Some((value, after)) = tail.split_at_checked(usize::from(*len)) else { break };
                option(*code, value, d[0] == REQUEST, notes);
                rest = after;
            }
            _ => break,
        }
    }
    Verdict::payload(Class::Dhcp)
}

fn option(code: u8, value: &[u8], request: bool, notes: &mut Notes) {
    match (code, value) {
        (HOST_NAME, name) if request && notes.host.get().is_none() => {
            notes.host.push(name.strip_suffix(b"\0").unwrap_or(name));
        }
        (MESSAGE_TYPE, [n]) => {
            if let Some(name) = TYPES.get(usize::from(n.wrapping_sub(1))) {
                notes.facts.put(Fact::Method, name.as_bytes());
            }
        }
        (VENDOR_CLASS, class) => notes.facts.put(Fact::UserAgent, class),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, host, is_udp, udp};
    use super::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut d = vec![0; COOKIE_AT];
        d[..3].copy_from_slice(&[1, 1, 6]);
        d.extend(COOKIE.to_be_bytes());
        d.extend(options);
        d
    }

    #[test]
    fn the_cookie_and_the_name() {
        let d = message(b"\x35\x01\x03\0\x0c\x05Mac-1\x3c\x03MSF\xff\x0c\x01x");
        is_udp(look, &d, 67, Class::Dhcp);
        assert_eq!(host(look, &d, 67).as_deref(), Some("mac-1"));
        assert_eq!(fact(look, &d, 67, Fact::Method).as_deref(), Some("request"));
        assert_eq!(fact(look, &d, 67, Fact::UserAgent).as_deref(), Some("MSF"));
        // A server's answer repeats a name, but not its own.
        let mut answer = d.clone();
        answer[0] = 2;
        assert_eq!((udp(look, &answer, 68), host(look, &answer, 68)), (Some(Class::Dhcp), None));
        let mut bad = d.clone();
        bad[COOKIE_AT] = 0;
        assert_eq!(udp(look, &bad, 67), None);
        let mut bad = d;
        bad[2] = 17;
        assert_eq!(udp(look, &bad, 67), None);
        assert_eq!(udp(look, &message(&[12]), 67), Some(Class::Dhcp));
    }
}
