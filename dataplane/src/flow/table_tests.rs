//! The table against a `HashMap`, and against those who would fill it.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use softdpu_ebpf_common::walk::{Fragment, Headers, L3};

use super::tcp::{ACK, FIN, RST, SYN, TCP, UDP};
use super::*;

fn packet(a: u32, b: u32, ports: (u16, u16), proto: u8, tcp_flags: u8) -> Headers {
    let (mut src, mut dst) = ([0; 16], [0; 16]);
    src[..4].copy_from_slice(&a.to_be_bytes());
    dst[..4].copy_from_slice(&b.to_be_bytes());
    Headers { src, dst, sport: ports.0, dport: ports.1, l3: L3::V4, proto, tcp_flags, ..Headers::default() }
}

fn table(capacity: u32, timeouts: Timeouts) -> FlowTable {
    FlowTable::new(&FlowConfig { capacity, timeouts, unproven_percent: 100 }, Seed::fixed(7), Tick(0))
}

/// The sequence number that an end begins with.
fn isn(addr: &[u8; 16], port: u16) -> u32 {
    u32::from_be_bytes([addr[0], addr[1], addr[2], addr[3]]).wrapping_mul(0x9e37_79b1) ^ u32::from(port) << 20
}

/// A TCP header whose numbers fit, right behind their SYNs. Other protocols: nothing.
fn bytes(h: &Headers) -> Vec<u8> {
    if h.proto != TCP {
        return Vec::new();
    }
    let mut b = vec![0; 20];
    let seq = isn(&h.src, h.sport).wrapping_add(u32::from(h.tcp_flags & SYN == 0));
    let ack = if h.tcp_flags & ACK != 0 { isn(&h.dst, h.dport).wrapping_add(1) } else { 0 };
    b[4..8].copy_from_slice(&seq.to_be_bytes());
    b[8..12].copy_from_slice(&ack.to_be_bytes());
    b[13] = h.tcp_flags;
    b
}

/// One packet through the table. Gives the hit and the ended flows' initiators.
fn pass(t: &mut FlowTable, h: &Headers, now: Tick) -> (Result<Hit, Refusal>, Vec<String>) {
    let mut ended = Vec::new();
    let mut p = t.prepare(h, &bytes(h), now).unwrap();
    t.prefetch(&p);
    t.prefetch_flow(&mut p);
    let hit = t.lookup_or_insert(&p, now, |_, f| ended.push(f.initiator().to_string()));
    if let Ok(hit) = hit {
        t.touch(hit, &p, 100, now);
    }
    (hit, ended)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Packets and ageing at random; a map with the same rules says which flows live, how many packets each has had and
    /// when each may and must be gone. At 48 of 48 flows every bucket is under pressure.
    #[test]
    fn agrees_with_a_map(ops in proptest::collection::vec((0u32..80, any::<bool>(), 0u32..40), 1..600)) {
        const IDLE: u32 = 200;
        let mut t = table(48, Timeouts::all(Duration::from_secs(2)));
        let mut model: HashMap<u32, (u64, u64, Tick)> = HashMap::new();
        let mut now = Tick(0);
        for (flow, back, wait) in ops {
            now = now.plus(wait);
            let mut gone = Vec::new();
            t.expire(now, usize::MAX, |_, f| gone.push(u32::from(f.initiator().port)));
            for g in gone {
                let (_, _, seen) = model.remove(&g).unwrap();
                prop_assert!(now.since(seen) >= IDLE);
            }
            let port = flow as u16;
            let known = model.contains_key(&flow);
            let h = if back && known { packet(2, 1, (9, port), UDP, 0) } else { packet(1, 2, (port, 9), UDP, 0) };
            let (hit, ended) = pass(&mut t, &h, now);
            for e in &ended {
                let g = e.rsplit(':').next().unwrap().parse::<u32>().unwrap();
                let (there, back, seen) = model.remove(&g).unwrap();
                prop_assert!(there == 0 || back == 0, "a proven flow was evicted");
                prop_assert!(now.since(seen) > 0);
            }
            match hit {
                Ok(hit) => {
                    prop_assert_eq!(hit.new, !known);
                    let m = model.entry(flow).or_insert((0, 0, now));
                    match hit.dir { Direction::FromInitiator => m.0 += 1, Direction::FromResponder => m.1 += 1 }
                    prop_assert_eq!(hit.dir == Direction::FromResponder, back && known);
                    m.2 = now;
                    let f = t.get(hit.idx);
                    prop_assert_eq!(f.packets(Direction::FromInitiator), m.0);
                    prop_assert_eq!(f.packets(Direction::FromResponder), m.1);
                    prop_assert_eq!(f.bytes(Direction::FromInitiator), m.0 * 100);
                    prop_assert_eq!(f.initiator().port, port);
                }
                Err(e) => {
                    prop_assert_eq!(e, Refusal::TableFull);
                    prop_assert!(!known && model.len() == 48);
                }
            }
            prop_assert_eq!(t.len(), model.len());
            prop_assert_eq!(t.iter().count(), model.len());
        }
        // Everything goes in the end, and the entries can all be had again.
        now = now.plus(100_000);
        t.expire(now, usize::MAX, |_, _| ());
        t.expire(now.plus(100_000), usize::MAX, |_, _| ());
        prop_assert!(t.is_empty());
        for i in 0..48 {
            prop_assert!(pass(&mut t, &packet(5, 6, (i, 1), UDP, 0), now).0.unwrap().new);
        }
    }
}

