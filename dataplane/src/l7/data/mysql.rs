//! MySQL and MariaDB: the server's greeting or refusal, the client's login, and statements in mid-life (MySQL, "Client/
//! Server Protocol": Protocol::HandshakeV10, HandshakeResponse41, SSLRequest, ERR_Packet, COM_QUERY).

use crate::l7::text::{before, has, is_one, printable};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

/// Length of three bytes, number in its sequence.
const HEADER: usize = 4;
const VERSION_10: u8 = 10;
const ERR: u8 = 0xff;
const COM_QUERY: u8 = 3;
/// CLIENT_PROTOCOL_41, CLIENT_SSL.
const PROTOCOL_41: u32 = 0x200;
const SSL: u32 = 0x800;
/// Capabilities, largest packet, character set and 23 bytes of filler: all of a request for TLS.
const LOGIN_HEAD: usize = 32;
/// Zero in both MySQL and MariaDB; the four bytes behind carry more of MariaDB's capabilities.
const LOGIN_FILLER: usize = 19;
const MAX_LOGIN: usize = 4096;
const MAX_VERSION: usize = 64;
const VERBS: [&[u8]; 16] = [
    b"select",
    b"insert",
    b"update",
    b"delete",
    b"set",
    b"show",
    b"use",
    b"create",
    b"alter",
    b"drop",
    b"begin",
    b"commit",
    b"rollback",
    b"start",
    b"replace",
    b"call",
];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some([a, b, c, seq]) = d.first_chunk::<HEADER>() else { return Verdict::More };
    let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
    if len < 5 || *seq > 1 {
        return Verdict::No;
    }
    let Some(first) = d.get(HEADER) else { return Verdict::More };
    let body = d.get(HEADER..HEADER + len);
    match (*seq, *first) {
        (0, VERSION_10) => greeting(look, len, body, notes),
        (0, ERR) => {
            body.map_or(if len < 1024 { Verdict::More } else { Verdict::No }, |b| refusal(b, d.len() == HEADER + len))
        }
        (0, COM_QUERY) => query(&d[HEADER + 1..], d.len() == HEADER + len),
        (1, _) => login(look, len, notes),
        _ => Verdict::No,
    }
}

/// Version, connection, eight bytes of a nonce and a zero; the rest may be absent in theory, not in practice.
fn greeting(look: &Look, len: usize, body: Option<&[u8]>, notes: &mut Notes) -> Verdict {
    let version = before(&look.data[HEADER + 1..], 0);
    let like_one = version.len() <= MAX_VERSION && version.iter().all(u8::is_ascii_graphic);
    if !like_one || len > 512 {
        return Verdict::No;
    }
    let Some(body) = body else { return Verdict::More };
    let at = 1 + version.len() + 1 + 4 + 8;
    let numbered = version.first().is_some_and(u8::is_ascii_digit) && version.contains(&b'.');
    // Behind the status and the upper capabilities: the nonce's length and ten reserved bytes.
    let reserved = body.get(at + 9..at + 15).is_none_or(|r| *r == [0; 6]);
    if !numbered || body.get(at) != Some(&0) || !reserved {
        return Verdict::No;
    }
    notes.facts.put(Fact::Server, version);
    Verdict::Other(Found::payload(Class::Mysql))
}

/// Number of the error, perhaps its state, and a text in words.
fn refusal(body: &[u8], alone: bool) -> Verdict {
    let number = u16::from_le_bytes([body[1], body[2]]);
    let text = &body[3..];
    if alone && (1000..2000).contains(&number) && text.len() > 10 && printable(text) && has(text, b" ") {
        Verdict::payload(Class::Mysql)
    } else {
        Verdict::No
    }
}

fn login(look: &Look, len: usize, notes: &mut Notes) -> Verdict {
    if !(LOGIN_HEAD..MAX_LOGIN).contains(&len) {
        return Verdict::No;
    }
    let Some(capabilities) = look.u32_le(HEADER) else { return Verdict::More };
    let tls = len == LOGIN_HEAD;
    if capabilities & PROTOCOL_41 == 0 || tls && capabilities & SSL == 0 {
        return Verdict::No;
    }
    let filler = &look.data[(HEADER + 9).min(look.data.len())..];
    if filler.iter().take(LOGIN_FILLER).any(|b| *b != 0) {
        return Verdict::No;
    }
    if look.data.len() < HEADER + len {
        return Verdict::More;
    }
    let found = Found::payload(Class::Mysql);
    if tls {
        return upgrade::tls(look, HEADER + len, found, notes);
    }
    let user = before(&look.data[HEADER + LOGIN_HEAD..HEADER + len], 0);
    if printable(user) && user.len() < len - LOGIN_HEAD { Verdict::Done(found) } else { Verdict::No }
}

fn query(text: &[u8], whole: bool) -> Verdict {
    // Newer clients put two bytes of attributes before the text.
    let text = text.strip_prefix(&[0, 1]).unwrap_or(text);
    let verb = text.split(|b| !b.is_ascii_alphabetic()).next().unwrap_or(text);
    let certain = whole && is_one(verb, &VERBS) && printable(&text[..text.len().min(64)]) && text.len() > verb.len();
    let plain = is_one(verb, &[b"commit", b"begin", b"rollback"]) && whole;
    if certain || plain { Verdict::payload(Class::Mysql) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    const GREETING: &str = "4a0000000a382e302e3336000c00000031747567785f235600ffffff0200ffdf1500000000000000000000
        70223e346d0f367c31226a7c0063616368696e675f736861325f70617373776f726400";

    #[test]
    fn greeting_login_and_query() {
        let mut greeting = hex(GREETING);
        assert_eq!(server(3306, &greeting, Class::Mysql).facts.get(Fact::Server), Some("8.0.36"));
        greeting[24] = 1;
        no_stream(3306, &greeting);
        server(3306, b"\x21\0\0\0\xff\x10\x04Host '10.0.0.1' is not allowed", Class::Mysql);
        let mut login = hex("2600000185a6ff200000000121");
        login.resize(36, 0);
        login.extend(b"root\0\0");
        client(3306, &login, Class::Mysql);
        login[20] = 1;
        no_stream(3306, &login);
        client(3306, b"\x21\0\0\0\x03select @@version_comment limit 1", Class::Mysql);
        no_stream(3306, b"\x21\0\0\0\x03select @@version_comment limit");
    }

    #[test]
    fn tls_within() {
        let mut request = hex("2000000185aeff1900000001ff");
        request.resize(36, 0);
        let told = client(3306, &request, Class::Mysql);
        assert_eq!(told.facts.get(Fact::Upgrade), None);
    }
}
