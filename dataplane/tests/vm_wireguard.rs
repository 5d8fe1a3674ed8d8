//! WireGuard with the kernel's own: softdpu on edge-a, a link of type wireguard on edge-b.
#![allow(clippy::unwrap_used)]

mod common;
mod vm;

use std::{net::SocketAddr, time::Duration};

use common::traffic;
use softdpu_testbed::{
    cleanup::RunDir,
    edge::Edge,
    interop::{Check, Row},
    netns::NetNs,
    peers::{
        ours,
        probe::Numbered,
        wireguard::{Config, KeyPair, PORT, preshared, write_secret},
    },
    policy::Side,
    process,
    status::Figures,
    topology::{self, CLIENT, CLIENT_NET, EDGE_A, EDGE_B, SERVER, SERVER_NET, Topology},
};

/// What a healthy run drops: what the control side takes from the packets' path, and at the start, while nobody has a session,
/// what finds no room to wait for one.
const HEALTHY: [&str; 4] = ["handshake", "keepalive", "no_session", "session_wait_full"];

#[derive(Debug, Clone, Copy)]
struct Case {
    v6: bool,
    /// softdpu's side speaks first and alone knows the endpoint; or the kernel's does.
    initiator: bool,
    preshared: bool,
}

/// The kernel's link on a host; gone when dropped.
struct Kernel<'a>(&'a NetNs);

impl<'a> Kernel<'a> {
    fn new(host: &'a NetNs, folder: &RunDir, config: &Config) -> Self {
        host.ip("link add wg0 type wireguard").unwrap();
        let this = Self(host);
        let (key, psk) = (folder.file("kernel.key"), folder.file("kernel.psk"));
        write_secret(&key, &config.keys.private).unwrap();
        let mut command = host.command("wg");
        command.args(["set", "wg0", "listen-port", &config.listen_port.to_string(), "private-key"]).arg(&key);
        command.args(["peer", &config.peer, "allowed-ips", &config.allowed.join(",")]);
        if let Some(preshared) = &config.preshared {
            write_secret(&psk, preshared).unwrap();
            command.arg("preshared-key").arg(&psk);
        }
        if let Some(endpoint) = config.endpoint {
            command.args(["endpoint", &endpoint.to_string()]);
        }
        process::run(&mut command, vm::PATIENCE).unwrap().ok().unwrap();
        host.ip(&format!("link set wg0 mtu {} up", config.mtu)).unwrap();
        for net in &config.allowed {
            host.ip(&format!("route replace {net} dev wg0")).unwrap();
        }
        this
    }

    /// Seconds since the epoch of the last handshake.
    fn handshake(&self) -> u64 {
        let mut command = self.0.command("wg");
        let shown =
            process::run(command.args(["show", "wg0", "latest-handshakes"]), vm::PATIENCE).unwrap().ok().unwrap();
        shown.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        let _ = self.0.ip("link del wg0");
        for (net, via) in CLIENT_NET.into_iter().zip(EDGE_A) {
            let _ = self.0.ip(&format!("route replace {net} via {via}"));
        }
    }
}

fn hosts(tag: &str) -> Option<Topology> {
    if !vm::here() {
        return None;
    }
    let topology = Topology::new(&topology::Options::new(tag)).unwrap();
    if let Err(error) = topology.edge_b.ip("link add probe type wireguard") {
        eprintln!("SKIPPED: this kernel has no WireGuard: {error:#}");
        return None;
    }
    topology.edge_b.ip("link del probe").unwrap();
    Some(topology)
}

