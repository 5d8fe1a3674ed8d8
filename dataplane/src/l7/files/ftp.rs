//! FTP: greeting, commands, and TLS after AUTH (RFC 959 §4, §5; RFC 2228; RFC 4217); and listings in the data
//! connections that the server opens.

use crate::l7::text::{could_be, has_ignoring_case, is_one, line, number, printable, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const PORT: u16 = 21;
const DATA_PORT: u16 = 20;
const MAX_LINE: usize = 1000;
/// What servers call themselves.
const SERVERS: [&[u8]; 5] = [b"FTP", b"FileZilla", b"Serv-U", b"Pure-", b"Gene6"];
/// Commands that only FTP has.
const OWN: [&[u8]; 12] =
    [b"SYST", b"PASV", b"EPSV", b"FEAT", b"TYPE", b"CWD", b"STOR", b"MDTM", b"PBSZ", b"PROT", b"OPTS", b"XPWD"];
const SHARED: [&[u8]; 15] = [
    b"USER", b"PASS", b"AUTH", b"ACCT", b"QUIT", b"PORT", b"EPRT", b"LIST", b"RETR", b"NOOP", b"PWD", b"HOST", b"CLNT",
    b"SITE", b"SIZE",
];
/// After which no TLS begins.
const PLAIN: [&[u8]; 4] = [b"PASS", b"QUIT", b"PASV", b"EPSV"];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    if look.data[0].is_ascii_digit() { reply(look, notes) } else { commands(look, notes) }
}

/// A reply of three digits; on the port any, elsewhere a greeting that says what it is.
fn reply(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let on_port = look.has_port(PORT);
    let digits = d.iter().take(3).all(u8::is_ascii_digit) && d.get(3).is_none_or(|b| matches!(b, b' ' | b'-'));
    if !digits || !on_port && !could_be(d, &[b"220", b"120", b"421"]) {
        return Verdict::No;
    }
    let Some((first, _)) = line(d) else {
        return if d.len() < MAX_LINE && printable(d.strip_suffix(b"\r").unwrap_or(d)) {
            Verdict::More
        } else {
            Verdict::No
        };
    };
    let named = SERVERS.iter().any(|s| has_ignoring_case(first, s)) && !has_ignoring_case(first, b"SMTP");
    let mail = look.has_port(25) || look.has_port(587);
    if first.len() < 4 || !printable(first) || mail || !(on_port || named) {
        return Verdict::No;
    }
    if first.starts_with(b"220") {
        notes.facts.put(Fact::Server, first[4..].trim_ascii());
    }
    Verdict::Other(Found::payload(Class::Ftp))
}

fn commands(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let on_port = look.has_port(PORT);
    let found = Found::payload(Class::Ftp);
    let (mut at, mut told) = (0, false);
    while let Some((command, next)) = line(&d[at..]) {
        at += next;
        let (verb, rest) = word(command);
        let own = is_one(verb, &OWN);
        if !printable(rest) || !own && !is_one(verb, &SHARED) {
            return if told { Verdict::Done(found) } else { Verdict::No };
        }
        // Those that take nothing have nothing behind them, those that do have something.
        let bare = is_one(verb, &[b"SYST", b"PASV", b"FEAT", b"XPWD"]);
        told |= on_port || own && (bare == rest.is_empty() || verb.eq_ignore_ascii_case(b"EPSV"));
        if verb.eq_ignore_ascii_case(b"AUTH") && is_one(rest, &[b"TLS", b"SSL", b"TLS-C"]) {
            return upgrade::tls(look, at, found, notes);
        }
        if told && is_one(verb, &PLAIN) {
            return Verdict::Done(found);
        }
    }
    if told {
        return Verdict::Class(found);
    }
    let rest = &d[at..];
    let verb = &rest[..rest.len().min(4)];
    let begun = rest.is_empty() || could_be(word(verb).0, &OWN) || could_be(word(verb).0, &SHARED);
    if begun && d.len() < MAX_LINE && printable(rest.strip_suffix(b"\r").unwrap_or(rest)) {
        Verdict::More
    } else {
        Verdict::No
    }
}

/// A listing as of `ls -l`, from the port that servers open data connections from.
pub fn look_data(look: &Look, _: &mut Notes) -> Verdict {
    if look.ports.0 != DATA_PORT && look.ports.1 != DATA_PORT {
        return Verdict::No;
    }
    let Some((first, _)) = line(&look.data[..look.data.len().min(512)]) else {
        return if look.data.len() < 512 { Verdict::More } else { Verdict::No };
    };
    let (mode, rest) = word(first);
    let bits = mode.len() >= 10
        && mode[1..10].iter().zip(b"rwxrwxrwx").all(|(b, is)| matches!(b, b'-' | b's' | b't' | b'S' | b'T') || b == is);
    let links = word(rest.trim_ascii_start()).0;
    let total = mode == b"total" && number(rest).is_some();
    if total || bits && number(links).is_some() && printable(first) {
        Verdict::payload(Class::FtpData)
    } else {
        Verdict::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hello, no_stream, server};

    #[test]
    fn greetings_commands_and_listings() {
        let told = server(1, b"220 (vsFTPd 3.0.3)\r\n", Class::Ftp);
        assert_eq!(told.facts.get(Fact::Server), Some("(vsFTPd 3.0.3)"));
        server(21, b"530 This server is anonymous only.\r\n", Class::Ftp);
        client(21, b"USER hello\r\n", Class::Ftp);
        client(1, b"USER a\r\nPASS b\r\nSYST\r\n", Class::Ftp);
        server(20, b"-rw-r--r--   1 ftp ftp  12 Jan 01 2024 a\r\n", Class::FtpData);
        no_stream(1, b"220 hello\r\n");
        no_stream(1, b"USER hello\r\n");
        no_stream(1, b"TYPE\r\n");
        no_stream(99, b"-rw-r--r--   1 ftp ftp  12 Jan 01 2024 a\r\n");
    }

    #[test]
    fn tls_after_auth() {
        let told = client(21, &[b"AUTH TLS\r\n", &hello("ftp.example")[..]].concat(), Class::Ftp);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("ftp.example", Some("tls")));
    }
}
