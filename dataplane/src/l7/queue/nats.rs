//! NATS: what server and client say first, and messages in mid-life whose sizes add up (NATS, "Client Protocol").

use crate::l7::text::{could_be, find, graphic, has, line, number, word};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

const PORT: u16 = 4222;
/// Longest that INFO or CONNECT may be before it is no longer waited for.
const MAX_OPTIONS: usize = 8 * 1024;
const MAX_SUBJECT: usize = 255;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d.len() < 9 && could_be(d, &[b"INFO {\"", b"CONNECT {\""]) {
        return if d.len() < 7 || d[0] | 0x20 == b'c' { Verdict::More } else { options(d, notes) };
    }
    match word(line(&d[..d.len().min(MAX_SUBJECT * 2)]).map_or(&d[..d.len().min(16)], |(l, _)| l)).0 {
        b"INFO" | b"info" | b"CONNECT" | b"connect" => options(d, notes),
        b"PUB" | b"pub" => sized(d, 1..=2),
        b"MSG" | b"msg" => sized(d, 2..=3),
        b"PING" | b"PONG" | b"+OK" if look.has_port(PORT) && d.len() <= 8 => {
            if d.ends_with(b"\r\n") {
                Verdict::payload(Class::Nats)
            } else {
                Verdict::More
            }
        }
        _ => Verdict::No,
    }
}

/// JSON in one line, with keys that are NATS's own.
fn options(d: &[u8], notes: &mut Notes) -> Verdict {
    let json = word(d).1;
    let text = &d[..d.len().min(MAX_OPTIONS)];
    if !json.starts_with(b"{") || text.iter().any(|b| *b < b' ' && !matches!(b, b'\r' | b'\n')) {
        return Verdict::No;
    }
    let server = d[0] | 0x20 == b'i';
    let keys: &[&[u8]] = if server {
        &[b"\"server_id\"", b"\"max_payload\"", b"\"server_name\""]
    } else {
        &[b"\"verbose\"", b"\"pedantic\"", b"\"lang\"", b"\"tls_required\""]
    };
    if !keys.iter().any(|k| has(text, k)) {
        return if line(text).is_some() || text.len() == MAX_OPTIONS { Verdict::No } else { Verdict::More };
    }
    if let Some(version) = value(text, b"\"version\":") {
        notes.facts.put(if server { Fact::Server } else { Fact::Version }, version);
    }
    if let Some(name) = value(text, b"\"name\":").filter(|_| !server) {
        notes.facts.put(Fact::UserAgent, name);
    }
    Verdict::Done(Found::payload(Class::Nats))
}

fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = text[find(text, key)? + key.len()..].trim_ascii_start().strip_prefix(b"\"")?;
    rest.split(|b| *b == b'"').next()
}

/// `PUB subject [reply] size`, `MSG subject id [reply] size`, and behind it that many bytes and a line end.
fn sized(d: &[u8], between: std::ops::RangeInclusive<usize>) -> Verdict {
    let Some((head, at)) = line(&d[..d.len().min(MAX_SUBJECT * 2)]) else { return Verdict::More };
    let mut words = head.split(|b| *b == b' ').skip(1);
    let (Some(subject), Some(size)) = (words.next(), head.rsplit(|b| *b == b' ').next().and_then(number)) else {
        return Verdict::No;
    };
    // Subject included, the size not.
    let middle = words.count();
    let end = at + size as usize;
    if !graphic(subject) || !between.contains(&middle) {
        return Verdict::No;
    }
    match d.get(end..end + 2) {
        Some(b"\r\n") => Verdict::payload(Class::Nats),
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn openings_and_messages() {
        let info = b"INFO {\"server_id\":\"NX\",\"version\":\"2.10.1\",\"port\":4222} \r\n";
        assert_eq!(server(1, info, Class::Nats).facts.get(Fact::Server), Some("2.10.1"));
        client(1, b"CONNECT {\"verbose\":false,\"lang\":\"go\"}\r\nPING\r\n", Class::Nats);
        client(1, b"PUB a.b 5\r\nhello\r\n", Class::Nats);
        server(1, b"MSG a.b 1 5\r\nhello\r\n", Class::Nats);
        server(4222, b"PING\r\n", Class::Nats);
        no_stream(1, b"PUB a.b 4\r\nhello\r\n");
        no_stream(4222, b"INFO all\r\n");
        no_stream(4222, b"CONNECT {\"a\":1}\r\n");
    }
}
