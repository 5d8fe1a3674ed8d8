//! HTTP/1: the request line and the fields behind it (RFC 9112 §3, §3.2), a status line and the fields behind that (§4);
//! WebSocket (RFC 6455 §4), which begins as a request, and Elasticsearch, whose answers say so.

use crate::l7::{Class, Fact, Facts, Found, HostName, Look, Notes, Resume, Verdict, text};

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
    let Notes { host, facts, resume, .. } = notes;
    let d = look.data;
    if look.resume.at > 0 {
        // The request line was read, and what it says told.
        return go_on(d, look.resume, (host, facts, resume));
    }
    if d[0] == b'H' && is_prefix(d, b"HTTP/1.") {
        return status_line(d, facts);
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
    let fields = &d[blank + 1 + next_line(&d[blank + 1..])..];
    facts.put(Fact::Method, method);
    if method == b"CONNECT" {
        put_host(target, host);
        walk(fields, 0, &mut Seen::default(), facts);
        return Verdict::Done(Found::payload(Class::HttpConnect));
    }
    let absolute = after_ignoring_case(target, b"http://").or_else(|| after_ignoring_case(target, b"https://"));
    if let Some(rest) = absolute {
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        put_host(after_last(&rest[..end], b'@'), host);
        put_path(&rest[end..], facts);
        walk(fields, 0, &mut Seen::default(), facts);
        return Verdict::Settled(Found::payload(Class::HttpProxy));
    }
    put_path(target, facts);
    let from = Resume { at: (d.len() - fields.len()).try_into().unwrap_or(0), looked: 0, met: 0 };
    go_on(d, from, (host, facts, resume))
}

/// A request's fields, from one that may not have been there whole on.
fn go_on(d: &[u8], from: Resume, (host, facts, resume): (&mut HostName, &mut Facts, &mut Resume)) -> Verdict {
    let at = usize::from(from.at).min(d.len());
    let mut seen = Seen { websocket: from.met & WEBSOCKET != 0, key: from.met & KEY != 0, ..Seen::default() };
    let end = walk(&d[at..], usize::from(from.looked).saturating_sub(at), &mut seen, facts);
    if let Some(name) = seen.host {
        put_host(name, host);
    }
    let class = if seen.websocket && seen.key && d.starts_with(b"GET ") { Class::Websocket } else { Class::Http };
    let found = Found::payload(class);
    // Whatever else is known by then, the name is what is waited for.
    match end {
        None => Verdict::Settled(found),
        Some(_) if seen.host.is_some() => Verdict::Settled(found),
        Some(used) => {
            let place = |n: usize| u16::try_from(n).unwrap_or(0);
            let met = (u8::from(seen.websocket) * WEBSOCKET) | (u8::from(seen.key) * KEY);
            *resume = Resume { at: place(at + used), looked: place(d.len()), met };
            Verdict::Class(found)
        }
    }
}

/// Bits of [`Resume::met`].
const WEBSOCKET: u8 = 1;
const KEY: u8 = 2;

/// Without the query, which may hold secrets.
fn put_path(target: &[u8], facts: &mut Facts) {
    facts.put(Fact::Path, target.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or(target));
}

/// What the fields of a message say that is not a fact of its own.
#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a [u8]>,
    /// `Upgrade: websocket`.
    websocket: bool,
    /// The client's or the server's half of RFC 6455's proof.
    key: bool,
    elastic: bool,
}

/// Goes through the fields, which start at the start; the first `looked` bytes are known to have no LF. `None`: the blank line
/// behind them has come; else how many bytes were whole lines.
fn walk<'a>(fields: &'a [u8], mut looked: usize, seen: &mut Seen<'a>, facts: &mut Facts) -> Option<usize> {
    let mut rest = fields;
    while let Some(end) = rest.get(looked..).and_then(|new| memchr::memchr(b'\n', new)) {
        let end = looked + end;
        looked = 0;
        let l = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        if l.is_empty() {
            return None;
        }
        rest = &rest[end + 1..];
        let Some(colon) = l.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (&l[..colon], l[colon + 1..].trim_ascii());
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        // By length first: most fields are none of these.
        match name.len() {
            4 if is(b"host") => seen.host = seen.host.or(Some(value)),
            6 if is(b"server") => facts.put(Fact::Server, value),
            7 if is(b"upgrade") => {
                facts.put(Fact::Upgrade, value);
                seen.websocket |= value.eq_ignore_ascii_case(b"websocket");
            }
            10 if is(b"user-agent") => facts.put(Fact::UserAgent, value),
            12 if is(b"content-type") => facts.put(Fact::ContentType, value),
            17 if is(b"sec-websocket-key") => seen.key = true,
            17 if is(b"x-elastic-product") => seen.elastic = value == b"Elasticsearch",
            20 if is(b"sec-websocket-accept") => seen.key = true,
            _ => {}
        }
    }
    Some(fields.len() - rest.len())
}

