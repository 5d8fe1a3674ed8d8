//! The loaded program, by `BPF_PROG_TEST_RUN`, and its attachments, in network namespaces of their own. Need root.
#![allow(clippy::unwrap_used)]

use super::*;
use softdpu_ebpf_common::walk::walk;
use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{FromRawFd as _, OwnedFd},
    process::Command,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// `BPF_PROG_TEST_RUN` runs on loopback unless told otherwise.
const LO: u32 = 1;

/// Without root there is nothing to load into: says so.
fn root(test: &str) -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

fn load() -> Steer {
    Steer::load(&LoadOptions { flow_capacity: 16, ..LoadOptions::default() }).unwrap_or_else(|e| panic!("{e}"))
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, ttl: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, ttl, protocol, 0, 0];
    ip[2..4].copy_from_slice(&((20 + l4.len()) as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip.extend(src);
    ip.extend(dst);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(ip);
    f.extend(l4);
    f
}

fn v6(next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    f.extend((payload.len() as u16).to_be_bytes());
    f.extend([next, hops]);
    f.extend([0xfd; 16]);
    f.extend([0xfc; 16]);
    f.extend(payload);
    f
}

fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    [sport, dport, 8 + data.len() as u16, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .chain(data.iter().copied())
        .collect()
}

fn tcp(sport: u16, dport: u16) -> Vec<u8> {
    let mut t: Vec<u8> = [sport, dport].into_iter().flat_map(u16::to_be_bytes).collect();
    t.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    t
}

fn to_port(dport: u16) -> Vec<u8> {
    v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0, &udp(1000, dport, &[0; 22]))
}

fn rule(name: &str, dport: u16, action: RuleAction) -> SteerRule {
    SteerRule { ports: vec![dport..=dport], ..SteerRule::any(name, action) }
}

fn action(steer: &mut Steer, frame: &[u8]) -> u32 {
    steer.test_run(frame, None, 1).unwrap().action
}

fn reason(steer: &Steer, reason: Reason) -> Counter {
    steer.reason_counters().unwrap().iter().find(|(r, _)| *r == reason).unwrap().1
}

/// An AF_XDP socket; the map takes it without its being bound.
fn xsk() -> OwnedFd {
    // SAFETY: plain system call; the descriptor is checked and then owned here alone.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// Runs in a network namespace that ends with it. Children are born into it too.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let result = std::thread::spawn(|| {
        // SAFETY: changes this thread only.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        body();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn veth(name: &str, peer: &str) -> u32 {
    ip(&format!("link add {name} type veth peer name {peer}"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {peer} up"));
    index(name)
}

fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a string that ends.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0);
    index
}