/// Both ends of a case up, `job` run, and both sound afterwards.
fn with(topology: &Topology, case: Case, job: impl FnOnce(&mut Edge, &Kernel<'_>)) {
    let folder = RunDir::new("vm-wg").unwrap();
    let (ours_keys, theirs) = (KeyPair::new().unwrap(), KeyPair::new().unwrap());
    let mut config_a = Config::new(&ours_keys, &theirs.public, &SERVER_NET);
    let mut config_b = Config::new(&theirs, &ours_keys.public, &CLIENT_NET);
    config_a.preshared = case.preshared.then(|| preshared().unwrap());
    config_b.preshared.clone_from(&config_a.preshared);
    let at = |edge: [&str; 2]| Some(SocketAddr::new(edge[usize::from(case.v6)].parse().unwrap(), PORT));
    if case.initiator {
        config_a.endpoint = at(EDGE_B);
    } else {
        config_b.endpoint = at(EDGE_A);
    }
    let kernel = Kernel::new(&topology.edge_b, &folder, &config_b);
    let files = ours::wireguard(&folder, Side::A, "wgvm", &config_a).unwrap();
    let mut edge = Edge::start(common::binary(), &topology.edge_a, &files).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&mut edge, &kernel)));
    let figures = Figures::read(&edge.status().unwrap());
    if let Err(panic) = result {
        let mut command = topology.edge_b.command("wg");
        eprintln!("{case:?}\nsoftdpu: {figures:?}\n{}", process::tail(&edge.said(), 20));
        eprintln!("kernel: {}", process::run(command.args(["show"]), vm::PATIENCE).unwrap().out);
        std::panic::resume_unwind(panic);
    }
    assert!(edge.alive(), "{case:?}: {}", edge.said());
    assert!(figures.packets_encrypted > 0 && figures.packets_decrypted > 0, "{case:?}: {figures:?}");
    let mut odd = figures.unexplained();
    odd.retain(|reason, _| !HEALTHY.contains(&reason.as_str()));
    assert!(odd.is_empty(), "{case:?}: {odd:?}");
    assert_eq!(figures.escaped_bytes, 0, "{case:?}");
    let balanced = process::eventually(vm::PATIENCE, || Figures::read(&edge.status().ok()?).balanced().then_some(()));
    assert!(balanced.is_some(), "{case:?}: frames are missing");
    assert!(edge.stop().unwrap().success());
}

fn exchange(topology: &Topology, initiator: bool) {
    let (client, server) = (&topology.client, &topology.server);
    for family in [0, 1] {
        let (from, to, address) =
            if initiator { (client, server, SERVER[family]) } else { (server, client, CLIENT[family]) };
        vm::ping(from, address);
        vm::tcp(from, to, address, &traffic::bytes(7, 200_000, false));
        vm::udp(from, to, address, &[0, 1, 15, 16, 17, 100, 777, 1300]);
    }
}

fn row(case: Case) -> Row {
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version = version.split('+').next().unwrap().trim().to_owned();
    let mode = if case.preshared { "preshared key" } else { "" };
    let row = Row::new("wireguard", "Linux WireGuard", Some(version)).initiator(case.initiator).outer_v6(case.v6);
    row.cipher("chacha20-poly1305", mode)
}

#[test]
fn both_roles_both_families() {
    let Some(topology) = hosts("vm-wg") else { return };
    for v6 in [false, true] {
        for initiator in [true, false] {
            for preshared in [false, true] {
                let case = Case { v6, initiator, preshared };
                let check = Check::new(row(case));
                with(&topology, case, |_, kernel| {
                    exchange(&topology, initiator);
                    assert!(kernel.handshake() > 0);
                });
                check.passed();
            }
        }
    }
}

#[test]
fn under_load() {
    let Some(topology) = hosts("vm-wgload") else { return };
    with(&topology, Case { v6: false, initiator: true, preshared: true }, |_, _| {
        vm::ping(&topology.client, SERVER[0]);
        let run = |arguments: &[&str]| vm::iperf(&topology.client, &topology.server, SERVER[0], 3, arguments);
        let [there, back] = [run(&[]), run(&["-R"])].map(|report| vm::rate(&report) / 1e6);
        eprintln!("iperf3 TCP {there:.1} Mbit/s there, {back:.1} back");
        assert!(there > 1.0 && back > 1.0);
    });
}

/// A kernel that loses its session and makes a new one: what is in flight on the old one must still be taken, and ours go on.
#[test]
fn the_kernel_rekeys_under_load() {
    let Some(topology) = hosts("vm-wgrekey") else { return };
    with(&topology, Case { v6: false, initiator: false, preshared: false }, |_, kernel| {
        vm::ping(&topology.server, CLIENT[0]);
        let first = kernel.handshake();
        let load = Numbered { rate: 300, length: 400, time: Duration::from_secs(130), v6: false, reverse: false };
        // The kernel asks for a new session when its own is 120 s old (REKEY_AFTER_TIME), and sends something.
        let arrived = load
            .run(&topology, || {
                for _ in 0..128 {
                    let mut ping = topology.server.command("ping");
                    process::run(ping.args(["-n", "-c", "1", "-W", "1", CLIENT[0]]), vm::PATIENCE)?;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(())
            })
            .unwrap();
        assert!(kernel.handshake() > first, "no new handshake in 130 s");
        assert_eq!((arrived.missing(), arrived.duplicates), (0, 0), "{arrived:?}");
    });
}
