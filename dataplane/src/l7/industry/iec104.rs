//! IEC 60870-5-104: APCIs (IEC 60870-5-104 §5). A U frame says so by itself; I and S frames, on their port, where they add up.

use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 2404;
const START: u8 = 0x68;
/// Control field.
const LEAST: u8 = 4;
const MOST: u8 = 253;
/// STARTDT, STOPDT and TESTFR, to be done and confirmed.
const U_FRAMES: [u8; 6] = [0x07, 0x0b, 0x13, 0x23, 0x43, 0x83];
/// Type, structure, cause, address and one object's address.
const ASDU: u8 = 9;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] != START || d.get(1).is_some_and(|len| !(LEAST..=MOST).contains(len)) {
        return Verdict::No;
    }
    let [_, len, control @ ..] = d else { return Verdict::More };
    let Some(control) = control.first_chunk::<4>() else { return Verdict::More };
    let on_port = look.has_port(PORT);
    let good = match control {
        [u, 0, 0, 0] if u & 3 == 3 => *len == LEAST && U_FRAMES.contains(u),
        // Receive number's lowest bit is zero in S and I frames.
        [1, 0, receive, _] => on_port && *len == LEAST && receive & 1 == 0,
        [send, _, receive, _] if send & 1 == 0 && receive & 1 == 0 => {
            // Types in use, and some object.
            let Some(head) = d.get(6..8) else { return if on_port { Verdict::More } else { Verdict::No } };
            on_port && *len >= LEAST + ASDU && matches!(head[0], 1..=127) && head[1] & 0x7f != 0
        }
        _ => false,
    };
    if good { Verdict::payload(Class::Iec104) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, is_tcp, tcp};

    #[test]
    fn frames() {
        is_tcp(look, &hex("6804 07000000"), 9, Class::Iec104);
        is_tcp(look, &hex("6804 01000200"), PORT, Class::Iec104);
        is_tcp(look, &hex("680e 00000000 6401 0600 0100 000000 14"), PORT, Class::Iec104);
        for no in ["6803", "6804 05000000", "6805 07000000", "6804 07000001", "6804 01000200", "68fe"] {
            assert_eq!(tcp(look, &hex(no), FromInitiator, 9), Verdict::No, "{no}");
        }
    }
}
