#![allow(clippy::unwrap_used)]
use super::super::model::{Action, Direction, Encap, Lifetimes, Limits, Used};
use super::super::testing::{policy, selector, state};
use super::*;

fn say(tables: &mut Tables, message: Message) -> Effect {
    tables.apply(Received { sequence: 0, port: 0, interrupted: false, message }, false)
}

fn dump(tables: &mut Tables, messages: Vec<Message>) {
    tables.begin_dump();
    for message in messages {
        tables.apply(Received { sequence: 1, port: 1, interrupted: false, message }, true);
    }
    tables.end_dump();
}

fn new(state: &State) -> Message {
    Message::State(Box::new(state.clone()))
}

fn spis(tables: &Tables) -> Vec<u32> {
    tables.snapshot().states.iter().map(|s| s.spi()).collect()
}

#[test]
fn states_come_change_and_go() {
    let mut t = Tables::default();
    let (a, b) = (state("192.0.2.1", "192.0.2.2", 1, 7), state("192.0.2.1", "192.0.2.2", 2, 7));
    assert_eq!(say(&mut t, new(&a)), Effect::Urgent);
    assert_eq!(say(&mut t, new(&b)), Effect::Urgent);
    assert!(t.state(&a.key).unwrap().age < t.state(&b.key).unwrap().age);
    assert_eq!(say(&mut t, Message::Expired { key: a.key, hard: false }), Effect::Changed);
    assert_eq!(say(&mut t, Message::Expired { key: a.key, hard: false }), Effect::Nothing);
    assert!(t.state(&a.key).unwrap().dying && !t.state(&b.key).unwrap().dying);
    assert_eq!(say(&mut t, Message::Expired { key: a.key, hard: true }), Effect::Changed);
    assert_eq!(say(&mut t, Message::StateGone(a.key)), Effect::Nothing, "the daemon deletes it as well");
    assert_eq!(say(&mut t, Message::StatesFlushed(51)), Effect::Nothing);
    assert_eq!(spis(&t), [2]);
    assert_eq!(say(&mut t, Message::StatesFlushed(255)), Effect::Changed);
    assert!(spis(&t).is_empty());
}

#[test]
fn an_update_fills_a_larval_state_and_changes_little_of_a_ripe_one() {
    let mut t = Tables::default();
    let ripe = State { used: Used { added: 50, bytes: 9, ..Used::default() }, ..state("192.0.2.1", "192.0.2.2", 1, 7) };
    let larval = State { material: None, unsupported: Some(Unsupported::Larval), ..ripe.clone() };
    assert_eq!(say(&mut t, new(&larval)), Effect::Changed, "nobody can use it yet");
    assert_eq!(say(&mut t, Message::Update(Box::new(ripe.clone()))), Effect::Urgent);
    assert!(t.state(&ripe.key).unwrap().supported());
    say(&mut t, Message::Expired { key: ripe.key, hard: false });

    let limits = Lifetimes { hard: Limits { bytes: Some(5), ..Limits::default() }, ..Lifetimes::default() };
    let asked = State {
        encap: Some(Encap { sport: 1, dport: 2 }),
        lifetimes: limits,
        used: Used::default(),
        reqid: 99,
        material: state("192.0.2.1", "192.0.2.2", 3, 7).material,
        ..ripe.clone()
    };
    assert_eq!(say(&mut t, Message::Update(Box::new(asked))), Effect::Urgent);
    let now = t.state(&ripe.key).unwrap();
    assert_eq!((now.encap, now.lifetimes), (Some(Encap { sport: 1, dport: 2 }), limits));
    assert_eq!((now.reqid, now.used.bytes, now.dying), (7, 9, false));
    assert_eq!(
        now.material.as_ref().unwrap().id(),
        ripe.material.as_ref().unwrap().id(),
        "the kernel keeps its keys too"
    );
}

#[test]
fn a_dump_ends_what_it_does_not_show() {
    let mut t = Tables::default();
    let [a, b, c, d] = [1, 2, 3, 4].map(|spi| state("192.0.2.1", "192.0.2.2", spi, 7));
    // The kernel shows the youngest first.
    dump(&mut t, vec![new(&b), new(&a)]);
    say(&mut t, new(&c));
    let age = |t: &Tables, s: &State| t.state(&s.key).unwrap().age;
    assert!(age(&t, &a) < age(&t, &b) && age(&t, &b) < age(&t, &c));
    say(&mut t, Message::Expired { key: b.key, hard: false });
    let before = age(&t, &b);
    t.begin_dump();
    say(&mut t, new(&d));
    for shown in [&c, &b] {
        let received = Received { sequence: 1, port: 1, interrupted: false, message: new(shown) };
        t.apply(received, true);
    }
    t.end_dump();
    assert_eq!(spis(&t), [2, 3, 4], "a is gone; d came while the dump was made");
    assert!(t.state(&b.key).unwrap().dying, "a dump does not say, so it is remembered");
    assert_eq!(age(&t, &b), before);
    assert!(age(&t, &c) < age(&t, &d));
    // Another state under an old key is not the old one.
    let mut other = state("192.0.2.1", "192.0.2.2", 2, 7);
    other.used.added = 77;
    dump(&mut t, vec![new(&other)]);
    assert!(!t.state(&b.key).unwrap().dying);
    assert_eq!(spis(&t), [2]);
}

#[test]
fn policies_are_in_order_of_precedence() {
    let mut t = Tables::default();
    let net = selector("10.0.0.0/8", "10.0.0.0/8");
    let made = |index, priority| policy(Direction::Out, index, priority, net, vec![]);
    for p in [made(3, 10), made(1, 10), made(2, 5)] {
        assert_eq!(say(&mut t, Message::Policy(Box::new(p))), Effect::Changed);
    }
    let order = |t: &Tables| t.snapshot().policies.iter().map(|p| p.key.index >> 3).collect::<Vec<_>>();
    assert_eq!(order(&t), [2, 1, 3]);
    assert_eq!(say(&mut t, Message::Policy(Box::new(made(2, 5)))), Effect::Nothing);
    assert_eq!(say(&mut t, Message::Policy(Box::new(made(2, 20)))), Effect::Changed);
    assert_eq!(order(&t), [1, 3, 2]);
    assert_eq!(say(&mut t, Message::PolicyGone(made(1, 10).key)), Effect::Changed);
    assert_eq!(say(&mut t, Message::PoliciesFlushed), Effect::Changed);
    assert_eq!(say(&mut t, Message::PoliciesFlushed), Effect::Nothing);
    assert!(order(&t).is_empty());
}

#[test]
fn what_cannot_be_followed_is_read_again() {
    let mut t = Tables::default();
    assert_eq!(say(&mut t, Message::Migrated), Effect::ReadAgain);
    assert_eq!(say(&mut t, Message::Overrun), Effect::ReadAgain);
    assert_eq!(say(&mut t, Message::Malformed(0x10)), Effect::ReadAgain);
    let block = Defaults { output: Action::Block, ..Defaults::default() };
    assert_eq!(say(&mut t, Message::Defaults(block)), Effect::Changed);
    assert_eq!(t.snapshot().defaults, block);
}
