//! WireGuard with wireguard-go, boringtun-cli and gotatun.
#![allow(clippy::unwrap_used)]

mod common;
mod interop;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use interop::Lone;
use softdpu_testbed::{
    capture::Capture,
    interop::{Check, Row},
    peers::{
        ours,
        probe::{Arrived, Iperf, Numbered},
        wireguard::{Config, KeyPair, PORT, Program, WireGuard, preshared},
    },
    policy::Side,
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET},
};

/// What WireGuard counts besides losses: messages for the control side, and packets whose session did not come up while the
/// first handshake was tried.
const BESIDES: [&str; 3] = ["handshake", "keepalive", "no_session"];

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
    // Where nothing can be tried there is nothing to tell.
    if way.program.find().is_none() || !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: {} needs root and the program", way.program);
        return;
    }
    let row = Row::new("wireguard", way.program.name(), way.program.version());
    let mode = if way.preshared { "preshared key" } else { "" };
    let check = Check::new(row.initiator(way.initiator).outer_v6(way.v6).cipher("chacha20-poly1305", mode));
    let Some((mut lone, peer, _)) = hosts(way) else { return };
    lone.first_packet(way.initiator);
    lone.exchange(&BESIDES);
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

/// Data packets of the peer: type 4 (with its three zero bytes), longer than a keepalive.
const DATA: &str = "src host 192.0.2.2 and udp port 51820 and udp[8:4] = 0x04000000 and udp[4:2] > 40";
/// Handshake initiations and responses, of either side.
const HANDSHAKES: &str = "udp port 51820 and (udp[8:4] = 0x01000000 or udp[8:4] = 0x02000000)";

fn plain(program: Program) -> Way {
    Way { program, v6: false, initiator: true, preshared: false }
}

#[test]
fn interop_wireguard_replayed_packets_are_refused() {
    let Some((mut lone, _peer, _)) = hosts(plain(Program::WireGuardGo)) else { return };
    lone.first_packet(true);
    lone.replay(DATA);
}

#[test]
fn interop_wireguard_reordered_packets_arrive() {
    let Some((mut lone, _peer, _)) = hosts(plain(Program::BoringTun)) else { return };
    lone.first_packet(true);
    lone.reordered();
}

/// Rekeyings of one load.
const REKEYS: u64 = 20;
/// A machine that others use may hold a thread up for longer than a ring lasts. What rekeying loses it loses each time.
const TRIES: usize = 3;

fn datagrams(rate: u32, reverse: bool) -> Numbered {
    Numbered { rate, length: 1200, time: Duration::from_secs(1), v6: false, reverse }
}

/// Datagrams a second that the tunnel takes without loss here and now: from what TCP does downwards, by halves.
fn most(lone: &mut Lone, reverse: bool) -> u32 {
    let iperf = Iperf::start(&lone.topology, &lone.folder).unwrap();
    let tcp = iperf.tcp(&lone.topology, false, reverse, Duration::from_secs(1)).unwrap();
    let mut rate = (tcp.gbit_s * 1e9 / 8.0 / 1200.0) as u32;
    while rate > 1000 && datagrams(rate, reverse).run(&lone.topology, || Ok(())).unwrap().missing() > 0 {
        rate /= 2;
    }
    rate
}

/// One load with rekeyings. Returns what became of the datagrams.
fn rekeyed(lone: &mut Lone, name: &str, rate: u32, reverse: bool) -> Arrived {
    let watch = Capture::start(&lone.topology.wire, "wire", HANDSHAKES, 64, 0, &lone.folder).unwrap();
    let all = lone.numbered(datagrams(rate, reverse), |edge| {
        for _ in 0..REKEYS {
            // Peers take no initiation that comes sooner than 20 ms after the last (a sign of a flood).
            std::thread::sleep(Duration::from_millis(150));
            edge.verb(&["rekey", name])?;
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    });
    let seen = watch.stop().unwrap();
    // Behind Ethernet, IPv4 and UDP: the type.
    let of_type = |wanted: u8| seen.frames.iter().filter(|frame| frame.bytes.get(42) == Some(&wanted)).count() as u64;
    let (initiations, responses) = (of_type(1), of_type(2));
    eprintln!(
        "  reverse {reverse}: {rate} datagrams/s, {initiations} initiations, {responses} responses, {all:?}, {:?}",
        lone.figures().drops_by_reason
    );
    assert!(initiations >= REKEYS && responses >= REKEYS, "{initiations} initiations, {responses} responses");
    all
}

fn rekeyings_lose_nothing(program: Program) {
    let Some((mut lone, _peer, name)) = hosts(plain(program)) else { return };
    lone.first_packet(true);
    for reverse in [false, true] {
        let mut rate = most(&mut lone, reverse) / 2;
        let whole = (0..TRIES).any(|_| {
            let all = rekeyed(&mut lone, &name, rate, reverse);
            assert_eq!(all.duplicates, 0);
            rate = (rate * 3 / 4).max(300);
            all.missing() == 0
        });
        assert!(whole, "{program}, reverse {reverse}: datagrams were lost in each of {TRIES} loads");
    }
}

#[test]
fn interop_wireguard_go_twenty_rekeyings_under_load_lose_nothing() {
    rekeyings_lose_nothing(Program::WireGuardGo);
}

#[test]
fn interop_boringtun_twenty_rekeyings_under_load_lose_nothing() {
    rekeyings_lose_nothing(Program::BoringTun);
}

#[test]
fn interop_gotatun_twenty_rekeyings_under_load_lose_nothing() {
    rekeyings_lose_nothing(Program::GotaTun);
}
