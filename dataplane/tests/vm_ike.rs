//! A real IKE daemon: strongSwan's charon on both edges with the kernel's ESP (kernel-netlink). softdpu on edge-a runs what the
//! kernel there is told (tunnel of type xfrm); edge-b is the kernel alone.
#![allow(clippy::unwrap_used)]

mod common;
mod vm;

use std::time::Duration;

use common::traffic;
use softdpu_testbed::{
    cleanup::RunDir,
    edge::Edge,
    interop::{Check, Row},
    peers::{
        probe::{Arrived, Numbered},
        strongswan::{self, Options, Proposal, StrongSwan},
    },
    policy::{EdgeFiles, Side},
    process,
    status::Figures,
    topology::{self, CLIENT, SERVER, SERVER_NET, Topology},
};

/// Rekeyings that must lose nothing.
const REKEYS: usize = 20;

fn hosts(tag: &str) -> Option<Topology> {
    if !vm::here() {
        return None;
    }
    if strongswan::version().is_none() {
        eprintln!("SKIPPED: strongSwan is not in the VM");
        return None;
    }
    Some(Topology::new(&topology::Options::new(tag)).unwrap())
}

/// Both daemons, with a CHILD_SA that one of them asked for.
fn daemons(topology: &Topology, folder: &RunDir, options: &Options, initiator: bool) -> [StrongSwan; 2] {
    let a = StrongSwan::start(&topology.edge_a, Side::A, folder, options).unwrap();
    let b = StrongSwan::start(&topology.edge_b, Side::B, folder, options).unwrap();
    if initiator {
        a.initiate(&topology.edge_a).unwrap();
    } else {
        b.initiate(&topology.edge_b).unwrap();
    }
    a.established(1).unwrap();
    b.established(1).unwrap();
    [a, b]
}

/// An emulated processor may hold a thread up for longer than a ring lasts. What rekeying loses it loses each time.
const TRIES: usize = 3;

fn datagrams(rate: u32) -> Numbered {
    Numbered { rate, length: 600, time: Duration::from_secs(3), v6: false, reverse: false }
}

/// Datagrams a second that go through here and now without loss: by halves, from what no emulated processor does.
fn most(topology: &Topology) -> u32 {
    let mut rate = 64_000;
    while rate > 500 && datagrams(rate).run(topology, || Ok(())).unwrap().missing() > 0 {
        rate /= 2;
    }
    rate
}

/// Numbered datagrams while the CHILD_SA is exchanged `times` times, by either side in turn, after `before` exchanges.
fn rekeyed(topology: &Topology, daemons: &[StrongSwan; 2], rate: u32, before: usize, times: usize) -> Arrived {
    let arrived = datagrams(rate).run(topology, || {
        for round in before..before + times {
            let (daemon, host) =
                if round % 2 == 0 { (&daemons[0], &topology.edge_a) } else { (&daemons[1], &topology.edge_b) };
            daemon.rekey(host)?;
            daemons[0].established(round + 2)?;
            daemons[1].established(round + 2)?;
            // The old pair goes a moment after the new one came; two at once would be another test.
            std::thread::sleep(Duration::from_millis(700));
        }
        Ok(())
    });
    arrived.unwrap()
}

fn exchange(topology: &Topology) {
    let (client, server) = (&topology.client, &topology.server);
    for family in [0, 1] {
        for (from, to, address) in [(client, server, SERVER[family]), (server, client, CLIENT[family])] {
            vm::ping(from, address);
            vm::tcp(from, to, address, &traffic::bytes(7, 150_000, false));
            vm::udp(from, to, address, &[0, 1, 100, 777, 1300]);
        }
    }
}

/// The rig itself: what is lost here is not softdpu's.
#[test]
fn the_two_kernels_alone() {
    let Some(topology) = hosts("vm-ike") else { return };
    let folder = RunDir::new("vm-ike").unwrap();
    let options = Options { kernel: true, ..Options::new(Proposal::Aes256Gcm16) };
    let daemons = daemons(&topology, &folder, &options, true);
    vm::ping(&topology.client, SERVER[0]);
    let rate = most(&topology) / 2;
    let arrived = rekeyed(&topology, &daemons, rate, 0, 4);
    eprintln!("4 rekeyings by the kernels alone, {rate} datagrams/s: {arrived:?}");
    let state = topology.edge_a.ip("-s xfrm state").unwrap();
    assert!(state.contains("proto esp"), "{state}");
}

