//! Cassandra: the native protocol's frames (native_protocol_v1 to v5 §2), and the mark with which nodes greet each other.

use crate::l7::text::{has, is_one, printable};
use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 9042;
const RESPONSE: u8 = 0x80;
/// Of internode messaging.
const NODES: &[u8] = &[0xca, 0x55, 0x2d, 0xfa];
const MAX_BODY: u32 = 256 << 20;
const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const AUTHENTICATE: u8 = 0x03;
const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;
const QUERY: u8 = 0x07;
const VERBS: [&[u8]; 10] =
    [b"select", b"insert", b"update", b"delete", b"use", b"create", b"alter", b"drop", b"truncate", b"begin"];

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] == NODES[0] {
        return match look.begins(NODES) {
            Some(true) => Verdict::payload(Class::Cassandra),
            Some(false) => Verdict::No,
            None => Verdict::More,
        };
    }
    let version = d[0] & !RESPONSE;
    // The stream's number has one byte in the first two versions.
    let wide = usize::from(version > 2);
    let flags_ok = d.get(1).is_none_or(|f| *f & !0x1f == 0);
    let opcode = d.get(3 + wide).copied();
    let response = d[0] & RESPONSE != 0;
    let known = |op: u8| match response {
        true => matches!(op, 0x00 | 0x02 | 0x03 | 0x06 | 0x08 | 0x0c | 0x0e | 0x10),
        false => matches!(op, 0x01 | 0x05 | 0x07 | 0x09 | 0x0a | 0x0b | 0x0d | 0x0f | 0x04),
    };
    if !flags_ok || opcode.is_some_and(|op| !known(op)) {
        return Verdict::No;
    }
    let (Some(opcode), Some(len)) = (opcode, look.u32(4 + wide)) else { return Verdict::More };
    let body = &d[8 + wide..];
    if len > MAX_BODY || body.len() as u64 > u64::from(len) && !look.has_port(PORT) {
        return Verdict::No;
    }
    let whole = body.len() as u64 >= u64::from(len);
    // Uncompressed; a stream of a request is not negative.
    let plain = d[1] & 0x01 == 0 && (response || d[2] < 0x80);
    let told = plain
        && match opcode {
            STARTUP if len < 4096 => waits(body, len, |b| has(b, b"CQL_VERSION")),
            OPTIONS => len == 0,
            SUPPORTED if len < 65_536 => waits(body, len, |b| has(b, b"CQL_VERSION") || has(b, b"COMPRESSION")),
            READY => len == 0 && look.has_port(PORT),
            AUTHENTICATE if len < 512 => waits(body, len, |b| has(b, b"Authenticator")),
            QUERY => query(body),
            ERROR if len < 4096 => look.has_port(PORT) && waits(body, len, |b| b.get(6..).is_some_and(printable)),
            _ => look.has_port(PORT) && whole && len > 0,
        };
    let open = plain && !whole && matches!(opcode, STARTUP | SUPPORTED | AUTHENTICATE | ERROR) && len < 65_536;
    match (told, open) {
        (true, _) => Verdict::payload(Class::Cassandra),
        (false, true) => Verdict::More,
        _ => Verdict::No,
    }
}

/// Whether the body is whole and `is` so.
fn waits(body: &[u8], len: u32, is: impl Fn(&[u8]) -> bool) -> bool {
    body.get(..len as usize).is_some_and(is)
}

/// A long string that begins with a verb.
fn query(body: &[u8]) -> bool {
    let Some((len, rest)) = body.split_first_chunk::<4>() else { return false };
    let text = &rest[..rest.len().min(u32::from_be_bytes(*len) as usize)];
    let verb = text.split(|b| !b.is_ascii_alphabetic()).next().unwrap_or(text);
    is_one(verb, &VERBS) && printable(&text[..text.len().min(16)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn frames_and_nodes() {
        client(1, &hex("040000000500000000"), Class::Cassandra);
        client(9042, &hex("0100000500000000"), Class::Cassandra);
        client(1, &hex("0400000101000000160001000b43514c5f56455253494f4e0005332e332e31"), Class::Cassandra);
        let supported = hex(
            "8400000006000000340002000b434f4d5052455353494f4e00020006736e6170707900036c7a34000b43514c5f56455253494f4e00010005332e332e31",
        );
        server(9042, &supported, Class::Cassandra);
        client(7000, &hex("ca552dfa0c0a0c1106c61200021b58f3cb19b3"), Class::Cassandra);
        let query = [&hex("0400000107000000110000000a")[..], b"SELECT * F\0\x01\0"].concat();
        client(9042, &query, Class::Cassandra);
        no_stream(1, &hex("040000000200000000"));
        no_stream(9042, &hex("064000000500000000"));
        no_stream(80, &hex("8400000002 00000000"));
    }
}
