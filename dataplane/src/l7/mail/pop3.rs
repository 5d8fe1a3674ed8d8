//! POP3: greeting, commands, and TLS after STLS (RFC 1939 §3 to §7; RFC 2449; RFC 2595 §4).

use crate::l7::text::{could_be, has, has_ignoring_case, is_one, line, printable, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const PORT: u16 = 110;
const MAX_LINE: usize = 512;
/// Commands that other protocols do not have.
const OWN: [&[u8]; 4] = [b"APOP", b"STLS", b"UIDL", b"CAPA"];
/// And those that are POP3's on its port.
const SHARED: [&[u8]; 10] = [b"USER", b"PASS", b"AUTH", b"QUIT", b"STAT", b"LIST", b"RETR", b"NOOP", b"TOP", b"DELE"];
/// After which no TLS begins.
const PLAIN: [&[u8]; 4] = [b"PASS", b"APOP", b"QUIT", b"STAT"];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    if matches!(look.data[0], b'+' | b'-') { answer(look, notes) } else { commands(look, notes) }
}

/// `+OK` with a timestamp or a word of POP3.
fn answer(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !could_be(d, &[b"+OK", b"-ERR"]) {
        return Verdict::No;
    }
    let Some((first, next)) = line(d) else {
        return if d.len() < MAX_LINE && printable(d.strip_suffix(b"\r").unwrap_or(d)) {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    let (status, said) = word(first);
    if !matches!(status, b"+OK" | b"-ERR") || !printable(said) {
        return Verdict::No;
    }
    let pop = has_ignoring_case(said, b"POP3") || has_ignoring_case(said, b"POP server");
    // The greeting's timestamp for APOP.
    let stamp = said.iter().position(|b| *b == b'<').is_some_and(|at| {
        let stamp = &said[at..];
        has(stamp, b"@") && has(stamp, b">") && has(stamp, b".") && status == b"+OK"
    });
    let capabilities = ["TOP", "UIDL", "SASL", "USER"].iter().any(|c| word(&d[next..]).0.starts_with(c.as_bytes()))
        && has(d, b"\nUIDL\r\n");
    if !(pop || stamp || capabilities || look.has_port(PORT)) {
        return Verdict::No;
    }
    if status == b"+OK" && (pop || stamp) {
        notes.facts.put(Fact::Server, said);
    }
    Verdict::Other(Found::payload(Class::Pop3))
}

fn commands(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let on_port = look.has_port(PORT);
    let found = Found::payload(Class::Pop3);
    let (mut at, mut told) = (0, false);
    while let Some((command, next)) = line(&d[at..]) {
        at += next;
        let (verb, rest) = word(command);
        // The text of an exchange of AUTH is no command.
        if !printable(rest) || at == next && !is_one(verb, &OWN) && !is_one(verb, &SHARED) {
            return if told { Verdict::Done(found) } else { Verdict::No };
        }
        let bare = verb.eq_ignore_ascii_case(b"APOP") || command.len() == 4;
        told |= on_port || is_one(verb, &OWN) && bare;
        if verb.eq_ignore_ascii_case(b"STLS") {
            return upgrade::tls(look, at, found, notes);
        }
        if told && is_one(verb, &PLAIN) {
            return Verdict::Done(found);
        }
    }
    if told {
        return Verdict::Class(found);
    }
    let begun = could_be(&d[..d.len().min(4)], &OWN) || could_be(&d[..d.len().min(4)], &SHARED);
    if begun && d.len() < MAX_LINE && printable(&d[at..]) { Verdict::More } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hello, no_stream, server};

    #[test]
    fn greetings_and_commands() {
        server(110, b"+OK lavad\r\n", Class::Pop3);
        server(1, b"+OK POP3 ready <1.2@a.example>\r\n", Class::Pop3);
        client(110, b"USER a\r\nPASS b\r\n", Class::Pop3);
        client(1, b"USER a\r\nPASS b\r\nSTAT\r\nUIDL\r\n", Class::Pop3);
        no_stream(1, b"+OK\r\n");
        no_stream(1, b"+OK then\r\n");
        no_stream(110, b"+OKAY\r\n");
    }

    #[test]
    fn tls_after_stls() {
        let stream = [b"AUTH\r\nCAPA\r\nSTLS\r\n", &hello("pop.example")[..]].concat();
        let told = client(110, &stream, Class::Pop3);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("pop.example", Some("tls")));
    }
}
