//! CoAP (RFC 7252 §3, §12.1): version, code and options that lead to the payload's marker or the end.
//!
//! On ports 5683 and 5684 that is enough; elsewhere a request must name a path or host, by options there are.

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORTS: [u16; 2] = [5683, 5684];
const HEADER: usize = 4;
const MARKER: u8 = 0xff;
const URI_HOST: u32 = 3;
const URI_PATH: u32 = 11;
/// Options of RFC 7252 §5.10, 7641, 7959, 8613, 8768, 7967, 9175 and 9177.
const KNOWN: [u32; 23] = [1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 19, 20, 23, 27, 28, 31, 35, 39, 60];
/// Request codes of RFC 7252 and 8132.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "iPATCH"];
const MOST_OPTIONS: usize = 64;
const LONGEST_PATH: usize = 128;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let (version, token) = (d[0] >> 6, usize::from(d[0] & 0xf));
    let Some(code) = d.get(1).filter(|_| version == 1 && token <= 8) else { return Verdict::No };
    let on_port = PORTS.iter().any(|p| look.has_port(*p));
    let request = usize::from(*code).checked_sub(1).and_then(|n| METHODS.get(n));
    let good = match *code {
        // Empty: a ping, reset or acknowledgement.
        0 => on_port && d.len() == HEADER,
        // Requests and answers of classes 2, 4 and 5.
        1..=7 | 64..=69 | 95 | 128..=143 | 157 | 160..=168 => match d.get(HEADER + token..) {
            Some(options) => read(options, request.is_some(), on_port, notes),
            None => false,
        },
        _ => false,
    };
    if !good || request.is_none() && !on_port {
        return Verdict::No;
    }
    if let Some(method) = request {
        notes.facts.put(Fact::Method, method.as_bytes());
    }
    Verdict::payload(Class::Coap)
}

/// Goes over the options; whether they hold together and, unless `on_port`, are certain by themselves.
fn read(mut d: &[u8], request: bool, on_port: bool, notes: &mut Notes) -> bool {
    let (mut number, mut known, mut named) = (0u32, true, false);
    let (mut path, mut len) = ([0; LONGEST_PATH], 0);
    for _ in 0..MOST_OPTIONS {
        match d {
            [] | [MARKER, _, ..] => break,
            [MARKER] => return false,
            _ => {}
        }
        let Some((delta, value, rest)) = option(d) else { return false };
        number += delta;
        known &= KNOWN.contains(&number) && value.len() <= 1034;
        let text = !value.is_empty() && value.iter().all(|b| *b >= b' ' && *b != 0x7f);
        match number {
            URI_HOST if request && notes.host.get().is_none() => {
                notes.host.push(value);
                named |= text;
            }
            URI_PATH if request => {
                for b in std::iter::once(&b'/').chain(value) {
                    if let Some(place) = path.get_mut(len) {
                        *place = *b;
                        len += 1;
                    }
                }
                named |= text;
            }
            _ => {}
        }
        d = rest;
    }
    notes.facts.put(Fact::Path, &path[..len]);
    on_port || known && named
}

/// Delta, value and what follows (§3.1); 13 and 14 stand for one and two bytes more, 15 is reserved.
fn option(d: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (first, mut rest) = d.split_first()?;
    let mut read = |nibble: u8| -> Option<u32> {
        let (value, after) = match nibble {
            13 => (13 + u32::from(*rest.first()?), &rest[1..]),
            14 => (269 + u32::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
            15 => return None,
            n => (u32::from(n), rest),
        };
        rest = after;
        Some(value)
    };
    let (delta, len) = (read(first >> 4)?, read(first & 0xf)?);
    let (value, rest) = rest.split_at_checked(len as usize)?;
    Some((delta, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{fact, hex, host, is_udp, udp};

    #[test]
    fn requests() {
        let d = [&hex("42 01 0001 aabb 35")[..], b"a.org", &hex("8474656d70 0131 ff 00")].concat();
        is_udp(look, &d, 9, Class::Coap);
        assert_eq!(host(look, &d, 9).as_deref(), Some("a.org"));
        assert_eq!(fact(look, &d, 9, Fact::Path).as_deref(), Some("/temp/1"));
        assert_eq!(fact(look, &d, 9, Fact::Method).as_deref(), Some("GET"));
    }

    #[test]
    fn on_its_port_and_elsewhere() {
        for yes in ["40000001", "6445 0001 01020304 c0 ff 31", "4001 0001", "6084 0001"] {
            is_udp(look, &hex(yes), 5683, Class::Coap);
            assert_eq!(udp(look, &hex(yes), 9), None, "{yes}");
        }
        for no in [
            "80010001",
            "49010001",
            "4020 0001",
            "4001 0001 ff",
            "4001 0001 f0",
            "40000001 00",
            "4101 0001",
            "4001 0001 d1",
        ] {
            assert_eq!(udp(look, &hex(no), 5683), None, "{no}");
        }
        // Options that there are not.
        assert_eq!(udp(look, &hex("4001 0001 b1 61 f0"), 9), None);
        assert_eq!(udp(look, &hex("4001 0001 b1 61 20"), 9), None);
    }
}
