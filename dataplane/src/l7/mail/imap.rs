//! IMAP 4: greeting, commands behind their tags, and TLS after STARTTLS (RFC 3501 §2.2, §6, §7.1; RFC 9051).

use crate::l7::text::{could_be, has_ignoring_case, is_one, line, printable, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const PORT: u16 = 143;
const MAX_LINE: usize = 1000;
const MAX_TAG: usize = 12;
/// Of the states before and after login.
const COMMANDS: [&[u8]; 18] = [
    b"CAPABILITY",
    b"LOGIN",
    b"STARTTLS",
    b"AUTHENTICATE",
    b"ID",
    b"ENABLE",
    b"SELECT",
    b"EXAMINE",
    b"LIST",
    b"LSUB",
    b"NAMESPACE",
    b"STATUS",
    b"FETCH",
    b"UID",
    b"IDLE",
    b"NOOP",
    b"LOGOUT",
    b"COMPRESS",
];
/// Certain behind a tag of letters and digits, whatever the port.
const CERTAIN: [&[u8]; 5] = [b"CAPABILITY", b"STARTTLS", b"AUTHENTICATE", b"NAMESPACE", b"LOGOUT"];
const PLAIN: [&[u8]; 5] = [b"LOGIN", b"AUTHENTICATE", b"LOGOUT", b"SELECT", b"UID"];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match look.data[0] {
        b'*' => greeting(look, notes),
        b if b.is_ascii_alphanumeric() => commands(look, notes),
        _ => Verdict::No,
    }
}

/// `* OK [CAPABILITY IMAP4rev1 …] ready`, or an answer to a capability command.
fn greeting(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !could_be(d, &[b"* OK", b"* PREAUTH", b"* BYE", b"* CAPABILITY"]) {
        return Verdict::No;
    }
    let Some((first, _)) = line(d) else {
        return if d.len() < MAX_LINE && printable(d.strip_suffix(b"\r").unwrap_or(d)) {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    if !printable(first) || !(has_ignoring_case(first, b"IMAP") || look.has_port(PORT)) {
        return Verdict::No;
    }
    let said = first.rsplit(|b| *b == b']').next().unwrap_or(first);
    notes.facts.put(Fact::Server, said.strip_prefix(b"* OK").unwrap_or(said).trim_ascii());
    Verdict::Other(Found::payload(Class::Imap))
}

fn commands(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let found = Found::payload(Class::Imap);
    let (mut at, mut told) = (0, false);
    while let Some((command, next)) = line(&d[at..]) {
        let whole = next > command.len() + 1;
        at += next;
        let (tag, rest) = word(command);
        let (verb, arguments) = word(rest);
        let like = is_tag(tag) && is_one(verb, &COMMANDS) && printable(arguments) && whole;
        if !like {
            return if told { Verdict::Done(found) } else { Verdict::No };
        }
        // A tag has a digit in all clients known; a word of a language has none.
        let numbered = tag.iter().any(u8::is_ascii_digit);
        told |= look.has_port(PORT)
            || numbered && is_one(verb, &CERTAIN)
            || numbered && verb == b"LOGIN" && arguments.contains(&b' ');
        if !told {
            return Verdict::No;
        }
        if verb.eq_ignore_ascii_case(b"STARTTLS") {
            return upgrade::tls(look, at, found, notes);
        }
        if is_one(verb, &PLAIN) {
            return Verdict::Done(found);
        }
    }
    if told {
        return Verdict::Class(found);
    }
    let (tag, rest) = word(d);
    let verb = word(rest).0;
    let begun = is_tag(tag) && (rest.is_empty() || could_be(verb, &COMMANDS)) && d.len() < MAX_LINE;
    let plausible = look.has_port(PORT) || tag.iter().any(u8::is_ascii_digit) || tag.len() < 3 && rest.is_empty();
    if begun && plausible && printable(d.strip_suffix(b"\r").unwrap_or(d)) { Verdict::More } else { Verdict::No }
}

fn is_tag(tag: &[u8]) -> bool {
    (1..=MAX_TAG).contains(&tag.len())
        && tag.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'$' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hello, no_stream, server};

    #[test]
    fn greetings_and_commands() {
        let told = server(1, b"* OK [CAPABILITY IMAP4rev1 STARTTLS] Dovecot ready.\r\n", Class::Imap);
        assert_eq!(told.facts.get(Fact::Server), Some("Dovecot ready."));
        client(1, b"a001 CAPABILITY\r\n", Class::Imap);
        client(143, b"A LOGIN a b\r\n", Class::Imap);
        no_stream(1, b"* OK\r\n");
        no_stream(1, b"the LIST of\r\n");
        no_stream(143, b"a001 CAPABLE\r\n");
    }

    #[test]
    fn tls_after_starttls() {
        let stream = [b"a1 CAPABILITY\r\na2 STARTTLS\r\n", &hello("imap.example")[..]].concat();
        let told = client(143, &stream, Class::Imap);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("imap.example", Some("tls")));
    }
}
