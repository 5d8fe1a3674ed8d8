//! Kerberos 5: messages with their number told twice, in the tag and inside (RFC 4120 §5.4, §5.5, §5.9, §7.2).

use crate::l7::ber::{self, Item};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

/// Tags of APPLICATION, constructed.
const APPLICATION: u8 = 0x60;
const AS_REQ: u8 = 10;
const TGS_REQ: u8 = 12;
const ERROR: u8 = 30;
const KINDS: [u8; 11] = [10, 11, 12, 13, 14, 15, 20, 21, 22, 25, ERROR];
const VERSION: u32 = 5;
const MAX_MESSAGE: u32 = 1 << 20;
const GENERAL_STRING: u8 = 0x1b;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let Some(len) = look.u32(0) else {
        return if look.data.get(1).is_none_or(|b| *b < 0x10) { Verdict::More } else { Verdict::No };
    };
    if !(10..MAX_MESSAGE).contains(&len) {
        return Verdict::No;
    }
    match message(&look.data[4..], len as usize, notes) {
        Some(true) => Verdict::payload(Class::Kerberos),
        Some(false) => Verdict::No,
        None if look.data.len() >= 4 + len as usize || look.data.len() > 40 => Verdict::No,
        None => Verdict::More,
    }
}

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    match message(look.data, look.data.len(), notes) {
        Some(true) => Verdict::payload(Class::Kerberos),
        _ => Verdict::No,
    }
}

/// `len`: of the whole message, of which `d` may be the beginning.
fn message(d: &[u8], len: usize, notes: &mut Notes) -> Option<bool> {
    let kind = d.first()? & 0x1f;
    if d[0] & 0xe0 != APPLICATION || !KINDS.contains(&kind) {
        return Some(false);
    }
    let mut rest = d;
    let outer = Item::read(&mut rest)?;
    let mut inner = outer.value;
    let body = Item::read(&mut inner)?;
    if body.tag != ber::SEQUENCE
        || outer.len + (d.len() - rest.len() - outer.value.len()) != len
        || body.len > outer.len
    {
        return Some(false);
    }
    let mut fields = body.value;
    // Requests to the distribution centre count their fields from 1, the others from 0.
    let first = if matches!(kind, AS_REQ | TGS_REQ) { 0xa1 } else { 0xa0 };
    for (tag, is) in [(first, VERSION), (first + 1, u32::from(kind))] {
        let mut field = Item::read(&mut fields).filter(Item::is_whole)?;
        if field.tag != tag || Item::number(&mut field.value, ber::INTEGER) != Some(is) {
            return Some(false);
        }
    }
    if let Some(realm) = realm(fields, kind) {
        notes.facts.put(Fact::Object, realm);
    }
    Some(true)
}

/// The realm of the service asked: of a request in its body, else a field of the message itself.
fn realm(mut fields: &[u8], kind: u8) -> Option<&[u8]> {
    let request = matches!(kind, AS_REQ | TGS_REQ);
    let tag = match kind {
        _ if request => 0xa4,
        ERROR => 0xa9,
        11 | 13 => 0xa3,
        _ => return None,
    };
    for _ in 0..12 {
        let mut field = Item::read(&mut fields)?;
        if field.tag != tag {
            continue;
        }
        if !request {
            return Item::expect(&mut field.value, GENERAL_STRING);
        }
        let mut body = Item::read(&mut field.value)?.value;
        for _ in 0..4 {
            let mut part = Item::read(&mut body)?;
            if part.tag == 0xa2 {
                return Item::expect(&mut part.value, GENERAL_STRING);
            }
        }
        return None;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::told::{client, datagram, hex, no_datagram, no_stream, server};

    /// An AS-REQ without pre-authentication for the realm A.EX.
    const REQUEST: &str = "6a30302ea103020105a20302010aa4223020a00703050040810010a206 1b04412e4558 a511180f32303337303931333032343830355a";

    #[test]
    fn requests_and_errors() {
        let mut request = hex(REQUEST);
        let n = request.len() as u8;
        (request[1], request[3]) = (n - 2, n - 4);
        let told = datagram(FromInitiator, 88, &[], &request, Class::Kerberos);
        assert_eq!(told.facts.get(Fact::Object), Some("A.EX"));
        let framed = [&[0, 0, 0, n][..], &request].concat();
        client(1, &framed, Class::Kerberos);
        request[8] = 4;
        no_datagram(88, &[], &request);
        no_stream(88, &[&[0, 0, 0, n][..], &request].concat());
        server(88, &hex("0000000e 7e0c300aa003020105a10302011e"), Class::Kerberos);
        no_stream(88, &hex("0000000e 7e0c300aa003020105a10302011d"));
    }
}
