//! A thousand rules: right, and at what cost.

use super::*;
use softdpu_ebpf_common::walk::walk;
use std::net::{IpAddr, Ipv4Addr};

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
    let key = FlowKey::of(&h, super::flows::STATION);
    steer.flow_insert(&key, FlowVerdict::Drop).unwrap();
    println!("flow hit, drop: {:?}", time(&mut steer, &frame));
}