#[test]
fn fills_to_its_capacity_and_stays_within_128_bytes_a_flow() {
    let mut t = table(50_000, Timeouts::default());
    for i in 0..50_000 {
        // Answered, so that nothing can be evicted.
        assert!(pass(&mut t, &packet(i, 1 << 31, (1, 2), UDP, 0), Tick(0)).0.unwrap().new);
        assert!(!pass(&mut t, &packet(1 << 31, i, (2, 1), UDP, 0), Tick(0)).0.unwrap().new);
    }
    assert_eq!(t.len(), 50_000);
    // The memory of fragments is the same for a table of any size.
    let of_flows = t.memory() - 90_000;
    assert!(of_flows <= 128 * 50_000, "{}", of_flows as f64 / 50_000.0);
    assert_eq!(pass(&mut t, &packet(60_000, 1, (1, 2), UDP, 0), Tick(5)).0, Err(Refusal::TableFull));
    for i in 0..50_000 {
        assert!(!pass(&mut t, &packet(i, 1 << 31, (1, 2), UDP, 0), Tick(5)).0.unwrap().new);
    }
}

#[test]
fn a_flood_of_syns_evicts_itself_and_no_established_flow() {
    let mut t = table(1024, Timeouts::default());
    for port in 0..100 {
        for h in [packet(1, 2, (port, 80), TCP, SYN), packet(2, 1, (80, port), TCP, SYN | ACK)] {
            pass(&mut t, &h, Tick(0)).0.unwrap();
        }
        pass(&mut t, &packet(1, 2, (port, 80), TCP, ACK), Tick(0)).0.unwrap();
    }
    let mut refused = 0;
    let evicted = |t: &FlowTable| t.pressure().evicted_full;
    for i in 0..20_000u32 {
        let now = Tick(1 + i / 500);
        let (hit, ended) = pass(&mut t, &packet(0x0a00_0000 + i, 2, (7, 80), TCP, SYN), now);
        refused += u64::from(hit.is_err());
        assert!(ended.iter().all(|e| e.starts_with("10.")), "{ended:?}");
    }
    assert_eq!(t.len(), 1024);
    assert_eq!(refused, 0, "there always is an older one");
    assert_eq!(evicted(&t), 20_000 - (1024 - 100));
    for port in 0..100 {
        let (hit, _) = pass(&mut t, &packet(2, 1, (80, port), TCP, ACK), Tick(99));
        let hit = hit.unwrap();
        assert!(!hit.new && hit.dir == Direction::FromResponder);
        assert_eq!(t.get(hit.idx).state(), L4State::TcpEstablished);
    }
}

