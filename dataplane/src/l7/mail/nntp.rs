//! NNTP: the server's greeting, and commands that only news has (RFC 3977 §5, §6; RFC 4642, RFC 4643).

use crate::l7::text::{could_be, has_ignoring_case, is_one, line, printable, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const PORT: u16 = 119;
const MAX_LINE: usize = 512;
/// First and second words.
const CERTAIN: [&[u8]; 6] =
    [b"MODE READER", b"MODE STREAM", b"AUTHINFO USER", b"AUTHINFO SASL", b"LIST ACTIVE", b"LIST NEWSGROUPS"];
const ON_PORT: [&[u8]; 18] = [
    b"MODE",
    b"AUTHINFO",
    b"LIST",
    b"GROUP",
    b"ARTICLE",
    b"HEAD",
    b"BODY",
    b"STAT",
    b"NEXT",
    b"LAST",
    b"POST",
    b"HELP",
    b"QUIT",
    b"XOVER",
    b"OVER",
    b"CAPABILITIES",
    b"STARTTLS",
    b"NEWGROUPS",
];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0].is_ascii_digit() {
        return greeting(look, notes);
    }
    let found = Found::payload(Class::Nntp);
    let (mut at, mut told) = (0, false);
    while let Some((command, next)) = line(&d[at..]) {
        at += next;
        told |= begins(command, look.has_port(PORT));
        if !told || !printable(command) {
            return if told { Verdict::Done(found) } else { Verdict::No };
        }
        if command.eq_ignore_ascii_case(b"STARTTLS") {
            return upgrade::tls(look, at, found, notes);
        }
        if is_one(word(command).0, &[b"GROUP", b"ARTICLE", b"POST", b"QUIT", b"AUTHINFO"]) {
            return Verdict::Done(found);
        }
    }
    // Commands without a line end are cut from a capture, or still coming.
    match told || look.last && begins(d, look.has_port(PORT)) {
        true => Verdict::Class(found),
        false if d.len() < MAX_LINE && could_be(d, &CERTAIN) => Verdict::More,
        false if look.has_port(PORT) && d.len() < MAX_LINE && could_be(d, &ON_PORT) => Verdict::More,
        false => Verdict::No,
    }
}

fn begins(command: &[u8], on_port: bool) -> bool {
    let certain = CERTAIN.iter().any(|c| {
        command.get(..c.len()).is_some_and(|w| w.eq_ignore_ascii_case(c))
            && command.get(c.len()).is_none_or(|b| *b == b' ')
    });
    certain || on_port && is_one(word(command).0, &ON_PORT)
}

/// 200 posting allowed, 201 not, 400 and 502 refuse.
fn greeting(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !could_be(d, &[b"200 ", b"201 ", b"400 ", b"502 "]) {
        return Verdict::No;
    }
    let Some((first, _)) = line(d) else {
        return if d.len() < MAX_LINE && printable(d.strip_suffix(b"\r").unwrap_or(d)) {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    let news = has_ignoring_case(first, b"NNTP")
        || has_ignoring_case(first, b"InterNetNews")
        || has_ignoring_case(first, b"NNRP");
    if first.len() < 5 || !printable(first) || !(news || look.has_port(PORT)) {
        return Verdict::No;
    }
    notes.facts.put(Fact::Server, &first[4..]);
    Verdict::Other(Found::payload(Class::Nntp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn greetings_and_commands() {
        let told = server(1, b"200 news.example InterNetNews NNRP server ready\r\n", Class::Nntp);
        assert!(told.facts.get(Fact::Server).is_some_and(|s| s.starts_with("news.example")));
        server(119, b"201 hello\r\n", Class::Nntp);
        client(1, b"MODE READER\r\n", Class::Nntp);
        client(119, b"GROUP misc.test\r\n", Class::Nntp);
        no_stream(1, b"200 OK\r\n");
        no_stream(1, b"MODE #channel +o a\r\n");
        no_stream(119, b"HELLO\r\n");
    }
}
