//! The tables must say what the rules say: for random rules and packets, both are asked.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use softdpu_ebpf_common::maps::{OnLoss, RuleAction};
use std::net::{Ipv4Addr, Ipv6Addr};

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Few bits vary, so prefixes contain each other and packets hit them.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0u8..2, 0u8..4, prop_oneof![Just(0u8), Just(255), Just(7)]).prop_map(|(b, c, d)| v4(10, b, c, d)),
        1 => (0u16..2, 0u16..3).prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::new(0xfd00, a, 0, 0, 0, 0, 0, b))),
    ]
}

fn prefix() -> impl Strategy<Value = (IpAddr, u8)> {
    (address(), prop_oneof![Just(0u8), Just(8), Just(15), Just(16), Just(23), Just(24), Just(31), Just(32), 0u8..=128])
        .prop_map(|(a, length)| (a, if a.is_ipv4() { length.min(32) } else { length }))
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..8, Just(4500), Just(443), Just(65_535), any::<u16>()]
}

fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
    (port(), port()).prop_map(|(a, b)| a.min(b)..=a.max(b))
}

fn number() -> impl Strategy<Value = u8> {
    prop_oneof![Just(6u8), Just(17), Just(50), Just(1), Just(58), Just(132), any::<u8>()]
}

fn rule() -> impl Strategy<Value = SteerRule> {
    use proptest::collection::vec;
    (
        vec(1u32..4, 0..2),
        vec(prefix(), 0..3),
        vec(prefix(), 0..3),
        proptest::option::of(number()),
        vec(range(), 0..3),
        vec(range(), 0..3),
        any::<bool>(),
    )
        .prop_map(|(interfaces, from, to, protocol, source_ports, ports, fragments)| SteerRule {
            interfaces,
            from,
            to,
            protocol,
            source_ports,
            ports,
            fragments,
            ..SteerRule::any("", RuleAction::Worker)
        })
}

fn rules(max: usize) -> impl Strategy<Value = Vec<SteerRule>> {
    proptest::collection::vec(rule(), 0..max).prop_map(|mut rules| {
        for (i, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("r{i}");
        }
        rules
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    (address(), address(), number(), port(), port(), 0u8..6, proptest::option::of(1u32..3)).prop_map(
        |(src, dst, proto, sport, dport, fragment, spi)| {
            let fragment = match fragment {
                0 => Fragment::Later,
                1 => Fragment::First,
                _ => Fragment::No,
            };
            let (src, l3) = bytes_of(src);
            let spi = if proto == 50 || (proto == 17 && fragment != Fragment::Later) { spi.unwrap_or(0) } else { 0 };
            Headers { src, dst: bytes_of(dst).0, l3, proto, sport, dport, fragment, spi, ..Headers::default() }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_say_what_the_first_matching_rule_says(
        rules in rules(90),
        packets in proptest::collection::vec((headers(), 0u32..5), 40),
    ) {
        let tables = compile(&rules).unwrap();
        for (h, ifindex) in packets {
            let naive = rules.iter().position(|r| r.matches(ifindex, &h));
            prop_assert_eq!(tables.evaluate(ifindex, &h), naive, "{:?} on {}", h, ifindex);
        }
    }
}

#[test]
fn first_match_wins_and_prefixes_nest() {
    let rule = |name: &str, prefix: (IpAddr, u8), port: u16| SteerRule {
        from: vec![prefix],
        ports: vec![port..=port],
        ..SteerRule::any(name, RuleAction::Worker)
    };
    let rules = [
        rule("wide", (v4(10, 0, 0, 0), 8), 80),
        rule("narrow", (v4(10, 1, 0, 0), 16), 443),
        rule("all", (v4(0, 0, 0, 0), 0), 22),
    ];
    let tables = compile(&rules).unwrap();
    let packet = |src: IpAddr, dport: u16| Headers {
        src: bytes_of(src).0,
        l3: bytes_of(src).1,
        proto: 6,
        dport,
        ..Headers::default()
    };
    assert_eq!(tables.evaluate(1, &packet(v4(10, 1, 2, 3), 80)), Some(0), "the longest prefix knows those around it");
    assert_eq!(tables.evaluate(1, &packet(v4(10, 1, 2, 3), 443)), Some(1));
    assert_eq!(tables.evaluate(1, &packet(v4(10, 2, 2, 3), 443)), None);
    assert_eq!(tables.evaluate(1, &packet(v4(11, 2, 2, 3), 22)), Some(2));
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    assert_eq!(tables.evaluate(1, &packet(six, 22)), None, "0.0.0.0/0 is IPv4 only");
}

#[test]
fn the_last_port_belongs_to_its_range() {
    let all = SteerRule { ports: vec![0..=65_535], ..SteerRule::any("all", RuleAction::Drop) };
    let high = SteerRule { ports: vec![65_535..=65_535], ..SteerRule::any("high", RuleAction::Drop) };
    let tables = compile(&[high, all]).unwrap();
    let packet = |dport| Headers { l3: L3::V4, proto: 17, dport, ..Headers::default() };
    assert_eq!([0, 65_534, 65_535].map(|p| tables.evaluate(1, &packet(p))), [Some(1), Some(1), Some(0)]);
}

#[test]
fn what_cannot_be_is_refused() {
    let any = |name: &str| SteerRule { on_loss: OnLoss::Drop, ..SteerRule::any(name, RuleAction::Pass) };
    let error = |rules: &[SteerRule]| compile(rules).err().unwrap().to_string();
    let many: Vec<_> = (0..=MAX_RULES).map(|i| any(&i.to_string())).collect();
    assert!(compile(&many[..MAX_RULES]).is_ok());
    assert!(error(&many).contains("1025 steering rules"));
    assert!(error(&[any("x"), any("x")]).contains("two steering rules are named `x`"));
    let long = SteerRule { to: vec![(v4(1, 2, 3, 4), 33)], ..any("long") };
    assert!(error(&[long]).contains("33 is longer than the address 1.2.3.4"));
    #[allow(clippy::reversed_empty_ranges)]
    let empty = SteerRule { ports: vec![5..=4], ..any("empty") };
    assert!(error(&[empty]).contains("port range 5-4 is empty"));
}

#[test]
fn a_thousand_rules_of_all_kinds_fit() {
    let rules: Vec<_> = (0..MAX_RULES)
        .map(|i| SteerRule {
            from: vec![(v4(10, (i >> 8) as u8, i as u8, 0), 24)],
            to: vec![(v4(172, 16, (i >> 2) as u8, (i as u8) << 6), 26)],
            source_ports: vec![(i as u16)..=(i as u16 + 2000)],
            ports: vec![(i as u16 * 3)..=(i as u16 * 3 + 1)],
            protocol: Some(if i % 2 == 0 { 6 } else { 17 }),
            ..SteerRule::any(format!("r{i}"), RuleAction::Worker)
        })
        .collect();
    assert!(compile(&rules).is_ok());
}
