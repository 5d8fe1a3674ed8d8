//! What strangers can send to a recogniser, through the whole graph of a worker in memory: memory stays as it is, everything
//! refused is counted under a name, what is forwarded is what came, and old connections go on.
//!
//! What it costs them in time is measured by `softdpu-bench flows`.
#![allow(clippy::unwrap_used)]

#[path = "support/counting.rs"]
mod counting;
mod hostile;

use hostile::{Edge, OVER_PORTS, client, segments};
use softdpu::graph::DropReason;
use softdpu::l7::inspect::{MAX_DATAGRAMS, MAX_PACKETS};
use softdpu::l7::{Class, Reason};
use softdpu_testbed::hostile::{PREFACE, dns, h2, hello, question, quic, records};
use softdpu_testbed::packet::{ACK, frame, ipv4_fragment, ipv6_fragment, tcp, udp, udp_datagram};

/// A fixed order that is none.
fn shuffled<T>(mut all: Vec<T>) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..all.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.swap(i, (state % (i as u64 + 1)) as usize);
    }
    all
}

fn reversed<T>(mut all: Vec<T>) -> Vec<T> {
    all.reverse();
    all
}

fn as_is<T>(all: Vec<T>) -> Vec<T> {
    all
}

#[test]
fn hellos_of_64_kib_one_by_one() {
    let mut edge = Edge::new("");
    let early = hello("early.example", 10, 65_000);
    let late = hello("late.example", 65_000, 10);
    let mut n = 0;
    for (message, name) in [(&early, Some("early.example")), (&late, None)] {
        for record in [16_384, 200] {
            let stream = records(message, record);
            assert!(stream.len() > 65_000);
            for order in [as_is, reversed, shuffled] {
                let ends = client(n, 443);
                n += 1;
                edge.open(ends, 7);
                let all = order(segments(ends, 7, &stream, 1400));
                let sent = all.len() as u64;
                let before = edge.refused();
                assert_eq!(edge.put(0, all), sent, "all of it is forwarded");
                let (class, host) = edge.told(ends);
                if class == Class::Tls {
                    assert_eq!(host.as_deref(), name);
                } else {
                    assert_eq!((class, host), (Class::Unknown, None));
                }
                assert_eq!(edge.refused() - before, 1, "less was read than was said");
                assert_eq!(edge.h.worker.inspector.pool().in_use(), 0);
            }
        }
    }
    // In order the class is told, whatever comes.
    assert!(edge.cut_short(Reason::TooMuchData) >= 4);
    edge.end();
}

#[test]
fn hellos_of_64_kib_all_at_once() {
    const FLOWS: u32 = 600;
    let mut edge = Edge::new("");
    let stream = records(&hello("early.example", 10, 65_000), 4000);
    (0..FLOWS).for_each(|n| edge.open(client(n, 443), 7));
    // The second segments come first, so that none is told by its first.
    let mut parts: Vec<_> = (0..FLOWS).map(|n| segments(client(n, 443), 7, &stream, 1400)).collect();
    parts.iter_mut().for_each(|p| p.swap(0, 1));
    for at in 0..parts[0].len() {
        let all: Vec<_> = parts.iter().map(|p| p[at].clone()).collect();
        assert_eq!(edge.put(0, all), u64::from(FLOWS));
        assert!(edge.h.worker.inspector.pool().in_use() <= 128);
    }
    let told = edge.all_told(443);
    let named = told.iter().filter(|(_, host)| host.as_deref() == Some("early.example")).count();
    assert_eq!(told.len(), FLOWS as usize);
    assert!(named >= 128, "as many as there are buffers are read: {named}");
    assert_eq!(edge.given_up(Reason::NoBuffer) + edge.cut_short(Reason::TooMuchData), u64::from(FLOWS));
    edge.end();
}

