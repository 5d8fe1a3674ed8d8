//! Modbus/TCP: the MBAP header and function codes ("Modbus Messaging on TCP/IP", V1.0b §3.1.3; "Modbus Application
//! Protocol" V1.1b3 §5, §6).
//!
//! On port 502 header and length are enough; elsewhere a request must be as long as its function says.

use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 502;
const HEADER: usize = 7;
/// Unit and PDU: two to 254 bytes.
const LENGTHS: std::ops::RangeInclusive<u16> = 2..=254;
const EXCEPTION: u8 = 0x80;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    // Protocol 0; a length below 256.
    if d.get(2..d.len().min(5)).is_some_and(|zeros| zeros.iter().any(|b| *b != 0)) {
        return Verdict::No;
    }
    let (Some(len), Some(function)) = (look.u16(4), d.get(HEADER)) else {
        return if look.u16(4).is_none_or(|len| LENGTHS.contains(&len)) { Verdict::More } else { Verdict::No };
    };
    if !LENGTHS.contains(&len) || *function & 0x7f == 0 {
        return Verdict::No;
    }
    let Some(body) = d.get(HEADER + 1..6 + usize::from(len)) else { return Verdict::More };
    let exception = *function & EXCEPTION != 0;
    let good = if look.has_port(PORT) {
        !exception || body.len() == 1
    } else {
        // Another message may follow, but nothing else.
        let alone = d.len() == 6 + usize::from(len);
        alone && !exception && body_fits(*function, body)
    };
    if good { Verdict::payload(Class::Modbus) } else { Verdict::No }
}

/// Requests and answers of the functions that are most in use.
fn body_fits(function: u8, body: &[u8]) -> bool {
    let word = |at: usize| body.get(at..at + 2).map_or(0, |w| u16::from_be_bytes([w[0], w[1]]));
    let counted = |at: usize| body.get(at).is_some_and(|n| body.len() == at + 1 + usize::from(*n) && *n > 0);
    match function {
        // Read coils, inputs, registers: address and count, or a count of bytes.
        1 | 2 => body.len() == 4 && (1..=2000).contains(&word(2)) || counted(0),
        3 | 4 => body.len() == 4 && (1..=125).contains(&word(2)) || counted(0) && body[0].is_multiple_of(2),
        5 => body.len() == 4 && matches!(word(2), 0 | 0xff00),
        6 => body.len() == 4,
        15 | 16 => body.len() == 4 && word(2) > 0 || counted(4) && word(2) > 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{class, hex, is_tcp, tcp};

    #[test]
    fn requests_and_answers() {
        is_tcp(look, &hex("0001 0000 0006 01 03 0000 000a"), 9, Class::Modbus);
        is_tcp(look, &hex("0001 0000 0005 01 03 02 1234"), 9, Class::Modbus);
        is_tcp(look, &hex("0000 0000 0004 00 5a 0002"), PORT, Class::Modbus);
        is_tcp(look, &hex("0001 0000 0003 01 83 02"), PORT, Class::Modbus);
        for no in [
            "0001 0001",
            "0001 0000 0100",
            "0001 0000 0001",
            "0001 0000 0003 01 00 01",
            "0000 0000 0004 00 5a 0002",
            "0001 0000 0006 01 03 0000 0000",
        ] {
            assert_eq!(tcp(look, &hex(no), FromInitiator, 9), Verdict::No, "{no}");
        }
        assert_eq!(class(tcp(look, &hex("0001 0000 0004 01 83 0200"), FromInitiator, PORT)), None);
    }
}