#[test]
fn flows_of_this_very_batch_are_never_evicted() {
    let mut t = table(16, Timeouts::default());
    for i in 0..16 {
        pass(&mut t, &packet(i, 99, (1, 2), TCP, SYN), Tick(3)).0.unwrap();
    }
    assert_eq!(pass(&mut t, &packet(50, 99, (1, 2), TCP, SYN), Tick(3)).0, Err(Refusal::TableFull));
    assert!(pass(&mut t, &packet(50, 99, (1, 2), TCP, SYN), Tick(4)).0.is_ok());
}

#[test]
fn the_initiator_is_who_opened() {
    let mut t = table(64, Timeouts::default());
    let (hit, _) = pass(&mut t, &packet(1, 2, (80, 5000), TCP, SYN | ACK), Tick(0));
    let hit = hit.unwrap();
    assert_eq!(hit.dir, Direction::FromResponder);
    assert_eq!(t.get(hit.idx).initiator().to_string(), "0.0.0.2:5000");
    assert_eq!(t.get(hit.idx).responder().to_string(), "0.0.0.1:80");
}

#[test]
fn a_new_syn_on_closed_ports_is_a_new_flow() {
    let mut t = table(64, Timeouts::default());
    let syn = packet(1, 2, (5000, 80), TCP, SYN);
    pass(&mut t, &syn, Tick(0)).0.unwrap();
    pass(&mut t, &packet(1, 2, (5000, 80), TCP, ACK), Tick(0)).0.unwrap();
    let (again, ended) = pass(&mut t, &syn, Tick(1));
    assert!(!again.unwrap().new && ended.is_empty(), "a repeated SYN of an open connection changes nothing");
    pass(&mut t, &packet(2, 1, (80, 5000), TCP, RST), Tick(2)).0.unwrap();
    assert_eq!(t.get(FlowIdx(0)).state(), L4State::TcpOpening, "an RST that acknowledges nothing");
    pass(&mut t, &packet(2, 1, (80, 5000), TCP, RST | ACK), Tick(2)).0.unwrap();
    t.get_mut(FlowIdx(0)).rule = 7;
    t.get_mut(FlowIdx(0)).set_protected(true);
    let (hit, ended) = pass(&mut t, &syn, Tick(3));
    let hit = hit.unwrap();
    assert!(hit.new);
    assert_eq!(ended, ["0.0.0.1:5000"]);
    let f = t.get(hit.idx);
    assert_eq!((f.rule, f.is_protected(), f.packets(Direction::FromInitiator)), (0, false, 1));
    assert_eq!(t.len(), 1);
}

#[test]
fn each_state_has_its_timeout() {
    let s = Duration::from_secs;
    let mut t = table(64, Timeouts::new(s(2), s(60), s(1), s(10), s(5)));
    let established =
        [packet(1, 2, (1, 80), TCP, SYN), packet(2, 1, (80, 1), TCP, SYN | ACK), packet(1, 2, (1, 80), TCP, ACK)];
    let closed =
        [packet(1, 2, (2, 80), TCP, SYN), packet(2, 1, (80, 2), TCP, FIN | ACK), packet(1, 2, (2, 80), TCP, FIN | ACK)];
    let others = [packet(1, 2, (3, 80), TCP, SYN), packet(1, 2, (4, 80), UDP, 0), packet(1, 2, (5, 5), 1, 0)];
    for h in established.iter().chain(&closed).chain(&others) {
        pass(&mut t, h, Tick(0)).0.unwrap();
    }
    let mut gone = HashMap::new();
    for tick in 0..12_000 {
        t.expire(Tick(tick), 3, |_, f| {
            gone.insert(f.initiator().port.min(f.responder().port), tick / 100);
        });
    }
    let at = |port| gone[&port];
    assert!((60..65).contains(&at(1)), "{gone:?}");
    assert!((1..6).contains(&at(2)), "{gone:?}");
    assert!((2..4).contains(&at(3)) && (10..15).contains(&at(4)) && (5..9).contains(&at(5)), "{gone:?}");
    assert!(t.is_empty());
}