#[test]
fn segments_that_contradict_each_other_are_counted_and_forwarded_as_they_came() {
    let mut edge = Edge::new("");
    let stream = records(&hello("first.example", 10, 10), 4000);
    let other = records(&hello("other.example", 10, 10), 4000);
    assert_eq!(stream.len(), other.len());
    let cut = stream.len() - 5;
    for n in 0..200 {
        let ends = client(n, 443);
        edge.open(ends, 7);
        let at = |from: usize, bytes: &[u8]| frame(&tcp(ends, ACK, 8 + from as u32, 5001, bytes));
        // Behind a gap, then once more with another name, then the gap, then the rest.
        let packets = vec![at(5, &stream[5..cut]), at(5, &other[5..cut]), at(0, &stream[..5]), at(cut, &stream[cut..])];
        let mut out = Vec::new();
        edge.pass(0, packets.clone(), |o| out.push(o));
        assert!(out.len() == 4 && out.iter().zip(&packets).all(|(o, p)| o[34..] == p[34..]));
        assert_eq!(edge.told(ends), (Class::Tls, Some("first.example".into())), "the first one wins");
        assert_eq!(edge.h.worker.inspector.pool().conflicts(), u64::from(n) + 1);
    }
    // In order the first one is what the receiver has too; the second is too late for both.
    let ends = client(1000, 443);
    edge.open(ends, 7);
    let both = [segments(ends, 7, &stream, 9999), segments(ends, 7, &other, 9999)].concat();
    assert_eq!(edge.put(0, both), 2);
    assert_eq!(edge.told(ends), (Class::Tls, Some("first.example".into())));
    edge.h.worker.publish();
    assert_eq!(edge.h.worker.counters.l7.conflicts.get(), 200);
    edge.end();
}

#[test]
fn streams_of_holes_are_given_up() {
    let mut edge = Edge::new("");
    for n in 0..300 {
        edge.open(client(n, 443), 7);
        let holes = (0..60u32).map(|i| frame(&tcp(client(n, 443), ACK, 8 + i * 3, 5001, b"x")));
        assert_eq!(edge.put(0, holes), 60);
    }
    assert_eq!(edge.given_up(Reason::TooManyPieces), 300);
    edge.end();
}

#[test]
fn http_without_an_end() {
    const FLOWS: u32 = 100;
    let mut edge = Edge::new("");
    let fields = [b"GET / HTTP/1.1\r\n".to_vec(), b"X-Filling: abcdefgh\r\n".repeat(3200)].concat();
    let line = [b"GET /".to_vec(), vec![b'a'; 65_000]].concat();
    let field = [b"GET / HTTP/1.1\r\nHost: ".to_vec(), vec![b'a'; 65_000]].concat();
    for (port, stream, class) in [(81, fields, Class::Http), (82, line, Class::Unknown), (83, field, Class::Http)] {
        for n in 0..FLOWS {
            edge.open(client(n, port), 7);
            let all = segments(client(n, port), 7, &stream, 1400);
            let sent = all.len() as u64;
            assert_eq!(edge.put(0, all), sent);
            assert_eq!(edge.told(client(n, port)), (class, None));
            // Both sides of a stranger must have spoken before there is no use in waiting.
            edge.put(1, segments(client(n, port).back(), 5000, b"\x01strange, and long enough for all", 99));
        }
    }
    assert_eq!(edge.cut_short(Reason::TooMuchData), 2 * u64::from(FLOWS));
    assert_eq!(edge.refused(), 3 * u64::from(FLOWS));
    edge.end();
}