#[test]
fn without_rules_everything_passes_and_is_counted() {
    if !root("without_rules") {
        return;
    }
    let mut steer = load();
    assert_eq!(action(&mut steer, &to_port(80)), XDP_PASS);
    let mut arp = vec![0u8; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(action(&mut steer, &arp), XDP_PASS);
    assert_eq!(reason(&steer, Reason::NoRule), Counter { packets: 1, bytes: to_port(80).len() as u64 });
    assert_eq!(reason(&steer, Reason::NotIp), Counter { packets: 1, bytes: 42 });
}

#[test]
fn worker_pass_drop_and_on_loss() {
    if !root("worker_pass_drop") {
        return;
    }
    let mut steer = load();
    let rules = [
        rule("pass", 1, RuleAction::Pass),
        rule("drop", 2, RuleAction::Drop),
        rule("worker-pass", 3, RuleAction::Worker),
        SteerRule { on_loss: OnLoss::Drop, ..rule("worker-drop", 4, RuleAction::Worker) },
    ];
    steer.set_rules(&compile(&rules).unwrap()).unwrap();
    let expect = |steer: &mut Steer, wanted: [u32; 5]| {
        assert_eq!([1, 2, 3, 4, 5].map(|port| action(steer, &to_port(port))), wanted);
    };
    expect(&mut steer, [XDP_PASS, XDP_DROP, XDP_PASS, XDP_DROP, XDP_PASS]);

    let socket = xsk();
    steer.set_socket(LO, 0, &socket).unwrap();
    expect(&mut steer, [XDP_PASS, XDP_DROP, XDP_REDIRECT, XDP_REDIRECT, XDP_PASS]);

    steer.clear_socket(LO, 0).unwrap();
    steer.clear_socket(LO, 0).unwrap();
    expect(&mut steer, [XDP_PASS, XDP_DROP, XDP_PASS, XDP_DROP, XDP_PASS]);

    // As after a crash: the socket closes, and its entry goes by itself.
    steer.set_socket(LO, 0, &socket).unwrap();
    drop(socket);
    expect(&mut steer, [XDP_PASS, XDP_DROP, XDP_PASS, XDP_DROP, XDP_PASS]);

    let size = to_port(1).len() as u64;
    let counts = steer.rule_counters().unwrap();
    assert_eq!(
        counts.iter().map(|c| (c.name.as_str(), c.packets)).collect::<Vec<_>>(),
        [("pass", 4), ("drop", 4), ("worker-pass", 4), ("worker-drop", 4)]
    );
    assert!(counts.iter().all(|c| c.bytes == c.packets * size));
    for (which, packets) in [
        (Reason::Worker, 2),
        (Reason::RulePass, 4),
        (Reason::RuleDrop, 4),
        (Reason::NoRule, 4),
        (Reason::NoSocketPass, 3),
        (Reason::NoSocketDrop, 3),
    ] {
        assert_eq!(reason(&steer, which), Counter { packets, bytes: packets * size }, "{which:?}");
    }
}

#[test]
fn neighbour_discovery_and_what_cannot_be_walked_pass() {
    if !root("neighbour_discovery") {
        return;
    }
    let mut steer = load();
    steer.set_rules(&compile(&[SteerRule::any("all", RuleAction::Drop)]).unwrap()).unwrap();
    for kind in 133..=137 {
        assert_eq!(action(&mut steer, &v6(58, 255, &[kind, 0, 0, 0, 0, 0, 0, 0])), XDP_PASS, "ICMPv6 {kind}");
    }
    assert_eq!(action(&mut steer, &v6(58, 254, &[135, 0, 0, 0, 0, 0, 0, 0])), XDP_DROP, "not from this link");
    assert_eq!(action(&mut steer, &v6(58, 255, &[128, 0, 0, 0, 0, 0, 0, 0])), XDP_DROP, "echo");
    assert_eq!(reason(&steer, Reason::NeighbourDiscovery).packets, 5);

    let mut cut = to_port(1);
    cut.truncate(30);
    let mut lies = to_port(1);
    lies[14] = 0x44;
    let mut short_udp = to_port(1);
    short_udp[39] = 5;
    let mut chain = Vec::new();
    for _ in 0..8 {
        chain.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    }
    let mut tags = vec![0u8; 12];
    for _ in 0..3 {
        tags.extend([0x81, 0, 0, 1]);
    }
    tags.extend([8, 0]);
    tags.extend(&to_port(1)[14..]);
    let cases = [
        (cut, Reason::Truncated),
        (lies, Reason::BadIpHeader),
        (short_udp, Reason::BadTransport),
        (v6(60, 64, &chain), Reason::TooManyExtensions),
        (tags, Reason::TooManyTags),
    ];
    for (frame, why) in &cases {
        assert_eq!(action(&mut steer, frame), XDP_PASS, "{why:?}");
        assert_eq!(reason(&steer, *why), Counter { packets: 1, bytes: frame.len() as u64 }, "{why:?}");
    }

    let mut strict = Steer::load(&LoadOptions { drop_malformed: true, ..LoadOptions::default() }).unwrap();
    for (frame, why) in &cases {
        assert_eq!(action(&mut strict, frame), XDP_DROP, "{why:?}");
    }
}

/// The program agrees with the plain matcher on a thousand rules, and keeps doing so when the rules are replaced.
#[test]
fn a_thousand_rules_match_like_the_plain_matcher() {
    if !root("a_thousand_rules") {
        return;
    }
    let mut steer = load();
    for generation in 0..3u64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ generation);
        let mut rules: Vec<_> = (0..1000).map(|i| random_rule(&mut random, i)).collect();
        for rule in &mut rules {
            rule.name = format!("{generation}{}", rule.name); // counters go on by name
        }
        steer.set_rules(&compile(&rules).unwrap()).unwrap();
        let mut expected = vec![0u64; rules.len()];
        let mut hits = 0;
        for _ in 0..1500 {
            let frame = random_packet(&mut random);
            let h = walk(&frame[..]).unwrap();
            let naive = rules.iter().position(|r| r.matches(LO, &h));
            let wanted = match naive.map(|i| &rules[i]) {
                None => XDP_PASS,
                Some(r) => match (r.action, r.on_loss) {
                    (RuleAction::Pass, _) | (RuleAction::Worker, OnLoss::Pass) => XDP_PASS,
                    (RuleAction::Drop, _) | (RuleAction::Worker, OnLoss::Drop) => XDP_DROP,
                },
            };
            assert_eq!(action(&mut steer, &frame), wanted, "{h:?}: {naive:?}");
            if let Some(i) = naive {
                expected[i] += 1;
                hits += 1;
            }
        }
        let used = expected.iter().filter(|n| **n > 0).count();
        assert!(hits > 300 && used > 100, "too easy: {hits} packets met {used} rules");
        for (counter, expected) in steer.rule_counters().unwrap().iter().zip(expected) {
            assert_eq!(counter.packets, expected, "packets of rule {}", counter.name);
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // xorshift64*: repeatable, and good enough to pick rules
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

fn random_rule(r: &mut Random, i: usize) -> SteerRule {
    let mut rule =
        SteerRule::any(format!("g{i}"), [RuleAction::Pass, RuleAction::Drop, RuleAction::Worker][r.below(3) as usize]);
    rule.on_loss = if r.below(2) == 0 { OnLoss::Pass } else { OnLoss::Drop };
    let prefix = |r: &mut Random| {
        let address = Ipv4Addr::new(10, r.below(4) as u8, r.below(8) as u8, r.below(8) as u8);
        (IpAddr::V4(address), [22, 24, 29, 32, 32, 32][r.below(6) as usize])
    };
    if r.below(40) != 0 {
        rule.from.push(prefix(r));
    }
    if r.below(40) != 0 {
        rule.to.push(prefix(r));
    }
    if r.below(3) != 0 {
        rule.protocol = Some([6, 17, 50, 1][r.below(4) as usize]);
    }
    if r.below(2) == 0 {
        let first = r.below(100) as u16;
        rule.ports.push(first..=first + r.below(30) as u16);
    }
    if r.below(20) == 0 {
        // The addresses of `v6`, or not.
        let prefix = |first: u16| (IpAddr::V6([first, 0xfcfc, 0xfcfc, 0xfcfc, 0, 0, 0, 0].into()), 64);
        rule.from = vec![(IpAddr::V6([0xfdfd; 8].into()), [16, 63, 128][r.below(3) as usize])];
        rule.to = vec![prefix(if r.below(3) == 0 { 0xfcfd } else { 0xfcfc })];
    }
    rule.fragments = r.below(2) == 0;
    if r.below(8) == 0 {
        rule.source_ports.push(0..=r.below(100) as u16);
    }
    if r.below(6) == 0 {
        rule.interfaces.push(if r.below(3) == 0 { LO + 7 } else { LO });
    }
    rule
}

/// Half of the packets carry a tag.
fn random_packet(r: &mut Random) -> Vec<u8> {
    let mut frame = random_untagged(r);
    if r.below(2) == 0 {
        frame.splice(12..12, [0x81, 0, 0, r.below(5) as u8]);
    }
    frame
}

fn random_untagged(r: &mut Random) -> Vec<u8> {
    let mut address = || [10, r.below(4) as u8, r.below(8) as u8, r.below(8) as u8];
    let (src, dst) = (address(), address());
    let (sport, dport) = (r.below(120) as u16, r.below(140) as u16);
    match r.below(7) {
        6 => v6(6, 64, &tcp(sport, dport)),
        0 | 1 => v4(src, dst, 6, 64, 0, &tcp(sport, dport)),
        2 => v4(src, dst, 17, 64, 0, &udp(sport, dport, b"x")),
        3 => v4(src, dst, 17, 64, 0, &udp(4500, dport, &[0, 0, 1, 0, 0, 0, 0, 1])),
        4 => v4(src, dst, 50, 64, 0, &[0, 0, 1, 0, 0, 0, 0, 1]),
        _ => v4(src, dst, 17, 64, 0x0010, &[0; 16]),
    }
}

#[test]
fn replaced_rules_act_at_once_and_counters_go_on_by_name() {
    if !root("replaced_rules") {
        return;
    }
    let mut steer = load();
    let first = [rule("gone", 1, RuleAction::Drop), rule("kept", 2, RuleAction::Drop)];
    let second = [rule("kept", 2, RuleAction::Pass), rule("new", 3, RuleAction::Drop)];
    let run = |steer: &mut Steer| [1, 2, 3].map(|port| action(steer, &to_port(port)));
    steer.set_rules(&compile(&first).unwrap()).unwrap();
    assert_eq!(run(&mut steer), [XDP_DROP, XDP_DROP, XDP_PASS]);
    for _ in 0..3 {
        steer.set_rules(&compile(&second).unwrap()).unwrap();
        assert_eq!(run(&mut steer), [XDP_PASS, XDP_PASS, XDP_DROP]);
    }
    let counts: Vec<_> = steer.rule_counters().unwrap().into_iter().map(|c| (c.name, c.packets)).collect();
    assert_eq!(counts, [("kept".to_owned(), 4), ("new".to_owned(), 3)]);
    steer.set_rules(&compile(&[]).unwrap()).unwrap();
    assert_eq!(run(&mut steer), [XDP_PASS; 3]);
}

#[test]
fn prefixes_of_old_rules_leave_the_tries() {
    if !root("prefixes") {
        return;
    }
    let mut steer = load();
    let with = |prefix: [u8; 4]| SteerRule {
        from: vec![(IpAddr::V4(prefix.into()), 24)],
        to: vec![(IpAddr::V4([10, 0, 0, 0].into()), 8)],
        ..SteerRule::any("r", RuleAction::Drop)
    };
    for i in 0..5u8 {
        steer.set_rules(&compile(&[with([192, 168, i, 0])]).unwrap()).unwrap();
    }
    assert_eq!(steer.maps.from.keys().count(), 2, "the half in use and the one before");
    assert_eq!(steer.maps.to.keys().count(), 2);
    let from = |i| v4([192, 168, i, 9], [10, 0, 0, 2], 17, 64, 0, &udp(1, 2, b""));
    assert_eq!([3, 4].map(|i| action(&mut steer, &from(i))), [XDP_PASS, XDP_DROP]);
}

#[test]
fn the_debug_log_tells_decisions_and_costs_nothing_when_off() {
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<String>>>);
    impl ::log::Log for Lines {
        fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &::log::Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }
    if !root("the_debug_log") {
        return;
    }
    let mut quiet = load();
    let mut loud = Steer::load(&LoadOptions { debug: true, ..LoadOptions::default() }).unwrap();
    let size = |steer: &Steer| program::size(xdp_fd(&steer.ebpf).unwrap()).unwrap();
    assert!(size(&quiet) + 500 < size(&loud), "{} and {}", size(&quiet), size(&loud));
    let lines = std::sync::Arc::default();
    for (steer, wanted) in [(&mut quiet, 0), (&mut loud, 1)] {
        let lines: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::clone(&lines);
        let mut logger =
            aya_log::EbpfLogger::init_with_logger(&mut steer.ebpf, Lines(std::sync::Arc::clone(&lines))).unwrap();
        action(steer, &to_port(443));
        logger.flush();
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), wanted);
        assert!(lines.iter().all(|l| l == "action 2 reason 3 l3 4 proto 17 ports 1000 443"), "{lines:?}");
    }
}

