//! The driver's flow table: what packets of its flows meet, and what is counted.

use super::*;
use softdpu_ebpf_common::walk::walk;
use std::collections::HashMap;

pub(super) const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub(super) fn key(frame: &[u8]) -> FlowKey {
    FlowKey::of(&walk(frame).unwrap(), STATION)
}

pub(super) fn v6_frame(next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    v6(next, hops, payload)
}

/// A forward out of loopback.
pub(super) fn forward() -> FlowVerdict {
    FlowVerdict::Forward { ifindex: LO, mtu: 1500, dst_mac: [2, 9, 9, 9, 9, 1], src_mac: [2, 9, 9, 9, 9, 2] }
}

/// Everything that is in no entry is dropped, so that it can be told from what an entry lets pass.
pub(super) fn dropping(capacity: u32) -> Steer {
    let mut steer = Steer::load(&LoadOptions { flow_capacity: capacity, ..LoadOptions::default() }).unwrap();
    steer.set_rules(&compile(&[SteerRule::any("all", RuleAction::Drop)]).unwrap()).unwrap();
    steer
}

fn tcp_flags(flags: u8) -> Vec<u8> {
    let mut segment = tcp(1000, 80);
    segment[13] = flags;
    v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 64, 0, &segment)
}

#[test]
fn flows_are_acted_on_before_the_rules() {
    if !root("flows") {
        return;
    }
    in_namespace(|| {
        let out = veth("sdf0", "sdf1");
        let mut steer = dropping(16);
        let frame = to_port(80);
        let id = steer.flow_insert(&key(&frame), FlowVerdict::Pass).unwrap();
        assert_eq!(steer.flows().find(&key(&frame)), Some(id));
        assert_eq!(action(&mut steer, &frame), XDP_PASS);
        assert_eq!(action(&mut steer, &to_port(81)), XDP_DROP, "another flow");
        assert!(matches!(
            steer.flow_insert(&key(&frame), FlowVerdict::Pass),
            Err(SteerError::Flow(FlowRefused::Known))
        ));
        assert_eq!(steer.flows().count(id), FlowCount { packets: 1, bytes: frame.len() as u64 - 14 });
        steer.flow_remove(id).unwrap();
        assert_eq!(action(&mut steer, &frame), XDP_DROP, "gone");
        steer.flows().settle(|_, last| assert_eq!(last.count, FlowCount::default()));

        let (dst_mac, src_mac) = ([2, 9, 9, 9, 9, 1], [2, 9, 9, 9, 9, 2]);
        let forward = FlowVerdict::Forward { ifindex: out, mtu: 1500, dst_mac, src_mac };
        let id = steer.flow_insert(&key(&frame), forward).unwrap();
        for ttl in [64, 2, 255] {
            let frame = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, ttl, 0, &udp(1000, 80, &[0; 22]));
            let run = steer.test_run(&frame, None, 1).unwrap();
            assert_eq!(run.action, XDP_REDIRECT);
            assert_eq!((&run.frame[..6], &run.frame[6..12]), (&dst_mac[..], &src_mac[..]));
            assert_eq!(run.frame[22], ttl - 1);
            assert_eq!(checksum(&run.frame[14..34]), 0, "ttl {ttl}: the header checksum holds");
            assert_eq!(run.frame[34..], frame[34..]);
        }
        let dying = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 1, 0, &udp(1000, 80, &[0; 22]));
        assert_eq!(action(&mut steer, &dying), XDP_DROP, "TTL 1 is the rules'");
        let big = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0, &udp(1000, 80, &[0; 1473]));
        assert_eq!(action(&mut steer, &big), XDP_DROP, "over the MTU is the rules'");
        let mut elsewhere = frame.clone();
        elsewhere[5] = 7;
        assert_eq!(action(&mut steer, &elsewhere), XDP_DROP, "for another station");

        steer.flow_remove(id).unwrap();
        let mut last = Vec::new();
        steer.flows().settle(|id, what| last.push((id, what.count)));
        assert_eq!(last, [(id, FlowCount { packets: 3, bytes: 3 * (frame.len() as u64 - 14) })]);
        assert_eq!(reason(&steer, Reason::FlowForward), Counter { packets: 3, bytes: 3 * frame.len() as u64 });
    });
}