#[test]
fn http2_with_huge_frames_and_continuations_without_end() {
    let mut edge = Edge::new("");
    let settings = h2(0, 4, 0, 0, &[]);
    let floods = [
        // Settings of 16 MiB.
        [PREFACE, &h2(0xff_ffff, 4, 0, 0, &[1; 60_000])].concat(),
        // A block of fields that goes on and on.
        [PREFACE, &settings, &h2(1, 1, 0, 1, &[0x82]), &h2(1000, 9, 0, 1, &[0x40; 1000]).repeat(60)].concat(),
        // The same, before any of it is there.
        [PREFACE, &settings, &h2(16_384, 1, 0, 1, &[0x40; 16_384]), &h2(16_384, 9, 0, 1, &[0; 16_384]).repeat(3)]
            .concat(),
        // Pings, and no request.
        [PREFACE, &settings, &h2(8, 6, 0, 0, &[0; 8]).repeat(3000)].concat(),
        // Fields that say they are longer than all that there is (RFC 7541 §5.1).
        [PREFACE, &settings, &h2(40, 1, 4, 1, &[0xff; 40])].concat(),
    ];
    for (kind, stream) in floods.iter().enumerate() {
        for n in 0..60 {
            let ends = client(n, 8080 + kind as u16);
            edge.open(ends, 7);
            for size in [1400, 90] {
                let all = segments(ends, 7, stream, size);
                let sent = all.len() as u64;
                assert_eq!(edge.put(0, all), sent);
            }
            edge.put(1, segments(ends.back(), 5000, b"\x01strange, and long enough for all", 99));
            let (class, host) = edge.told(ends);
            assert!(matches!(class, Class::Http2 | Class::Unknown), "{kind}: {class:?}");
            assert_eq!(host, None);
        }
        assert_eq!(edge.h.worker.inspector.pool().in_use(), 0, "{kind}");
    }
    let told = |kind: u16| edge.all_told(8080 + kind).iter().filter(|(class, _)| *class == Class::Http2).count();
    assert_eq!([1, 2, 3].map(told), [60; 3]);
    edge.end();
}

#[test]
fn dns_names_that_are_none() {
    let mut edge = Edge::new("");
    let one = [1, 0, 0, 0];
    let chain: Vec<u8> =
        [&[0][..], &(0..40u8).flat_map(|i| [0xc0, if i == 0 { 12 } else { 11 + 2 * i }]).collect::<Vec<_>>()].concat();
    let bad: Vec<Vec<u8>> = vec![
        dns(one, &question(5, 63)),
        dns(one, &question(130, 1)),
        dns(one, &question(1000, 60)),
        // A name that points at itself, one that points ahead, two that point at each other.
        dns(one, &[0xc0, 12, 0, 1, 0, 1]),
        dns(one, &[0xc0, 200, 0, 1, 0, 1]),
        dns(one, &[1, b'a', 0xc0, 12, 0, 1, 0, 1]),
        dns(one, &chain),
        // A label of a length that there is not.
        dns(one, &[0x80, 1, 2, 0, 0, 1, 0, 1]),
    ];
    for (kind, message) in bad.iter().enumerate() {
        for (n, port) in (0..50).flat_map(|n| [(n, 53), (n, 9999)]) {
            let mut ends = client(n, port);
            ends.ports.0 += kind as u16;
            let part = message.len().min(1472);
            assert_eq!(edge.put(0, (0..10).map(|_| frame(&udp(ends, &message[..part])))), 10);
        }
    }
    let flows = 50 * bad.len();
    assert!(edge.all_told(53).iter().all(|told| *told == (Class::Dns, None)));
    assert!(edge.all_told(9999).iter().all(|told| *told == (Class::Unknown, None)));
    assert_eq!((edge.all_told(53).len(), edge.all_told(9999).len()), (flows, flows));
    assert_eq!(edge.given_up(Reason::TooManyPackets), flows as u64, "off its port there is nothing to say");
    edge.h.worker.publish();
    let counted = edge.h.worker.counters.l7.names_bad.get();
    assert!((flows as u64..=flows as u64 * u64::from(MAX_DATAGRAMS)).contains(&counted), "{counted}");
    // The longest name there is is one.
    let labels = [vec![63], vec![b'b'; 63]].concat();
    let longest = [labels.repeat(3), vec![61], vec![b'c'; 61], vec![0, 0, 1, 0, 1]].concat();
    let ends = client(9000, 53);
    edge.put(0, [frame(&udp(ends, &dns(one, &longest)))]);
    assert!(edge.all_told(53).iter().any(|(_, host)| host.as_ref().is_some_and(|h| h.len() == 253)));
    edge.end();
}

