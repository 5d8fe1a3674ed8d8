//! S7 and S7-plus of Siemens: their PDUs in the data messages of ISO transport (RFC 905 §13.7) over TPKT (RFC 1006 §6).
//!
//! The connection request that comes first is other protocols' too, so it is stepped over.

use crate::l7::infra::read::u16_at;
use crate::l7::{Class, Look, Notes, Verdict};

const TPKT: [u8; 2] = [3, 0];
/// COTP connection request, confirmation, and data at the end of a unit.
const REQUEST: u8 = 0xe0;
const CONFIRM: u8 = 0xd0;
const DATA: [u8; 3] = [2, 0xf0, 0x80];
const S7: u8 = 0x32;
const S7_PLUS: u8 = 0x72;
/// A connection request that carries more than transport's own parameters.
const LONGEST_REQUEST: u16 = 64;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    match look.begins(&TPKT) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    let (Some(len), Some(kind)) = (look.u16(2), look.data.get(5)) else { return Verdict::More };
    let rest = match *kind {
        REQUEST | CONFIRM if (11..=LONGEST_REQUEST).contains(&len) => match look.data.get(usize::from(len)..) {
            Some([]) | None => return Verdict::More,
            Some(rest) => rest,
        },
        0xf0 => look.data,
        _ => return Verdict::No,
    };
    pdu(rest)
}

fn pdu(d: &[u8]) -> Verdict {
    if !d.starts_with(&TPKT[..d.len().min(2)]) {
        return Verdict::No;
    }
    if d.get(4..d.len().min(7)).is_some_and(|seen| !DATA.starts_with(seen)) {
        return Verdict::No;
    }
    match d.get(7..) {
        // Job, acknowledgement, its data, user data; reserved word.
        Some([S7, 1 | 2 | 3 | 7, 0, 0, ..]) => Verdict::payload(Class::S7),
        Some([S7] | [S7, 1 | 2 | 3 | 7] | [S7, 1 | 2 | 3 | 7, 0]) => Verdict::More,
        // Connect, data, keep-alive and so on; a length that the packet has room for.
        Some([S7_PLUS, 1..=3 | 0xfe | 0xff, high, low, ..]) => {
            let fits = u16_at(d, 2).is_some_and(|len| u16::from_be_bytes([*high, *low]) <= len);
            if fits { Verdict::payload(Class::S7) } else { Verdict::No }
        }
        Some([S7_PLUS] | [S7_PLUS, 1..=3 | 0xfe | 0xff] | [S7_PLUS, 1..=3 | 0xfe | 0xff, _] | []) | None => {
            Verdict::More
        }
        _ => Verdict::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, is_tcp, tcp};

    const CONNECT: &str = "0300 0016 11 e0 0000 0001 00 c0010a c1020100 c2020102";

    #[test]
    fn setup_and_jobs() {
        let setup = "0300 0019 02f080 32 01 0000 0400 0008 0000 f000 0001 0001 01e0";
        is_tcp(look, &hex(&format!("{CONNECT}{setup}")), 102, Class::S7);
        is_tcp(look, &hex(setup), 9, Class::S7);
        is_tcp(look, &hex("0300 0019 02f080 72 01 0008"), 9, Class::S7);
        assert_eq!(tcp(look, &hex(CONNECT), FromInitiator, 102), Verdict::More);
        // MMS in the same transport; RDP's connection request, which has a cookie.
        for no in [
            &format!("{CONNECT}0300 0019 02f080 0d"),
            "0300 0019 02f080 32 04 0000",
            "0300 0080 7b e0",
            "0300 0013 0e c0",
        ] {
            assert_eq!(tcp(look, &hex(no), FromInitiator, 102), Verdict::No, "{no}");
        }
    }
}