/// Whoever decided on the flows is gone: the rules hold, and their `on_loss`.
#[test]
fn entries_end_with_the_first_socket() {
    if !root("entries_end") {
        return;
    }
    let mut steer = dropping(16);
    let socket = xsk();
    steer.set_socket(LO, 0, &socket).unwrap();
    steer.flow_insert(&key(&to_port(80)), FlowVerdict::Pass).unwrap();
    assert_eq!(action(&mut steer, &to_port(80)), XDP_PASS);
    steer.clear_socket(LO, 0).unwrap();
    assert_eq!(action(&mut steer, &to_port(80)), XDP_DROP);
}

/// Whatever the header checksum is before, it is right after.
#[test]
fn the_checksum_holds_for_every_ttl_and_sum() {
    if !root("the_checksum_holds") {
        return;
    }
    let mut steer = dropping(16);
    let frame = to_port(80);
    steer.flow_insert(&key(&frame), forward()).unwrap();
    for id in (0..=0xffffu32).step_by(97).chain(0xff00..0xff40) {
        let mut frame = frame.clone();
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let run = steer.test_run(&frame, None, 1).unwrap();
        assert_eq!((run.action, checksum(&run.frame[14..34])), (XDP_REDIRECT, 0), "identification {id:#x}");
    }
}

/// Nobody keeps the state of a connection that is dropped whole: its SYNs meet the entry too.
#[test]
fn a_dropped_connection_is_dropped_whatever_its_flags() {
    if !root("a_dropped_connection") {
        return;
    }
    let mut steer = dropping(16);
    steer.set_rules(&compile(&[SteerRule::any("all", RuleAction::Pass)]).unwrap()).unwrap();
    let id = steer.flow_insert(&key(&tcp_flags(0x02)), FlowVerdict::Drop).unwrap();
    for flags in [0x02, 0x10, 0x11, 0x14, 0x50] {
        assert_eq!(action(&mut steer, &tcp_flags(flags)), XDP_DROP, "flags {flags:#x}");
    }
    assert_eq!(steer.flows().count(id).packets, 5);
    assert_eq!(reason(&steer, Reason::FlowDrop).packets, 5);
}

/// What does not look exactly like a packet of the flow, and what the worker has to see, meets the rules and is not counted.
#[test]
fn the_worker_sees_what_it_has_to() {
    if !root("the_worker_sees") {
        return;
    }
    let mut steer = dropping(16);
    let plain = tcp_flags(0x10);
    let id = steer.flow_insert(&key(&plain), FlowVerdict::Pass).unwrap();
    for (flags, wanted) in
        [(0x10, XDP_PASS), (0x18, XDP_PASS), (0x11, XDP_DROP), (0x14, XDP_DROP), (0x02, XDP_DROP), (0x50, XDP_PASS)]
    {
        assert_eq!(action(&mut steer, &tcp_flags(flags)), wanted, "flags {flags:#x}");
    }
    assert_eq!(steer.flows().seen(id), 0x58);
    let mut option = plain.clone();
    option.splice(34..34, [1, 1, 1, 1]);
    option[14] = 0x46;
    option[17] += 4;
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut short_header = plain.clone();
    short_header[46] = 0x40;
    let mut long_header = plain.clone();
    long_header[46] = 0xf0;
    let mut more = plain.clone();
    more[20] = 0x20;
    let mut cut = plain.clone();
    cut[17] += 1;
    let tiny = plain[..53].to_vec();
    for (what, frame) in [
        ("options", option),
        ("a tag", tagged),
        ("data offset 4", short_header),
        ("data offset beyond the packet", long_header),
        ("a fragment", more),
        ("shorter than it says", cut.clone()),
        ("cut in the header", tiny),
    ] {
        assert_ne!(action(&mut steer, &frame), XDP_REDIRECT, "{what}");
    }
    assert_eq!(steer.flows().count(id), FlowCount { packets: 3, bytes: 3 * (plain.len() as u64 - 14) });
    assert_eq!(reason(&steer, Reason::FlowPass).packets, 3);
    let all: u64 = steer.reason_counters().unwrap().iter().map(|(_, c)| c.packets).sum();
    assert_eq!(all, 6 + 7, "each packet under one reason");
}