#[test]
fn dns_of_64_kib_over_tcp() {
    let mut edge = Edge::new("");
    let mut message = dns([1, 0xff, 0, 0], &question(4, 40));
    message.resize(65_535, 0x2a);
    let stream = [&[0xff, 0xff][..], &message].concat();
    for (n, port) in (0..100).flat_map(|n| [(n, 53), (n, 9999)]) {
        edge.open(client(n, port), 7);
        let all = segments(client(n, port), 7, &stream, 1400);
        let sent = all.len() as u64;
        assert_eq!(edge.put(0, all), sent);
    }
    assert!(edge.all_told(53).iter().all(|(class, host)| *class == Class::Dns && host.as_ref().unwrap().len() == 163));
    assert!(edge.all_told(9999).iter().all(|told| *told == (Class::Unknown, None)));
    assert_eq!(edge.given_up(Reason::TooMuchData), 100);
    edge.end();
}

#[test]
fn quic_in_thousands_of_pieces() {
    let mut edge = Edge::new("");
    let message = hello("quic.example", 3000, 10);
    let id = |n: u32| [&n.to_be_bytes()[..], &[9; 4]].concat();
    let whole = quic::initial(&id(0), 0, &quic::crypto(0, &hello("quic.example", 10, 10)));
    edge.put(0, [frame(&udp(client(0, 443), &whole))]);
    assert_eq!(edge.all_told(443), [(Class::Quic, Some("quic.example".into()))], "an honest one is read");
    // Each byte a piece, with a hole behind it: 150 of them in a datagram, and 40 datagrams.
    for n in 1..=100 {
        let datagrams = (0..40u32).map(|d| {
            let at = |i: usize| d as usize * 300 + i * 2;
            let frames: Vec<u8> = (0..150).flat_map(|i| quic::crypto(at(i), &message[..1])).collect();
            frame(&udp(client(n, 444), &quic::initial(&id(n), d, &frames)))
        });
        assert_eq!(edge.put(0, datagrams), 40);
    }
    assert_eq!(edge.cut_short(Reason::TooManyPieces), 100);
    // The same forty bytes over and over: never as many as tell more than that it is QUIC.
    for n in 1..=40 {
        let datagrams = (0..60u32).map(|d| {
            let at = d as usize % 40;
            let piece = quic::crypto(at, &message[at..=at]);
            frame(&udp(client(n, 445), &quic::initial(&id(n), d, &piece)))
        });
        assert_eq!(edge.put(0, datagrams), 60);
    }
    assert_eq!(edge.cut_short(Reason::TooManyPackets), 40);
    // Hellos that nobody ends: the buffers go to the first, and a second later to others.
    for n in 1..=400 {
        let half = quic::initial(&id(n), 0, &quic::crypto(0, &message[..900]));
        edge.put(0, [frame(&udp(client(n, 446), &half))]);
    }
    assert!(edge.h.worker.inspector.pool().in_use() <= 128);
    let without = edge.cut_short(Reason::NoBuffer);
    assert!(without >= 400 - 128, "{without}");
    edge.wait(2);
    let half = |n: u32, part: u32| {
        let (from, to) = if part == 0 { (0, 900) } else { (900, message.len()) };
        let frames = [quic::crypto(from, &message[from..to.min(1900)])].concat();
        frame(&udp(client(n, 447), &quic::initial(&id(n), part, &frames)))
    };
    edge.put(0, [half(1, 0)]);
    assert_eq!(edge.cut_short(Reason::NoBuffer), without, "there is room again");
    assert!(edge.h.worker.inspector.pool().taken_over() > 0);
    for port in [444, 445, 446] {
        assert!(edge.all_told(port).iter().all(|told| *told == (Class::Quic, None)), "{port}");
    }
    edge.end();
}

#[test]
fn chatter_has_budgets() {
    let mut edge = Edge::new("");
    for n in 0..200 {
        let strange = (0..100).map(|_| frame(&udp(client(n, 4000), b"\x01strange!")));
        assert_eq!(edge.put(0, strange), 100);
        edge.open(client(n, 4001), 7);
        let all = segments(client(n, 4001), 7, &b"\x01strange!".repeat(100), 9);
        assert_eq!(edge.put(0, all), 100);
    }
    assert_eq!(edge.given_up(Reason::TooManyPackets), 400);
    let inspected = 200 * u64::from(MAX_PACKETS.max(MAX_DATAGRAMS));
    assert!(inspected < 200 * 100, "the rest is not looked at");
    edge.end();
}

