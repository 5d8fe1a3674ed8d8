//! The host's own kernel behind a tap, on both edges: it routes what is for the other side to softdpu, and gets what comes out
//! of the tunnel.
//!
//! ```text
//!   client ── apps [kernel] dpu0 ── softdpu ── uplink ══ wire ══ uplink ── softdpu ── dpu0 [kernel] apps ── server
//! ```
#![allow(clippy::unwrap_used)]

mod common;
#[path = "failclosed/mod.rs"]
mod failclosed;

use std::{
    net::SocketAddr,
    process::Output,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use common::{At, PATIENCE, World, traffic};
use failclosed::{Kind, Load, alone, assert_no_canary, watch};
use softdpu_testbed::{
    capture::{Capture, describe},
    peers::{
        keys::{Child, ChildSa},
        ours::{self, Apps, TAP},
        wireguard::{Config, KeyPair, PORT},
    },
    policy::Side,
    process,
    topology::{CLIENT_NET, EDGE_A, EDGE_A_APPS, EDGE_B, EDGE_B_APPS, SERVER, SERVER_NET},
};

/// What may not be on the wire: anything of either side's networks.
const CLEAR: &str = "net 10.0.0.0/8 or net fd01::/64 or net fd02::/64";
const KINDS: [Kind; 2] = [Kind::Esp, Kind::WireGuard];

/// Policies of a tunnel between two taps, not running yet.
fn idle(tag: &str, kind: Kind) -> Option<World> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let world = World::idle(&format!("{tag}{}", if kind == Kind::Esp { "e" } else { "w" }), |_| {})?;
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    match kind {
        Kind::Esp => {
            let (there, back) = (ChildSa::random(0x1001, 20).unwrap(), ChildSa::random(0x1002, 20).unwrap());
            let child = Child { inbound: back, outbound: there };
            for (side, child) in [(Side::A, child.clone()), (Side::B, child.flipped())] {
                ours::esp_of(&world.folder, side, "aes-128-gcm", "short", false, &child, Apps::Tap).unwrap();
            }
        }
        Kind::WireGuard => {
            let keys = [KeyPair::new().unwrap(), KeyPair::new().unwrap()];
            let sides = [(Side::A, EDGE_B, SERVER_NET, "a"), (Side::B, EDGE_A, CLIENT_NET, "b")];
            for (at, (side, other, allowed, end)) in sides.into_iter().enumerate() {
                let mut config = Config::new(&keys[at], &keys[1 - at].public, &allowed);
                config.endpoint = Some(SocketAddr::new(other[0].parse().unwrap(), PORT));
                let name = format!("tp{end}{}x{next}", std::process::id());
                ours::wireguard_of(&world.folder, side, &name, &config, Apps::Tap).unwrap();
            }
        }
    }
    Some(world)
}

fn running(tag: &str, kind: Kind) -> Option<World> {
    let mut world = idle(tag, kind)?;
    world.start(At::A);
    world.start(At::B);
    for address in SERVER {
        world.topology.reachable(address, Duration::from_secs(20)).unwrap();
    }
    Some(world)
}

fn on(world: &World, at: At, program: &str, words: &[&str]) -> Output {
    let mut command = world.host(at).command(program);
    command.args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Packets that went by the tap as the kernel counts them (long ones once), and as the worker does (segments): in, then out.
fn counted(world: &mut World, at: At) -> [(u64, u64); 2] {
    let links: serde_json::Value =
        serde_json::from_slice(&on(world, at, "ip", &["-j", "-s", "link", "show", TAP]).stdout).unwrap();
    let status = world.edge(at).status().unwrap();
    let port = status["ports"].as_array().unwrap().iter().find(|port| port["kind"] == "tap").unwrap().clone();
    let kernel = |way: &str| links[0]["stats64"][way]["packets"].as_u64().unwrap();
    let ours = |way: &str| port[way]["packets"].as_u64().unwrap();
    [(kernel("tx"), ours("rx")), (kernel("rx"), ours("tx"))]
}

#[test]
fn traffic_of_hosts_behind_the_kernel() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut world) = running("tap", kind) else { return };
        let clear = Capture::start(&world.topology.wire, "wire", CLEAR, 128, 0, &world.folder).unwrap();
        let before = counted(&mut world, At::A);
        for v6 in [false, true] {
            traffic::tcp(&world.topology, v6, &traffic::bytes(1, 8 << 20, false));
            traffic::udp(&world.topology, v6, [1, 100, 1392, 1393, 1472, 3000, 9000, 40_000]);
        }
        // Long packets went both ways: the worker has seen many more packets than the kernel.
        for ((kernel, ours), (kernel_before, ours_before)) in counted(&mut world, At::A).into_iter().zip(before) {
            let (kernel, ours) = (kernel - kernel_before, ours - ours_before);
            assert!(ours > 8000 && kernel < ours / 2, "{kind:?}: {ours} packets, {kernel} to the kernel");
        }
        let seen = clear.stop().unwrap();
        assert!(seen.frames.is_empty(), "{kind:?}: {}", describe(&seen.frames[0]));
        assert_eq!(traffic::checksum_errors(&world.topology), 0, "{kind:?}");
        for at in [At::A, At::B] {
            let figures = world.figures(at);
            assert_eq!(figures.escaped_bytes, 0);
            let named = ["handshake", "keepalive", "multicast"];
            let odd: Vec<_> =
                figures.drops_by_reason.iter().filter(|(reason, _)| !named.contains(&reason.as_str())).collect();
            assert!(odd.is_empty(), "{kind:?} {at:?}: {odd:?}");
        }
        world.assert_sound();
    }
}