#[test]
fn both_families_and_transports() {
    if !root("both_families") {
        return;
    }
    let mut steer = dropping(16);
    let frames = [
        to_port(80),
        to_port(80)[..42].to_vec(),
        tcp_flags(0x10),
        v6_frame(17, 64, &udp(1000, 80, b"")),
        v6_frame(6, 64, &tcp(1000, 80)),
    ];
    let mut frames = frames.to_vec();
    // The shortest there is: no payload.
    frames[1][17] = 28;
    frames[1][39] = 8;
    frames[1][34] = 9;
    frames[1][24..26].fill(0);
    let sum = checksum(&frames[1][14..34]);
    frames[1][24..26].copy_from_slice(&sum.to_be_bytes());
    let ids: Vec<_> = frames.iter().map(|f| steer.flow_insert(&key(f), forward()).unwrap()).collect();
    for (frame, id) in frames.iter().zip(&ids) {
        let run = steer.test_run(frame, None, 1).unwrap();
        assert_eq!(run.action, XDP_REDIRECT, "{frame:?}");
        let ttl = if frame[12] == 8 { 22 } else { 21 };
        assert_eq!((run.frame[ttl], &run.frame[..6]), (63, &[2, 9, 9, 9, 9, 1][..]));
        assert_eq!(steer.flows().count(*id), FlowCount { packets: 1, bytes: frame.len() as u64 - 14 });
    }
}

/// Against the obvious model: entries come and go in a full table, and packets meet the right one.
#[test]
fn a_full_table_finds_what_it_has() {
    if !root("a_full_table") {
        return;
    }
    let mut steer = dropping(64);
    let frame = |n: u32| v4([10, 1, (n >> 8) as u8, n as u8], [10, 0, 0, 2], 17, 64, 0, &udp(7, 80, &[0; 22]));
    let mut there = HashMap::new();
    let mut random = 12345u32;
    for _ in 0..2000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = random >> 16 & 127;
        match there.remove(&n) {
            Some(id) => steer.flow_remove(id).unwrap(),
            None => {
                // Places of entries that left are free only after a grace period.
                if steer.flows().unsettled() > 8 {
                    steer.flows().settle(|_, _| {});
                }
                match steer.flow_insert(&key(&frame(n)), FlowVerdict::Pass) {
                    Ok(id) => {
                        there.insert(n, id);
                    }
                    Err(SteerError::Flow(FlowRefused::Full)) if there.len() == 64 => {}
                    Err(error) => panic!("{error}, {} entries", there.len()),
                }
            }
        }
        assert_eq!(steer.flows().len(), there.len());
        let asked = random >> 8 & 127;
        let wanted = if there.contains_key(&asked) { XDP_PASS } else { XDP_DROP };
        assert_eq!(action(&mut steer, &frame(asked)), wanted);
    }
    for n in 0..128 {
        let wanted = if there.contains_key(&n) { XDP_PASS } else { XDP_DROP };
        assert_eq!(action(&mut steer, &frame(n)), wanted, "{n}");
    }
}

/// ```text
///   sdo1 ── veth ── sdo0 [steer] ──forward──► sdp0 ── veth ── sdp1 [steer: NAPI, passes]
/// ```
#[test]
fn flows_leave_by_another_port() {
    if !root("flows_leave") {
        return;
    }
    in_namespace(|| {
        let (inside, out) = (veth("sdo0", "sdo1"), veth("sdp0", "sdp1"));
        let mut steer = load();
        let forward = FlowVerdict::Forward { ifindex: out, mtu: 1500, dst_mac: [2; 6], src_mac: [4; 6] };
        let id = steer.flow_insert(&key(&to_port(80)), forward).unwrap();
        steer.attach(inside, AttachMode::Native).unwrap();
        // A veth takes redirected frames only while its peer polls: with a program of its own, it does.
        let mut sink = load();
        sink.attach(index("sdp1"), AttachMode::Native).unwrap();

        let (to, from, up) = (Packets::on(index("sdo1")), Packets::on(index("sdp1")), Packets::on(inside));
        for dport in [80, 81, 80] {
            to.send(&to_port(dport));
        }
        let arrived = from.frames(|f| f[..12] == [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4]);
        assert_eq!(arrived.iter().map(|f| (f[22], f[37])).collect::<Vec<_>>(), [(63, 80), (63, 80)]);
        assert_eq!(up.destination_ports(), [81], "the rest goes up the stack");
        assert_eq!(reason(&steer, Reason::FlowForward).packets, 2);
        assert_eq!(steer.flows().count(id).packets, 2);
    });
}
