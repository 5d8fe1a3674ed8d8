//! GTP-U (3GPP TS 29.281 §5), GTP-C version 1 (TS 29.060 §6) and 2 (TS 29.274 §5.1, §8.2).

use super::inner;
use crate::l7::infra::read::{fills, u16_at};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const USER_PORT: u16 = 2152;
const CONTROL_PORT: u16 = 2123;
const HEADER: usize = 8;
const G_PDU: u8 = 255;
/// Echo, error indication, extension headers, end marker.
const USER_TYPES: [u8; 6] = [1, 2, 26, 31, 253, 254];
const MOST_ELEMENTS: usize = 128;
const MOST_EXTENSIONS: usize = 8;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let Some(len) = look.u16(2).map(usize::from) else { return Verdict::No };
    let (class, version) = match look.data[0] >> 4 {
        // Version 1, protocol type GTP; the spare bit is zero.
        3 if look.data[0] & 8 == 0 && HEADER + len == look.data.len() => match version1(look) {
            Some(class) => (class, b"1"),
            None => return Verdict::No,
        },
        4 | 5 if look.data[0] & 7 == 0 && version2(look, len) => (Class::GtpC, b"2"),
        _ => return Verdict::No,
    };
    notes.facts.put(Fact::Version, version);
    Verdict::payload(class)
}

fn version1(look: &Look) -> Option<Class> {
    let (d, kind) = (look.data, look.data[1]);
    if kind == G_PDU {
        // A packet inside is enough, be the port what it will; without one (PPP, Ethernet) the port must be right.
        return (look.has_port(USER_PORT) || content(d).is_some_and(inner::ip)).then_some(Class::GtpU);
    }
    if look.has_port(USER_PORT) && USER_TYPES.contains(&kind) {
        return Some(Class::GtpU);
    }
    // Control messages have sequence numbers; types up to MBMS's.
    (look.has_port(CONTROL_PORT) && d[0] & 2 != 0 && (1..=128).contains(&kind)).then_some(Class::GtpC)
}

/// What follows the header, its optional word and the extension headers (TS 29.281 §5.2.1).
fn content(d: &[u8]) -> Option<&[u8]> {
    if d[0] & 7 == 0 {
        return d.get(HEADER..);
    }
    let mut at = HEADER + 4;
    let mut next = if d[0] & 4 != 0 { *d.get(at - 1)? } else { 0 };
    for _ in 0..MOST_EXTENSIONS {
        if next == 0 {
            return d.get(at..);
        }
        let len = usize::from(*d.get(at)?) * 4;
        if len == 0 {
            return None;
        }
        at += len;
        next = *d.get(at - 1)?;
    }
    None
}

/// Information elements fill the message; another message may be behind it where the flag says so.
fn version2(look: &Look, len: usize) -> bool {
    let d = look.data;
    let piggyback = d[0] & 0x10 != 0;
    let head = if d[0] & 8 != 0 { 12 } else { 8 };
    let size = 4 + len;
    if size < head || size > d.len() || !piggyback && size != d.len() {
        return false;
    }
    // The byte behind the sequence number is spare but for a priority.
    let element = |e: &[u8]| (e.get(3)? & 0xf0 == 0 && e[0] != 0).then_some(4 + usize::from(u16_at(e, 1)?));
    let elements = &d[head..size];
    let on_port = look.has_port(CONTROL_PORT);
    d[1] != 0 && (on_port || !elements.is_empty()) && fills(elements, 4, MOST_ELEMENTS, element)
}

#[cfg(test)]
mod tests {
    use super::super::inner::tests::packet;
    use super::*;
    use crate::l7::infra::testing::{hex, is_udp, udp};

    #[test]
    fn user_plane() {
        let d = [&hex("30ff001e 00000001")[..], &packet()].concat();
        is_udp(look, &d, 9, Class::GtpU);
        let extended = [&hex("34ff0026 00000001 00000085 01001000")[..], &packet()].concat();
        is_udp(look, &extended, 9, Class::GtpU);
        is_udp(look, &hex("32010004 00000000 00010000"), USER_PORT, Class::GtpU);
        assert_eq!(udp(look, &hex("32010004 00000000 00010000"), 9), None);
        for (at, value) in [(0, 0x10), (0, 0x38), (3, 0x1d), (8, 0x55)] {
            let mut bad = d.clone();
            bad[at] = value;
            assert_eq!(udp(look, &bad, 9), None, "{at}");
        }
    }

    #[test]
    fn control_plane() {
        is_udp(look, &hex("32100004 00000000 00010000"), CONTROL_PORT, Class::GtpC);
        let v2 = hex("4824000e 35529206 4b546200 49000200 0005");
        is_udp(look, &v2, 9, Class::GtpC);
        is_udp(look, &hex("40010004 00000100"), CONTROL_PORT, Class::GtpC);
        for (at, value) in [(3, 0xd), (12, 0), (14, 3), (15, 0xf0)] {
            let mut bad = v2.clone();
            bad[at] = value;
            assert_eq!(udp(look, &bad, CONTROL_PORT), None, "{at}");
        }
    }
}
