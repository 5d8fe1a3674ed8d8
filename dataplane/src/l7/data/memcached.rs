//! Memcached: text (protocol.txt of its source), binary (BinaryProtocolRevamped), and either behind the header that
//! datagrams have (protocol.txt, "UDP protocol").
//!
//! The text's short commands are words of many protocols, so alone they count on the port only.

use crate::l7::text::{graphic, line, number, word};
use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 11211;
const REQUEST: u8 = 0x80;
const RESPONSE: u8 = 0x81;
const BINARY_HEADER: usize = 24;
const MAX_OPCODE: u8 = 0x4b;
const MAX_KEY: u32 = 250;
const STORE: [&[u8]; 6] = [b"set", b"add", b"replace", b"append", b"prepend", b"cas"];
/// On the port.
const COMMANDS: [&[u8]; 15] = [
    b"get",
    b"gets",
    b"gat",
    b"gats",
    b"delete",
    b"incr",
    b"decr",
    b"touch",
    b"stats",
    b"version",
    b"flush_all",
    b"mg",
    b"ms",
    b"md",
    b"verbosity",
];
const ANSWERS: [&[u8]; 10] =
    [b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND", b"DELETED", b"TOUCHED", b"END", b"ERROR", b"HD", b"EN"];
const MORE: [&[u8]; 5] = [b"VALUE", b"STAT", b"VERSION", b"CLIENT_ERROR", b"SERVER_ERROR"];
/// Longest line that is waited for.
const MAX_LINE: usize = 2048;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    match d[0] {
        REQUEST | RESPONSE => binary(look, 0),
        b'A'..=b'Z' | b'a'..=b'z' => text(d, look.has_port(PORT)),
        _ => Verdict::No,
    }
}

/// Request number, datagram number, how many there are, reserved.
pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    let (Some(part), Some(parts), Some(0)) = (look.u16(2), look.u16(4), look.u16(6)) else { return Verdict::No };
    let Some(data) = look.data.get(8..).filter(|d| !d.is_empty()) else { return Verdict::No };
    if part >= parts || parts > 1024 || part > 0 {
        return Verdict::No;
    }
    match self::look(&Look { data, last: true, ..*look }, notes) {
        Verdict::More => Verdict::No,
        told => told,
    }
}

fn text(d: &[u8], on_port: bool) -> Verdict {
    let Some((line, _)) = line(d) else {
        let first = word(d).0;
        let all = STORE.iter().chain(&COMMANDS).chain(&ANSWERS).chain(&MORE);
        let begun = { all }.any(|w| w.starts_with(first) && (first.len() == d.len() || w.len() == first.len()));
        let short = d.len() < if on_port { MAX_LINE } else { 300 };
        return if begun && short && d.iter().all(|b| (b' '..0x7f).contains(b) || *b == b'\r') {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    let (first, rest) = word(line);
    let certain = match first {
        w if STORE.contains(&w) => stores(rest),
        b"VALUE" => value(rest),
        b"STAT" => word(rest).0 == b"pid" && number(word(rest).1).is_some(),
        _ => false,
    };
    let on_port = on_port
        && (COMMANDS.contains(&first) && line.iter().all(|b| (b' '..0x7f).contains(b))
            || ANSWERS.contains(&line)
            || matches!(first, b"STAT" | b"VERSION" | b"CLIENT_ERROR" | b"SERVER_ERROR" | b"VA"));
    if certain || on_port { Verdict::payload(Class::Memcached) } else { Verdict::No }
}

/// Key, flags, expiry, length, perhaps a number to compare with and `noreply`.
fn stores(rest: &[u8]) -> bool {
    let mut words = rest.split(|b| *b == b' ');
    let key = words.next().is_some_and(|k| graphic(k) && k.len() <= MAX_KEY as usize);
    let mut numeric =
        || words.next().is_some_and(|n| number(n.strip_prefix(b"-").unwrap_or(n)).is_some() || n.len() == 10);
    key && numeric() && numeric() && numeric()
}

/// Key, flags, length.
fn value(rest: &[u8]) -> bool {
    let mut words = rest.split(|b| *b == b' ');
    let key = words.next().is_some_and(|k| graphic(k) && k.len() <= MAX_KEY as usize);
    key && words.next().and_then(number).is_some() && words.next().and_then(number).is_some()
}

/// Opcode, key, extras, data type, status or bucket, and the length of all behind the header.
fn binary(look: &Look, at: usize) -> Verdict {
    let d = &look.data[at..];
    let wrong = d.get(1).is_some_and(|o| *o > MAX_OPCODE) || d.get(5).is_some_and(|t| *t != 0);
    if wrong {
        return Verdict::No;
    }
    let Some(header) = d.first_chunk::<BINARY_HEADER>() else { return Verdict::More };
    let key = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let extras = u32::from(header[4]);
    let total = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let request = header[0] == REQUEST;
    let fits = match header[1] {
        // Get, its kin and version: the key alone.
        0x00 | 0x09 | 0x0c | 0x0d | 0x04 | 0x0b | 0x07 | 0x10 if request => extras == 0 && total == key,
        // Set, add, replace.
        0x01..=0x03 | 0x11..=0x13 if request => extras == 8 && key > 0,
        0x05 | 0x06 if request => extras == 20 && total == 20 + key,
        0x0a => total == 0,
        _ if request => extras <= 24,
        // Status of an answer (a few are known), and flags of a value.
        _ => matches!(u16::from_be_bytes([header[6], header[7]]), 0..=8 | 0x20 | 0x21 | 0x81..=0x86) && extras <= 4,
    };
    let adds_up = key <= MAX_KEY && key + extras <= total && total <= 1 << 20;
    // No bucket is numbered beyond 1023.
    let bucket = !request || header[6] < 4;
    let whole = d.len() as u64 >= 24 + u64::from(total);
    let next = d.get(24 + total as usize).is_none_or(|b| matches!(*b, REQUEST | RESPONSE));
    if !fits || !adds_up || !bucket || !next {
        Verdict::No
    } else if whole || look.has_port(PORT) {
        Verdict::payload(Class::Memcached)
    } else {
        Verdict::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::told::{client, datagram, hex, no_datagram, no_stream, server};

    #[test]
    fn text_and_binary() {
        client(1, b"set a 0 900 3\r\nabc\r\n", Class::Memcached);
        client(11211, b"stats\r\n", Class::Memcached);
        server(1, b"VALUE a 0 3\r\nabc\r\nEND\r\n", Class::Memcached);
        server(1, b"STAT pid 8837\r\nSTAT uptime 193\r\n", Class::Memcached);
        server(11211, b"STORED\r\n", Class::Memcached);
        no_stream(80, b"stats\r\n");
        no_stream(11211, b"set the table\r\n");
        let get = hex("80 00 0001 00 00 0000 00000001 00000000 0000000000000000 61");
        client(1, &get, Class::Memcached);
        let mut bad = get.clone();
        bad[11] = 2;
        no_stream(11211, &bad);
        server(1, &hex("81 00 0000 04 00 0000 00000007 00000000 0000000000000000 00000000 616263"), Class::Memcached);
    }

    #[test]
    fn datagrams() {
        datagram(FromInitiator, 11211, &[], b"\0\x01\0\0\0\x01\0\0stats\r\n", Class::Memcached);
        no_datagram(9, &[], b"\0\x01\0\0\0\x01\0\0stats\r\n");
        no_datagram(11211, &[], b"\0\x01\0\0\0\x01\0\x01stats\r\n");
    }
}
