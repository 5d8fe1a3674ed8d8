//! Oracle's Transparent Network Substrate: connect, accept, refuse, redirect and resend. Not published; as described in
//! Wireshark's documentation of TNS and Oracle's of connect descriptors.

use crate::l7::text::has_ignoring_case as has;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const HEADER: usize = 8;
const CONNECT: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 4;
const REDIRECT: u8 = 5;
const RESEND: u8 = 11;
/// 8.0 has 308; 23 has 319 and some.
const VERSIONS: std::ops::RangeInclusive<u16> = 300..=330;
const MAX_PACKET: usize = 8192;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    // Checksums are never computed.
    let zero = |at: usize| d.get(at).is_none_or(|b| *b == 0);
    let kind = d.get(4).copied();
    if !zero(2) || !zero(3) || !zero(6) || !zero(7) || kind.is_some_and(|k| !matches!(k, 1 | 2 | 4 | 5 | 11)) {
        return Verdict::No;
    }
    let (Some(len), Some(kind)) = (look.u16(0).map(usize::from), kind) else { return Verdict::More };
    if !(HEADER..=MAX_PACKET).contains(&len) || d.len() > len && kind != CONNECT {
        return Verdict::No;
    }
    if d.len() < HEADER {
        return Verdict::More;
    }
    let told = match kind {
        CONNECT => connect(look, len, notes),
        ACCEPT => accept(look, len),
        REFUSE | REDIRECT => {
            let Some(all) = d.get(HEADER..len) else { return Verdict::More };
            Some(has(all, b"(DESCRIPTION=") || has(all, b"(ERR=") || has(all, b"(ADDRESS="))
        }
        RESEND => Some(len == HEADER && look.has_port(1521)),
        _ => Some(false),
    };
    match told {
        Some(true) => Verdict::payload(Class::Oracle),
        Some(false) => Verdict::No,
        None => Verdict::More,
    }
}

/// Version, lowest one, and where the connect descriptor stands; a long one comes in a packet of its own.
fn connect(look: &Look, len: usize, notes: &mut Notes) -> Option<bool> {
    let (version, lowest) = (look.u16(8)?, look.u16(10)?);
    if !VERSIONS.contains(&version) || !VERSIONS.contains(&lowest) || lowest > version {
        return Some(false);
    }
    let (data, at) = (usize::from(look.u16(24)?), usize::from(look.u16(26)?));
    if !(34..=80).contains(&at) {
        return Some(false);
    }
    let text = look.data.get(at..at + data)?;
    let own = at + data == len;
    if let Some(name) = value(text, b"SERVICE_NAME=").or_else(|| value(text, b"SID=")) {
        notes.facts.put(Fact::Object, name);
    }
    if let Some(name) = value(text, b"(HOST=") {
        notes.host.push(name);
    }
    Some(has(text, b"(CONNECT_DATA=") && (own || at == len) || has(text, b"(DESCRIPTION="))
}

fn accept(look: &Look, len: usize) -> Option<bool> {
    let (version, data, at) = (look.u16(8)?, look.u16(18)?, usize::from(look.u16(20)?));
    Some(VERSIONS.contains(&version) && at + usize::from(data) <= len && (24..=64).contains(&at))
}

/// What stands between `key` and the closing parenthesis.
fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(key.len()).position(|w| w.eq_ignore_ascii_case(key))? + key.len();
    text[at..].split(|b| *b == b')').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn connect_and_answers() {
        let text =
            b"(DESCRIPTION=(ADDRESS=(PROTOCOL=TCP)(HOST=Db.example)(PORT=1521))(CONNECT_DATA=(SERVICE_NAME=orcl)))";
        let mut packet = hex("0000 0000 01 00 0000 013b 012c 0000 2000 7fff 860e 0000 0100 0000 003a");
        packet[25] = text.len() as u8;
        packet.resize(58, 0);
        packet.extend(text);
        packet[1] = packet.len() as u8;
        let told = client(1521, &packet, Class::Oracle);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Object)), ("db.example", Some("orcl")));
        packet[8] = 9;
        no_stream(1521, &packet);
        server(
            1521,
            &hex("0020 0000 02 00 0000 013b 0001 2000 7fff 0100 0000 0020 4141 000000000000 0000"),
            Class::Oracle,
        );
        server(1521, &hex("0008 0000 0b 00 0000"), Class::Oracle);
        no_stream(99, &hex("0008 0000 0b 00 0000"));
        let mut refuse = hex("0000 0000 04 00 0000 2200 0018");
        refuse.extend(b"(DESCRIPTION=(ERR=12514))");
        refuse[1] = refuse.len() as u8;
        server(1521, &refuse, Class::Oracle);
    }
}
