//! RTSP: request and status lines (RFC 2326 §6.1, §7.1; RFC 7826 §7.1, §8.1).

use crate::l7::infra::read::{first_line, header, lines, url_host};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const METHODS: [&[u8]; 12] = [
    b"OPTIONS",
    b"DESCRIBE",
    b"ANNOUNCE",
    b"SETUP",
    b"PLAY",
    b"PAUSE",
    b"TEARDOWN",
    b"GET_PARAMETER",
    b"SET_PARAMETER",
    b"REDIRECT",
    b"RECORD",
    b"PLAY_NOTIFY",
];
const SCHEMES: [&[u8]; 3] = [b"rtsp://", b"rtspu://", b"rtsps://"];
const VERSIONS: [&[u8]; 2] = [b"RTSP/1.0", b"RTSP/2.0"];
const LONGEST: usize = 1024;
const LONGEST_METHOD: usize = 13;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if VERSIONS.iter().any(|v| v.starts_with(&d[..d.len().min(v.len())])) {
        return match d.get(VERSIONS[0].len()..) {
            Some([b' ', b'1'..=b'5', b'0'..=b'9', b'0'..=b'9', ..]) => certain(d, notes),
            None | Some([] | [b' '] | [b' ', _] | [b' ', _, _]) => Verdict::More,
            Some(_) => Verdict::No,
        };
    }
    let Some(end) = d.iter().take(LONGEST_METHOD + 1).position(|b| *b == b' ') else {
        let beginning = METHODS.iter().any(|m| m.starts_with(d));
        return if beginning { Verdict::More } else { Verdict::No };
    };
    let (method, target) = (&d[..end], &d[end + 1..]);
    if !METHODS.contains(&method) {
        return Verdict::No;
    }
    // The line is waited for only where a URL or `*` begins it.
    let scheme = SCHEMES.iter().find(|s| target.starts_with(s));
    let possible = scheme.is_some() || target.starts_with(b"*") || SCHEMES.iter().any(|s| s.starts_with(target));
    if !possible {
        return Verdict::No;
    }
    match first_line(target, LONGEST) {
        Some(line) if VERSIONS.iter().any(|v| line.ends_with(v)) => {
            notes.facts.put(Fact::Method, method);
            if let Some(scheme) = scheme {
                notes.host.push(url_host(&line[scheme.len()..]));
                let url = &line[..line.iter().position(|b| *b == b' ').unwrap_or(line.len())];
                notes.facts.put(Fact::Path, url);
            }
            certain(d, notes)
        }
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

fn certain(d: &[u8], notes: &mut Notes) -> Verdict {
    for line in lines(d).skip(1) {
        if let Some(agent) = header(line, b"user-agent") {
            notes.facts.put(Fact::UserAgent, agent);
        } else if let Some(server) = header(line, b"server") {
            notes.facts.put(Fact::Server, server);
        }
    }
    Verdict::payload(Class::Rtsp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{fact, host, is_tcp, tcp};

    #[test]
    fn requests_and_answers() {
        let d = b"DESCRIBE rtsp://cam.example:8554/a RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: v\r\n\r\n";
        is_tcp(look, d, 554, Class::Rtsp);
        assert_eq!(host(look, d, 554).as_deref(), Some("cam.example"));
        assert_eq!(fact(look, d, 554, Fact::UserAgent).as_deref(), Some("v"));
        is_tcp(look, b"OPTIONS * RTSP/1.0\r\n", 9, Class::Rtsp);
        is_tcp(look, b"RTSP/1.0 200 OK\r\nServer: x\r\n\r\n", 9, Class::Rtsp);
        for no in [
            "OPTIONS sip:a SIP/2.0\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "RTSP/3.0 200",
            "RTSP/1.0 xyz",
            "PLAY it\n",
            "DESCRIPTION",
        ] {
            assert_eq!(tcp(look, no.as_bytes(), FromInitiator, 554), Verdict::No, "{no}");
        }
    }
}
