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

#[test]
fn what_is_sampled_has_been_metered() {
    if !root("what_is_sampled") {
        return;
    }
    let mut steer = dropping(64);
    let frame = to_port(80);
    let size = frame.len() as u64 - 14;
    let meter = Some(Meter { rate: size / 60 + 1, burst: 10 * size });
    // Five packets' worth were taken before it came down, and so were met.
    let progress = Progress { until_full: meter.map_or(0, |meter| meter.burst_nanos() / 2), met: 5 };
    let rule = with(|rule| (rule.meter, rule.sample, rule.progress) = (meter, 2, progress));
    let id = steer.flow_insert(&key(&frame), rule).unwrap();
    let passed = (0..20).filter(|_| action(&mut steer, &frame) == XDP_REDIRECT).count();
    assert_eq!((passed, reason(&steer, Reason::FlowMeter).packets), (2, 15), "three of five sampled");
    assert_eq!(reason(&steer, Reason::RuleDrop).packets, 3);
    steer.flow_remove(id).unwrap();
    let mut left = Vec::new();
    steer.flows().settle(|_, last| left.push(last));
    assert_eq!((left[0].progress.met, left[0].over), (10, 15));
    assert!(left[0].progress.until_full > meter.unwrap().burst_nanos() / 10 * 9, "the bucket is empty");
}

#[test]
fn frames_of_several_buffers_stay_where_the_device_takes_one() {
    if !root("frames_of_several_buffers") {
        return;
    }
    let mut steer = dropping(64);
    let large = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0, &udp(1000, 80, &[7; 6000]));
    let jumbo = FlowVerdict::Forward { ifindex: LO, mtu: 9000, dst_mac: [2; 6], src_mac: [4; 6] };
    for (linear, expected) in [(true, XDP_DROP), (false, XDP_REDIRECT)] {
        let id = steer.flow_insert(&key(&large), FlowRule { linear, ..FlowRule::from(jumbo) }).unwrap();
        assert_eq!(action(&mut steer, &large), expected, "linear: {linear}");
        steer.flow_remove(id).unwrap();
        steer.flows().settle(|_, _| {});
    }
    let small = v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0, &udp(1000, 80, &[7; 1000]));
    steer.flow_insert(&key(&small), FlowRule { linear: true, ..FlowRule::from(jumbo) }).unwrap();
    assert_eq!(action(&mut steer, &small), XDP_REDIRECT);
}

#[test]
fn an_entry_knows_how_far_its_connection_has_come() {
    if !root("an_entry_knows") {
        return;
    }
    let mut steer = dropping(64);
    let segment = |seq: u32, ack: u32| {
        let mut l4 = tcp(1000, 80);
        l4[4..8].copy_from_slice(&seq.to_be_bytes());
        l4[8..12].copy_from_slice(&ack.to_be_bytes());
        (l4[12], l4[13]) = (5 << 4, 0x10);
        l4.resize(20 + 1000, 0);
        v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 64, 0, &l4)
    };
    let id = steer.flow_insert(&key(&segment(0, 0)), with(|rule| rule.numbers = 0x1000 | 0x9000 << 16)).unwrap();
    for n in 0..100 {
        assert_eq!(
            action(&mut steer, &segment(0x1000_0000 + n * 0x0010_0000, 0x9000_0000 + n * 0x0001_0000)),
            XDP_REDIRECT
        );
        // Forwarded, as its receiver judges by itself; but it leads nobody away.
        assert_eq!(
            action(&mut steer, &segment(0x1000_0000 + n * 0x0010_0000 + 0x0040_0000, 0x1234_0000)),
            XDP_REDIRECT
        );
    }
    steer.flow_remove(id).unwrap();
    let mut left = Vec::new();
    steer.flows().settle(|_, last| left.push(last.numbers));
    assert_eq!(left, [(0x1000 + 99 * 0x10) | (0x9000 + 99) << 16]);
}
