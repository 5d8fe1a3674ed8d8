//! HAProxy's PROXY protocol, versions 1 and 2 ("The PROXY protocol", §2.1, §2.2): what a proxy puts before a connection's
//! bytes. The authority that the client asked for, where it is told (§2.2.2), is noted.

use crate::l7::infra::read::u16_at;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const TEXT: &[u8] = b"PROXY ";
const FAMILIES: [&[u8]; 3] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN"];
/// Longest line of version 1 with its end.
const LONGEST: usize = 107;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const HEADER: usize = 16;
const AUTHORITY: u8 = 2;
const MOST_VALUES: usize = 32;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    if look.data[0] == b'P' { version1(look, notes) } else { version2(look, notes) }
}

fn version1(look: &Look, notes: &mut Notes) -> Verdict {
    match look.begins(TEXT) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    let rest = &look.data[TEXT.len()..];
    if !FAMILIES.iter().any(|f| f.starts_with(&rest[..rest.len().min(f.len())])) {
        return Verdict::No;
    }
    match memchr::memchr(b'\n', &look.data[..look.data.len().min(LONGEST)]) {
        Some(end) if look.data[..end].ends_with(b"\r") => {
            notes.facts.put(Fact::Version, b"1");
            Verdict::payload(Class::ProxyProtocol)
        }
        None if look.data.len() < LONGEST => Verdict::More,
        _ => Verdict::No,
    }
}

fn version2(look: &Look, notes: &mut Notes) -> Verdict {
    match look.begins(SIGNATURE) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    let (Some(command), Some(family), Some(len)) = (look.data.get(12), look.data.get(13), look.u16(14)) else {
        return Verdict::More;
    };
    let addresses = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Verdict::No,
    };
    if !matches!(command, 0x20 | 0x21) || family & 0xf > 2 {
        return Verdict::No;
    }
    notes.facts.put(Fact::Version, b"2");
    let end = look.data.len().min(HEADER + usize::from(len));
    let mut rest = look.data.get(HEADER + addresses..end).unwrap_or(&[]);
    for _ in 0..MOST_VALUES {
        let (Some(kind), Some(len)) = (rest.first(), u16_at(rest, 1)) else { break };
        let Some((value, after)) = rest[3..].split_at_checked(usize::from(len)) else { break };
        if *kind == AUTHORITY {
            notes.host.push(value);
            break;
        }
        rest = after;
    }
    Verdict::payload(Class::ProxyProtocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, host, is_tcp, tcp};

    #[test]
    fn both_versions() {
        is_tcp(look, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET", 9, Class::ProxyProtocol);
        is_tcp(look, b"PROXY UNKNOWN\r\n", 9, Class::ProxyProtocol);
        let d = [SIGNATURE, &hex("2111 0014 01020304 05060708 0001 0002 02 0005"), b"a.org"].concat();
        is_tcp(look, &d, 9, Class::ProxyProtocol);
        assert_eq!(host(look, &d, 9).as_deref(), Some("a.org"));
        for no in [
            &b"PROXY TCP5 "[..],
            b"PROXY TCP4 x\n",
            b"PROPFIND / HTTP/1.1",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
            b"\r\n\r\nGET",
        ] {
            assert_eq!(tcp(look, no, FromInitiator, 9), Verdict::No, "{no:?}");
        }
    }
}
