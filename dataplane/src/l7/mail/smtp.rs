//! SMTP and LMTP: the server's greeting, the client's commands, and TLS after STARTTLS (RFC 5321 §3.1, §4.1.1, §4.2;
//! RFC 3207; RFC 2033).

use crate::l7::text::{after, could_be, has_ignoring_case, host_like, is_one, line, printable, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const PORTS: [u16; 4] = [25, 465, 587, 2525];
/// RFC 5321 §4.5.3.1.4, §4.5.3.1.5: 512; replies in the wild are longer.
const MAX_LINE: usize = 1000;
const HELLOS: [&[u8]; 3] = [b"EHLO", b"HELO", b"LHLO"];
/// After which no TLS begins.
const PLAIN: [&[u8]; 5] = [b"MAIL", b"AUTH", b"QUIT", b"DATA", b"VRFY"];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    if look.data[0].is_ascii_digit() { greeting(look, notes) } else { commands(look, notes) }
}

fn on_port(look: &Look) -> bool {
    PORTS.iter().any(|p| look.has_port(*p))
}

/// `220 mx.example ESMTP Postfix`; 421 and 554 refuse.
fn greeting(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !could_be(d, &[b"220", b"421", b"554", b"250"]) || d.get(3).is_some_and(|b| !matches!(b, b' ' | b'-')) {
        return Verdict::No;
    }
    let Some((first, _)) = line(d) else {
        return if d.len() < MAX_LINE && printable(d.strip_suffix(b"\r").unwrap_or(d)) {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    if !printable(first) || first.len() < 4 {
        return Verdict::No;
    }
    let (name, said) = word(&first[4..]);
    let smtp = has_ignoring_case(first, b"SMTP") || has_ignoring_case(first, b"LMTP");
    // An answer to a hello, where the greeting was not seen.
    let extensions = first.starts_with(b"250-")
        && [&b"\n250-PIPELINING"[..], b"\n250-STARTTLS", b"\n250-8BITMIME", b"\n250-SIZE"]
            .iter()
            .any(|e| has_ignoring_case(d, e));
    if !(smtp && !first.starts_with(b"250") || extensions || on_port(look)) {
        return Verdict::No;
    }
    if host_like(name) && first.starts_with(b"220") {
        notes.host.push(name);
        notes.facts.put(Fact::Server, said.trim_ascii());
    }
    Verdict::Other(Found::payload(Class::Smtp))
}

fn commands(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if !could_be(&d[..d.len().min(5)], &[b"EHLO ", b"HELO ", b"LHLO "]) {
        return Verdict::No;
    }
    let Some((first, mut at)) = line(d) else {
        return if d.len() < MAX_LINE && printable(d.strip_suffix(b"\r").unwrap_or(d)) {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    let (hello, name) = word(first);
    if !is_one(hello, &HELLOS)
        || name.is_empty()
        || !printable(name)
        || name.trim_ascii().contains(&b' ') && !on_port(look)
    {
        return Verdict::No;
    }
    let found = Found::payload(Class::Smtp);
    while let Some((command, next)) = line(&d[at..]) {
        at += next;
        if after(command, b"STARTTLS").is_some() {
            return upgrade::tls(look, at, found, notes);
        }
        if is_one(word(command).0, &PLAIN) || !printable(command) {
            return Verdict::Done(found);
        }
    }
    Verdict::Class(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn greetings_and_commands() {
        let told = server(1, b"220 Mx.example ESMTP Postfix\r\n", Class::Smtp);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Server)), ("mx.example", Some("ESMTP Postfix")));
        server(25, b"220 mail\r\n", Class::Smtp);
        client(1, b"EHLO a.example\r\nMAIL FROM:<a@b>\r\n", Class::Smtp);
        client(25, b"helo a\r\n", Class::Smtp);
        no_stream(1, b"220 hello there\r\n");
        no_stream(1, b"HELO there my friend\r\n");
        no_stream(25, b"220\r\n");
    }

    #[test]
    fn tls_after_starttls() {
        let hello = crate::l7::told::hello("mx.example");
        let told = client(25, &[b"EHLO a\r\nSTARTTLS\r\n", &hello[..]].concat(), Class::Smtp);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("mx.example", Some("tls")));
    }
}