/// Larger than one buffer: headers in the first, the rest counted though not read.
#[test]
fn frames_of_several_buffers_are_steered_and_counted_whole() {
    if !root("frames_of_several_buffers") {
        return;
    }
    let mut steer = load();
    steer.set_rules(&compile(&[rule("jumbo", 80, RuleAction::Drop)]).unwrap()).unwrap();
    let mut frame = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0, &udp(1000, 80, &[7; 8900]));
    assert_eq!(action(&mut steer, &frame), XDP_DROP);
    let counter = &steer.rule_counters().unwrap()[0];
    assert_eq!((counter.packets, counter.bytes), (1, frame.len() as u64));
    frame.truncate(8000);
    assert_eq!(action(&mut steer, &frame), XDP_PASS, "the IP header tells more than there is");
    assert_eq!(reason(&steer, Reason::Truncated).packets, 1);
}

#[test]
fn later_fragments_follow_the_rules_that_take_them() {
    if !root("later_fragments") {
        return;
    }
    let mut steer = load();
    let fragment = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0x0010, &[0; 32]);
    for (fragments, wanted) in [(false, XDP_PASS), (true, XDP_DROP)] {
        let rule = SteerRule { fragments, ..rule("r", 80, RuleAction::Drop) };
        steer.set_rules(&compile(&[rule]).unwrap()).unwrap();
        assert_eq!(action(&mut steer, &fragment), wanted);
        assert_eq!(action(&mut steer, &to_port(81)), XDP_PASS);
    }
}

