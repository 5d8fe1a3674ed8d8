//! AF_XDP without a copy, on virtio-net: the usual four hosts, each link a pair of virtio devices.
#![allow(clippy::unwrap_used)]

mod common;
mod vm;

use common::{At, World, traffic};
use softdpu_testbed::{edge::Edge, status::Figures, topology::SERVER};

/// How an edge's ports were bound.
fn bound(world: &mut World, at: At) -> Vec<String> {
    let status = world.edge(at).status().unwrap();
    status["ports"].as_array().unwrap().iter().map(|port| port["copy"].as_str().unwrap().to_owned()).collect()
}

/// Traffic of every kind through both edges, whole, and all frames accounted for.
fn exchange(world: &mut World) {
    for v6 in [false, true] {
        world.topology.reachable(SERVER[usize::from(v6)], vm::PATIENCE).unwrap();
        traffic::tcp(&world.topology, v6, &traffic::bytes(1, 1 << 18, true));
        traffic::tcp(&world.topology, v6, &traffic::bytes(2, 1 << 18, false));
        traffic::udp(&world.topology, v6, (0..30).map(|step| 1 + step * 46));
    }
    assert_eq!(traffic::checksum_errors(&world.topology), 0);
    world.assert_sound();
    for at in [At::A, At::B] {
        let figures: Figures = world.figures(at);
        assert!(figures.packets_encrypted > 200 && figures.packets_decrypted > 200, "{at:?}: {figures:?}");
        assert_eq!(figures.escaped_bytes, 0);
    }
}

/// As fast as it goes.
fn load(world: &mut World) {
    let tcp = vm::iperf(&world.topology.client, &world.topology.server, SERVER[0], 3, &[]);
    let udp =
        vm::iperf(&world.topology.client, &world.topology.server, SERVER[1], 3, &["-u", "-b", "5M", "-l", "1200"]);
    eprintln!("iperf3 TCP {:.1} Mbit/s, UDP {:.1} Mbit/s", vm::rate(&tcp) / 1e6, vm::rate(&udp) / 1e6);
    assert!(vm::rate(&tcp) > 1e6, "{tcp}");
    world.assert_sound();
}

/// The world on virtio links, running as asked; `None`, said aloud, where this kernel's driver has no zero-copy.
fn world(tag: &str, zero_copy: &'static str, udp: bool) -> Option<World> {
    if !vm::here() {
        return None;
    }
    let mut world = World::idle(tag, |setup| {
        setup.topology.virtio = true;
        setup.policy.zero_copy = zero_copy;
        setup.policy.udp = udp;
    })?;
    if zero_copy == "require" && vm::kernel() < (6, 14) {
        let refused = Edge::start(common::binary(), world.host(At::A), world.files(At::A));
        let error = format!("{:#}", refused.expect_err("virtio-net learned zero-copy with Linux 6.14"));
        assert!(error.contains("zero_copy"), "the operator must be told which key to change: {error}");
        eprintln!("SKIPPED: virtio-net of this kernel has no AF_XDP zero-copy");
        return None;
    }
    world.start(At::A);
    world.start(At::B);
    Some(world)
}

#[test]
fn zero_copy_carries_esp() {
    let Some(mut world) = world("vm-zc", "require", false) else { return };
    for at in [At::A, At::B] {
        assert_eq!(bound(&mut world, at), ["zero-copy", "zero-copy"]);
    }
    exchange(&mut world);
    load(&mut world);
}

#[test]
fn zero_copy_carries_esp_in_udp() {
    let Some(mut world) = world("vm-zcudp", "require", true) else { return };
    exchange(&mut world);
}

#[test]
fn zero_copy_ends_and_begins_again() {
    let Some(mut world) = world("vm-zcagain", "require", false) else { return };
    world.topology.reachable(SERVER[0], vm::PATIENCE).unwrap();
    for _ in 0..2 {
        assert!(world.take(At::A).stop().unwrap().success());
        assert!(world.no_xdp(At::A));
        world.start(At::A);
        assert_eq!(bound(&mut world, At::A), ["zero-copy", "zero-copy"]);
        world.topology.reachable(SERVER[0], vm::PATIENCE).unwrap();
    }
    world.take(At::A).kill();
    world.start(At::A);
    exchange(&mut world);
}

#[test]
fn copies_are_made_where_asked_for() {
    let Some(mut world) = world("vm-copy", "never", false) else { return };
    for at in [At::A, At::B] {
        assert_eq!(bound(&mut world, at), ["copy", "copy"]);
    }
    exchange(&mut world);
}
