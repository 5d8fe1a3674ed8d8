//! The kernel's own WireGuard and ESP on both edges, as the bench has them for contenders: what client and server say to each other
//! arrives, and the wire shows nothing of it.
#![allow(clippy::unwrap_used)]

mod common;
mod vm;

use std::{net::SocketAddr, time::Duration};

use softdpu_testbed::{
    capture::Capture,
    cleanup::RunDir,
    peers::{
        kernel,
        keys::{Child, ChildSa},
        probe::Iperf,
        wireguard::{Config, KeyPair, PORT},
    },
    policy::Side,
    topology::{self, CLIENT_NET, EDGE_A, EDGE_B, SERVER, SERVER_NET, Topology},
};

const CLEAR: &str = "(net 10.0.0.0/8 or net fd01::/64 or net fd02::/64)";

fn carries_nothing_in_clear(topology: &Topology, folder: &RunDir) {
    topology.reachable(SERVER[0], Duration::from_secs(30)).unwrap();
    topology.reachable(SERVER[1], Duration::from_secs(30)).unwrap();
    let capture = Capture::start(&topology.wire, "wire", CLEAR, 96, 0, folder).unwrap();
    let iperf = Iperf::start(topology, folder).unwrap();
    let seen = iperf.tcp(topology, false, false, Duration::from_secs(1)).unwrap();
    assert!(seen.bytes > 100_000.0, "{seen:?}");
    assert!(capture.stop().unwrap().frames.is_empty());
}

#[test]
fn wireguard() {
    if !vm::here() {
        return;
    }
    let (topology, folder) =
        (Topology::new(&topology::Options::new("vm-pair")).unwrap(), RunDir::new("vm-pair").unwrap());
    let (a, b) = (KeyPair::new().unwrap(), KeyPair::new().unwrap());
    let mut for_a = Config::new(&a, &b.public, &SERVER_NET);
    let mut for_b = Config::new(&b, &a.public, &CLIENT_NET);
    for_a.endpoint = Some(SocketAddr::new(EDGE_B[0].parse().unwrap(), PORT));
    for_b.endpoint = Some(SocketAddr::new(EDGE_A[0].parse().unwrap(), PORT));
    kernel::wireguard(&topology.edge_a, Side::A, &folder, &for_a).unwrap();
    kernel::wireguard(&topology.edge_b, Side::B, &folder, &for_b).unwrap();
    carries_nothing_in_clear(&topology, &folder);
}

#[test]
fn esp() {
    if !vm::here() {
        return;
    }
    let (topology, folder) =
        (Topology::new(&topology::Options::new("vm-pair")).unwrap(), RunDir::new("vm-pair").unwrap());
    let child = Child { outbound: ChildSa::random(0x1001, 20).unwrap(), inbound: ChildSa::random(0x1002, 20).unwrap() };
    let _a = kernel::esp(&topology.edge_a, Side::A, "rfc4106(gcm(aes))", &child).unwrap();
    let _b = kernel::esp(&topology.edge_b, Side::B, "rfc4106(gcm(aes))", &child.flipped()).unwrap();
    carries_nothing_in_clear(&topology, &folder);
}
