//! The whole graph in memory against those who open flows without end, flows within flows, and errors about flows.
#![allow(clippy::unwrap_used)]

use softdpu::config;
use softdpu::flow::{Direction, FlowIdx, Tick};
use softdpu::worker::harness::Harness;
use softdpu_ebpf_common::walk::walk;
use softdpu_testbed::packet::{self, ACK, Ends, RST, SYN, frame, ipv4 as ip, sum};

const POLICY: &str = r#"
[workers]
count = 1
frames = 1024

[flows]
capacity = 4096
unproven_percent = 25

[[port]]
name = "near"
kind = "loopback"
loop_to = "far"

[[port]]
name = "far"
kind = "loopback"
loop_to = "near"

[[steer]]
name = "all"
action = "worker"

[[rule]]
name = "all"
action = "forward"
"#;

fn tcp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16), flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    packet::tcp(Ends { src, dst, ports }, flags, seq, ack, &[])
}

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    packet::udp(Ends { src, dst, ports }, payload)
}

fn icmp_error(from: [u8; 4], to: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut i = vec![3, 1, 0, 0, 0, 0, 0, 0];
    i.extend(about);
    let check = sum(&i).to_be_bytes();
    i[2..4].copy_from_slice(&check);
    ip(1, from, to, &i)
}

fn edge() -> Harness {
    Harness::new(config::parse(POLICY, "test").unwrap()).unwrap()
}

/// Puts packets in at a port, and gives how many came out at the other.
fn pass(edge: &mut Harness, port: usize, packets: &[Vec<u8>]) -> usize {
    for p in packets {
        assert!(edge.send(port, &frame(p)));
    }
    edge.settle();
    std::iter::from_fn(|| edge.receive(1 - port)).count()
}

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];

fn connect(edge: &mut Harness, port: u16) {
    pass(edge, 0, &[tcp(CLIENT, SERVER, (port, 80), SYN, 1000, 0)]);
    pass(edge, 1, &[tcp(SERVER, CLIENT, (80, port), SYN | ACK, 77_000_000, 1001)]);
    pass(edge, 0, &[tcp(CLIENT, SERVER, (port, 80), ACK, 1001, 77_000_001)]);
}

fn find(edge: &mut Harness, packet: &[u8]) -> Option<(FlowIdx, Direction)> {
    let frame = frame(packet);
    let p = edge.worker.flows.prepare(&walk(&frame[..]).unwrap(), &frame, Tick(0)).unwrap();
    edge.worker.flows.lookup(&p)
}

#[test]
fn a_flood_of_syns_takes_its_share_and_nobody_elses() {
    let mut edge = edge();
    let memory = edge.worker.flows.memory();
    (1..=1000).for_each(|port| connect(&mut edge, port));
    assert_eq!((edge.worker.flows.len(), edge.worker.flows.unproven()), (1000, 0));
    const SOURCES: u32 = 60_000;
    for n in 0..SOURCES / 100 {
        let from = |i: u32| (0x1400_0000 + n * 100 + i).to_be_bytes();
        let flood: Vec<_> = (0..100).map(|i| tcp(from(i), SERVER, (7, 80), SYN, i, 0)).collect();
        assert_eq!(pass(&mut edge, 0, &flood), 100, "a SYN is forwarded, whatever becomes of its flow");
        assert!(edge.worker.flows.unproven() <= 1024 && edge.worker.flows.len() <= 1006 + 1024);
        // A connection that opens in the middle of it is not pushed out on the way.
        if n % 100 == 50 {
            connect(&mut edge, 2000 + n as u16);
        }
        edge.now += 10_000_000;
    }
    assert_eq!(edge.worker.flows.memory(), memory);
    edge.worker.publish();
    let c = &edge.worker.counters;
    let (evicted, refused) = (c.flows_evicted_unproven.get(), c.flows_refused_unproven.get());
    // All but those that are there still; the six connections took a place each for a moment.
    assert!((u64::from(SOURCES) - 1024..=u64::from(SOURCES) - 1024 + 6).contains(&evicted), "{evicted}");
    assert_eq!((refused, c.flows_evicted_full.get(), c.flows_refused.get()), (0, 0, 0));
    assert!((1018..=1024).contains(&c.flows_unproven.get()));
    for port in (1..=1000).chain([2050, 2150, 2250, 2350, 2450, 2550]) {
        let packet = tcp(SERVER, CLIENT, (80, port), ACK, 77_000_001, 1001);
        let (idx, dir) = find(&mut edge, &packet).unwrap();
        assert_eq!((edge.worker.flows.get(idx).state().name(), dir), ("established", Direction::FromResponder));
        assert_eq!(pass(&mut edge, 1, &[packet]), 1);
        assert_eq!(edge.worker.flows.get(idx).packets(dir), 2);
    }
}