#[test]
fn flows_are_acted_on_before_the_rules() {
    if !root("flows") {
        return;
    }
    in_namespace(|| {
        let out = veth("sdf0", "sdf1");
        let mut steer = load();
        steer.set_rules(&compile(&[SteerRule::any("all", RuleAction::Drop)]).unwrap()).unwrap();
        let frame = to_port(80);
        let h = walk(&frame[..]).unwrap();
        let key =
            FlowKey { src: h.src, dst: h.dst, sport: h.sport, dport: h.dport, protocol: h.proto, version: 4, vlan: 0 };
        steer.flow_insert(&key, FlowRule::Pass).unwrap();
        assert_eq!(action(&mut steer, &frame), XDP_PASS);
        assert_eq!(action(&mut steer, &to_port(81)), XDP_DROP, "another flow");

        let (dst_mac, src_mac) = ([2, 9, 9, 9, 9, 1], [2, 9, 9, 9, 9, 2]);
        let forward = FlowRule::Forward { ifindex: out, mtu: 1500, dst_mac, src_mac };
        steer.flow_insert(&key, forward).unwrap();
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

        let counted = steer.flow_remove(&key).unwrap().unwrap();
        assert_eq!(counted, Counter { packets: 3, bytes: 3 * frame.len() as u64 });
        assert_eq!(steer.flow_remove(&key).unwrap(), None);
        assert_eq!(action(&mut steer, &frame), XDP_DROP, "gone");
    });
}

