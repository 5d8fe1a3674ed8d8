//! LDAP, over TCP and as datagrams (CLDAP), and TLS after its StartTLS (RFC 4511 §4; MS-ADTS §3.1.1.3.1.1).

use crate::l7::ber::{self, ENUMERATED, INTEGER, Item, OCTETS};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND: u8 = 0x42;
const SEARCH: u8 = 0x63;
const ENTRY: u8 = 0x64;
const DONE: u8 = 0x65;
const DELETE: u8 = 0x4a;
const ABANDON: u8 = 0x50;
const REFERENCE: u8 = 0x73;
const EXTENDED: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
const PORTS: [u16; 2] = [389, 3268];
/// Bytes within which a message shows what it is; a name searched for can be long.
const ENOUGH: usize = 1024;
const MAX_RESULT: u32 = 4096;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let found = Found::payload(Class::Ldap);
    match message(look, d, notes) {
        Some(Told::Yes) => Verdict::Done(found),
        Some(Told::StartTls(at)) => upgrade::tls(look, at, found, notes),
        Some(Told::No) => Verdict::No,
        // A first length of more than four bytes or none is no length.
        None if d.len() >= 2 && Item::read(&mut { d }).is_none() && d.len() > 6 => Verdict::No,
        None if d.len() < ENOUGH && plausible(d) => Verdict::More,
        None => Verdict::No,
    }
}

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    match message(look, look.data, notes) {
        Some(Told::Yes) if Item::read(&mut { look.data }).is_some_and(|i| i.is_whole()) => {
            Verdict::payload(Class::Ldap)
        }
        _ => Verdict::No,
    }
}

enum Told {
    Yes,
    No,
    /// It ends here.
    StartTls(usize),
}

/// The number of the message, as far as it goes.
fn plausible(d: &[u8]) -> bool {
    let Some(outer) = Item::read(&mut { d }) else { return true };
    outer.value.first().is_none_or(|tag| *tag == INTEGER) && outer.value.get(1).is_none_or(|len| (1..=4).contains(len))
}

fn message(look: &Look, d: &[u8], notes: &mut Notes) -> Option<Told> {
    let mut rest = d;
    let outer = Item::read(&mut rest)?;
    let end = d.len() - rest.len();
    let mut inner = outer.value;
    let number = Item::read(&mut inner).filter(Item::is_whole)?;
    if number.tag != INTEGER || !(1..=4).contains(&number.len) || number.value[0] >= 0x80 {
        return Some(Told::No);
    }
    let op = Item::read(&mut inner)?;
    let left = outer.value.len() - inner.len() - op.value.len() + op.len;
    // Behind the operation at most controls.
    if left > outer.len {
        return Some(Told::No);
    }
    let mut v = op.value;
    let yes = match op.tag {
        BIND => {
            let version = Item::number(&mut v, INTEGER)?;
            let name = Item::read(&mut v)?;
            (2..=3).contains(&version)
                && name.tag == OCTETS
                && Item::read(&mut v).is_none_or(|a| matches!(a.tag, 0x80 | 0xa3 | 0x89..=0x8b))
        }
        SEARCH => {
            let base = Item::read(&mut v)?;
            if base.tag != OCTETS || base.len > ENOUGH {
                return Some(Told::No);
            }
            if !base.is_whole() {
                return None;
            }
            let (scope, aliases) = (Item::number(&mut v, ENUMERATED)?, Item::number(&mut v, ENUMERATED)?);
            notes.facts.put(Fact::Object, base.value);
            scope <= 3 && aliases <= 3
        }
        BIND_RESPONSE | DONE | 0x67 | 0x69 | 0x6b | 0x6d | 0x6f | EXTENDED_RESPONSE => {
            let code = Item::number(&mut v, ENUMERATED)?;
            let name = Item::read(&mut v)?;
            code <= MAX_RESULT && name.tag == OCTETS && Item::read(&mut v)?.tag == OCTETS
        }
        ENTRY => {
            let name = Item::read(&mut v).filter(Item::is_whole)?;
            name.tag == OCTETS && Item::read(&mut v)?.tag == ber::SEQUENCE
        }
        REFERENCE => Item::read(&mut v)?.value.starts_with(b"ldap"),
        EXTENDED => {
            let name = Item::read(&mut v).filter(Item::is_whole)?;
            if name.tag == 0x80 && name.value == START_TLS && outer.is_whole() {
                return Some(Told::StartTls(end));
            }
            name.tag == 0x80 && name.value.iter().all(|b| b.is_ascii_digit() || *b == b'.') && name.len > 2
        }
        // Add and modify.
        0x66 | 0x68 => {
            let name = Item::read(&mut v).filter(Item::is_whole)?;
            name.tag == OCTETS && name.value.contains(&b'=') && Item::read(&mut v)?.tag == ber::SEQUENCE
        }
        UNBIND => op.len == 0 && outer.is_whole() && PORTS.iter().any(|p| look.has_port(*p)),
        ABANDON => (1..=4).contains(&op.len) && outer.is_whole() && PORTS.iter().any(|p| look.has_port(*p)),
        DELETE => op.is_whole() && op.value.contains(&b'='),
        _ => false,
    };
    Some(if yes { Told::Yes } else { Told::No })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::told::{client, datagram, hello, hex, no_datagram, no_stream, server};

    const SEARCH_ROOT: &str = "3025020101632004000a01000a0100020100020100010100870b6f626a656374436c6173733000";

    #[test]
    fn operations() {
        client(1, &hex("300c020101600702010304008000"), Class::Ldap);
        client(389, &hex(SEARCH_ROOT), Class::Ldap);
        server(389, &hex("300c02010161070a010004000400"), Class::Ldap);
        client(389, &hex("30050201034200"), Class::Ldap);
        datagram(FromInitiator, 389, &[], &hex(SEARCH_ROOT), Class::Ldap);
        // SNMP: a version, then a community.
        no_stream(389, &hex("302902010104067075626c6963a01c02"));
        no_datagram(161, &[], &hex("300c020101600702010404008000"));
    }

    #[test]
    fn tls_within() {
        let mut start = hex("301d02010177188016");
        start.extend(START_TLS);
        let told = client(389, &[&start[..], &hello("ldap.example")].concat(), Class::Ldap);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("ldap.example", Some("tls")));
    }
}