#[test]
fn a_budget_bounds_a_look_and_nothing_is_forgotten() {
    let mut t = table(1000, Timeouts::all(Duration::from_secs(1)));
    for i in 0..1000 {
        pass(&mut t, &packet(i, 99, (1, 2), UDP, 0), Tick(0)).0.unwrap();
    }
    let mut ended = 0;
    let mut rounds = 0;
    while !t.is_empty() {
        assert!(t.expire(Tick(5000 + rounds), 64, |_, _| ended += 1) <= 64);
        rounds += 1;
    }
    assert_eq!(ended, 1000);
    assert!((16..40).contains(&rounds), "{rounds}");
}

#[test]
fn who_ages_can_tell_whether_more_is_due() {
    let mut t = table(1000, Timeouts::default());
    for port in 0..1000 {
        pass(&mut t, &packet(1, 2, (port, 53), UDP, 0), Tick(0)).0.unwrap();
    }
    assert!(t.expire(Tick(5999), 128, |_, _| ()) < 64);
    let (mut calls, mut ended) = (1, 0);
    while t.expire(Tick(6000), 128, |_, _| ended += 1) >= 64 {
        calls += 1;
    }
    // Of the budget three quarters are for the young ones.
    assert!(t.is_empty() && ended == 1000 && calls <= 1000 / 96 + 1, "{calls}");
}

#[test]
fn a_guess_that_came_true_no_more_is_not_believed() {
    let mut t = table(16, Timeouts::default());
    for port in 0..16 {
        pass(&mut t, &packet(1, 2, (port, 53), UDP, 0), Tick(u32::from(port))).0.unwrap();
    }
    let old = packet(1, 2, (0, 53), UDP, 0);
    let mut p = t.prepare(&old, &bytes(&old), Tick(50)).unwrap();
    t.prefetch_flow(&mut p);
    // A packet before it in the batch takes its flow's place.
    let (hit, ended) = pass(&mut t, &packet(9, 2, (7, 53), UDP, 0), Tick(50));
    assert_eq!((hit.unwrap().new, ended.len()), (true, 1));
    assert!(t.lookup(&p).is_none());
    let hit = t.lookup_or_insert(&p, Tick(50), |_, _| ()).unwrap();
    assert!(hit.new);
    assert_eq!(t.get(hit.idx).initiator().port, 0);
}

#[test]
fn fragments_follow_their_flow() {
    let mut t = table(64, Timeouts::default());
    let frame = |id: u16| {
        let mut f = vec![0u8; 40];
        f[18..20].copy_from_slice(&id.to_be_bytes());
        f
    };
    let first = Headers { l3_off: 14, l4_off: 34, fragment: Fragment::First, ..packet(1, 2, (53, 4000), UDP, 0) };
    let later = Headers { fragment: Fragment::Later, sport: 0, dport: 0, ..first };
    assert_eq!(t.prepare(&later, &frame(9), Tick(0)).unwrap_err(), Refusal::OrphanFragment);
    let p = t.prepare(&first, &frame(9), Tick(0)).unwrap();
    let hit = t.lookup_or_insert(&p, Tick(0), |_, _| ()).unwrap();
    let p = t.prepare(&later, &frame(9), Tick(1)).unwrap();
    assert_eq!(t.lookup(&p), Some((hit.idx, Direction::FromInitiator)));
    // Another datagram, the other direction, too late, cut short: no flow is guessed.
    let back = Headers { src: later.dst, dst: later.src, ..later };
    for (h, f, now) in [(later, frame(8), 1), (back, frame(9), 1), (later, frame(9), 501), (later, vec![0; 18], 1)] {
        assert_eq!(t.prepare(&h, &f, Tick(now)).unwrap_err(), Refusal::OrphanFragment);
    }
}

#[test]
fn ipv6_fragments_are_told_apart_by_their_header() {
    let mut t = table(64, Timeouts::default());
    // Hop-by-hop options, then the fragment header with identification 0x01020304.
    let mut frame = vec![0u8; 14 + 40 + 8 + 8 + 8];
    frame[14 + 6] = 0;
    frame[54] = 44;
    frame[62 + 4..62 + 8].copy_from_slice(&[1, 2, 3, 4]);
    let first =
        Headers { l3: L3::V6, l3_off: 14, l4_off: 70, fragment: Fragment::First, ..packet(1, 2, (53, 4000), UDP, 0) };
    let later = Headers { fragment: Fragment::Later, sport: 0, dport: 0, ..first };
    let p = t.prepare(&first, &frame, Tick(0)).unwrap();
    t.lookup_or_insert(&p, Tick(0), |_, _| ()).unwrap();
    assert!(t.prepare(&later, &frame, Tick(0)).is_ok());
    frame[67] ^= 1;
    assert_eq!(t.prepare(&later, &frame, Tick(0)).unwrap_err(), Refusal::OrphanFragment);
}

