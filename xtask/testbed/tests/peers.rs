//! The peers beside each other, without softdpu: what the interop tests and the rig stand on.
//!
//! ```text
//!   client ── edge-a ══ wire ══ edge-b ── server      a peer on each edge, the kernel forwards into its TUN device
//! ```
#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, time::Duration};

use softdpu_testbed::{
    capture::{Capture, describe},
    cleanup::RunDir,
    is_root,
    peers::{
        probe::{Iperf, Numbered},
        strongswan::{self, Proposal, StrongSwan},
        wireguard::{Config, KeyPair, PORT, Program, WireGuard, preshared},
    },
    policy::Side,
    topology::{CLIENT_NET, EDGE_A, EDGE_B, Options, SERVER, SERVER_NET, Topology},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Everything but the tunnel's own packets and what the links say for themselves.
const CLEAR: &str = "(net 10.0.0.0/8 or net fd01::/64 or net fd02::/64) and not arp";

/// Both families, numbered datagrams and TCP; nothing in clear.
fn exchange(topology: &Topology, folder: &RunDir, what: &str) {
    for server in SERVER {
        topology.reachable(server, PATIENCE).unwrap();
    }
    let clear = Capture::start(&topology.wire, "wire", CLEAR, 96, 0, folder).unwrap();
    for v6 in [false, true] {
        let load = Numbered { rate: 2000, length: 500, time: Duration::from_millis(500), v6, reverse: v6 };
        let all = load.run(topology, || Ok(())).unwrap();
        assert_eq!((all.missing(), all.duplicates), (0, 0), "{what}: {all:?}");
    }
    let iperf = Iperf::start(topology, folder).unwrap();
    let tcp = iperf.tcp(topology, false, false, Duration::from_secs(1)).unwrap();
    eprintln!("{what}: {:.2} Gbit/s, {:.1} CPU seconds per GB", tcp.gbit_s, tcp.cpu_s_per_gb);
    let clear: Vec<String> = clear.stop().unwrap().frames.iter().map(describe).collect();
    assert!(clear.is_empty(), "{what}: in clear: {:#?}", &clear[..clear.len().min(5)]);
}

fn wireguard(a: Program, b: Program, v6: bool, psk: bool) {
    let what = format!("{a} to {b}, IPv{} outside{}", if v6 { 6 } else { 4 }, if psk { ", preshared key" } else { "" });
    if let Some(missing) = [a, b].into_iter().find(|program| program.find().is_none()) {
        eprintln!("SKIPPED: {what}: {missing} is not installed");
        return;
    }
    let topology = Topology::new(&Options::new("peers-wg")).unwrap();
    let folder = RunDir::new("peers-wg").unwrap();
    let (keys_a, keys_b) = (KeyPair::new().unwrap(), KeyPair::new().unwrap());
    let mut config_a = Config::new(&keys_a, &keys_b.public, &SERVER_NET);
    let mut config_b = Config::new(&keys_b, &keys_a.public, &CLIENT_NET);
    config_a.endpoint = Some(SocketAddr::new(EDGE_B[usize::from(v6)].parse().unwrap(), PORT));
    config_a.preshared = psk.then(|| preshared().unwrap());
    config_b.preshared.clone_from(&config_a.preshared);
    let _a = WireGuard::start(a, &topology.edge_a, &folder, &config_a).unwrap();
    let b = WireGuard::start(b, &topology.edge_b, &folder, &config_b).unwrap();
    exchange(&topology, &folder, &what);
    let shown = b.shown(&topology.edge_b).unwrap();
    assert!(shown.latest_handshake > 0 && shown.received_bytes > 1_000_000, "{shown:?}");
    let from: SocketAddr = shown.endpoint.parse().unwrap();
    assert_eq!(from, SocketAddr::new(EDGE_A[usize::from(v6)].parse().unwrap(), PORT));
}

#[test]
fn wireguard_programs_speak_with_each_other() {
    if !is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    wireguard(Program::WireGuardGo, Program::BoringTun, false, true);
    wireguard(Program::BoringTun, Program::GotaTun, true, false);
    wireguard(Program::GotaTun, Program::WireGuardGo, false, false);
}

fn esp(proposal: Proposal, v6: bool) {
    let what = format!("strongSwan to itself, {proposal}, IPv{} outside", if v6 { 6 } else { 4 });
    let topology = Topology::new(&Options::new("peers-esp")).unwrap();
    let folder = RunDir::new("peers-esp").unwrap();
    let options = strongswan::Options { outer_v6: v6, ..strongswan::Options::new(proposal) };
    let a = StrongSwan::start(&topology.edge_a, Side::A, &folder, &options).unwrap();
    let b = StrongSwan::start(&topology.edge_b, Side::B, &folder, &options).unwrap();
    a.initiate(&topology.edge_a).unwrap();
    b.established(1).unwrap();
    exchange(&topology, &folder, &what);
    // Each side's log tells the same keys, the other way round.
    let (ours, theirs) = (a.child_keys(true).unwrap(), b.child_keys(false).unwrap());
    assert!(ours.inbound == theirs.outbound && ours.outbound == theirs.inbound, "{ours:?} {theirs:?}");
    a.rekey(&topology.edge_a).unwrap();
    a.established(2).unwrap();
    b.established(2).unwrap();
    let (new, other) = (a.child_keys(true).unwrap(), b.child_keys(false).unwrap());
    assert_ne!(new, ours);
    assert!(new.inbound == other.outbound && new.outbound == other.inbound, "{new:?} {other:?}");
}

#[test]
fn strongswan_speaks_with_itself_and_tells_its_keys() {
    if !is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    if strongswan::version().is_none() {
        eprintln!("SKIPPED: strongSwan is not installed");
        return;
    }
    esp(Proposal::Aes128Gcm16, false);
    esp(Proposal::ChaCha20Poly1305, true);
    esp(Proposal::Aes256Gcm16, false);
    esp(Proposal::Aes128Sha256, false);
}
