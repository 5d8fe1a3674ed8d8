//! AJP 1.3: requests of a web server to one of applications, and its answers (Apache Tomcat, "AJPv13").

use crate::l7::text::has;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const TO_CONTAINER: [u8; 2] = [0x12, 0x34];
const FROM_CONTAINER: [u8; 2] = *b"AB";
const HEADER: usize = 4;
/// Of the first and of most containers; never more than 64 KiB.
const FORWARD: u8 = 2;
const SHUTDOWN: u8 = 7;
const PING: u8 = 8;
const CPING: u8 = 10;
const SEND_BODY: u8 = 3;
const SEND_HEADERS: u8 = 4;
const END: u8 = 5;
const GET_BODY: u8 = 6;
const CPONG: u8 = 9;
/// OPTIONS 1 … MKACTIVITY 27.
const METHODS: std::ops::RangeInclusive<u8> = 1..=27;
/// In place of a length: no string.
const NONE: u16 = 0xffff;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(mark) = d.first_chunk::<2>() else { return Verdict::More };
    if *mark != TO_CONTAINER && *mark != FROM_CONTAINER {
        return Verdict::No;
    }
    let (Some(len), Some(kind)) = (look.u16(2), d.get(HEADER).copied()) else { return Verdict::More };
    let told = if *mark == TO_CONTAINER {
        match kind {
            FORWARD => match request(look, notes) {
                Some(told) => told,
                None if d.len() >= HEADER + usize::from(len) => false,
                None => return Verdict::More,
            },
            CPING | PING | SHUTDOWN => len == 1 && (d.len() == HEADER + 1 || d.get(5) == Some(&TO_CONTAINER[0])),
            _ => false,
        }
    } else {
        let Some(status) = look.u16(5) else {
            return if kind == CPONG && len == 1 { Verdict::payload(Class::Ajp) } else { pending(kind) };
        };
        match kind {
            CPONG => len == 1 && d[5] == FROM_CONTAINER[0],
            SEND_HEADERS => (100..600).contains(&status) && len > 4,
            SEND_BODY => status > 0 && status < len,
            END => len == 2 && d[5] <= 1,
            GET_BODY => len == 3,
            _ => false,
        }
    };
    if told { Verdict::payload(Class::Ajp) } else { Verdict::No }
}

fn pending(kind: u8) -> Verdict {
    if matches!(kind, SEND_BODY..=GET_BODY) { Verdict::More } else { Verdict::No }
}

/// Method, protocol, path, the client's address and name, and the server's name.
fn request(look: &Look, notes: &mut Notes) -> Option<bool> {
    let d = look.data;
    if !METHODS.contains(d.get(HEADER + 1)?) {
        return Some(false);
    }
    let mut at = HEADER + 2;
    let mut string = || {
        let len = look.u16(at)?;
        at += 2;
        if len == NONE {
            return Some(&[][..]);
        }
        let text = d.get(at..at + usize::from(len))?;
        // A NUL stands behind each, not counted.
        at += usize::from(len) + 1;
        Some(text)
    };
    let protocol = string()?;
    if !protocol.starts_with(b"HTTP/") {
        return Some(false);
    }
    let path = string()?;
    if !path.starts_with(b"/") && !path.starts_with(b"*") && !has(path, b"://") {
        return Some(false);
    }
    let (_address, _name, server) = (string()?, string()?, string()?);
    notes.facts.put(Fact::Path, path);
    notes.host.push(server);
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn requests_and_answers() {
        client(8009, &hex("123400010a"), Class::Ajp);
        server(8009, &hex("4142000109"), Class::Ajp);
        let mut forward = hex("1234 0036 02 02 0008 485454502f312e31 00 0002 2f61 00");
        forward.extend(b"\0\x0810.0.0.1\0\xff\xff\0\x09A.example\0\0\x50\0\0\0\xff");
        let told = client(1, &forward, Class::Ajp);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Path)), ("a.example", Some("/a")));
        server(1, &hex("4142 0012 04 00c8 0002 4f4b 00 0000"), Class::Ajp);
        no_stream(8009, &hex("1234 0036 02 1c 0008"));
        no_stream(8009, b"ABSOLUTELY not");
        no_stream(8009, &hex("1234 0002 0a"));
    }
}
