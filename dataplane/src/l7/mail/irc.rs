//! IRC: registration, and a server's messages (RFC 2812 §2.3, §3.1, §5; IRCv3 capability negotiation).

use crate::l7::text::{could_be, graphic, has, line, number, printable, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

/// RFC 2812 §2.3: 512 with the line end; tags of IRCv3 are longer.
const MAX_LINE: usize = 512;
const FIRST: [&[u8]; 5] = [b"NICK ", b"USER ", b"CAP ", b"PASS ", b"AUTHENTICATE "];
/// What comes from a user: prefix, command, target.
const RELAYED: [&[u8]; 8] = [b"PRIVMSG", b"NOTICE", b"JOIN", b"PART", b"QUIT", b"MODE", b"NICK", b"TOPIC"];
const MAX_LINES: usize = 4;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    match d[0] {
        b':' => server(d, notes),
        _ => client(look),
    }
}

fn found() -> Verdict {
    Verdict::Done(Found::payload(Class::Irc))
}

fn client(look: &Look) -> Verdict {
    let d = look.data;
    // Commands in capitals: those of mail and files with the same names come on their own.
    if !FIRST.iter().any(|w| w.starts_with(&d[..d.len().min(w.len())])) {
        return Verdict::No;
    }
    let mut at = 0;
    let mut nick = false;
    for _ in 0..MAX_LINES {
        let Some((first, next)) = line(&d[at..]) else { break };
        at += next;
        let (command, rest) = word(first);
        match command {
            b"USER" if user(rest) => return found(),
            b"CAP" if matches!(word(rest).0, b"LS" | b"REQ" | b"END" | b"LIST") => return found(),
            b"NICK" if graphic(rest.strip_prefix(b":").unwrap_or(rest)) => nick = true,
            b"PASS" if printable(rest) => {}
            b"JOIN" if nick && rest.starts_with(b"#") => return found(),
            _ => return Verdict::No,
        }
        // No other protocol has NICK; on IRC's ports it is enough.
        if nick && (6660..=6669).any(|p| look.has_port(p)) {
            return found();
        }
    }
    let rest = &d[at..];
    let begun = rest.is_empty() || could_be(&rest[..rest.len().min(5)], &FIRST);
    if begun && d.len() < MAX_LINE && printable(rest.strip_suffix(b"\r").unwrap_or(rest)) {
        Verdict::More
    } else {
        Verdict::No
    }
}

/// `name mode unused :real name`.
fn user(rest: &[u8]) -> bool {
    let mut words = rest.splitn(4, |b| *b == b' ');
    let three = words.by_ref().take(3).filter(|w| graphic(w)).count() == 3;
    three && words.next().is_some_and(|real| !real.is_empty() && printable(real))
}

/// `:name NOTICE * :…`, `:name 001 nick :…`, `:nick!user@host PRIVMSG #channel :…`.
fn server(d: &[u8], notes: &mut Notes) -> Verdict {
    let Some((first, _)) = line(d) else {
        let begun = d.len() < MAX_LINE
            && printable(d.strip_suffix(b"\r").unwrap_or(d))
            && d.get(1).is_none_or(u8::is_ascii_alphanumeric);
        return if begun { Verdict::More } else { Verdict::No };
    };
    let (prefix, rest) = word(&first[1..]);
    let (command, rest) = word(rest);
    let (target, text) = word(rest);
    if !graphic(prefix) || !graphic(target) || !printable(text) {
        return Verdict::No;
    }
    let from_user = has(prefix, b"!") && has(prefix, b"@") && RELAYED.contains(&command);
    let numeric = command.len() == 3 && number(command).is_some_and(|n| n < 1000) && text.len() > 1;
    let notice = command == b"NOTICE" && text.starts_with(b":") || command == b"CAP" && text.starts_with(b"LS");
    let named = prefix.contains(&b'.');
    if from_user || named && (numeric || notice) {
        if !from_user {
            notes.facts.put(Fact::Server, prefix);
        }
        return found();
    }
    Verdict::No
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn registration_and_messages() {
        client(8000, b"USER xxxx +iw xxxx :XxxxxxX\r\nNICK a\r\n", Class::Irc);
        client(1, b"NICK a\r\nUSER a 0 * :A B\r\n", Class::Irc);
        client(1, b"CAP LS 302\r\n", Class::Irc);
        let told = server(1, b":irc.example NOTICE * :*** Looking up your hostname...\r\n", Class::Irc);
        assert_eq!(told.facts.get(Fact::Server), Some("irc.example"));
        server(1, b":irc.example 001 a :Welcome\r\n", Class::Irc);
        server(1, b":a!b@c PRIVMSG #d :hello\r\n", Class::Irc);
        no_stream(1, b"USER hello\r\n");
        no_stream(1, b"NICK a\r\nQUIT\r\n");
        no_stream(1, b":not a prefix of any kind\r\n");
        no_stream(1, b"PASS x\r\nSTAT\r\n");
    }
}
