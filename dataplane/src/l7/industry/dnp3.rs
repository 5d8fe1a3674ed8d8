//! DNP3: the link layer's start bytes, length and checksum (IEEE 1815-2012 §9.2.4), over TCP and UDP.

use crate::l7::{Class, Look, Notes, Verdict};

const START: &[u8] = &[0x05, 0x64];
/// Start, length, control, destination, source; then their CRC.
const BLOCK: usize = 8;
/// Control, destination and source.
const LEAST: u8 = 5;
/// x^16 + x^13 + x^12 + x^11 + x^10 + x^8 + x^6 + x^5 + x^2 + 1, bits reversed.
const POLYNOMIAL: u16 = 0xa6bc;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    match look.begins(START) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    if look.data.get(2).is_some_and(|len| *len < LEAST) {
        return Verdict::No;
    }
    match look.u16_le(BLOCK) {
        Some(sum) if sum == crc(&look.data[..BLOCK]) => Verdict::payload(Class::Dnp3),
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

fn crc(d: &[u8]) -> u16 {
    let step = |crc: u16| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL };
    !d.iter().fold(0, |crc, b| (0..8).fold(crc ^ u16::from(*b), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{hex, is_tcp, is_udp, udp};

    #[test]
    fn the_link_header() {
        // IEEE 1815's example of a reset link request.
        let d = hex("0564 05c0 0100 0004 e921");
        is_tcp(look, &d, 20000, Class::Dnp3);
        is_udp(look, &d, 9, Class::Dnp3);
        for at in 0..d.len() {
            let mut bad = d.clone();
            bad[at] ^= 1;
            assert_eq!(udp(look, &bad, 20000), None, "{at}");
        }
    }
}