#[test]
fn rules_name_ports_and_sockets_belong_to_one_port() {
    if !root("rules_name_ports") {
        return;
    }
    in_namespace(|| {
        let (a, b) = (veth("sda0", "sda1"), veth("sdb0", "sdb1"));
        let mut steer = load();
        let only_a =
            SteerRule { interfaces: vec![a], on_loss: OnLoss::Drop, ..SteerRule::any("a", RuleAction::Worker) };
        let rest = SteerRule::any("rest", RuleAction::Worker);
        steer.set_rules(&compile(&[only_a, rest]).unwrap()).unwrap();
        for ifindex in [a, b] {
            assert_eq!(steer.attach(ifindex, AttachMode::Native).unwrap().mode, AttachedMode::Native);
        }
        let run = |steer: &mut Steer, ifindex| steer.test_run(&to_port(1), Some((ifindex, 0)), 1).unwrap().action;
        assert_eq!([run(&mut steer, a), run(&mut steer, b)], [XDP_DROP, XDP_PASS]);
        let socket = xsk();
        steer.set_socket(a, 0, &socket).unwrap();
        assert_eq!([run(&mut steer, a), run(&mut steer, b)], [XDP_REDIRECT, XDP_PASS]);
        steer.set_socket(b, 0, &socket).unwrap();
        steer.clear_socket(a, 0).unwrap();
        assert_eq!([run(&mut steer, a), run(&mut steer, b)], [XDP_DROP, XDP_REDIRECT]);
        assert!(matches!(steer.set_socket(a, 64, &socket), Err(SteerError::QueueOutOfRange { queue: 64 })));
    });
}

