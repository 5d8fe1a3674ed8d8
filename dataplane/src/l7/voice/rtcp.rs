//! RTCP: compound packets whose lengths add up to the datagram (RFC 3550 §6.1, §6.4; reduced size: RFC 5506).
//!
//! The class is kept open: where RTP shares the flow (RFC 5761), RTP is what it is.

use crate::l7::infra::read::{fills, u16_at, u32_at};
use crate::l7::{Class, Found, Look, Notes, Verdict};

const SENDER: u8 = 200;
const RECEIVER: u8 = 201;
const LAST: u8 = 207;
const MOST: usize = 32;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let compound = |p: &[u8]| {
        let len = 4 + 4 * usize::from(u16_at(p, 2)?);
        (p[0] >> 6 == 2 && (SENDER..=LAST).contains(p.get(1)?)).then_some(len)
    };
    // A report begins it (§6.1), or feedback (RFC 5506 §3.4.2).
    let (Some(kind), Some(words)) = (d.get(1), look.u16(2)) else { return Verdict::No };
    let blocks = u16::from(d[0] & 0x1f);
    let first = match *kind {
        // Behind the blocks there may be an extension of the profile.
        SENDER => words >= 6 + 6 * blocks,
        RECEIVER => words == 1 + 6 * blocks || blocks > 0 && words > 1 + 6 * blocks,
        205 | 206 => words >= 2 && (1..=15).contains(&blocks),
        _ => false,
    };
    let named = u32_at(d, 4).is_some_and(|source| source != 0);
    if first && named && d[0] & 0x20 == 0 && fills(d, 4, MOST, compound) {
        Verdict::Class(Found::payload(Class::Rtcp))
    } else {
        Verdict::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{hex, is_udp, udp};

    #[test]
    fn compounds() {
        is_udp(look, &hex("80c90001 01020304"), 9, Class::Rtcp);
        let report = "81c90007 01020304 0a0b0c0d 00000000 00000001 00000000 00000000 00000000";
        is_udp(look, &hex(&format!("{report} 81ca0003 01020304 01036162 63000000")), 9, Class::Rtcp);
        is_udp(look, &hex("81ce0002 01020304 0a0b0c0d"), 9, Class::Rtcp);
        for no in [
            "80c90001 00000000",
            "80c80001 01020304",
            "81c90001 01020304",
            "80ca0001 01020304",
            "80c90002 01020304",
            "40c90001 01020304",
        ] {
            assert_eq!(udp(look, &hex(no), 9), None, "{no}");
        }
    }
}
