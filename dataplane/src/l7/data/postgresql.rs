//! PostgreSQL: a client's first message, a server's first answer, and messages in mid-life that add up (PostgreSQL
//! documentation, "Message Formats").

use crate::l7::text::{before, is_one, printable};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const VERSION_3: u16 = 3;
/// In place of a version.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// MAX_STARTUP_PACKET_LENGTH.
const MAX_STARTUP: usize = 10_000;
/// Requests for encryption before the startup: one for each kind.
const MAX_REQUESTS: usize = 2;
/// Messages of a chain that are followed.
const MAX_CHAIN: usize = 64;
const VERBS: [&[u8]; 12] = [
    b"select",
    b"insert",
    b"update",
    b"delete",
    b"set",
    b"show",
    b"create",
    b"alter",
    b"drop",
    b"begin",
    b"commit",
    b"rollback",
];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    match d[0] {
        0 => opening(look, notes),
        b'R' => authentication(look),
        b'E' => error(d),
        b'Q' => query(look),
        _ => chain(look),
    }
}

/// A request for encryption, once or twice, then TLS or the startup message itself.
fn opening(look: &Look, notes: &mut Notes) -> Verdict {
    let found = Found::payload(Class::Postgresql);
    let mut at = 0;
    for _ in 0..=MAX_REQUESTS {
        let (Some(len), Some(code)) = (look.u32(at), look.u32(at + 4)) else {
            return open_end(look, at, found, notes);
        };
        match (len, code) {
            (8, SSL_REQUEST | GSS_REQUEST) => at += 8,
            (16, CANCEL_REQUEST) if look.data.len() == at + 16 => return Verdict::Done(found),
            _ if at > 0 && look.data[at] != 0 => return upgrade::tls(look, at, found, notes),
            _ => return startup(look, at, len as usize, code, found, notes),
        }
        if look.data.len() == at {
            return Verdict::Class(found);
        }
    }
    Verdict::Done(found)
}

/// Less than eight bytes are there from `at` on.
fn open_end(look: &Look, at: usize, found: Found, notes: &mut Notes) -> Verdict {
    let rest = &look.data[at.min(look.data.len())..];
    if at > 0 {
        return if rest.first().is_some_and(|b| *b != 0) {
            upgrade::tls(look, at, found, notes)
        } else {
            Verdict::Class(found)
        };
    }
    // A length below 64 Ki, and behind it version 3 or the requests' common upper half.
    let plausible = rest.iter().zip([0, 0]).all(|(b, is)| *b == is) && rest.get(4).is_none_or(|b| matches!(b, 0 | 4));
    if plausible { Verdict::More } else { Verdict::No }
}

