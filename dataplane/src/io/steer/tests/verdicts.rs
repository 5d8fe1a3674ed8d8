//! What the loaded program does with a packet, by `BPF_PROG_TEST_RUN`.

use super::*;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

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
    struct Lines(Arc<Mutex<Vec<String>>>);
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
    let size = |steer: &Steer| program::size(xdp_fd(&steer.ebpf, PROGRAM_NAME).unwrap()).unwrap();
    assert!(size(&quiet) + 500 < size(&loud), "{} and {}", size(&quiet), size(&loud));
    let lines = Arc::default();
    for (steer, wanted) in [(&mut quiet, 0), (&mut loud, 1)] {
        let lines: Arc<Mutex<Vec<String>>> = Arc::clone(&lines);
        let mut logger = aya_log::EbpfLogger::init_with_logger(&mut steer.ebpf, Lines(Arc::clone(&lines))).unwrap();
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

/// `softdpu test` judges without a kernel: on sound and on damaged packets it says what the program does.
#[test]
fn judging_without_a_kernel_says_the_same() {
    if !root("judging") {
        return;
    }
    let mut steer = load();
    let rules = [
        rule("pass", 1, RuleAction::Pass),
        rule("drop", 2, RuleAction::Drop),
        SteerRule { protocol: Some(17), ..SteerRule::any("worker", RuleAction::Worker) },
    ];
    let tables = compile(&rules).unwrap();
    let judged = compile(&rules).unwrap();
    steer.set_rules(&tables).unwrap();
    let socket = xsk();
    steer.set_socket(LO, 0, &socket).unwrap();
    let sound = [
        to_port(1),
        to_port(2),
        to_port(3),
        v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 64, 0, &tcp(5, 2)),
        v6(58, 255, &[135, 0, 0, 0, 0, 0, 0, 0]),
        v6(17, 64, &udp(7, 1, b"six")),
        vec![0; 60],
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    };
    for round in 0..600 {
        let mut frame = sound[round % sound.len()].clone();
        if round >= sound.len() {
            for _ in 0..=random(3) {
                let at = random(frame.len());
                frame[at] = random(256) as u8;
            }
            let length = frame.len();
            frame.truncate(if random(4) == 0 { 14 + random(length - 13) } else { length });
        }
        let before = steer.reason_counters().unwrap();
        let done = action(&mut steer, &frame);
        let after = steer.reason_counters().unwrap();
        let counted = before.iter().zip(&after).find(|((_, a), (_, b))| a.packets != b.packets).unwrap().0.0;
        let said = judged.judge(&rules, LO, &frame);
        assert_eq!(said.reason, counted, "{frame:02x?}");
        let wanted = match counted {
            Reason::Worker => XDP_REDIRECT,
            Reason::RuleDrop => XDP_DROP,
            _ => XDP_PASS,
        };
        assert_eq!(done, wanted, "{counted:?}");
    }
}
