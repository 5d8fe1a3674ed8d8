//! How the tests of recognisers ask.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::flow::Direction::{self, FromInitiator, FromResponder};
use crate::l7::{Ask, Class, Fact, Look, Notes, Verdict};

/// The class of a certain verdict.
pub fn class(v: Verdict) -> Option<Class> {
    match v {
        Verdict::Class(f) | Verdict::Other(f) | Verdict::Settled(f) | Verdict::Done(f) => Some(f.class),
        Verdict::No | Verdict::More => None,
    }
}

/// One datagram from or to `port`.
pub fn udp(ask: Ask, data: &[u8], port: u16) -> Option<Class> {
    udp_after(ask, &[], data, port)
}

/// The same after another whose beginning was `before`.
pub fn udp_after(ask: Ask, before: &[u8], data: &[u8], port: u16) -> Option<Class> {
    let before = &before[..before.len().min(crate::l7::BEFORE)];
    let look = Look { before, ..Look::whole(data, FromInitiator, (40_000, port)) };
    class(ask(&look, &mut Notes::default()))
}

/// The beginning of a stream of which more can come.
pub fn tcp(ask: Ask, data: &[u8], dir: Direction, port: u16) -> Verdict {
    let ports = if dir == FromInitiator { (40_000, port) } else { (port, 40_000) };
    ask(&Look { last: false, ..Look::whole(data, dir, ports) }, &mut Notes::default())
}

/// A datagram is `want`; each beginning of it is that or nothing.
pub fn is_udp(ask: Ask, data: &[u8], port: u16, want: Class) {
    assert_eq!(udp(ask, data, port), Some(want), "{data:02x?}");
    for n in 1..data.len() {
        let got = udp(ask, &data[..n], port);
        assert!(got.is_none() || got == Some(want), "{n} bytes: {got:?}");
    }
}

/// A client's stream is `want`, and each beginning of it is that or needs more.
pub fn is_tcp(ask: Ask, data: &[u8], port: u16, want: Class) {
    for dir in [FromInitiator, FromResponder] {
        if class(tcp(ask, data, dir, port)).is_none() && dir == FromResponder {
            continue;
        }
        assert_eq!(class(tcp(ask, data, dir, port)), Some(want), "{dir:?} {data:02x?}");
        for n in 1..data.len() {
            let got = tcp(ask, &data[..n], dir, port);
            assert!(got == Verdict::More || class(got) == Some(want), "{n} bytes: {got:?}");
        }
    }
}

/// What is noted of a message from the initiator.
pub fn notes(ask: Ask, data: &[u8], port: u16) -> Notes {
    let mut notes = Notes::default();
    ask(&Look::whole(data, FromInitiator, (40_000, port)), &mut notes);
    notes
}

pub fn host(ask: Ask, data: &[u8], port: u16) -> Option<String> {
    notes(ask, data, port).host.get().map(str::to_owned)
}

pub fn fact(ask: Ask, data: &[u8], port: u16, fact: Fact) -> Option<String> {
    notes(ask, data, port).facts.get(fact).map(str::to_owned)
}

/// Bytes from hexadecimal digits, blanks left out.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks_exact(2).map(|p| (p[0] << 4 | p[1]) as u8).collect()
}
