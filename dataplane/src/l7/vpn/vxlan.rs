//! VXLAN (RFC 7348 §5) and GENEVE (RFC 8926 §3): header and the frame or packet inside.

use super::inner;
use crate::l7::infra::read::{fills, u16_at};
use crate::l7::{Class, Look, Notes, Verdict};

/// IANA's, and Linux's of old.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;
const HEADER: usize = 8;
const ETHERNET: u16 = 0x6558;
const MOST_OPTIONS: usize = 63;

pub fn look_vxlan(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let strict = !VXLAN_PORTS.iter().any(|p| look.has_port(*p));
    let [8, 0, 0, 0, _, _, _, 0, frame @ ..] = d else { return Verdict::No };
    if inner::ethernet(frame, strict) { Verdict::payload(Class::Vxlan) } else { Verdict::No }
}

pub fn look_geneve(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let (Some(kind), Some(options)) = (look.u16(2), d.get(HEADER..)) else { return Verdict::No };
    // Version 0; reserved bits zero.
    if d[0] >> 6 != 0 || d[1] & 0x3f != 0 || d[7] != 0 {
        return Verdict::No;
    }
    let Some((options, rest)) = options.split_at_checked(usize::from(d[0] & 0x3f) * 4) else { return Verdict::No };
    let option = |o: &[u8]| Some(4 + usize::from(u16_at(o, 2)? & 0x1f) * 4);
    let strict = !look.has_port(GENEVE_PORT);
    let inside = match kind {
        ETHERNET => inner::ethernet(rest, strict),
        // Control messages may have nothing inside.
        0 => !strict && d[1] & 0x80 != 0,
        kind => inner::of_type(kind, rest, strict),
    };
    if inside && fills(options, 4, MOST_OPTIONS, option) { Verdict::payload(Class::Geneve) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::super::inner::tests::{frame, packet};
    use super::*;
    use crate::l7::infra::testing::{hex, is_udp, udp};

    #[test]
    fn vxlan() {
        let d = [&hex("08000000 00002a00")[..], &frame()].concat();
        is_udp(look_vxlan, &d, 9, Class::Vxlan);
        is_udp(look_vxlan, &d, 4789, Class::Vxlan);
        for at in [1, 7, 20] {
            let mut bad = d.clone();
            bad[at] ^= 0x40;
            assert_eq!(udp(look_vxlan, &bad, 4789), None, "{at}");
        }
    }

    #[test]
    fn geneve() {
        let d = [&hex("01006558 00002a00 01020300")[..], &frame()].concat();
        is_udp(look_geneve, &d, 9, Class::Geneve);
        is_udp(look_geneve, &[&hex("00000800 00002a00")[..], &packet()].concat(), 9, Class::Geneve);
        for (at, value) in [(0, 0x41), (1, 1), (7, 1), (11, 1), (0, 0x3f)] {
            let mut bad = d.clone();
            bad[at] = value;
            assert_eq!(udp(look_geneve, &bad, GENEVE_PORT), None, "{at}");
        }
    }
}