#[test]
fn forged_resets_end_nothing_and_are_counted() {
    let mut edge = edge();
    connect(&mut edge, 5);
    let forged: Vec<_> = (1..=20u32).map(|n| tcp(CLIENT, SERVER, (5, 80), RST, n << 24, 0)).collect();
    assert_eq!(pass(&mut edge, 0, &forged), 20, "the ends judge by themselves");
    edge.worker.publish();
    assert_eq!(edge.worker.counters.tcp_unbelieved.get(), 20);
    let (idx, _) = find(&mut edge, &forged[0]).unwrap();
    assert_eq!(edge.worker.flows.get(idx).state().name(), "established");
    pass(&mut edge, 0, &[tcp(CLIENT, SERVER, (5, 80), RST, 1001, 0)]);
    assert_eq!(edge.worker.flows.get(idx).state().name(), "closed");
}

#[test]
fn an_error_is_counted_to_the_flow_that_it_quotes_and_opens_none() {
    let mut edge = edge();
    let syn = tcp(CLIENT, SERVER, (6, 80), SYN, 1000, 0);
    pass(&mut edge, 0, std::slice::from_ref(&syn));
    let (idx, _) = find(&mut edge, &syn).unwrap();
    let router = [10, 9, 9, 9];
    let forged = tcp(CLIENT, SERVER, (6, 80), SYN, 1 << 30, 0);
    let stranger = udp(CLIENT, SERVER, (1, 2), b"never sent");
    let errors: Vec<_> = [&syn, &forged, &stranger].map(|about| icmp_error(router, CLIENT, about)).into();
    assert_eq!(pass(&mut edge, 1, &errors), 3);
    assert_eq!(edge.worker.flows.len(), 1);
    let flow = edge.worker.flows.get(idx);
    assert_eq!((flow.packets(Direction::FromResponder), flow.state().name()), (1, "opening"));
    assert_eq!(edge.worker.counters.icmp_matched.get(), 1);
    // A question is a flow as any.
    pass(&mut edge, 0, &[ip(1, CLIENT, SERVER, &[8, 0, 0xf7, 0xfe, 0, 1, 0, 0])]);
    assert_eq!(edge.worker.flows.len(), 2);
}

#[test]
fn flows_within_a_vxlan_are_flows_too() {
    let mut edge = edge();
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04shop\x07example\0\0\x01\0\x01";
    let inner = udp([192, 168, 0, 1], [192, 168, 0, 2], (4000, 53), query);
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &frame(&inner)].concat();
    let outer = udp(CLIENT, SERVER, (50_000, 4789), &vxlan);
    assert_eq!(pass(&mut edge, 0, &[outer.clone(), outer]), 2);
    let flows = &edge.worker.flows;
    assert_eq!(flows.len(), 2);
    let (_, within) = flows.iter().find(|(_, f)| f.key().net().kind() != 0).unwrap();
    assert_eq!((within.key().net().kind(), within.key().net().id()), (1, 42));
    assert_eq!(
        (within.initiator().to_string(), within.responder().to_string()),
        ("192.168.0.1:4000".into(), "192.168.0.2:53".into())
    );
    assert_eq!((within.class().name(), within.packets(Direction::FromInitiator)), ("dns", 2));
    assert_eq!(within.bytes(Direction::FromInitiator), 2 * inner.len() as u64);
    assert_eq!(edge.worker.inspector.host_of(within), Some("shop.example"));
    assert_eq!(edge.worker.counters.inner_packets.get(), 2);
}
