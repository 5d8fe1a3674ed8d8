//! SIP: request and status lines (RFC 3261 §7.1, §7.2) over UDP and TCP.

use crate::l7::infra::read::{first_line, header, lines};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const METHODS: [&[u8]; 14] = [
    b"INVITE",
    b"ACK",
    b"BYE",
    b"CANCEL",
    b"OPTIONS",
    b"REGISTER",
    b"PRACK",
    b"SUBSCRIBE",
    b"NOTIFY",
    b"PUBLISH",
    b"INFO",
    b"REFER",
    b"MESSAGE",
    b"UPDATE",
];
const SCHEMES: [&[u8]; 3] = [b"sip:", b"sips:", b"tel:"];
const VERSION: &[u8] = b"SIP/2.0";
/// Longest first line of a stream that is waited for.
const LONGEST: usize = 1024;
const LONGEST_METHOD: usize = 9;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if let Some(status) = d.strip_prefix(VERSION) {
        return match status {
            [b' ', a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ' | b'\r', ..] => {
                notes.facts.put(Fact::Method, &[*a, *b, *c]);
                certain(d, notes)
            }
            [] | [b' '] | [b' ', _] | [b' ', _, _] | [b' ', _, _, _] => Verdict::More,
            _ => Verdict::No,
        };
    }
    if VERSION.starts_with(d) {
        return Verdict::More;
    }
    let Some(end) = d.iter().take(LONGEST_METHOD + 1).position(|b| *b == b' ') else {
        let beginning = METHODS.iter().any(|m| m.starts_with(d));
        return if beginning { Verdict::More } else { Verdict::No };
    };
    let (method, target) = (&d[..end], &d[end + 1..]);
    if !METHODS.contains(&method) {
        return Verdict::No;
    }
    if !SCHEMES.iter().any(|s| starts_without_case(target, s)) {
        let short = SCHEMES.iter().any(|s| starts_without_case(s, target));
        return if short { Verdict::More } else { Verdict::No };
    }
    match first_line(target, LONGEST) {
        Some(line) if line.ends_with(b" SIP/2.0") => {
            notes.facts.put(Fact::Method, method);
            certain(d, notes)
        }
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

fn starts_without_case(d: &[u8], text: &[u8]) -> bool {
    d.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
}

fn certain(d: &[u8], notes: &mut Notes) -> Verdict {
    for line in lines(d).skip(1) {
        if let Some(agent) = header(line, b"user-agent") {
            notes.facts.put(Fact::UserAgent, agent);
        } else if let Some(server) = header(line, b"server") {
            notes.facts.put(Fact::Server, server);
        }
    }
    Verdict::payload(Class::Sip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{fact, is_tcp, is_udp, tcp};

    #[test]
    fn requests_and_answers() {
        let d = b"REGISTER sip:example.org SIP/2.0\r\nVia: x\r\nUser-Agent: phone 1\r\n\r\n";
        is_udp(look, d, 9, Class::Sip);
        is_tcp(look, d, 9, Class::Sip);
        assert_eq!(fact(look, d, 9, Fact::Method).as_deref(), Some("REGISTER"));
        assert_eq!(fact(look, d, 9, Fact::UserAgent).as_deref(), Some("phone 1"));
        is_tcp(look, b"SIP/2.0 200 OK\r\n", 9, Class::Sip);
        for no in [
            "OPTIONS * RTSP/1.0\r\n",
            "GET / HTTP/1.1\r\n",
            "SIP/3.0 200",
            "SIP/2.0 900 x",
            "INVITE sip:a HTTP/1.1\r\n",
            "hello",
        ] {
            assert_eq!(tcp(look, no.as_bytes(), FromInitiator, 5060), Verdict::No, "{no}");
        }
    }
}