/// Pairs of names and values, ended by an empty name; `user` is always among them.
fn startup(look: &Look, at: usize, len: usize, code: u32, found: Found, notes: &mut Notes) -> Verdict {
    if code >> 16 != u32::from(VERSION_3) || code & 0xffff > 2 || !(9..=MAX_STARTUP).contains(&len) {
        return if at > 0 { Verdict::Done(found) } else { Verdict::No };
    }
    let Some(mut pairs) = look.data.get(at + 8..at + len) else {
        let begun = look.data[at + 8..].iter().all(|b| *b == 0 || printable(&[*b]));
        return if at > 0 {
            Verdict::Class(found)
        } else if begun {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    let mut user = false;
    let mut next = || {
        let text = before(pairs, 0);
        pairs = pairs.get(text.len() + 1..)?;
        printable(text).then_some(text)
    };
    while let Some(name) = next() {
        if name.is_empty() {
            break;
        }
        let Some(value) = next() else { return Verdict::No };
        user |= name == b"user";
        match name {
            b"database" => notes.facts.put(Fact::Object, value),
            b"application_name" => notes.facts.put(Fact::UserAgent, value),
            _ => {}
        }
    }
    if user { Verdict::Done(found) } else { Verdict::No }
}

/// What a server asks for: the kind tells the length.
fn authentication(look: &Look) -> Verdict {
    let (Some(len), Some(kind)) = (look.u32(1), look.u32(5)) else {
        return if look.data.iter().skip(1).take(2).all(|b| *b == 0) { Verdict::More } else { Verdict::No };
    };
    let fits = match kind {
        0 | 2 | 3 | 6 | 7 | 9 => len == 8,
        5 => len == 12,
        8 | 11 | 12 => (9..1024).contains(&len),
        10 => return sasl(look, len),
        _ => false,
    };
    if fits { Verdict::Other(Found::payload(Class::Postgresql)) } else { Verdict::No }
}

/// Mechanisms' names.
fn sasl(look: &Look, len: u32) -> Verdict {
    if !(12..256).contains(&len) {
        return Verdict::No;
    }
    let Some(names) = look.data.get(9..1 + len as usize) else { return Verdict::More };
    let told = names.starts_with(b"SCRAM-") || names.starts_with(b"OAUTHBEARER");
    if told { Verdict::Other(Found::payload(Class::Postgresql)) } else { Verdict::No }
}

/// An error's first field is its severity.
fn error(d: &[u8]) -> Verdict {
    let Some(field) = d.get(5..11) else {
        return if d.iter().skip(1).take(2).all(|b| *b == 0) { Verdict::More } else { Verdict::No };
    };
    let told = d[1..3] == [0, 0] && (field == b"SFATAL" || field == b"SERROR" || field == b"SPANIC");
    if told { Verdict::Other(Found::payload(Class::Postgresql)) } else { Verdict::No }
}

fn query(look: &Look) -> Verdict {
    let Some(len) = look.u32(1) else { return Verdict::More };
    let Some(text) = look.data.get(5..1 + len as usize).filter(|_| len > 5) else { return Verdict::No };
    let verb = text.split(|b| !b.is_ascii_alphabetic()).next().unwrap_or(text);
    let told = text.ends_with(b"\0") && is_one(verb, &VERBS) && printable(before(&text[..text.len().min(64)], 0));
    if told { Verdict::payload(Class::Postgresql) } else { Verdict::No }
}

/// Messages in mid-life: a client's batch that ends with Sync, a server's that ends with ReadyForQuery.
fn chain(look: &Look) -> Verdict {
    let d = look.data;
    let ends = d.ends_with(b"S\0\0\0\x04") || matches!(d, [.., b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E']);
    if !ends {
        return Verdict::No;
    }
    let mut at = 0;
    for n in 0..MAX_CHAIN {
        if at == d.len() {
            return if n > 1 { Verdict::payload(Class::Postgresql) } else { Verdict::No };
        }
        let (Some(kind), Some(len)) = (d.get(at), look.u32(at + 1)) else { return Verdict::No };
        if !kind.is_ascii_alphanumeric() || len < 4 || len as usize > d.len() {
            return Verdict::No;
        }
        at += 1 + len as usize;
    }
    Verdict::No
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    const STARTUP: &str = "000000260003000075736572006f727978006461746162617365006d61696c73746f72650000";

    #[test]
    fn openings() {
        let startup = hex(STARTUP);
        assert_eq!(client(5432, &startup, Class::Postgresql).facts.get(Fact::Object), Some("mailstore"));
        let ssl = hex("0000000804d2162f");
        client(1, &ssl, Class::Postgresql);
        let gss = [hex("0000000804d21630"), ssl, startup.clone()].concat();
        assert_eq!(client(5432, &gss, Class::Postgresql).facts.get(Fact::Object), Some("mailstore"));
        client(5432, &hex("0000001004d2162e 00000001 00000002"), Class::Postgresql);
        let mut other = startup;
        other[8] = b'U';
        no_stream(5432, &other);
        no_stream(5432, &hex("0000000804d2162d"));
    }

    #[test]
    fn answers_and_later() {
        server(5432, &hex("520000000c00000005ad44ff54"), Class::Postgresql);
        server(5432, &hex("52000000170000000a534352414d2d5348412d3235360000"), Class::Postgresql);
        server(5432, b"E\0\0\0\x40SFATAL\0VFATAL\0C28000\0", Class::Postgresql);
        server(5432, b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", Class::Postgresql);
        client(5432, b"Q\0\0\0\x0dselect 1\0", Class::Postgresql);
        client(5432, b"P\0\0\0\x0e\0SELECT\0\0\0S\0\0\0\x04", Class::Postgresql);
        no_stream(5432, b"Z\0\0\0\x05I");
        no_stream(5432, b"R\0\0\0\x09\0\0\0\0\0");
    }
}
