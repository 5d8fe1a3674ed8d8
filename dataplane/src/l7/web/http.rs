//! HTTP/1: the request line and the Host field (RFC 9112 §3, §3.2), or a status line seen first (§4).

use crate::l7::{Class, Found, HostName, Look, Notes, Verdict};

/// RFC 9110 §9, RFC 5789, RFC 4918 (WebDAV) and what else is common.
const METHODS: [&[u8]; 24] = [
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
    b"SEARCH",
    b"MERGE",
    b"CHECKOUT",
    b"MKACTIVITY",
    b"PURGE",
    b"RPC_IN_DATA",
    b"RPC_OUT_DATA",
];

/// Longest request line that is waited for.
const MAX_LINE: usize = 8 * 1024;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let host = &mut notes.host;
    let d = look.data;
    if d[0] == b'H' && is_prefix(d, b"HTTP/1.") {
        return status_line(d);
    }
    let Some(blank) = d.iter().take(16).position(|b| *b == b' ') else {
        return if METHODS.iter().any(|m| m.starts_with(d)) { Verdict::More } else { Verdict::No };
    };
    let method = &d[..blank];
    if !METHODS.contains(&method) {
        return Verdict::No;
    }
    let Some(line) = line(&d[blank + 1..]) else {
        let so_far = &d[blank + 1..];
        let plausible = so_far.len() < MAX_LINE && so_far.iter().all(|b| *b >= b' ' && *b != 0x7f || *b == b'\r');
        return if plausible && !look.last { Verdict::More } else { Verdict::No };
    };
    let Some(target) = line.strip_suffix(b" HTTP/1.1").or_else(|| line.strip_suffix(b" HTTP/1.0")) else {
        return Verdict::No;
    };
    // Targets with raw bytes beyond ASCII exist; ones with controls do not.
    if target.is_empty() || target.iter().any(|b| *b < b' ' || *b == 0x7f) {
        return Verdict::No;
    }
    if method == b"CONNECT" {
        put_host(target, host);
        return Verdict::Done(Found::payload(Class::HttpConnect));
    }
    let absolute = after_ignoring_case(target, b"http://").or_else(|| after_ignoring_case(target, b"https://"));
    if let Some(rest) = absolute {
        let authority = rest.split(|b| matches!(b, b'/' | b'?' | b'#')).next().unwrap_or(rest);
        put_host(after_last(authority, b'@'), host);
        return Verdict::Done(Found::payload(Class::HttpProxy));
    }
    let found = Found::payload(Class::Http);
    match host_field(&d[blank + 1..], host) {
        Field::Found | Field::Absent => Verdict::Done(found),
        Field::NotYet => Verdict::Class(found),
    }
}

enum Field {
    Found,
    Absent,
    NotYet,
}

/// Looks through the fields behind the first line. `all` starts within the first line.
fn host_field(all: &[u8], host: &mut HostName) -> Field {
    let mut rest = all;
    let mut first = true;
    while let Some(l) = line(rest) {
        rest = &rest[next_line(rest)..];
        if std::mem::take(&mut first) {
            continue;
        }
        if l.is_empty() {
            return Field::Absent;
        }
        if let Some(value) = after_ignoring_case(l, b"host:") {
            put_host(value.trim_ascii(), host);
            return Field::Found;
        }
    }
    Field::NotYet
}

/// Authority without its port: `name`, `name:80`, `[v6]`, `[v6]:80`. An IPv6 address comes out without brackets.
fn put_host(authority: &[u8], host: &mut HostName) {
    let name = if let Some(v6) = authority.strip_prefix(b"[") {
        v6.split(|b| *b == b']').next().unwrap_or(v6)
    } else {
        match authority.iter().rposition(|b| *b == b':') {
            Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
            _ => authority,
        }
    };
    host.push(name);
}

/// `HTTP/1.1 200 ` and so on. The host is in the request, which may yet come.
fn status_line(d: &[u8]) -> Verdict {
    let shape: [fn(u8) -> bool; 12] = [
        |b| b == b'H',
        |b| b == b'T',
        |b| b == b'T',
        |b| b == b'P',
        |b| b == b'/',
        |b| b == b'1',
        |b| b == b'.',
        |b| b == b'0' || b == b'1',
        |b| b == b' ',
        |b| (b'1'..=b'5').contains(&b),
        |b| b.is_ascii_digit(),
        |b| b.is_ascii_digit(),
    ];
    if !d.iter().zip(shape).all(|(b, ok)| ok(*b)) {
        Verdict::No
    } else if d.len() < shape.len() {
        Verdict::More
    } else {
        Verdict::Other(Found::payload(Class::Http))
    }
}