/// First fragments without the rest, and the rest without the first, from many sources and in both families.
fn fragments(n: u32) -> [Vec<u8>; 4] {
    let ends = client(n % 5000, 53);
    let first = udp_datagram(ends.ports, &[0x55; 56]);
    let v6 = |last: u32| {
        let mut a = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        a[12..].copy_from_slice(&last.to_be_bytes());
        a
    };
    let (id, other) = ((n >> 4) as u16 | 0x8000, n.wrapping_mul(0x9e37_79b1));
    [
        ipv4_fragment((id, 0, true), 17, ends.src, ends.dst, &first),
        ipv4_fragment((other as u16 & 0x7fff, 9 + (n % 50) as u16, true), 17, ends.src, ends.dst, &[0x66; 64]),
        ipv6_fragment((other, 0, true), 17, v6(n % 300), v6(9999), &first),
        ipv6_fragment((!other, 9 + (n % 50) as u16, true), 17, v6(n % 300), v6(9999), &[0x66; 64]),
    ]
    .map(|p| frame(&p))
}

#[test]
fn fragments_that_never_complete_where_no_rule_asks_for_ports() {
    let mut edge = Edge::new("");
    const MANY: u32 = 5000;
    let came: u64 = (0..MANY).map(|n| edge.put(0, fragments(n))).sum();
    assert_eq!(came, u64::from(MANY) * 4, "they are forwarded, and nothing is held");
    edge.h.worker.publish();
    let c = &edge.h.worker.counters;
    assert_eq!(c.fragments_held.get(), 0);
    assert_eq!(c.fragments_orphaned.get(), 2 * u64::from(MANY), "each later fragment is judged by itself");
    assert!(c.flows_unproven.get() <= 4096);
    edge.end();
}

#[test]
fn fragments_that_never_complete_where_rules_ask_for_ports() {
    let mut edge = Edge::new(OVER_PORTS);
    let mut most = 0;
    for n in 0..5000 {
        assert_eq!(edge.put(0, fragments(n)), 0, "none goes on alone");
        if n % 100 == 0 {
            edge.h.worker.publish();
            let c = &edge.h.worker.counters;
            assert!(c.fragments_held.get() <= 256 && c.datagrams_held.get() <= 64);
            most = most.max(c.fragments_held.get());
            edge.old_go_on();
        }
    }
    assert!(most > 32, "some are waited for: {most}");
    assert!(edge.dropped(DropReason::ReassemblyFull) > 15_000);
    edge.wait(31);
    edge.h.worker.publish();
    assert_eq!((edge.h.worker.counters.fragments_held.get(), edge.h.worker.counters.datagrams_held.get()), (0, 0));
    assert!(edge.dropped(DropReason::ReassemblyTimeout) > 0);
    // An honest datagram in two fragments goes through again.
    let ends = client(1, 53);
    let datagram = udp_datagram(ends.ports, &[1; 72]);
    let parts = [
        ipv4_fragment((7, 0, true), 17, ends.src, ends.dst, &datagram[..40]),
        ipv4_fragment((7, 5, false), 17, ends.src, ends.dst, &datagram[40..]),
    ];
    assert_eq!(edge.put(0, parts.map(|p| frame(&p))), 2);
    edge.end();
}

#[test]
fn fragments_that_overlap_are_refused_whole() {
    let mut edge = Edge::new(OVER_PORTS);
    for n in 0..200u16 {
        let ends = client(u32::from(n), 53);
        let datagram = udp_datagram(ends.ports, &[1; 72]);
        let part =
            |offset: u16, more, bytes: &[u8]| frame(&ipv4_fragment((n, offset, more), 17, ends.src, ends.dst, bytes));
        // The second says otherwise what the first has said (RFC 5722, for both families here).
        let parts = [part(0, true, &datagram[..40]), part(3, true, &[9; 32]), part(5, false, &datagram[40..])];
        assert_eq!(edge.put(0, parts), 0);
    }
    assert_eq!(edge.dropped(DropReason::BadFragment), 600);
    edge.end();
}
