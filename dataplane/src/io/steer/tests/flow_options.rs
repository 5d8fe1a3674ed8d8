//! What an entry may ask for besides: meter, mark, sample, mirror counter.

use super::flows::{dropping, forward, key, v6_frame};
use super::*;

fn with(change: impl FnOnce(&mut FlowRule)) -> FlowRule {
    let mut rule = FlowRule::from(forward());
    change(&mut rule);
    rule
}

#[test]
fn a_meter_lets_its_burst_by_and_then_its_rate() {
    if !root("a_meter") {
        return;
    }
    let mut steer = dropping(64);
    let frame = to_port(80);
    let size = frame.len() as u64 - 14;
    // Ten packets at once, and one a minute.
    let meter = Meter { rate: size / 60 + 1, burst: 10 * size };
    let id = steer.flow_insert(&key(&frame), with(|rule| rule.meter = Some(meter))).unwrap();
    let actions: Vec<u32> = (0..25).map(|_| action(&mut steer, &frame)).collect();
    assert_eq!(actions.iter().filter(|a| **a == XDP_REDIRECT).count(), 10, "{actions:?}");
    assert_eq!((reason(&steer, Reason::FlowMeter).packets, steer.flows().over(id)), (15, 15));
    assert_eq!(steer.flows().count(id).packets, 25, "the flow had them all");

    let fast = to_port(81);
    let meter = Meter { rate: 1_000_000 * size, burst: 2 * size };
    steer.flow_insert(&key(&fast), with(|rule| rule.meter = Some(meter))).unwrap();
    for _ in 0..50 {
        assert_eq!(action(&mut steer, &fast), XDP_REDIRECT);
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

#[test]
fn a_mark_is_a_dscp_and_leaves_ecn() {
    if !root("a_mark") {
        return;
    }
    let mut steer = dropping(64);
    let (four, six) = (to_port(80), v6_frame(17, 64, &udp(1000, 80, b"abc")));
    for frame in [&four, &six] {
        steer.flow_insert(&key(frame), with(|rule| rule.dscp = Some(46))).unwrap();
    }
    for tos in [0, 1, 2, 3, 0xfc, 0xff, 0x48] {
        let mut frame = four.clone();
        frame[15] = tos;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let run = steer.test_run(&frame, None, 1).unwrap();
        assert_eq!((run.action, run.frame[15]), (XDP_REDIRECT, 46 << 2 | tos & 3));
        assert_eq!(checksum(&run.frame[14..34]), 0, "tos {tos:#x}");

        let mut frame = six.clone();
        frame[14] = 0x60 | tos >> 4;
        frame[15] = tos << 4 | 0x0a;
        let run = steer.test_run(&frame, None, 1).unwrap();
        let marked = 46 << 2 | tos & 3;
        assert_eq!((run.frame[14], run.frame[15]), (0x60 | marked >> 4, marked << 4 | 0x0a), "the flow label stays");
    }
}

#[test]
fn one_in_so_many_is_the_rules_and_counted_there() {
    if !root("one_in_so_many") {
        return;
    }
    let mut steer = dropping(64);
    let frame = to_port(80);
    let id = steer.flow_insert(&key(&frame), with(|rule| rule.sample = 8)).unwrap();
    let actions: Vec<u32> = (0..80).map(|_| action(&mut steer, &frame)).collect();
    assert_eq!(actions.iter().filter(|a| **a == XDP_DROP).count(), 10);
    assert_eq!(steer.flows().count(id).packets, 70);
    assert_eq!((reason(&steer, Reason::RuleDrop).packets, reason(&steer, Reason::FlowForward).packets), (10, 70));
}

#[test]
fn a_mirror_counter_counts_several_flows() {
    if !root("a_mirror_counter") {
        return;
    }
    let mut steer = dropping(64);
    let frames = [to_port(80), to_port(81)];
    let ids: Vec<_> = frames
        .iter()
        .map(|frame| steer.flow_insert(&key(frame), with(|rule| rule.mirror = Some(7))).unwrap())
        .collect();
    for frame in frames.iter().chain(&frames[..1]) {
        assert_eq!(action(&mut steer, frame), XDP_REDIRECT);
    }
    let bytes = 3 * (frames[0].len() as u64 - 14);
    assert_eq!(steer.mirror_count(7).unwrap(), Counter { packets: 3, bytes });
    assert_eq!(steer.mirror_count(8).unwrap(), Counter::default());
    // Their options go back, however often flows come and go.
    for id in ids {
        steer.flow_remove(id).unwrap();
    }
    for _ in 0..100 {
        steer.flows().settle(|_, _| {});
        let id = steer.flow_insert(&key(&frames[0]), with(|rule| rule.mirror = Some(7))).unwrap();
        steer.flow_remove(id).unwrap();
    }
}
