//! A tunnel from behind a NAT. The box forgets who is silent for a few seconds, and in the middle of a stream gives edge-a another
//! port, then another address:
//!
//! ```text
//!   client ── edge-a ── [ NAT: 192.0.2.9:40001, then 192.0.2.9:40002, then 192.0.2.10:40003 ] ── edge-b ── server
//! ```
#![allow(clippy::unwrap_used)]

mod common;
mod failclosed;

use std::{net::SocketAddrV4, time::Duration};

use common::{At, PATIENCE, assert_nothing_in_clear};
use failclosed::{Kind, Trial, alone};
use softdpu_testbed::{
    capture::Capture,
    nat::Nat,
    peers::probe::{Arrived, Numbered},
    process::{self, eventually},
    topology::{CLIENT, SERVER},
};

const OUTSIDE: [&str; 3] = ["192.0.2.9:40001", "192.0.2.9:40002", "192.0.2.10:40003"];
/// The NAT forgets who is silent for so long.
const FORGETS: Duration = Duration::from_secs(5);
/// Datagrams a second.
const RATE: u32 = 500;

fn outside(at: usize) -> SocketAddrV4 {
    OUTSIDE[at].parse().unwrap()
}

/// Where edge-b takes its peer to be. Of ESP the status tells the address alone.
fn seen_at(trial: &mut Trial) -> String {
    let status = trial.world.edge(At::B).status().unwrap();
    let tunnel = &status["tunnels"][0];
    let place = if trial.kind == Kind::WireGuard { &tunnel["peers"][0]["endpoint"] } else { &tunnel["remote"] };
    place.as_str().unwrap_or_default().to_owned()
}

fn moves_to(trial: &mut Trial, at: usize) {
    let there = outside(at);
    let there = if trial.kind == Kind::WireGuard { there.to_string() } else { there.ip().to_string() };
    let moved = eventually(PATIENCE, || (seen_at(trial) == there).then_some(()));
    assert!(moved.is_some(), "edge-b takes its peer to be at {}, not at {there}", seen_at(trial));
}

/// One ping from the server to the client: edge-b speaks first.
fn answers(trial: &Trial) -> bool {
    let mut ping = trial.world.topology.server.command("ping");
    ping.args(["-n", "-c", "1", "-W", "2", CLIENT[0]]);
    process::run(&mut ping, PATIENCE).unwrap().ok().is_ok()
}

/// A stream of 6 s; after 2 s the NAT gives edge-a another place.
fn moving(trial: &mut Trial, nat: &mut Nat, reverse: bool, to: usize) -> Arrived {
    let load = Numbered { rate: RATE, length: 300, time: Duration::from_secs(6), v6: reverse, reverse };
    let topology = &trial.world.topology;
    let arrived = load
        .run(topology, || {
            // ESP's keepalives have no authenticator, so nobody is followed by them (RFC 3948 §2.3): edge-a has to say something.
            let mut ping = (trial.kind == Kind::Esp && reverse).then(|| {
                let mut ping = topology.client.command("ping");
                ping.args(["-q", "-n", "-i", "0.2", "-w", "6", SERVER[0]]).stdout(std::process::Stdio::null());
                ping.spawn().unwrap()
            });
            std::thread::sleep(Duration::from_secs(2));
            nat.rebind(outside(to))?;
            std::thread::sleep(Duration::from_secs(4));
            if let Some(ping) = &mut ping {
                ping.wait()?;
            }
            Ok(())
        })
        .unwrap();
    eprintln!("  {:?}, {}: {arrived:?}", trial.kind, if reverse { "to edge-a" } else { "from edge-a" });
    arrived
}

fn behind_a_nat(kind: Kind) {
    let _alone = alone();
    // Edge-a sends keepalives. Edge-b has an address of its peer that leads nowhere (ESP), or none (WireGuard).
    let change = |at: At, text: String| match (kind, at) {
        (Kind::Esp, At::A) => text.replace("encapsulation = \"none\"", "encapsulation = \"udp\"\nkeepalive = \"1s\""),
        (Kind::Esp, At::B) => text.replace("encapsulation = \"none\"", "encapsulation = \"udp\"\nkeepalive = \"0s\""),
        (Kind::WireGuard, At::A) => text.replace("endpoint = ", "persistent_keepalive = 1\nendpoint = "),
        (Kind::WireGuard, At::B) => text
            .lines()
            .filter(|line| !line.starts_with("endpoint"))
            .fold(String::new(), |text, line| text + line + "\n"),
    };
    let Some(mut trial) = Trial::idle("nat", kind, change) else { return };
    let mut nat = Nat::start(&trial.world.topology, outside(0), FORGETS).unwrap();
    trial.world.start(At::A);
    trial.world.start(At::B);
    assert!(!answers(&trial), "nobody has come out yet");
    let ports: Vec<String> = (0..3).map(|at| format!("not udp port {}", outside(at).port())).collect();
    let clear = "net 10.0.0.0/8 or net fd01::/64 or net fd02::/64";
    let clear = format!("{clear} or (ip and not icmp and {})", ports.join(" and "));
    let seen = Capture::start(&trial.world.topology.wire, "to-b", &clear, 128, 0, &trial.world.folder).unwrap();
    for server in SERVER {
        trial.world.topology.reachable(server, Duration::from_secs(20)).unwrap();
    }
    moves_to(&mut trial, 0);
    assert!(answers(&trial));
    // Nothing but keepalives for longer than the NAT remembers.
    std::thread::sleep(FORGETS * 2 + Duration::from_secs(1));
    assert!(answers(&trial), "keepalives hold the mapping");

    // What comes out of the NAT is followed with the first packet.
    let arrived = moving(&mut trial, &mut nat, false, 1);
    assert!(arrived.missing() < u64::from(RATE), "{arrived:?}");
    moves_to(&mut trial, 1);
    assert!(answers(&trial));
    // What goes in has to wait for that: for a keepalive of a second, with WireGuard.
    let arrived = moving(&mut trial, &mut nat, true, 2);
    assert!(arrived.missing() < u64::from(RATE) * 5 / 2, "{arrived:?}");
    moves_to(&mut trial, 2);
    assert!(answers(&trial));

    if kind == Kind::WireGuard {
        // And without keepalives the mapping goes: the NAT does what the above is about.
        let key = trial.keys.as_ref().unwrap()[1].public.clone();
        trial.wg(At::A, &["peer", &key, "persistent-keepalive", "0"]);
        std::thread::sleep(FORGETS * 2 + Duration::from_secs(1));
        assert!(!answers(&trial), "nothing holds the mapping");
    }
    trial.losses(&[At::A, At::B]);
    trial.world.assert_sound();
    assert_nothing_in_clear(&seen.stop().unwrap());
}

#[test]
fn esp_in_udp_from_behind_a_nat() {
    behind_a_nat(Kind::Esp);
}

#[test]
fn wireguard_from_behind_a_nat() {
    behind_a_nat(Kind::WireGuard);
}