#[test]
fn the_hosts_themselves_talk_through_the_tunnel() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut world) = running("taph", kind) else { return };
        let clear = Capture::start(&world.topology.wire, "wire", CLEAR, 128, 0, &world.folder).unwrap();
        for (from, to) in EDGE_A_APPS.into_iter().zip(EDGE_B_APPS) {
            // One hop: the tunnel. The kernel and softdpu are one router.
            for size in ["56", "1300", "5000"] {
                let words = ["-n", "-c", "3", "-i", "0.05", "-W", "2", "-t", "1", "-s", size, "-I", from, to];
                let ping = on(&world, At::A, "ping", &words);
                assert!(ping.status.success(), "{kind:?}: {}", said(&ping));
            }
        }
        // And with a host behind the other edge.
        let ping =
            on(&world, At::A, "ping", &["-n", "-c", "2", "-i", "0.05", "-W", "2", "-I", EDGE_A_APPS[0], SERVER[0]]);
        assert!(ping.status.success(), "{kind:?}: {}", said(&ping));
        let seen = clear.stop().unwrap();
        assert!(seen.frames.is_empty(), "{kind:?}: {}", describe(&seen.frames[0]));
        world.assert_sound();
    }
}

/// A packet that the tunnel cannot carry whole, and may not be cut: its sender hears of it, from softdpu, by the tap.
#[test]
fn what_is_too_big_is_answered_by_the_tap() {
    let _alone = alone();
    for kind in KINDS {
        let Some(world) = idle("tapm", kind) else { return };
        for at in [At::A, At::B] {
            let file = &world.files(at).policy;
            let text = std::fs::read_to_string(file).unwrap().replace("mtu = 1420", "mtu = 1500");
            std::fs::write(file, text).unwrap();
        }
        let mut world = world;
        world.start(At::A);
        world.start(At::B);
        for v6 in [false, true] {
            let server = SERVER[usize::from(v6)];
            world.topology.reachable(server, Duration::from_secs(20)).unwrap();
            // The kernel keeps to MTU 1500, and softdpu says what fits; then the client fragments.
            let ping = world.ping(&["-c", "4", "-i", "0.1", "-W", "1", "-M", "want", "-s", "1450", server]);
            assert!(ping.status.success(), "{kind:?}: {}", ping.out);
            traffic::tcp(&world.topology, v6, &traffic::bytes(3, 1 << 20, false));
        }
        assert!(world.figures(At::A).escaped_bytes == 0);
        world.assert_sound();
    }
}

/// A killed softdpu takes its tap along. What the kernel had routed by it must not find another way.
#[test]
fn killed_and_started_again_nothing_leaves_in_clear() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut world) = running("tapk", kind) else { return };
        let seen = watch(&world);
        let load = Load::start(&world.topology);
        load.flows("before");
        for at in [At::A, At::B] {
            world.take(at).kill();
            std::thread::sleep(Duration::from_millis(300));
            let other = SERVER[0];
            let route = on(&world, At::A, "ip", &["route", "get", other]);
            assert!(at != At::A || !route.status.success(), "{kind:?}: {}", said(&route));
            world.start(at);
            load.flows("again");
        }
        drop(load);
        assert_no_canary(&seen.stop().unwrap(), 100);
        // In order it ends without a trace, and the kernel forwards as before.
        for at in [At::A, At::B] {
            world.take(at).stop().unwrap();
            let routes = said(&on(&world, at, "ip", &["route"])) + &said(&on(&world, at, "ip", &["-6", "route"]));
            assert!(!routes.contains("unreachable") && !routes.contains(TAP), "{routes}");
        }
        world.topology.reachable(SERVER[0], PATIENCE).unwrap();
    }
}

/// A start that fails leaves neither tap nor guards.
#[test]
fn a_start_that_fails_leaves_nothing() {
    let Some(world) = idle("tapf", Kind::Esp) else { return };
    // In the way of the second half.
    on(&world, At::A, "ip", &["route", "add", "10.2.0.128/25", "via", EDGE_B[0]]);
    let mut command = world.host(At::A).command(common::binary());
    command.arg("run").arg("-c").arg(&world.files(At::A).policy);
    let ended = process::run(&mut command, Duration::from_secs(30)).unwrap();
    assert!(!ended.status.success());
    assert!((ended.err + &ended.out).contains("ip route show 10.2.0.128/25"));
    let routes = said(&on(&world, At::A, "ip", &["route"]));
    assert!(!routes.contains("unreachable") && !routes.contains(TAP), "{routes}");
    assert!(world.no_xdp(At::A));
}

/// A tap that the operator made is used, killed or not, and stays.
#[test]
fn a_tap_made_beforehand_is_used_and_stays() {
    let _alone = alone();
    let Some(mut world) = idle("tapp", Kind::Esp) else { return };
    for at in [At::A, At::B] {
        let made = on(&world, at, "ip", &["tuntap", "add", TAP, "mode", "tap", "multi_queue", "vnet_hdr"]);
        assert!(made.status.success(), "{}", said(&made));
        world.start(at);
    }
    world.topology.reachable(SERVER[0], PATIENCE).unwrap();
    world.take(At::A).kill();
    let route = on(&world, At::A, "ip", &["route", "get", SERVER[0]]);
    assert!(!route.status.success() || said(&route).contains(TAP), "{}", said(&route));
    world.start(At::A);
    world.topology.reachable(SERVER[0], PATIENCE).unwrap();
    world.take(At::A).stop().unwrap();
    assert!(on(&world, At::A, "ip", &["link", "show", TAP]).status.success());
}