/// With proven flows among them: unproven ones go, oldest first and only down to their share, whatever else is there.
#[test]
fn the_oldest_unproven_makes_way_and_a_proven_flow_never() {
    let config = FlowConfig { capacity: 1000, timeouts: Timeouts::default(), unproven_percent: 20 };
    let mut t = FlowTable::new(&config, Seed::fixed(7), Tick(0));
    for i in 0..500 {
        pass(&mut t, &packet(i, 99, (1, 2), UDP, 0), Tick(i / 10)).0.unwrap();
        pass(&mut t, &packet(99, i, (2, 1), UDP, 0), Tick(5000)).0.unwrap();
    }
    // They are old enough to be on the wheel: young ones would have to be passed on first, some at each eviction.
    t.expire(Tick(6100), 1000, |_, _| unreachable!());
    let mut gone = Vec::new();
    for i in 0..1000u32 {
        let proto = if i % 3 == 0 { TCP } else { UDP };
        let (hit, ended) = pass(&mut t, &packet(1 << 24 | i, 99, (1, 2), proto, SYN), Tick(6200 + i));
        assert!(hit.unwrap().new);
        gone.extend(ended);
    }
    assert_eq!((t.len(), t.unproven()), (700, 200));
    assert_eq!(gone.len(), 800);
    for (i, end) in gone.iter().enumerate() {
        assert!(end.starts_with(&format!("1.0.{}.{}:", i >> 8, i & 255)), "{i}: {end}");
    }
    assert_eq!(t.pressure(), &Pressure { evicted_unproven: 800, ..Pressure::default() });
    for i in 0..500 {
        assert!(!pass(&mut t, &packet(99, i, (2, 1), UDP, 0), Tick(7200)).0.unwrap().new);
    }
    // Proven flows may fill the rest, and then the unproven ones' part too.
    for i in 0..1000 {
        let _ = pass(&mut t, &packet(2 << 24 | i, 99, (1, 2), UDP, 0), Tick(7300 + i));
        let _ = pass(&mut t, &packet(99, 2 << 24 | i, (2, 1), UDP, 0), Tick(7300 + i));
    }
    assert_eq!((t.len(), t.unproven()), (1000, 0));
    assert!(t.pressure().refused_full > 0);
}

/// Somebody who sends for longer than a flood's flow lives does not make way while others do; nor is anybody refused for it.
/// What the driver or a device has counted last comes with the flow's return, so it is kept until then; but not for ever.
#[test]
fn a_flow_that_is_elsewhere_neither_ages_nor_makes_way_before_it_is_back() {
    let aged = |back: Option<u32>| {
        let mut t = table(16, Timeouts::all(Duration::from_secs(2)));
        let (hit, _) = pass(&mut t, &packet(1, 2, (9, 9), UDP, 0), Tick(0));
        t.get_mut(hit.unwrap().idx).set_tier(Tier::Xdp);
        (0..3000).step_by(10).find(|now| {
            if back == Some(*now) {
                t.get_mut(hit.unwrap().idx).set_tier(Tier::Worker);
            }
            t.expire(Tick(*now), usize::MAX, |_, _| ());
            t.is_empty()
        })
    };
    let (never, soon) = (aged(None).unwrap(), aged(Some(700)).unwrap());
    assert!((1500..2000).contains(&never) && (700..900).contains(&soon), "{never} {soon}");

    let mut t = table(16, Timeouts::default());
    for n in 0..16 {
        let (hit, _) = pass(&mut t, &packet(1, 2, (n, 9), UDP, 0), Tick(0));
        t.get_mut(hit.unwrap().idx).set_tier(if n == 0 { Tier::Worker } else { Tier::Xdp });
    }
    assert_eq!(pass(&mut t, &packet(1, 2, (90, 9), UDP, 0), Tick(200)).1, ["0.0.0.1:0"], "the worker's own");
    assert_eq!(pass(&mut t, &packet(1, 2, (91, 9), UDP, 0), Tick(200)).0, Err(Refusal::TableFull));
}

