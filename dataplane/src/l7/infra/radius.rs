//! RADIUS: code, length and attributes that add up to it (RFC 2865 §3, §5; RFC 2866 §3; RFC 5176 §2.3), with the lengths
//! that well-known attributes have.

use super::read::fills;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORTS: [u16; 5] = [1812, 1813, 1645, 1646, 3799];
const HEADER: usize = 20;
const MOST: usize = 4096;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(kind) = kind(d[0]) else { return Verdict::No };
    let Some(len) = look.u16(2).map(usize::from).filter(|n| (HEADER..=MOST).contains(n)) else { return Verdict::No };
    let on_port = PORTS.iter().any(|p| look.has_port(*p));
    // Behind the length there may be padding (§3).
    let certain = if on_port { d.len() >= HEADER } else { len == d.len() && len > HEADER && attributes(&d[HEADER..]) };
    if !certain {
        return Verdict::No;
    }
    notes.facts.put(Fact::Method, kind.as_bytes());
    Verdict::payload(Class::Radius)
}

fn kind(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "access-request",
        2 => "access-accept",
        3 => "access-reject",
        4 => "accounting-request",
        5 => "accounting-response",
        11 => "access-challenge",
        12 => "status-server",
        13 => "status-client",
        40 => "disconnect-request",
        41 => "disconnect-ack",
        42 => "disconnect-nak",
        43 => "coa-request",
        44 => "coa-ack",
        45 => "coa-nak",
        _ => return None,
    })
}

fn attributes(d: &[u8]) -> bool {
    fills(d, 2, MOST / 2, |a| {
        let len = usize::from(*a.get(1)?);
        let right = match *a.first()? {
            0 => false,
            // Addresses and numbers.
            4..=10 | 12..=16 | 23 | 27..=29 | 37 | 38 | 40..=43 | 45..=49 | 61 | 62 => len == 6,
            // CHAP-Password and Message-Authenticator.
            3 => len == 19,
            80 => len == 18,
            // Vendor-Specific: the vendor's number.
            26 => len >= 7,
            _ => len >= 3,
        };
        right.then_some(len)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, hex, is_udp, udp};
    use super::*;

    #[test]
    fn attributes_add_up() {
        // RFC 2865 §7.1.
        let d = hex("01000038 0f403f9473978057bd83d5cb98f4227a 01066e656d6f 02120dbe708d93d413ce3196e43f782a0aee
            0406c0a80110 050600000003");
        is_udp(look, &d, 9, Class::Radius);
        assert_eq!(fact(look, &d, 9, Fact::Method).as_deref(), Some("access-request"));
        for (at, value) in [(0, 6), (3, 0x37), (21, 7), (45, 5), (50, 0)] {
            let mut bad = d.clone();
            bad[at] = value;
            assert_eq!(udp(look, &bad, 9), None, "{at}");
        }
        // On its port the header does.
        is_udp(look, &hex("05050014 000102030405060708090a0b0c0d0e0f"), 1813, Class::Radius);
        assert_eq!(udp(look, &hex("05050013 000102030405060708090a0b0c0d0e0f"), 1813), None);
    }
}