/// The line at the start, without CR and LF. `None` where its LF has not come.
fn line(d: &[u8]) -> Option<&[u8]> {
    let end = d.iter().position(|b| *b == b'\n')?;
    Some(d[..end].strip_suffix(b"\r").unwrap_or(&d[..end]))
}

fn next_line(d: &[u8]) -> usize {
    d.iter().position(|b| *b == b'\n').map_or(d.len(), |n| n + 1)
}

fn is_prefix(d: &[u8], of: &[u8]) -> bool {
    let n = d.len().min(of.len());
    d[..n] == of[..n]
}

fn after_ignoring_case<'a>(d: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = d.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn after_last(d: &[u8], byte: u8) -> &[u8] {
    d.iter().rposition(|b| *b == byte).map_or(d, |at| &d[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction;
    use proptest::prelude::*;

    fn see(data: &[u8]) -> (Verdict, Option<String>) {
        let mut notes = Notes::default();
        let v = look(&Look { last: false, ..Look::whole(data, Direction::FromInitiator, (40000, 80)) }, &mut notes);
        (v, notes.host.get().map(str::to_owned))
    }

    fn named(class: Class, host: &str) -> (Verdict, Option<String>) {
        (Verdict::Done(Found::payload(class)), (!host.is_empty()).then(|| host.to_owned()))
    }

    #[test]
    fn requests_name_their_host() {
        let http = |h| named(Class::Http, h);
        assert_eq!(see(b"GET / HTTP/1.1\r\nAccept: */*\r\nHOST:  Www.Example.com:8080 \r\n"), http("www.example.com"));
        assert_eq!(see(b"PROPFIND /x HTTP/1.0\nHost: [2001:DB8::1]:80\n"), http("2001:db8::1"));
        assert_eq!(see(b"GET / HTTP/1.0\r\n\r\n"), http(""));
        assert_eq!(see(b"GET / HTTP/1.1\r\nHost: a\x01b\r\n"), http(""));
        assert_eq!(see(b"GET http://u:p@A.example:81/x HTTP/1.1\r\n"), named(Class::HttpProxy, "a.example"));
        assert_eq!(see(b"CONNECT b.example:443 HTTP/1.1\r\n"), named(Class::HttpConnect, "b.example"));
    }

    #[test]
    fn a_host_field_that_has_not_come_is_waited_for() {
        let all = b"GET /a HTTP/1.1\r\nX-Host: no\r\nHost: a.example\r\n";
        for n in 1..all.len() {
            let (v, host) = see(&all[..n]);
            let line_end = n >= 17;
            assert!(
                v == if line_end { Verdict::Class(Found::payload(Class::Http)) } else { Verdict::More },
                "{n}: {v:?}"
            );
            assert_eq!(host, None);
        }
        assert_eq!(see(all), named(Class::Http, "a.example"));
    }

    #[test]
    fn others_with_like_first_lines_are_not_http() {
        for other in [
            &b"OPTIONS sip:a@b SIP/2.0\r\n"[..],
            b"OPTIONS rtsp://h/ RTSP/1.0\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GETS key\r\n",
            b"HTTP/1.1 OK\r\n",
            b"HELO there\r\n",
            b"GET \x01\x02",
        ] {
            assert_eq!(see(other).0, Verdict::No, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_status_line_seen_first_leaves_the_host_open() {
        assert_eq!(see(b"HTTP/1.0 404 Not Found\r\n").0, Verdict::Other(Found::payload(Class::Http)));
        assert_eq!(see(b"HTTP/1.").0, Verdict::More);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(head in "(GET|POST|CONNECT|HTTP/1\\.1|HOST)? ?", tail: Vec<u8>) {
            let data = [head.as_bytes(), &tail].concat();
            if !data.is_empty() {
                see(&data);
            }
        }
    }
}