#[test]
fn a_stream_outlives_a_flood() {
    let config = FlowConfig { capacity: 100, timeouts: Timeouts::default(), unproven_percent: 50 };
    let mut t = FlowTable::new(&config, Seed::fixed(7), Tick(0));
    let stream = packet(7, 8, (9, 10), UDP, 0);
    for i in 0..5000u32 {
        // A twentieth of a second each.
        let now = Tick(i / 20);
        if i % 20 == 0 {
            assert_eq!(pass(&mut t, &stream, now).0.unwrap().new, i == 0, "{i}");
        }
        // Slower at first, so that the stream is known when the share is used up.
        if i > 2500 || i % 100 == 0 {
            assert!(pass(&mut t, &packet(1 << 24 | i, 99, (1, 2), UDP, 0), now).0.is_ok());
        }
        t.expire(now, 10, |_, _| ());
    }
}

#[test]
fn fragments_that_came_before_their_first_are_counted_with_it() {
    let mut t = table(64, Timeouts::default());
    let frame = vec![0u8; 40];
    let later = Headers { l3_off: 0, l4_off: 20, end: 120, fragment: Fragment::Later, ..packet(1, 2, (0, 0), UDP, 0) };
    for _ in 0..3 {
        assert_eq!(t.prepare(&later, &frame, Tick(0)).unwrap_err(), Refusal::OrphanFragment);
    }
    let first = Headers { fragment: Fragment::First, sport: 5, dport: 6, ..later };
    let p = t.prepare(&first, &frame, Tick(1)).unwrap();
    assert_eq!((p.early().packets, p.early().bytes), (3, 360));
    let hit = t.lookup_or_insert(&p, Tick(1), |_, _| ()).unwrap();
    t.touch(hit, &p, 120, Tick(1));
    let p = t.prepare(&later, &frame, Tick(1)).unwrap();
    t.touch(hit, &p, 120, Tick(1));
    let f = t.get(hit.idx);
    assert_eq!((f.packets(hit.dir), f.bytes(hit.dir)), (5, 600));
    // What is of another datagram takes nobody's place.
    let mut other = frame.clone();
    for id in 0..=255 {
        other[5] = id;
        let _ = t.prepare(&later, &other, Tick(1));
    }
    assert!(t.prepare(&later, &frame, Tick(1)).is_ok());
}

#[test]
fn what_an_error_quotes_is_found_if_its_sender_may_have_sent_it() {
    let mut t = table(64, Timeouts::default());
    let syn = packet(1, 2, (5000, 80), TCP, SYN);
    let hit = pass(&mut t, &syn, Tick(0)).0.unwrap();
    let udp = pass(&mut t, &packet(1, 2, (53, 54), UDP, 0), Tick(0)).0.unwrap();
    // The error goes to the SYN's sender: its quotation turned round is a packet of the responder.
    let about = packet(2, 1, (80, 5000), TCP, 0);
    let seq = isn(&syn.src, 5000);
    let back = Direction::FromResponder;
    assert_eq!(t.quoted(Net::OUTSIDE, &about, Some(seq)), Some((hit.idx, back)));
    assert_eq!(t.quoted(Net::OUTSIDE, &about, Some(seq.wrapping_add(0x1000_0000))), None);
    assert_eq!(t.quoted(Net::OUTSIDE, &about, None), None);
    assert_eq!(t.quoted(Net::OUTSIDE, &packet(2, 1, (54, 53), UDP, 0), None), Some((udp.idx, back)));
    assert_eq!(t.quoted(Net::OUTSIDE, &packet(2, 1, (54, 55), UDP, 0), None), None);
    assert_eq!(t.len(), 2, "none is made");
    t.count_about(hit.idx, back, 56);
    assert_eq!((t.get(hit.idx).packets(back), t.get(hit.idx).last_seen()), (1, Tick(0)));
}
