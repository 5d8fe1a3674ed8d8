//! STOMP 1.0 to 1.2: the frames that open a connection, and those in mid-life by a header that they must have (STOMP
//! 1.2, "Connecting", "Client Frames", "Server Frames").

use crate::l7::text::{find, line};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

/// Commands, and headers of which one must be there.
const FRAMES: [(&[u8], &[&[u8]]); 10] = [
    (b"CONNECT", &[b"accept-version:", b"login:", b"passcode:", b"heart-beat:", b"client-id:", b"host:"]),
    (b"STOMP", &[b"accept-version:"]),
    (b"CONNECTED", &[b"version:", b"session:", b"server:", b"heart-beat:"]),
    (b"SEND", &[b"destination:"]),
    (b"SUBSCRIBE", &[b"destination:"]),
    (b"UNSUBSCRIBE", &[b"id:", b"destination:"]),
    (b"MESSAGE", &[b"message-id:", b"destination:"]),
    (b"RECEIPT", &[b"receipt-id:"]),
    (b"ACK", &[b"message-id:", b"subscription:", b"id:"]),
    (b"ERROR", &[b"message:"]),
];
const MAX_HEADERS: usize = 32;
const MAX_LINE: usize = 1024;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some((command, mut at)) = line(&d[..d.len().min(14)]) else {
        let begun = FRAMES.iter().any(|(c, _)| c.starts_with(d) || d.strip_suffix(b"\r") == Some(c));
        return if begun { Verdict::More } else { Verdict::No };
    };
    let Some((_, needed)) = FRAMES.iter().find(|(c, _)| *c == command) else { return Verdict::No };
    let mut told = false;
    for _ in 0..MAX_HEADERS {
        let rest = &d[at..];
        let Some((header, next)) = line(&rest[..rest.len().min(MAX_LINE)]) else {
            return if rest.len() >= MAX_LINE {
                Verdict::No
            } else if told {
                Verdict::Class(found())
            } else {
                Verdict::More
            };
        };
        at += next;
        if header.is_empty() {
            break;
        }
        if find(header, b":").is_none_or(|n| n == 0) || !header.iter().all(|b| (b' '..0x7f).contains(b)) {
            return Verdict::No;
        }
        told |= needed.iter().any(|n| header.starts_with(n));
        if let Some(name) = header.strip_prefix(b"host:") {
            notes.host.push(name);
        } else if let Some(server) = header.strip_prefix(b"server:") {
            notes.facts.put(Fact::Server, server);
        } else if let Some(object) = header.strip_prefix(b"destination:") {
            notes.facts.put(Fact::Object, object);
        } else if let Some(version) = header.strip_prefix(b"version:") {
            notes.facts.put(Fact::Version, version);
        }
    }
    if told { Verdict::Done(found()) } else { Verdict::No }
}

fn found() -> Found {
    Found::payload(Class::Stomp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, no_stream, server};

    #[test]
    fn frames() {
        assert_eq!(client(1, b"STOMP\naccept-version:1.1\nhost:A.example\n\n\0", Class::Stomp).host, "a.example");
        client(61613, b"CONNECT\r\nlogin:a\r\npasscode:b\r\n\r\n\0", Class::Stomp);
        server(61613, b"CONNECTED\nversion:1.1\nheart-beat:100,100\n\n\0", Class::Stomp);
        assert_eq!(
            client(1, b"SEND\ndestination:/queue/a\n\nx\0", Class::Stomp).facts.get(Fact::Object),
            Some("/queue/a")
        );
        no_stream(61613, b"SEND\nsubject:a\n\n\0");
        no_stream(61613, b"CONNECT a:443 HTTP/1.2\r\n\r\n");
        no_stream(61613, b"ERROR\nno such thing\n");
    }
}
