//! BACnet/IP: BVLC with the datagram's length, and the network layer's version behind it (ASHRAE 135, Annex J.2, §6.2).

use crate::l7::{Class, Look, Notes, Verdict};

const TYPE: u8 = 0x81;
/// Secure BVLL is the last function.
const LAST_FUNCTION: u8 = 0x0c;
const FORWARDED: u8 = 0x04;
/// UDP ports that networks are on: 0xBAC0 to 0xBACF.
const PORTS: std::ops::RangeInclusive<u16> = 47808..=47823;
const VERSION: u8 = 1;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let [TYPE, function @ 0..=LAST_FUNCTION, high, low, rest @ ..] = d else { return Verdict::No };
    if usize::from(u16::from_be_bytes([*high, *low])) != d.len() {
        return Verdict::No;
    }
    let network = match *function {
        FORWARDED => rest.get(6..),
        // Distribute, unicast, broadcast.
        9..=11 => Some(rest),
        _ => None,
    };
    let good = match network {
        // The control byte's reserved bits are zero.
        Some(npdu) => npdu.first() == Some(&VERSION) && npdu.get(1).is_some_and(|control| control & 0x50 == 0),
        None => PORTS.contains(&look.ports.0) || PORTS.contains(&look.ports.1),
    };
    if good { Verdict::payload(Class::Bacnet) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{hex, is_udp, udp};

    #[test]
    fn functions() {
        is_udp(look, &hex("810b000c 0120 ffff00ff 1008"), 9, Class::Bacnet);
        is_udp(look, &hex("8104000e 0a000001bac0 0100 1008"), 9, Class::Bacnet);
        is_udp(look, &hex("81000006 0000"), 47808, Class::Bacnet);
        for no in
            ["81000006 0000", "810b000b 0120 ffff00ff 1008", "810b0008 0220 1008", "810d0004", "820b0008 01201008"]
        {
            assert_eq!(udp(look, &hex(no), 9), None, "{no}");
        }
    }
}