/// softdpu's policy: whatever the kernel's IPsec is told.
fn policy(folder: &RunDir) -> EdgeFiles {
    let file = |end: &str| folder.file(format!("edge-a.{end}"));
    let files = EdgeFiles { side: Side::A, policy: file("toml"), socket: file("sock"), log: file("log") };
    let text = format!(
        r#"name = "edge-a"

[control]
socket = "{}"

[[port]]
name = "apps"
interface = "apps"

[[port]]
name = "uplink"
interface = "uplink"

[[steer]]
name = "from-apps"
port = "apps"
to = ["{}", "{}"]
on_loss = "drop"

[[tunnel]]
name = "ike"
type = "xfrm"
fallback = "drop"
"#,
        files.socket.display(),
        SERVER_NET[0],
        SERVER_NET[1]
    );
    std::fs::write(&files.policy, text).unwrap();
    files
}

fn row(proposal: Proposal, v6: bool, esn: bool, initiator: bool) -> Row {
    let row = Row::new("esp", "strongSwan, Linux XFRM", strongswan::version()).initiator(initiator).outer_v6(v6);
    row.cipher(proposal.cipher().unwrap(), if esn { "IKEv2, ESN" } else { "IKEv2" })
}

/// softdpu beside the daemon of edge-a, `job` run, and everything sound afterwards.
fn mirrored(topology: &Topology, options: &Options, initiator: bool, job: impl FnOnce(&[StrongSwan; 2])) {
    let folder = RunDir::new("vm-ike").unwrap();
    let mut edge = Edge::start(common::binary(), &topology.edge_a, &policy(&folder)).unwrap();
    let daemons = daemons(topology, &folder, options, initiator);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&daemons)));
    let figures = Figures::read(&edge.status().unwrap());
    if let Err(panic) = result {
        eprintln!("{options:?}\nsoftdpu: {figures:?}\n{}", process::tail(&edge.said(), 30));
        eprintln!("edge-b: {:?}\n{}", vm::xfrm_errors(&topology.edge_b), daemons[0].last());
        std::panic::resume_unwind(panic);
    }
    assert!(edge.alive(), "{}", edge.said());
    assert!(figures.packets_encrypted > 0 && figures.packets_decrypted > 0, "{options:?}: {figures:?}");
    assert_eq!(figures.escaped_bytes, 0);
    let balanced = process::eventually(vm::PATIENCE, || Figures::read(&edge.status().ok()?).balanced().then_some(()));
    assert!(balanced.is_some(), "frames are missing");
    assert!(edge.stop().unwrap().success());
}

#[test]
fn softdpu_runs_what_charon_negotiates() {
    let Some(topology) = hosts("vm-ikemirror") else { return };
    for (proposal, v6, esn, initiator) in [
        (Proposal::Aes128Gcm16, false, false, true),
        (Proposal::Aes256Gcm16, false, true, false),
        (Proposal::ChaCha20Poly1305, true, false, true),
        (Proposal::Aes256Gcm16, true, true, false),
    ] {
        let check = Check::new(row(proposal, v6, esn, initiator));
        let options = Options { kernel: true, outer_v6: v6, esn, ..Options::new(proposal) };
        mirrored(&topology, &options, initiator, |_| exchange(&topology));
        check.passed();
    }
}

#[test]
fn twenty_rekeyings_lose_nothing() {
    let Some(topology) = hosts("vm-ikerekey") else { return };
    let options = Options { kernel: true, ..Options::new(Proposal::Aes256Gcm16) };
    mirrored(&topology, &options, true, |daemons| {
        vm::ping(&topology.client, SERVER[0]);
        let most = most(&topology);
        let mut rate = most / 2;
        let whole = (0..TRIES).any(|tried| {
            let arrived = rekeyed(&topology, daemons, rate, tried * REKEYS, REKEYS);
            eprintln!("{REKEYS} rekeyings under softdpu, {rate} of at most {most} datagrams/s: {arrived:?}");
            assert_eq!(arrived.duplicates, 0, "{arrived:?}");
            rate = (rate * 3 / 4).max(300);
            arrived.missing() == 0
        });
        assert!(whole, "datagrams were lost in each of {TRIES} loads");
    });
}
