//! XMPP: the stream's header, stanzas in mid-life, and TLS after STARTTLS (RFC 6120 §4, §5, §8).

use crate::l7::text::{find, has};
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const STREAMS: &[u8] = b"http://etherx.jabber.org/streams";
/// Declaration and header of a stream are at most so long.
const MAX_HEADER: usize = 2048;
/// What a stream can go on with, and what else must be in its tag (any of it).
const STANZAS: [(&[u8], &[&[u8]]); 10] = [
    (b"</stream:stream>", &[b""]),
    (b"<stream:features", &[b""]),
    (b"<stream:error", &[b""]),
    (b"<starttls ", &[b"urn:ietf:params:xml:ns:xmpp-tls"]),
    (b"<proceed ", &[b"urn:ietf:params:xml:ns:xmpp-tls"]),
    (b"<auth ", &[b"urn:ietf:params:xml:ns:xmpp-sasl"]),
    (b"<iq ", &[b"type=", b"id="]),
    (b"<presence", &[b" from=", b" to=", b" type=", b"/>", b"<c xmlns", b"<show>", b"<priority>"]),
    (b"<message ", &[b" to=", b" from=", b"<body>"]),
    (b"<r xmlns=", &[b"urn:xmpp:sm:"]),
];
/// Bytes of a stanza that are looked through.
const MAX_STANZA: usize = 512;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] == b' ' {
        return Verdict::No;
    }
    let head = &d[..d.len().min(MAX_HEADER)];
    let declared = head.starts_with(b"<?xml");
    if declared || head.starts_with(b"<stream:stream") {
        return stream(look, head, notes);
    }
    if head.len() < 16 && [&b"<?xml"[..], b"<stream:stream"].iter().any(|t| t.starts_with(head)) {
        return Verdict::More;
    }
    let Some((_, must)) = STANZAS.iter().find(|(s, _)| d.starts_with(s)) else {
        return if STANZAS.iter().any(|(s, _)| s.starts_with(d)) { Verdict::More } else { Verdict::No };
    };
    let tag = &d[..d.len().min(MAX_STANZA)];
    let told =
        must.iter().any(|m| m.is_empty() || has(tag, m)) && std::str::from_utf8(&tag[..tag.len().min(64)]).is_ok();
    match find(tag, b">") {
        _ if told => Verdict::payload(Class::Xmpp),
        None if d.len() < MAX_STANZA => Verdict::More,
        _ => Verdict::No,
    }
}

/// Perhaps a declaration, then the tag that opens the stream.
fn stream(look: &Look, head: &[u8], notes: &mut Notes) -> Verdict {
    let Some(from) = find(head, b"<stream:stream") else {
        // Behind the declaration nothing else comes first.
        let end = find(head, b"?>").map(|at| head[at + 2..].trim_ascii_start());
        let open = end.map_or(head.len() < 128, |rest| b"<stream:stream".starts_with(rest));
        return if open { Verdict::More } else { Verdict::No };
    };
    let tag = &head[from..];
    let Some(end) = find(tag, b">") else { return if head.len() < MAX_HEADER { Verdict::More } else { Verdict::No } };
    let tag = &tag[..end];
    if !has(tag, STREAMS) && !has(tag, b"jabber:") {
        return Verdict::No;
    }
    // The initiator says to whom, the answer from whom.
    if let Some(name) = attribute(tag, b" to=").filter(|_| look.dir == crate::flow::Direction::FromInitiator) {
        notes.host.push(name);
    } else if let Some(name) = attribute(tag, b" from=") {
        notes.facts.put(Fact::Server, name);
    }
    let found = Found::payload(Class::Xmpp);
    let rest = &look.data[from + end + 1..];
    if let Some(at) = find(&rest[..rest.len().min(MAX_STANZA)], b"<starttls") {
        return match find(&rest[at..], b">") {
            // Of both ways to end the tag.
            Some(close) => {
                let mut at = from + end + 1 + at + close + 1;
                at += if look.data[at..].starts_with(b"</starttls>") { 11 } else { 0 };
                upgrade::tls(look, at, found, notes)
            }
            None => Verdict::Class(found),
        };
    }
    if rest.trim_ascii().is_empty() || rest.len() < 10 && b"<starttls".starts_with(&rest[..rest.len().min(9)]) {
        Verdict::Class(found)
    } else {
        Verdict::Done(found)
    }
}

/// The value between quotes of either kind.
fn attribute<'a>(tag: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = &tag[find(tag, name)? + name.len()..];
    let (quote, rest) = rest.split_first()?;
    matches!(quote, b'\'' | b'"').then(|| rest.split(|b| b == quote).next())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hello, no_stream, server};

    const HEADER: &[u8] = b"<?xml version='1.0' ?><stream:stream to='A.example' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";

    #[test]
    fn streams_and_stanzas() {
        assert_eq!(client(1, HEADER, Class::Xmpp).host, "a.example");
        client(5222, b"<presence to='a@b'><c/></presence>", Class::Xmpp);
        server(1, b"</stream:stream>", Class::Xmpp);
        server(1, b"<iq xml:lang='en' to='a@b' type='result' id='1'></iq>", Class::Xmpp);
        no_stream(5222, b"<?xml version='1.0' ?><html></html>");
        no_stream(5222, b"<iq>x</iq>");
        no_stream(5222, b"<message>hello</message>");
    }

    #[test]
    fn tls_after_starttls() {
        let stream = [HEADER, b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", &hello("x.example")[..]].concat();
        let told = client(5222, &stream, Class::Xmpp);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("x.example", Some("tls")));
    }
}