#[test]
fn attaches_natively_and_leaves_nothing() {
    if !root("attaches_natively") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdn0", "sdn1");
        ip("link set sdn0 mtu 9000");
        ip("link set sdn1 mtu 9000");
        let mut steer = load();
        let attachment = steer.attach(port, AttachMode::Auto).unwrap();
        assert_eq!(attachment, Attachment { mode: AttachedMode::Native, native_refused: None, replaced: None });
        let there = existing_program(port).unwrap().unwrap();
        assert_eq!((there.id, there.name.as_str(), there.mode), (steer.id(), PROGRAM_NAME, AttachedMode::Native));
        assert!(there.is_steer());
        drop(steer);
        assert_eq!(existing_program(port).unwrap(), None);

        let mut steer = load();
        assert_eq!(steer.attach(port, AttachMode::Generic).unwrap().mode, AttachedMode::Generic);
        assert_eq!(existing_program(port).unwrap().unwrap().mode, AttachedMode::Generic);
        steer.detach(port).unwrap();
        assert_eq!(existing_program(port).unwrap(), None);

        // Loopback's driver knows no XDP: generic is the fallback, and says why.
        let attachment = steer.attach(LO, AttachMode::Auto).unwrap();
        assert_eq!(attachment.mode, AttachedMode::Generic);
        assert!(attachment.native_refused.unwrap().contains("native"));
        let refused = load().attach(index("sdn1"), AttachMode::Native);
        assert!(refused.is_ok());
        drop(steer);
        assert_eq!(existing_program(LO).unwrap(), None);
        let error = load().attach(LO, AttachMode::Native).unwrap_err().to_string();
        assert!(error.contains("no native XDP"), "{error}");
    });
}

#[test]
fn a_dead_instance_is_replaced_and_its_rules_hold_till_then() {
    if !root("a_dead_instance") {
        return;
    }
    in_namespace(|| {
        let port = veth("sds0", "sds1");
        let mut first = load();
        first.attach(port, AttachMode::Auto).unwrap();
        let dead = first.id();
        first.leave_attached();
        assert_eq!(existing_program(port).unwrap().unwrap().id, dead, "it outlives its process");

        let mut second = load();
        let attachment = second.attach(port, AttachMode::Auto).unwrap();
        assert_eq!((attachment.replaced, attachment.mode), (Some(dead), AttachedMode::Native));
        assert_eq!(existing_program(port).unwrap().unwrap().id, second.id());
        assert_eq!(second.attach(port, AttachMode::Auto).unwrap().replaced, None, "attached already");

        second.leave_attached();
        let mut third = load();
        assert_eq!(third.attach(port, AttachMode::Generic).unwrap().mode, AttachedMode::Generic, "the other mode");
        third.leave_attached();
        assert!(detach_stale(port).unwrap());
        assert!(!detach_stale(port).unwrap());
        assert_eq!(existing_program(port).unwrap(), None);
    });
}

