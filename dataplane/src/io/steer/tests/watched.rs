//! The recording program: it decides as the other, says what it did, and is in its place only while it is wanted.

use super::*;

fn taken(steer: &mut Steer) -> Vec<Watched> {
    let mut all = Vec::new();
    steer.take_watched(usize::MAX, |seen| all.push(seen));
    all
}

#[test]
fn every_packet_is_recorded_and_decided_as_before() {
    if !root("every_packet_is_recorded") {
        return;
    }
    let mut steer = load();
    let rules =
        [rule("pass", 1, RuleAction::Pass), rule("drop", 2, RuleAction::Drop), rule("worker", 3, RuleAction::Worker)];
    steer.set_rules(&compile(&rules).unwrap()).unwrap();
    let socket = xsk();
    steer.set_socket(LO, 0, &socket).unwrap();
    let mut arp = vec![0u8; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut long = to_port(2);
    long.resize(1400, 7);
    let frames = [to_port(1), to_port(2), to_port(3), to_port(4), arp, long, vec![9; 14]];
    let decided = |steer: &mut Steer| frames.each_ref().map(|frame| action(steer, frame));
    let before = decided(&mut steer);
    assert!(taken(&mut steer).is_empty(), "nobody watches");

    steer.watch().unwrap();
    assert_eq!(decided(&mut steer), before);
    let seen = taken(&mut steer);
    let said: Vec<_> = seen.iter().map(|s| (s.reason, s.rule.as_deref(), s.passed)).collect();
    assert_eq!(
        said,
        [
            (Reason::RulePass, Some("pass"), true),
            (Reason::RuleDrop, Some("drop"), false),
            (Reason::Worker, Some("worker"), false),
            (Reason::NoRule, None, true),
            (Reason::NotIp, None, true),
            (Reason::RuleDrop, Some("drop"), false),
            (Reason::NotIp, None, true),
        ]
    );
    for (seen, frame) in seen.iter().zip(&frames) {
        assert_eq!((seen.len, &seen.before[..]), (frame.len(), &frame[..frame.len().min(128)]));
        assert_eq!((&seen.before, seen.interface, seen.entry.as_deref(), seen.out), (&seen.after, LO, None, None));
    }
    assert!(seen.is_sorted_by_key(|seen| seen.time));
    // Counted once each, whichever program it was.
    assert_eq!(reason(&steer, Reason::RuleDrop).packets, 4);

    // Rules that changed since have other names.
    action(&mut steer, &to_port(2));
    steer.set_rules(&compile(&rules[..1]).unwrap()).unwrap();
    assert_eq!(taken(&mut steer)[0].rule.as_deref(), Some("#1 of the rules before"));

    steer.unwatch().unwrap();
    decided(&mut steer);
    assert!(taken(&mut steer).is_empty());
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    if !root("what_the_ring_has_no_room_for") {
        return;
    }
    let mut steer = load();
    steer.watch().unwrap();
    const PACKETS: u32 = 10_000;
    steer.test_run(&to_port(1), None, PACKETS).unwrap();
    let lost = steer.watch_lost().unwrap();
    let seen = taken(&mut steer).len() as u64;
    assert!(lost > 0 && seen > 1000, "{lost} lost, {seen} seen");
    assert_eq!(seen + lost, u64::from(PACKETS));
    assert_eq!(reason(&steer, Reason::NoRule).packets, u64::from(PACKETS), "packets pay nothing");
}

#[test]
fn the_programs_change_places_and_go_together() {
    if !root("the_programs_change_places") {
        return;
    }
    in_namespace(|| {
        let interface = veth("near", "far");
        let mut steer = load();
        steer.attach(interface, AttachMode::Native).unwrap();
        let there = || existing_program(interface).unwrap().unwrap();
        let plain = there();
        steer.watch().unwrap();
        let watching = there();
        assert!(
            watching.id != plain.id && watching.is_steer() && watching.mode == AttachedMode::Native,
            "{watching:?}"
        );
        // One that comes meanwhile is recorded too.
        let late = veth("late", "later");
        steer.attach(late, AttachMode::Native).unwrap();
        assert_eq!(existing_program(late).unwrap().unwrap().id, watching.id);
        steer.attach(late, AttachMode::Native).unwrap();
        steer.unwatch().unwrap();
        assert_eq!((there().id, existing_program(late).unwrap().unwrap().id), (plain.id, plain.id));
        steer.watch().unwrap();
        drop(steer);
        assert!(existing_program(interface).unwrap().is_none() && existing_program(late).unwrap().is_none());

        // Left behind while it watched, it is a steer program like any other.
        let mut steer = load();
        steer.attach(interface, AttachMode::Native).unwrap();
        steer.watch().unwrap();
        steer.leave_attached();
        let mut next = load();
        assert!(next.attach(interface, AttachMode::Auto).unwrap().replaced.is_some());
    });
}
