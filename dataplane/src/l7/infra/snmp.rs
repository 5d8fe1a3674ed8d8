//! SNMP versions 1, 2c and 3: BER from the outermost length to the variable bindings (RFC 1157 §4, RFC 3416 §3,
//! RFC 3412 §6).
//!
//! The community is a secret and is not noted.

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const IP_ADDRESS: u8 = 0x40;
const FIRST_PDU: u8 = 0xa0;
const TRAP_V1: u8 = 0xa4;
const PDUS: [&str; 9] = ["get", "getnext", "response", "set", "trap", "getbulk", "inform", "trap2", "report"];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match message(look.data, notes) {
        Some(()) => Verdict::payload(Class::Snmp),
        None => Verdict::No,
    }
}

fn message(d: &[u8], notes: &mut Notes) -> Option<()> {
    let (mut body, rest) = expect(d, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let version = number(&mut body)?;
    notes.facts.put(Fact::Version, [&b"1"[..], b"2c", b"", b"3"].get(version as usize)?);
    match version {
        0 | 1 => {
            let (_, rest) = expect(body, OCTETS)?;
            let (tag, value, rest) = element(rest)?;
            let pdu = tag.wrapping_sub(FIRST_PDU);
            notes.facts.put(Fact::Method, PDUS.get(usize::from(pdu))?.as_bytes());
            if !rest.is_empty() {
                return None;
            }
            if tag == TRAP_V1 { trap(value) } else { pdu_body(value) }
        }
        3 => {
            let (mut header, rest) = expect(body, SEQUENCE)?;
            number(&mut header)?;
            number(&mut header)?;
            let (flags, mut header) = expect(header, OCTETS)?;
            number(&mut header)?;
            let (_, rest) = expect(rest, OCTETS)?;
            // The scoped PDU, in clear or encrypted.
            let (tag, _, rest) = element(rest)?;
            (flags.len() == 1 && header.is_empty() && rest.is_empty() && matches!(tag, SEQUENCE | OCTETS)).then_some(())
        }
        _ => None,
    }
}

/// Request identifier, error status and index, bindings.
fn pdu_body(mut d: &[u8]) -> Option<()> {
    for _ in 0..3 {
        number(&mut d)?;
    }
    let (_, rest) = expect(d, SEQUENCE)?;
    rest.is_empty().then_some(())
}

/// Enterprise, agent's address, generic and specific trap; then time and bindings.
fn trap(d: &[u8]) -> Option<()> {
    let (_, rest) = expect(d, OID)?;
    let (_, mut rest) = expect(rest, IP_ADDRESS)?;
    number(&mut rest)?;
    number(&mut rest).map(|_| ())
}

fn number(d: &mut &[u8]) -> Option<u32> {
    let (value, rest) = expect(d, INTEGER)?;
    if value.is_empty() || value.len() > 5 {
        return None;
    }
    *d = rest;
    Some(value.iter().fold(0, |n: u32, b| n << 8 | u32::from(*b)))
}

fn expect(d: &[u8], want: u8) -> Option<(&[u8], &[u8])> {
    element(d).filter(|(tag, ..)| *tag == want).map(|(_, value, rest)| (value, rest))
}

/// Tag, value and what follows. Lengths of definite form (X.690 §8.1.3) of at most four bytes.
fn element(d: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, short, mut rest) = (*d.first()?, *d.get(1)?, d.get(2..)?);
    let mut len = usize::from(short);
    if short & 0x80 != 0 {
        let (bytes, after) =
            rest.split_at_checked(usize::from(short & 0x7f)).filter(|(b, _)| (1..=4).contains(&b.len()))?;
        len = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        rest = after;
    }
    let (value, rest) = rest.split_at_checked(len)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, hex, is_udp, udp};
    use super::*;

    const GET: &str = "3026 020101 0406 7075626c6963 a019 020401020304 020100 020100 300b 3009 06052b06010201 0500";
    const V3: &str = "303e 020103 3011 0204 4aad0f6a 020300ffe3 040104 020103 0410 300e0400020100020100040004000400
        3014 0400 0400 a00e 020401020304 020100 020100 3000";

    #[test]
    fn versions() {
        is_udp(look, &hex(GET), 161, Class::Snmp);
        assert_eq!(fact(look, &hex(GET), 161, Fact::Version).as_deref(), Some("2c"));
        assert_eq!(fact(look, &hex(GET), 161, Fact::Method).as_deref(), Some("get"));
        is_udp(look, &hex(V3), 9, Class::Snmp);
        let trap =
            "302a 020100 0404 61626364 a41f 06032b0601 4004 0a000001 020106 020101 430100 3009 3007 06032b06010500";
        is_udp(look, &hex(trap), 162, Class::Snmp);
        // The long form of lengths.
        let long =
            [&hex("3081ac 020101 0406 7075626c6963 a2819e 020101 020100 020100 308192")[..], &[0; 0x92]].concat();
        is_udp(look, &long, 161, Class::Snmp);
    }

    #[test]
    fn near_misses() {
        let mut d = hex(GET);
        d.push(0);
        assert_eq!(udp(look, &d, 161), None);
        for (at, value) in [(0, 0x31), (4, 2), (5, 5), (13, 0xa9), (15, 4)] {
            let mut d = hex(GET);
            d[at] = value;
            assert_eq!(udp(look, &d, 161), None, "{at}");
        }
        // LDAP over UDP begins likewise.
        assert_eq!(udp(look, &hex("300c 020101 6007 020103 0400 8000"), 389), None);
    }
}