#[test]
fn a_replaced_instance_does_not_detach_its_successor() {
    if !root("a_replaced_instance") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdr0", "sdr1");
        let mut old = load();
        old.attach(port, AttachMode::Auto).unwrap();
        let mut new = load();
        new.attach(port, AttachMode::Auto).unwrap();
        drop(old);
        assert_eq!(existing_program(port).unwrap().unwrap().id, new.id());
    });
}

#[test]
fn somebody_elses_program_is_named_and_stays() {
    if !root("somebody_elses") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdx0", "sdx1");
        let (id, _program) = foreign_program(port);
        let error = load().attach(port, AttachMode::Auto).unwrap_err();
        assert!(matches!(&error, SteerError::Foreign { name, .. } if name == "other_xdp"), "{error}");
        assert!(error.to_string().contains("`other_xdp`"), "{error}");
        assert!(!detach_stale(port).unwrap());
        assert_eq!(existing_program(port).unwrap().unwrap().id, id);
    });
}

/// Loads `return XDP_PASS` under another name and attaches it.
fn foreign_program(ifindex: u32) -> (u32, OwnedFd) {
    // mov r0, 2; exit
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"MIT";
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        version: u32,
        flags: u32,
        name: [u8; 16],
    }
    let attr = Attr {
        kind: 6,
        count: 2,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        version: 0,
        flags: 0,
        name: *b"other_xdp\0\0\0\0\0\0\0",
    };
    // SAFETY: the attribute and what it points to are valid during the call; the descriptor is owned here alone.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, 5, &raw const attr, size_of::<Attr>());
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    Netlink::open().unwrap().attach(ifindex, fd.as_fd(), AttachedMode::Native, None).unwrap();
    (program::id(fd.as_fd()).unwrap(), fd)
}

/// Not a test of right or wrong: `cargo test --release steer_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn steer_cost() {
    if !root("steer_cost") {
        return;
    }
    let time = |steer: &mut Steer, frame: &[u8]| {
        let mut runs: Vec<_> = (0..7).map(|_| steer.test_run(frame, None, 2_000_000).unwrap().time).collect();
        runs.sort();
        runs[runs.len() / 2]
    };
    let frame = v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 64, 0, &tcp(1000, 80));
    let mut steer = load();
    println!("no rules, pass: {:?}", time(&mut steer, &frame));
    for n in [10, 1000] {
        let mut random = Random(7);
        let mut rules: Vec<_> = (0..n - 1).map(|i| random_rule(&mut random, i)).collect();
        for rule in &mut rules {
            rule.ports = vec![1000..=2000]; // none matches: the last rule does
        }
        rules.push(SteerRule::any("last", RuleAction::Worker));
        steer.set_rules(&compile(&rules).unwrap()).unwrap();
        println!("{n} rules, last matches, no socket: {:?}", time(&mut steer, &frame));
        let socket = xsk();
        steer.set_socket(LO, 0, &socket).unwrap();
        println!("{n} rules, last matches, redirect: {:?}", time(&mut steer, &frame));
    }
    let h = walk(&frame[..]).unwrap();
    let key = FlowKey { src: h.src, dst: h.dst, sport: 1000, dport: 80, protocol: 6, version: 4, vlan: 0 };
    steer.flow_insert(&key, FlowRule::Drop).unwrap();
    println!("flow hit, drop: {:?}", time(&mut steer, &frame));
}
