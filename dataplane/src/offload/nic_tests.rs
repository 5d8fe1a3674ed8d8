//! What a worker proposes for the device, and how entries come and go. The second needs root: maps and program are the host's.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::graph::DropReason;
use crate::host::fib::{Fib, Link, Route};
use crate::offload::lane::{Lane, Note};
use crate::wire::{ethernet::Mac, ip::write_v4};
use crate::worker::harness::Harness;
use std::sync::Arc;

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];

/// A router with a device at its first port, and these rules.
fn harness(rules: &str) -> (Harness, Arc<Lane>) {
    let port = |name: &str| format!("[[port]]\nname = \"{name}\"\nkind = \"loopback\"\nloop_to = \"{name}\"\n");
    let text = format!("name = \"x\"\n[workers]\nframes = 1024\n{}{}{rules}", port("apps"), port("uplink"));
    let policy = crate::config::parse(&text, "x.toml").unwrap_or_else(|errors| panic!("{errors:?}"));
    let link = || Link { mac: Mac(STATION), mtu: 1500, up: true, ..Link::default() };
    let mut fib = Fib::new(1, vec![link(), link()]);
    for (port, host) in [(0, CLIENT), (1, SERVER)] {
        let net = format!("10.{}.0.0/24", host[1]).parse().unwrap();
        fib.add_route(net, Route::Port { port, gateway: None }, 0);
        fib.add_neighbour(port, host.into(), Mac([8; 6]));
    }
    let mut harness = Harness::with_fib(policy, fib).unwrap();
    let lane = Lane::new(Arc::default());
    let (interfaces, devices) = (vec![0, 0].into(), vec![true, false].into());
    harness.worker.offload =
        Some(Client { lane: lane.clone(), interfaces, devices, min_packets: 4, wait_for_class: true });
    (harness, lane)
}

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = [&STATION[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
    frame.resize(14 + 28 + 16, 0);
    write_v4(&mut frame[14..], src, dst, 17, 64, 44);
    frame[34..36].copy_from_slice(&ports.0.to_be_bytes());
    frame[36..38].copy_from_slice(&ports.1.to_be_bytes());
    frame[38..40].copy_from_slice(&24_u16.to_be_bytes());
    frame
}

const BANNED: &str = "[[rule]]\nname = \"banned\"\nprotocol = \"udp\"\nports = [\"7000\"]\naction = \"drop\"\n";

fn flow(harness: &Harness) -> (Tier, Option<Reason>) {
    let first = harness.worker.flows.entries(0, harness.worker.flows.capacity()).next();
    first.map_or_else(Default::default, |(_, flow)| (flow.tier(), Reason::of(flow.offload_reason())))
}

#[test]
fn what_a_rule_drops_is_proposed_once_it_is_worth_it() {
    let (mut harness, lane) = harness(BANNED);
    let frame = udp(CLIENT, SERVER, (5000, 7000));
    for _ in 0..3 {
        harness.pass(0, &frame);
    }
    assert!(lane.asks.is_empty());
    assert_eq!(flow(&harness).1, Some(Reason::FewPackets));
    harness.pass(0, &frame);
    let Some(Ask::Block(blocked)) = lane.asks.pop() else { panic!("{:?}", flow(&harness)) };
    assert_eq!((blocked.port, blocked.direction), (0, Direction::FromInitiator));
    let key = FlowKey::of(&softdpu_ebpf_common::walk::walk(&frame[..]).unwrap(), STATION);
    assert_eq!(blocked.key, key);
    assert_eq!(flow(&harness), (Tier::Worker, Some(Reason::Asked)));

    let note = |what| Note { flow: blocked.flow, what, seen: crate::flow::Tick::from_nanos(harness.now) };
    lane.notes.push(note(What::Blocked)).unwrap();
    lane.notes.push(note(What::Counted(counts(blocked.direction, FlowCount { packets: 5, bytes: 220 })))).unwrap();
    harness.pass(0, &frame);
    assert_eq!(flow(&harness), (Tier::Nic, None));
    let rule = harness.worker.counters.rules.totals()[0].1.packets;
    assert_eq!((rule, harness.dropped(DropReason::PolicyDrop)), (5 + 5, 5), "five by the device, five here");
    for _ in 0..2000 {
        harness.pass(0, &frame);
    }
    assert!(lane.asks.is_empty(), "it is there already");

    let left = What::Left(Reason::RouteChanged, Counts::default(), Back::default());
    lane.notes.push(Note { flow: blocked.flow, what: left, seen: crate::flow::Tick::from_nanos(harness.now) }).unwrap();
    for _ in 0..4 {
        harness.pass(0, &frame);
    }
    assert!(matches!(lane.asks.pop(), Some(Ask::Block(_))), "it goes back");
    harness.assert_no_leak();
}

#[test]
fn what_a_device_must_not_decide_is_not_proposed() {
    let asked = |rules: &str, port: usize, frame: &[u8]| {
        let (mut harness, lane) = harness(rules);
        for _ in 0..100 {
            harness.pass(port, frame);
        }
        let reason = flow(&harness).1;
        (std::iter::from_fn(|| lane.asks.pop()).any(|ask| matches!(ask, Ask::Block(_))), reason)
    };
    let banned = udp(CLIENT, SERVER, (5000, 7000));
    assert_eq!(asked(BANNED, 0, &banned), (true, Some(Reason::Asked)));
    assert_eq!(
        asked(BANNED, 1, &udp(SERVER, CLIENT, (5000, 7000))),
        (false, Some(Reason::NotXdp)),
        "no device there, and no driver"
    );
    assert!(!asked(BANNED, 0, &udp(CLIENT, SERVER, (5000, 7001))).0, "forwarded");
    let kept = BANNED.to_owned() + "offload = \"never\"\n";
    assert_eq!(asked(&kept, 0, &banned), (false, Some(Reason::PolicyNever)));
    let by_class = BANNED.to_owned() + "[[rule]]\nname = \"tls\"\nclass = [\"tls\"]\naction = \"drop\"\n";
    assert_eq!(asked(&by_class, 0, &banned), (false, Some(Reason::ByClass)));
    let mut tagged = banned.clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert!(!asked(BANNED, 0, &tagged).0, "tagged");
}

/// The proposal of a flow between two ports.
fn blocked(sport: u16) -> (Blocked, Vec<u8>) {
    let (mut harness, lane) = harness(BANNED);
    let frame = udp(CLIENT, SERVER, (sport, 7000));
    for _ in 0..4 {
        harness.pass(0, &frame);
    }
    let Some(Ask::Block(mut blocked)) = lane.asks.pop() else { panic!("{:?}", flow(&harness)) };
    blocked.flow.idx = FlowIdx(u32::from(sport));
    (blocked, frame)
}

#[test]
fn entries_count_and_leave_with_every_packet_told_once() {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("offload::nic: skipped, needs root");
    }
    let mut nics = Nics::new(vec![Some(Device::of_host(2).unwrap()), None]);
    assert_eq!(nics.there(), [true, false]);
    let flows = [1, 2, 3].map(blocked);
    assert_eq!(nics.place(0, &flows[0].0), Ok(()));
    assert_eq!(nics.place(0, &flows[0].0), Ok(()), "again");
    assert_eq!(nics.place(0, &flows[1].0), Ok(()));
    assert_eq!(nics.place(0, &flows[2].0), Err(Reason::NicFull));
    assert_eq!(nics.place(0, &Blocked { port: 1, ..flows[2].0 }), Err(Reason::NoDeviceOffload));
    assert_eq!((nics.len(), nics.flows(0), nics.flows(1)), (2, Some(2), None));
    let pass = |nics: &Nics, frame: &[u8]| nics.devices[0].as_ref().unwrap().run(frame);
    let told = |packets| counts(Direction::FromInitiator, FlowCount { packets, bytes: packets * 44 });

    // Not told for want of room: later, with what came meanwhile.
    assert_eq!(pass(&nics, &flows[0].1), 1, "dropped");
    nics.fold(|_, _, _| false);
    assert_eq!(pass(&nics, &flows[0].1), 1);
    let mut notes = Vec::new();
    nics.fold(|worker, flow, what| {
        notes.push((worker, flow.idx.0, what));
        true
    });
    assert_eq!(notes, [(0, 1, What::Counted(told(2)))]);

    // What came since the last round leaves with it.
    pass(&nics, &flows[0].1);
    notes.clear();
    assert_eq!(nics.take_out(Reason::KeysChanged, |at| at.1 == 1, |_, _, _| false), 1);
    assert_eq!(pass(&nics, &flows[0].1), 2, "passed");
    nics.fold(|worker, flow, what| {
        notes.push((worker, flow.idx.0, what));
        true
    });
    assert_eq!(notes, [(0, 1, What::Left(Reason::KeysChanged, told(1), Back::default()))]);
    assert_eq!(nics.dropped(), told(3).traffic[0]);

    // The other one has been silent for two rounds.
    notes.clear();
    for _ in 0..3 {
        nics.fold(|worker, flow, what| {
            notes.push((worker, flow.idx.0, what));
            true
        });
    }
    assert_eq!(notes, [(0, 2, What::Left(Reason::Idle, told(0), Back::default()))]);
    assert_eq!((nics.len(), nics.flows(0)), (0, Some(0)));

    // A later flow in the same place is another one.
    assert_eq!(nics.place(0, &flows[2].0), Ok(()));
    let mut other = flows[2].0.flow;
    other.created = crate::flow::Tick::from_nanos(77_000_000_000);
    nics.leave(0, &other, |_, _, _| true);
    assert_eq!(nics.len(), 1);
    nics.leave(0, &flows[2].0.flow, |_, _, what| what == What::Left(Reason::Closing, told(0), Back::default()));
    assert_eq!(nics.len(), 0);
}
