#![allow(clippy::unwrap_used)]
use super::super::model::{Mark, Selector};
use super::super::testing::{ip, policy, selector, state, template};
use super::*;
use crate::wire::prefix::Prefix;
use proptest::prelude::*;

fn spd(policies: Vec<Policy>, states: Vec<State>) -> Spd {
    Spd::new(&Snapshot {
        states: states.into_iter().map(Arc::new).collect(),
        policies: policies.into_iter().map(Arc::new).collect(),
        defaults: Defaults::default(),
    })
}

fn flow(src: &str, dst: &str) -> Flow {
    Flow::new(ip(src), ip(dst), 17, 1000, 2000)
}

fn tunnel() -> Vec<Template> {
    vec![template("192.0.2.1", "192.0.2.2", 7)]
}

fn sealed_by(out: Out<'_>) -> u32 {
    match out {
        Out::Seal { state, .. } => state.spi(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lower_priority_wins_then_the_older() {
    let wide = selector("10.0.0.0/8", "10.0.0.0/8");
    let narrow = selector("10.1.0.0/16", "10.2.0.0/16");
    let block = |mut p: Policy| {
        p.action = Action::Block;
        p
    };
    let db = spd(
        vec![
            policy(Direction::Out, 1, 100, wide, vec![]),
            block(policy(Direction::Out, 2, 100, narrow, vec![])),
            block(policy(Direction::Out, 3, 50, selector("10.9.0.0/16", "0.0.0.0/0"), vec![])),
        ],
        vec![],
    );
    let winner = |src| db.policy(Direction::Out, &flow(src, "10.2.0.1")).map(|p| p.key.index >> 3);
    assert_eq!(winner("10.1.0.1"), Some(1), "the older, though the other is narrower");
    assert_eq!(winner("10.9.0.1"), Some(3), "the lower number, though younger");
    assert_eq!(winner("11.0.0.1"), None);
    assert_eq!(db.policy(Direction::In, &flow("10.1.0.1", "10.2.0.1")), None);
    assert!(matches!(db.out(&flow("10.9.0.1", "10.2.0.1")), Out::Block(_)));
    assert!(matches!(db.out(&flow("10.1.0.1", "10.2.0.1")), Out::Clear(_)));
    assert!(matches!(db.out(&flow("11.1.0.1", "10.2.0.1")), Out::NoPolicy(Action::Allow)));
}

#[test]
fn the_youngest_state_that_is_not_dying_seals() {
    let policies = || vec![policy(Direction::Out, 1, 1, selector("10.1.0.0/16", "10.2.0.0/16"), tunnel())];
    let made = |spi, added, age, dying| {
        let mut s = state("192.0.2.1", "192.0.2.2", spi, 7);
        (s.used.added, s.age, s.dying) = (added, age, dying);
        s
    };
    let out = |states: Vec<State>| sealed_by(spd(policies(), states).out(&flow("10.1.0.1", "10.2.0.1")));
    assert_eq!(out(vec![made(1, 100, 1, false), made(2, 200, 2, false)]), 2);
    assert_eq!(out(vec![made(1, 100, 1, false), made(2, 200, 2, true)]), 1);
    assert_eq!(out(vec![made(1, 100, 9, true), made(2, 200, 2, true)]), 2);
    assert_eq!(out(vec![made(1, 100, 9, false), made(2, 100, 2, false)]), 1, "in the same second the later one");
}

#[test]
fn only_states_that_fit_the_template() {
    let policies = |change: &dyn Fn(&mut Policy)| {
        let mut p = policy(Direction::Out, 1, 1, selector("10.1.0.0/16", "10.2.0.0/16"), tunnel());
        change(&mut p);
        vec![p]
    };
    let good = || state("192.0.2.1", "192.0.2.2", 5, 7);
    let ask = |p: &dyn Fn(&mut Policy), s: &dyn Fn(&mut State)| {
        let mut one = good();
        s(&mut one);
        matches!(spd(policies(p), vec![one]).out(&flow("10.1.0.1", "10.2.0.1")), Out::Seal { .. })
    };
    assert!(ask(&|_| {}, &|_| {}));
    assert!(!ask(&|_| {}, &|s| s.reqid = 8));
    assert!(!ask(&|_| {}, &|s| s.key.dst = ip("192.0.2.3")));
    assert!(!ask(&|_| {}, &|s| s.src = ip("192.0.2.3")));
    assert!(ask(&|p| p.templates[0].src = ip("0.0.0.0"), &|_| {}));
    assert!(!ask(&|_| {}, &|s| s.mode = Mode::Transport));
    assert!(!ask(&|_| {}, &|s| s.flags.wildcard_receive = true));
    assert!(!ask(&|_| {}, &|s| s.unsupported = Some(Unsupported::Larval)));
    assert!(!ask(&|p| p.templates[0].spi = 6, &|_| {}));
    assert!(ask(&|p| p.templates[0].spi = 5, &|_| {}));
    assert!(!ask(&|_| {}, &|s| s.if_id = 3));
    assert!(!ask(&|_| {}, &|s| s.key.mark = Mark { value: 1, mask: 1 }));
    assert!(!ask(&|_| {}, &|s| s.selector = Some(selector("10.1.0.2/32", "0.0.0.0/0"))));
    assert!(ask(&|_| {}, &|s| s.selector = Some(selector("10.1.0.0/24", "0.0.0.0/0"))));
}

#[test]
fn what_the_kernel_must_do() {
    let with = |templates, states| {
        let db = spd(vec![policy(Direction::Out, 1, 1, selector("10.1.0.0/16", "10.2.0.0/16"), templates)], states);
        match db.out(&flow("10.1.0.1", "10.2.0.1")) {
            Out::Kernel { why, .. } => format!("{why:?}"),
            Out::NoState(_) => "no state".into(),
            Out::Clear(_) => "clear".into(),
            Out::Seal { .. } => "seal".into(),
            other => format!("{other:?}"),
        }
    };
    let mut cbc = state("192.0.2.1", "192.0.2.2", 1, 7);
    cbc.unsupported = Some(Unsupported::Cipher("cbc(aes)".into()));
    assert!(with(tunnel(), vec![cbc]).contains("cbc(aes)"));
    assert_eq!(with(tunnel(), vec![]), "no state");
    // IPComp as strongSwan asks for it: optional, innermost.
    let comp = Template { protocol: 108, optional: true, ..template("192.0.2.1", "192.0.2.2", 7) };
    let esp = Template { mode: Mode::Transport, ..template("0.0.0.0", "0.0.0.0", 7) };
    let mut inner = state("192.0.2.1", "192.0.2.2", 2, 7);
    inner.key.protocol = 108;
    let mut outer = state("192.0.2.1", "192.0.2.2", 3, 7);
    outer.mode = Mode::Transport;
    assert_eq!(with(vec![comp, esp], vec![inner, outer.clone()]), "Bundle(2)");
    assert_eq!(with(vec![comp], vec![]), "clear", "an optional transform without state is left out");
    assert_eq!(with(vec![comp, esp], vec![outer]), "no state", "then ESP is between the hosts themselves");
}

#[test]
fn what_was_opened_must_be_what_the_policy_wants() {
    let inbound = selector("10.2.0.0/16", "10.1.0.0/16");
    let back = vec![template("192.0.2.2", "192.0.2.1", 7)];
    let db = spd(
        vec![
            policy(Direction::In, 1, 10, inbound, back.clone()),
            policy(Direction::Forward, 2, 10, inbound, back),
            policy(Direction::In, 3, 5, selector("10.2.9.0/24", "10.1.0.0/16"), vec![]),
        ],
        vec![],
    );
    let from = state("192.0.2.2", "192.0.2.1", 9, 7);
    let packet = flow("10.2.0.1", "10.1.0.1");
    let check = |flow: &Flow, via: &[&State]| db.check(Direction::In, flow, via).map(|p| p.map(|p| p.key.index >> 3));
    assert_eq!(check(&packet, &[&from]), Ok(Some(1)));
    assert_eq!(db.check(Direction::Forward, &packet, &[&from]).unwrap().unwrap().key.direction, Direction::Forward);
    assert_eq!(check(&packet, &[]), Err(Refused::Template), "in clear");
    let other = State { reqid: 8, ..from.clone() };
    assert_eq!(check(&packet, &[&other]), Err(Refused::Template), "by another's tunnel");
    let elsewhere = State { src: ip("192.0.2.3"), ..from.clone() };
    assert_eq!(check(&packet, &[&elsewhere]), Err(Refused::Template), "from another peer");
    let transport = State { mode: Mode::Transport, ..from.clone() };
    assert_eq!(check(&packet, &[&transport]), Err(Refused::Template));
    // No policy: clear is fine, a tunnel is not.
    let unknown = flow("10.3.0.1", "10.1.0.1");
    assert_eq!(check(&unknown, &[]), Ok(None));
    assert_eq!(check(&unknown, &[&transport]), Ok(None));
    assert_eq!(check(&unknown, &[&from]), Err(Refused::NoPolicy));
    // A policy for clear text does not let a tunnel's packet by.
    let clear = flow("10.2.9.1", "10.1.0.1");
    assert_eq!(check(&clear, &[]), Ok(Some(3)));
    assert_eq!(check(&clear, &[&from]), Err(Refused::Template));
    let narrow = State { selector: Some(selector("10.2.7.0/24", "0.0.0.0/0")), ..from };
    assert_eq!(check(&packet, &[&narrow]), Err(Refused::Selector));
}

#[test]
fn nothing_passes_where_the_default_is_block() {
    let block = Defaults { input: Action::Block, forward: Action::Block, output: Action::Block };
    let db = Spd::new(&Snapshot { defaults: block, ..Snapshot::default() });
    let packet = flow("10.3.0.1", "10.1.0.1");
    assert!(matches!(db.out(&packet), Out::NoPolicy(Action::Block)));
    assert_eq!(db.check(Direction::In, &packet, &[]), Err(Refused::NoPolicy));
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Few distinct bits, so that prefixes nest and collide.
    prop_oneof![
        (0_u32..8, prop_oneof![Just(0_u8), 1..9_u8, Just(32)]).prop_map(|(a, len)| Prefix::new(
            IpAddr::V4((a << 29 | a).into()),
            len
        )
        .unwrap()),
        (0_u128..8, prop_oneof![Just(0_u8), 1..9_u8, Just(128)]).prop_map(|(a, len)| Prefix::new(
            IpAddr::V6((a << 125 | a).into()),
            len
        )
        .unwrap()),
    ]
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let port =
        prop_oneof![Just((0_u16, 0_u16)), (0..4_u16).prop_map(|p| (p, 0xffff)), (0..4_u16).prop_map(|p| (p, 0xfffe))];
    (any_prefix(), any_prefix(), port.clone(), port, 0..3_u8, 0..2_u32).prop_map(
        |(src, dst, s, d, protocol, interface)| Selector {
            src,
            dst,
            sport: s.0,
            sport_mask: s.1,
            dport: d.0,
            dport_mask: d.1,
            protocol,
            interface,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn as_if_all_policies_were_tried(
        parts in proptest::collection::vec((any_selector(), 0..4_u32, 0..2_u32, 0..3_usize), 0..60),
        flows in proptest::collection::vec((any_prefix(), any_prefix(), 0..4_u16, 0..4_u16, 0..3_u8, 0..2_u32, 0..2_u32), 1..40),
    ) {
        let policies: Vec<Policy> = parts.into_iter().enumerate().map(|(index, (selector, priority, mark, direction))| {
            let mut p = policy(Direction::ALL[direction], index as u32 + 1, priority, selector, vec![]);
            p.mark = Mark { value: mark, mask: mark };
            p
        }).collect();
        let db = spd(policies.clone(), vec![]);
        for (src, dst, sport, dport, protocol, mark, interface) in flows {
            let flow = Flow { mark, interface, ..Flow::new(src.addr(), dst.addr(), protocol, sport, dport) };
            for direction in Direction::ALL {
                let want = policies.iter().filter(|p| p.key.direction == direction && p.matches(&flow)).min_by_key(|p| p.rank());
                let want = want.filter(|_| flow.src.is_ipv4() == flow.dst.is_ipv4());
                prop_assert_eq!(db.policy(direction, &flow).map(|p| &**p), want);
            }
        }
    }
}

/// Ten thousand policies cost what ten do: what grows is the number of shapes, not of policies.
#[test]
fn ten_thousand_policies() {
    let build = |count: u32| {
        let policies = (0..count)
            .map(|i| {
                let dst = Prefix::new(IpAddr::V4((0x0a00_0000 | i << 8).into()), 24).unwrap();
                policy(Direction::Out, i + 1, 100, Selector { dst, ..selector("0.0.0.0/0", "0.0.0.0/0") }, tunnel())
            })
            .collect();
        spd(policies, vec![state("192.0.2.1", "192.0.2.2", 1, 7)])
    };
    let time = |db: &Spd, count: u32| {
        let start = std::time::Instant::now();
        for i in 0..20_000_u32 {
            let dst = 0x0a00_0001 | (i % count) << 8;
            assert!(matches!(db.out(&Flow::new(ip("10.0.0.1"), IpAddr::V4(dst.into()), 6, 1, 2)), Out::Seal { .. }));
        }
        start.elapsed()
    };
    let (few, many) = (build(10), build(10_000));
    assert_eq!(many.shapes[1][0].len(), 1);
    // The best of several, since the machine does other things too; caches explain some of the difference.
    let best = |db: &Spd, count| (0..5).map(|_| time(db, count)).min().unwrap();
    let (few, many) = (best(&few, 10), best(&many, 10_000));
    println!("20,000 look-ups: {few:?} of 10 policies, {many:?} of 10,000");
    assert!(many < few * 10, "{few:?} {many:?}");
}