/// Authority without its port: `name`, `name:80`, `[v6]`, `[v6]:80`. An IPv6 address comes out without brackets.
pub(super) fn put_host(authority: &[u8], host: &mut HostName) {
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
fn status_line(d: &[u8], facts: &mut Facts) -> Verdict {
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
        let mut seen = Seen::default();
        walk(&d[next_line(d)..], 0, &mut seen, facts);
        let class = match seen {
            Seen { elastic: true, .. } => Class::Elasticsearch,
            Seen { websocket: true, key: true, .. } if d[9..12] == *b"101" => Class::Websocket,
            _ => Class::Http,
        };
        Verdict::Other(Found::payload(class))
    }
}

/// The line at the start, without CR and LF. `None` where its LF has not come.
fn line(d: &[u8]) -> Option<&[u8]> {
    text::line(d).map(|(line, _)| line)
}

fn next_line(d: &[u8]) -> usize {
    memchr::memchr(b'\n', d).map_or(d.len(), |n| n + 1)
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::Direction;
    use proptest::prelude::*;

    fn see(data: &[u8]) -> (Verdict, Option<String>) {
        let mut notes = Notes::default();
        let v = look(&Look { last: false, ..Look::whole(data, Direction::FromInitiator, (40000, 80)) }, &mut notes);
        (v, notes.host.get().map(str::to_owned))
    }

    fn named(class: Class, host: &str) -> (Verdict, Option<String>) {
        let found = Found::payload(class);
        let verdict = if class == Class::HttpConnect { Verdict::Done(found) } else { Verdict::Settled(found) };
        (verdict, (!host.is_empty()).then(|| host.to_owned()))
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

    fn facts(data: &[u8]) -> Vec<(Fact, String)> {
        let mut notes = Notes::default();
        look(&Look::whole(data, Direction::FromInitiator, (40000, 80)), &mut notes);
        notes.facts.iter().map(|(f, v)| (f, v.to_owned())).collect()
    }

    #[test]
    fn facts_of_request_and_answer() {
        let request = b"POST /a/b?token=secret HTTP/1.1\r\nHost: a.example\r\nUSER-AGENT: x/1 (y)\r\n\
            Content-Type: application/json\r\n\r\nServer: in the body";
        let want = [
            (Fact::Method, "POST"),
            (Fact::Path, "/a/b"),
            (Fact::UserAgent, "x/1 (y)"),
            (Fact::ContentType, "application/json"),
        ];
        assert_eq!(facts(request), want.map(|(f, v)| (f, v.to_owned())));
        let proxied = facts(b"GET http://a.example?q HTTP/1.1\r\n\r\n");
        assert_eq!(proxied, [(Fact::Method, "GET".to_owned())]);
        let answer = facts(b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\n");
        assert_eq!(answer, [(Fact::Server, "nginx".to_owned()), (Fact::ContentType, "text/html".to_owned())]);
    }

    #[test]
    fn websocket_takes_both_fields_and_elasticsearch_says_so() {
        let both = b"GET /c HTTP/1.1\r\nHost: a.example\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhl\r\n\r\n";
        assert_eq!(see(both), named(Class::Websocket, "a.example"));
        assert_eq!(see(b"GET /c HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\n\r\n"), named(Class::Http, "a.example"));
        let other = |class| Verdict::Other(Found::payload(class));
        let accept = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3p\r\n\r\n";
        assert_eq!(see(accept).0, other(Class::Websocket));
        assert_eq!(see(b"HTTP/1.1 200 OK\r\nX-elastic-product: Elasticsearch\r\n").0, other(Class::Elasticsearch));
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

    const LONG: &[u8] = b"GET /a HTTP/1.1\r\nUpgrade: websocket\r\nX-Filling: some of it\r\nUser-Agent: x/1\r\n\
        Sec-WebSocket-Key: dGhl\r\nX: y\r\nHost: a.example\r\n\r\n";

    proptest! {
        /// However a request is cut, and read on where it was left: the same is told in the end.
        #[test]
        fn goes_on_where_it_left_off(cuts in proptest::collection::vec(17usize..LONG.len(), 0..9)) {
            let mut cuts = cuts;
            cuts.push(LONG.len());
            cuts.sort_unstable();
            let (mut resume, mut told, mut last) = (Resume::default(), Facts::default(), None);
            for cut in cuts {
                let mut notes = Notes::default();
                let part = Look { last: false, resume, ..Look::whole(&LONG[..cut], Direction::FromInitiator, (9, 80)) };
                let verdict = look(&part, &mut notes);
                told.merge(&notes.facts);
                resume = notes.resume;
                last = Some((verdict, notes.host.get().map(str::to_owned)));
                if !matches!(verdict, Verdict::Class(_)) {
                    break;
                }
                prop_assert!(usize::from(resume.at) <= cut && usize::from(resume.looked) == cut);
            }
            let (verdict, host) = last.unwrap();
            prop_assert_eq!((verdict, host), named(Class::Websocket, "a.example"));
            let want = [(Fact::Method, "GET"), (Fact::Path, "/a"), (Fact::Upgrade, "websocket"), (Fact::UserAgent, "x/1")];
            prop_assert_eq!(told.iter().collect::<Vec<_>>(), want);
        }
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
