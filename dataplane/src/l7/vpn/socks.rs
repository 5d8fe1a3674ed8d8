//! SOCKS 4 and 4a (Lee, "SOCKS 4"; "SOCKS 4A") and 5 (RFC 1928, RFC 1929). The host asked for is noted.

use crate::flow::Direction;
use crate::l7::infra::read::u16_at;
use crate::l7::{Class, Found, Look, Notes, Verdict};

const PORTS: [u16; 4] = [1080, 1081, 9050, 9150];
/// Ports that clients of a proxy ask for: version 4 without names has too little else.
const ASKED: [u16; 12] = [21, 22, 25, 80, 110, 143, 443, 587, 993, 995, 8080, 8443];
const LONGEST_USER: usize = 255;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match look.data[0] {
        5 => version5(look, notes),
        4 => version4(look, notes),
        _ => Verdict::No,
    }
}

fn version5(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let on_port = PORTS.iter().any(|p| look.has_port(*p));
    let Some(n) = d.get(1).map(|n| usize::from(*n)) else { return Verdict::More };
    // The server's choice and its answer (RFC 1928 §3, §6): success or an error, reserved zero, an address.
    if look.dir == Direction::FromResponder && (n == 0 || n == 2) {
        let rest = &d[2..];
        let answer = if n == 2 { rest.strip_prefix(&[1, 0]).unwrap_or(rest) } else { rest };
        match answer {
            [5, 0..=8, 0, 1 | 3 | 4, ..] => return Verdict::payload(Class::Socks),
            [] | [5] | [5, 0..=8] | [5, 0..=8, 0] | [1] => return Verdict::More,
            _ => {}
        }
    }
    // Methods that are assigned, each once (RFC 1928 §3).
    let methods = &d[2..d.len().min(2 + n)];
    let known = |m: &u8| matches!(m, 0..=9 | 0x80..=0xfe);
    if !(1..=16).contains(&n)
        || !methods.iter().all(known)
        || (1..methods.len()).any(|i| methods[..i].contains(&methods[i]))
    {
        return Verdict::No;
    }
    let Some(mut rest) = d.get(2 + n..) else { return Verdict::More };
    let certain = Found::payload(Class::Socks);
    // Until the request comes, only the port makes the greeting certain.
    let open = if on_port { Verdict::Class(certain) } else { Verdict::More };
    // User and password (RFC 1929 §2).
    if let [1, user, after @ ..] = rest {
        let Some([password, after @ ..]) = after.get(usize::from(*user)..) else { return open };
        let Some(after) = after.get(usize::from(*password)..) else { return open };
        rest = after;
    }
    match rest {
        [5, 1..=3, 0, 3, len, name @ ..] => match name.get(..usize::from(*len)) {
            Some(host) if *len > 0 => {
                notes.host.push(host);
                Verdict::Done(certain)
            }
            Some(_) => Verdict::No,
            None => open,
        },
        [5, 1..=3, 0, 1 | 4, ..] => Verdict::Done(certain),
        [] | [1] | [5] | [5, 1..=3] | [5, 1..=3, 0] | [5, 1..=3, 0, 3] => open,
        // Other ways to prove who one is.
        _ if on_port => Verdict::Done(certain),
        _ => Verdict::No,
    }
}

fn version4(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    // Connect or bind.
    if d.get(1).is_some_and(|c| !matches!(c, 1 | 2)) {
        return Verdict::No;
    }
    let (Some(port), Some(address), Some(rest)) = (u16_at(d, 2), d.get(4..8), d.get(8..)) else { return Verdict::More };
    let text = |d: &[u8]| d.iter().all(|b| (b'!'..=b'~').contains(b));
    let Some(end) = rest.iter().take(LONGEST_USER).position(|b| *b == 0) else {
        let possible = rest.len() < LONGEST_USER && text(rest);
        return if possible { Verdict::More } else { Verdict::No };
    };
    let (user, rest) = (&rest[..end], &rest[end + 1..]);
    if port == 0 || !text(user) {
        return Verdict::No;
    }
    // 0.0.0.x: a name follows.
    if address[..3] == [0; 3] && address[3] != 0 {
        return match rest.iter().take(LONGEST_USER).position(|b| *b == 0) {
            Some(end) if end > 0 && text(&rest[..end]) => {
                notes.host.push(&rest[..end]);
                Verdict::payload(Class::Socks)
            }
            None if rest.len() < LONGEST_USER && text(rest) => Verdict::More,
            _ => Verdict::No,
        };
    }
    let usual = matches!(address[0], 1..=223) && rest.is_empty();
    let certain = PORTS.iter().any(|p| look.has_port(*p)) || ASKED.contains(&port);
    if usual && certain { Verdict::payload(Class::Socks) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::{FromInitiator, FromResponder};
    use crate::l7::infra::testing::{class, hex, host, is_tcp, tcp};

    #[test]
    fn version_5() {
        let d = [&hex("05020001 05010003 05")[..], b"a.org", &hex("01bb")].concat();
        is_tcp(look, &d, 9, Class::Socks);
        assert_eq!(host(look, &d, 9).as_deref(), Some("a.org"));
        let greeting = &d[..4];
        assert_eq!(
            (tcp(look, greeting, FromInitiator, 9), class(tcp(look, greeting, FromInitiator, 1080))),
            (Verdict::More, Some(Class::Socks))
        );
        is_tcp(look, &hex("050102 01 02 6162 01 63 05010001 01020304 0050"), 9, Class::Socks);
        assert_eq!(class(tcp(look, &hex("0500 05000001 00000000 1010"), FromResponder, 9)), Some(Class::Socks));
        for no in ["0500", "0511", "05020000", "0502000a", "050100 06"] {
            assert_eq!(tcp(look, &hex(no), FromInitiator, 9), Verdict::No, "{no}");
        }
    }

    #[test]
    fn version_4() {
        is_tcp(look, &hex("0401 01bb 01020304 616200"), 9, Class::Socks);
        let d = [&hex("0401 0019 00000001 00")[..], b"mx.org\0"].concat();
        is_tcp(look, &d, 9, Class::Socks);
        assert_eq!(host(look, &d, 9).as_deref(), Some("mx.org"));
        for no in [
            "0403",
            "0401 0000 01020304 00",
            "0401 1234 01020304 00",
            "0401 0050 01020304 0100",
            "0401 0050 01020304 0001",
        ] {
            assert_eq!(tcp(look, &hex(no), FromInitiator, 9), Verdict::No, "{no}");
        }
    }
}
