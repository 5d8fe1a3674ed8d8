//! For the recognisers' tests: what the whole table says of a message, and of each of its beginnings.

use super::{Class, Found, Look, Notes, Table, Verdict};
use crate::flow::Direction::{self, FromInitiator, FromResponder};

/// Class, host and facts of a message that was told for certain.
pub struct Told {
    pub class: Class,
    pub host: String,
    pub facts: super::Facts,
}

fn class_of(verdict: Verdict) -> Option<Class> {
    match verdict {
        Verdict::Class(Found { class, .. })
        | Verdict::Other(Found { class, .. })
        | Verdict::Settled(Found { class, .. })
        | Verdict::Done(Found { class, .. }) => Some(class),
        Verdict::No | Verdict::More => None,
    }
}

fn ask(udp: bool, dir: Direction, port: u16, data: &[u8], before: &[u8], last: bool) -> Option<Told> {
    let ports = if dir == FromInitiator { (40_000, port) } else { (port, 40_000) };
    let look = Look { last, before, ..Look::whole(data, dir, ports) };
    let mut notes = Notes::default();
    let table = if udp { &Table::get().udp } else { &Table::get().tcp };
    let class = class_of(table.ask(&look, &mut notes))?;
    Some(Told { class, host: notes.host.get().unwrap_or("").to_owned(), facts: notes.facts })
}

/// Every beginning of a stream is told as nothing else than the whole of it.
fn stream(dir: Direction, port: u16, data: &[u8], class: Class) -> Told {
    for n in 1..data.len() {
        for last in [false, true] {
            let part = ask(false, dir, port, &data[..n], &[], last).map(|t| t.class);
            assert!(part.is_none_or(|c| c == class), "{n} bytes of {}: {part:?}", data.escape_ascii());
        }
    }
    let told = ask(false, dir, port, data, &[], false);
    let told = told.unwrap_or_else(|| panic!("not told: {}", data.escape_ascii()));
    assert_eq!(told.class, class, "{}", data.escape_ascii());
    told
}

pub fn client(port: u16, data: &[u8], class: Class) -> Told {
    stream(FromInitiator, port, data, class)
}

pub fn server(port: u16, data: &[u8], class: Class) -> Told {
    stream(FromResponder, port, data, class)
}

/// Whole datagrams are told; cut ones as nothing else.
pub fn datagram(dir: Direction, port: u16, before: &[u8], data: &[u8], class: Class) -> Told {
    for n in 1..data.len() {
        let part = ask(true, dir, port, &data[..n], before, true).map(|t| t.class);
        assert!(part.is_none_or(|c| c == class), "{n} bytes of {}: {part:?}", data.escape_ascii());
    }
    let told = ask(true, dir, port, data, before, true);
    let told = told.unwrap_or_else(|| panic!("not told: {}", data.escape_ascii()));
    assert_eq!(told.class, class, "{}", data.escape_ascii());
    told
}

/// No stream begins so, in either direction.
pub fn no_stream(port: u16, data: &[u8]) {
    for dir in [FromInitiator, FromResponder] {
        let class = ask(false, dir, port, data, &[], true).map(|t| t.class);
        assert_eq!(class, None, "{}", data.escape_ascii());
    }
}

pub fn no_datagram(port: u16, before: &[u8], data: &[u8]) {
    for dir in [FromInitiator, FromResponder] {
        let class = ask(true, dir, port, data, before, true).map(|t| t.class);
        assert_eq!(class, None, "{}", data.escape_ascii());
    }
}

/// Bytes of hexadecimal digits; blanks are skipped.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// A ClientHello with one cipher and a server name (RFC 8446 §4.1.2).
pub fn hello(name: &str) -> Vec<u8> {
    let n = name.len() as u16;
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((n + 9).to_be_bytes());
    body.extend([0, 0]);
    body.extend((n + 5).to_be_bytes());
    body.extend((n + 3).to_be_bytes());
    body.push(0);
    body.extend(n.to_be_bytes());
    body.extend(name.as_bytes());
    let len = body.len() as u16;
    let mut record = vec![22, 3, 1];
    record.extend((len + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(len.to_be_bytes());
    record.extend(body);
    record
}
