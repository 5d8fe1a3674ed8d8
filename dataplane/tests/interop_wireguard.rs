//! WireGuard with wireguard-go, boringtun-cli and gotatun.
#![allow(clippy::unwrap_used)]

mod common;
mod interop;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use interop::Lone;
use softdpu_testbed::{
    interop::{Check, Row},
    peers::{
        ours,
        wireguard::{Config, KeyPair, PORT, Program, WireGuard, preshared},
    },
    policy::Side,
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET},
};

/// What may be lost at the start: while nobody has a session, only so many packets wait for one.
const STARTING: [&str; 2] = ["no_session", "session_wait_full"];

/// A combination.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    program: Program,
    v6: bool,
    /// softdpu's side speaks first and alone knows the endpoint; or the peer's does.
    initiator: bool,
    preshared: bool,
}

/// A tunnel name that no other test on the machine has: the socket for `wg` is named by it.
fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("wg{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// softdpu on edge-a and the peer on edge-b, not having spoken yet. `None` where something is missing.
fn hosts(way: Way) -> Option<(Lone, WireGuard, String)> {
    let Way { program, v6, initiator, .. } = way;
    if program.find().is_none() {
        eprintln!("SKIPPED: {program} is not installed");
        return None;
    }
    let mut lone = Lone::new("iop-wg")?;
    eprintln!("{way:?}");
    let (keys_a, keys_b) = (KeyPair::new().unwrap(), KeyPair::new().unwrap());
    let mut config_a = Config::new(&keys_a, &keys_b.public, &SERVER_NET);
    let mut config_b = Config::new(&keys_b, &keys_a.public, &CLIENT_NET);
    config_a.preshared = way.preshared.then(|| preshared().unwrap());
    config_b.preshared.clone_from(&config_a.preshared);
    let at = |edge: [&str; 2]| Some(SocketAddr::new(edge[usize::from(v6)].parse().unwrap(), PORT));
    if initiator {
        config_a.endpoint = at(EDGE_B);
    } else {
        config_b.endpoint = at(EDGE_A);
    }
    let name = name();
    let files = ours::wireguard(&lone.folder, Side::A, &name, &config_a).unwrap();
    let peer = WireGuard::start(program, &lone.topology.edge_b, &lone.folder, &config_b).unwrap();
    lone.start(&files);
    Some((lone, peer, name))
}

fn speak(way: Way) {
    let Some((mut lone, peer, _)) = hosts(way) else { return };
    let row = Row::new("wireguard", way.program.name(), way.program.version());
    let mode = if way.preshared { "preshared key" } else { "" };
    let check = Check::new(row.initiator(way.initiator).outer_v6(way.v6).cipher("chacha20-poly1305", mode));
    lone.first_packet(way.initiator);
    lone.exchange(&STARTING);
    let shown = peer.shown(&lone.topology.edge_b).unwrap();
    assert!(shown.latest_handshake > 0 && shown.received_bytes > 1 << 20 && shown.sent_bytes > 1 << 20, "{shown:?}");
    let endpoint: SocketAddr = shown.endpoint.parse().unwrap();
    assert_eq!(endpoint, SocketAddr::new(EDGE_A[usize::from(way.v6)].parse().unwrap(), PORT));
    check.passed();
}

fn all(program: Program) {
    for v6 in [false, true] {
        for initiator in [true, false] {
            // Each role has it once with and once without.
            speak(Way { program, v6, initiator, preshared: v6 != initiator });
        }
    }
}

#[test]
fn interop_wireguard_go() {
    all(Program::WireGuardGo);
}

#[test]
fn interop_boringtun() {
    all(Program::BoringTun);
}

#[test]
fn interop_gotatun() {
    all(Program::GotaTun);
}
