//! HTTP/2 in clear with prior knowledge (RFC 9113 §3.3), and gRPC and etcd on it: the client's preface, its settings, and
//! the fields of its first request.

pub mod hpack;

use self::hpack::{Field, fields};
use crate::l7::queue::etcd;
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// RFC 9113 §6.5.2: what a client may send before it was told of another limit.
const MAX_FRAME: usize = 1 << 14;
/// Frames before the first request that are stepped over.
const MAX_FRAMES: usize = 32;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match look.begins(PREFACE) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    let mut rest = &look.data[PREFACE.len()..];
    let waiting = |class| {
        let found = Found::payload(class);
        if look.last { Verdict::Settled(found) } else { Verdict::Class(found) }
    };
    for n in 0..MAX_FRAMES {
        let Some(header) = rest.first_chunk::<FRAME_HEADER>() else { return waiting(Class::Http2) };
        let len = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        // The preface ends with settings.
        if n == 0 && kind != SETTINGS || len > MAX_FRAME {
            return Verdict::No;
        }
        let Some(body) = rest.get(FRAME_HEADER..FRAME_HEADER + len) else { return waiting(Class::Http2) };
        if kind == HEADERS {
            let class = request(body, flags, notes);
            return Verdict::Settled(Found::payload(class));
        }
        rest = &rest[FRAME_HEADER + len..];
    }
    Verdict::Settled(Found::payload(Class::Http2))
}

/// The fields of a HEADERS frame. What a CONTINUATION has is left out.
fn request(mut body: &[u8], flags: u8, notes: &mut Notes) -> Class {
    if flags & PADDED != 0 {
        let pad = body.first().map_or(0, |b| usize::from(*b));
        body = body.get(1..body.len().saturating_sub(pad)).unwrap_or(&[]);
    }
    if flags & PRIORITY != 0 {
        body = body.get(5..).unwrap_or(&[]);
    }
    let mut class = Class::Http2;
    let Notes { host, facts, .. } = notes;
    let mut path = None;
    fields(body, |field, value| match field {
        Field::Authority => super::http::put_host(value, host),
        Field::Method => facts.put(Fact::Method, value),
        Field::Path => {
            let target = value.split(|b| *b == b'?').next().unwrap_or(value);
            facts.put(Fact::Path, target);
            path = Some(etcd::is(target));
        }
        Field::ContentType => {
            facts.put(Fact::ContentType, value);
            if value.starts_with(b"application/grpc") {
                class = Class::Grpc;
            }
        }
        Field::UserAgent => facts.put(Fact::UserAgent, value),
        Field::Other => {}
    });
    if class == Class::Grpc {
        let rpc = facts.clone();
        if let Some(method) = rpc.get(Fact::Path).and_then(|p| p.strip_prefix('/')) {
            facts.put(Fact::Rpc, method.as_bytes());
        }
        if path == Some(true) {
            class = Class::Etcd;
        }
    }
    class
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::Direction;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[1..], &[kind, flags, 0, 0, 0, 1], body].concat()
    }

    fn literal(name: &str, value: &str) -> Vec<u8> {
        [&[0x40, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    }

    fn see(data: &[u8]) -> (Verdict, Notes) {
        let mut notes = Notes::default();
        let v = look(&Look { last: false, ..Look::whole(data, Direction::FromInitiator, (40_000, 80)) }, &mut notes);
        (v, notes)
    }

    fn call(path: &str, kind: &str) -> Vec<u8> {
        let block = [
            &[0x83, 0x86][..],
            &literal(":path", path),
            &literal(":authority", "rpc.example:50051"),
            &literal("content-type", kind),
        ]
        .concat();
        let padded = [&[2, 0, 0, 0, 0, 9][..], &block, &[0, 0]].concat();
        [PREFACE, &frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 100]), &frame(8, 0, &[0; 4]), &frame(HEADERS, 0x2c, &padded)]
            .concat()
    }

    #[test]
    fn the_first_request_tells_host_and_method() {
        let data = call("/pkg.Service/Do?x", "application/grpc+proto");
        let (v, notes) = see(&data);
        assert_eq!((v, notes.host.get()), (Verdict::Settled(Found::payload(Class::Grpc)), Some("rpc.example")));
        let facts = [Fact::Rpc, Fact::Path, Fact::Method].map(|f| notes.facts.get(f).unwrap());
        assert_eq!(facts, ["pkg.Service/Do", "/pkg.Service/Do", "POST"]);
        for n in 1..data.len() {
            let v = see(&data[..n]).0;
            let want = if n < PREFACE.len() { Verdict::More } else { Verdict::Class(Found::payload(Class::Http2)) };
            assert_eq!(v, want, "{n}");
        }
        assert_eq!(see(&call("/", "text/html")).0, Verdict::Settled(Found::payload(Class::Http2)));
        let etcd = see(&call("/etcdserverpb.KV/Range", "application/grpc")).0;
        assert_eq!(etcd, Verdict::Settled(Found::payload(Class::Etcd)));
    }

    #[test]
    fn a_preface_without_settings_is_not_http2() {
        assert_eq!(see(&[PREFACE, &frame(HEADERS, 4, b"")].concat()).0, Verdict::No);
        assert_eq!(see(b"PRI * HTTP/2.1\r\n").0, Verdict::No);
    }

    proptest! {
        #[test]
        fn any_frames_are_survived(kind in 0u8..10, flags: u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
            see(&[PREFACE, &frame(SETTINGS, 0, b""), &frame(kind, flags, &body), &body].concat());
        }
    }
}
