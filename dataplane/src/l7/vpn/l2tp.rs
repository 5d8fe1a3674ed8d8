//! L2TP over UDP: control messages of version 2 (RFC 2661 §3.1, §4.1) and 3 (RFC 3931 §3.2.1, §4.1.2), whose attributes
//! add up, and on port 1701 two data messages of one session.

use crate::l7::infra::read::{fills, u16_at};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORT: u16 = 1701;
/// Type, length and sequence bits, and nothing else but the version.
const CONTROL_V2: u16 = 0xc802;
const CONTROL_V3: u16 = 0xc803;
const CONTROL: usize = 12;
const TYPE: u16 = 0x8000;
const MOST_ATTRIBUTES: usize = 64;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let Some(flags) = look.u16(0) else { return Verdict::No };
    let good = match flags {
        CONTROL_V2 | CONTROL_V3 => control(look),
        _ => look.has_port(PORT) && data(look, flags),
    };
    if !good {
        return Verdict::No;
    }
    notes.facts.put(Fact::Version, &[b'0' + (flags & 0xf) as u8]);
    Verdict::payload(Class::L2tp)
}

fn control(look: &Look) -> bool {
    let d = look.data;
    if look.u16(2).map(usize::from) != Some(d.len()) || d.len() < CONTROL {
        return false;
    }
    let attributes = &d[CONTROL..];
    // A bare acknowledgement needs the port. The first attribute is the message type: mandatory, of eight bytes, vendor 0.
    if attributes.is_empty() {
        return look.has_port(PORT);
    }
    let kind = u16_at(attributes, 0) == Some(TYPE | 8) && attributes.get(2..6) == Some(&[0; 4]);
    kind && fills(attributes, 6, MOST_ATTRIBUTES, |a| Some(usize::from(u16_at(a, 0)? & 0x3ff)))
}

/// No type bit, known flags only, and the identifiers of the datagram before.
fn data(look: &Look, flags: u16) -> bool {
    let d = look.data;
    let same = |from: usize, to: usize| d.get(from..to).is_some_and(|ids| look.before.get(from..to) == Some(ids));
    match flags & 0xf {
        2 if flags & 0xb4f0 == 0 => {
            let ids = if flags & 0x4000 == 0 { 2 } else { 4 };
            let length = flags & 0x4000 == 0 || look.u16(2).map(usize::from) == Some(d.len());
            length && same(0, 2) && same(ids, ids + 4) && d.len() > ids + 4
        }
        3 if flags == 3 => same(0, 8) && d[2..4] == [0; 2] && d.len() > 8,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{hex, is_udp, udp, udp_after};

    #[test]
    fn control_messages() {
        let v2 = hex("c802 001c 0000 0000 0000 0000 8008 0000 0000 0001 8008 0000 0002 0100");
        is_udp(look, &v2, 9, Class::L2tp);
        is_udp(look, &hex("c803 0014 00000000 0000 0000 8008 0000 0000 0001"), 9, Class::L2tp);
        is_udp(look, &hex("c802 000c 0001 0000 0001 0002"), PORT, Class::L2tp);
        assert_eq!(udp(look, &hex("c802 000c 0001 0000 0001 0002"), 9), None);
        for (at, value) in [(1, 4), (3, 0x1b), (13, 7), (17, 1), (21, 6)] {
            let mut bad = v2.clone();
            bad[at] = value;
            assert_eq!(udp(look, &bad, PORT), None, "{at}");
        }
    }

    #[test]
    fn data_messages() {
        let v2 = hex("4002 000c 0001 0002 ff03 0021");
        assert_eq!(udp_after(look, &v2, &v2, PORT), Some(Class::L2tp));
        assert_eq!((udp(look, &v2, PORT), udp_after(look, &v2, &v2, 9)), (None, None));
        let v3 = hex("0003 0000 00000001 0102");
        assert_eq!(udp_after(look, &v3, &v3, PORT), Some(Class::L2tp));
    }
}
