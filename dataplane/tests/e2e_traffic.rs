//! Traffic between client and server through two edges, whole, and nothing but ESP between them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{At, World, assert_nothing_in_clear, traffic};
use softdpu_testbed::{
    process::eventually,
    topology::{EDGE_A, EDGE_B, SERVER},
};

/// TCP both ways, compressible and not, and datagrams of many lengths, over both families.
fn exchange(world: &World) {
    for v6 in [false, true] {
        world.topology.reachable(SERVER[usize::from(v6)], common::PATIENCE).unwrap();
        traffic::tcp(&world.topology, v6, &traffic::bytes(1, 1 << 20, true));
        traffic::tcp(&world.topology, v6, &traffic::bytes(2, 1 << 20, false));
        traffic::udp(&world.topology, v6, (0..100).map(|step| 1 + step * 13));
    }
}

/// The exchange with everything watched; returns how many ESP frames were seen.
fn exchange_watched(world: &mut World) -> usize {
    let clear = world.watch_for_clear();
    let esp = world.watch_esp(20_000);
    let before = [At::A, At::B].map(|at| world.figures(at));
    exchange(world);
    assert_nothing_in_clear(&clear.stop().unwrap());
    let esp = esp.stop().unwrap();
    for (at, before) in [At::A, At::B].into_iter().zip(before) {
        let after = world.figures(at);
        assert!(after.packets_encrypted > before.packets_encrypted + 500, "{at:?}: {after:?}");
        assert!(after.packets_decrypted > before.packets_decrypted + 500, "{at:?}: {after:?}");
        assert!(after.unexplained().is_empty(), "{at:?}: {:?}", after.unexplained());
    }
    assert_eq!(traffic::checksum_errors(&world.topology), 0);
    world.assert_sound();
    esp.frames.len()
}

#[test]
fn both_families_in_esp_over_ipv4() {
    let Some(mut world) = World::running("e2e-v4", |_| {}) else { return };
    let esp = exchange_watched(&mut world);
    assert!(esp > 1000, "{esp} ESP frames");
    let figures = world.figures(At::A);
    let (before, after) = figures.compressed_since(&softdpu_testbed::status::Figures::default());
    assert!(before > after && after > 0, "half of it is text: {before} bytes became {after}");
}

#[test]
fn both_families_in_esp_over_ipv6() {
    let Some(mut world) = World::running("e2e-v6", |setup| setup.policy.outer_v6 = true) else { return };
    let esp = world.watch_esp(50);
    exchange_watched(&mut world);
    let seen = esp.stop().unwrap();
    assert!(seen.frames.iter().all(|frame| frame.bytes[12..14] == [0x86, 0xdd] && frame.bytes[20] == 50));
}

#[test]
fn esp_in_udp() {
    let Some(mut world) = World::running("e2e-udp", |setup| setup.policy.udp = true) else { return };
    let esp = world.watch_esp(50);
    exchange_watched(&mut world);
    let seen = esp.stop().unwrap();
    assert!(!seen.frames.is_empty());
    // Protocol 17, port 4500 on both sides, never the non-ESP marker of RFC 3948 section 2.2.
    for frame in &seen.frames {
        assert_eq!((frame.bytes[23], &frame.bytes[34..38]), (17, &[0x11, 0x94, 0x11, 0x94][..]));
        assert_ne!(frame.bytes[42..46], [0; 4]);
    }
}

#[test]
fn every_cipher() {
    for cipher in ["aes-128-gcm", "chacha20-poly1305"] {
        let Some(mut world) = World::running("e2e-cipher", |setup| setup.policy.cipher = cipher) else { return };
        exchange_watched(&mut world);
    }
}

#[test]
fn without_compression() {
    let Some(mut world) = World::running("e2e-plain", |setup| setup.policy.compress = false) else { return };
    exchange_watched(&mut world);
    assert_eq!(world.figures(At::A).compress_bytes_after, world.figures(At::A).compress_bytes_before);
}

#[test]
fn hosts_that_finish_their_checksums() {
    let Some(mut world) = World::running("e2e-nooffload", |setup| setup.topology.offload = false) else { return };
    exchange_watched(&mut world);
}

#[test]
fn jumbo_packets_of_several_frames() {
    let jumbo = |setup: &mut common::Setup| {
        setup.topology.apps_mtu = 9000;
        setup.topology.uplink_mtu = 9000;
    };
    let Some(mut world) = World::running("e2e-jumbo", jumbo) else { return };
    exchange_watched(&mut world);
    // Longer than one frame of 4 KiB, shorter than the tunnel's MTU: whole datagrams, not fragments.
    for v6 in [false, true] {
        traffic::udp(&world.topology, v6, [3600, 4000, 4096, 5000, 8000, 8800]);
        let server = SERVER[usize::from(v6)];
        let said = world.ping(&["-c", "3", "-i", "0.05", "-M", "do", "-s", "8000", server]);
        assert!(said.status.success(), "{}", said.out);
    }
    world.assert_sound();
}

#[test]
fn two_queues_two_workers() {
    let Some(mut world) = World::running("e2e-queues", |setup| setup.policy.queues = 2) else { return };
    exchange_watched(&mut world);
}

#[test]
fn two_runs_side_by_side() {
    let Some(mut one) = World::running("e2e-one", |_| {}) else { return };
    let Some(mut two) = World::running("e2e-two", |_| {}) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&one));
        scope.spawn(|| exchange(&two));
    });
    one.assert_sound();
    two.assert_sound();
    // One that ends takes nothing of the other's with it.
    drop(one);
    exchange(&two);
}

#[test]
fn flows_have_class_and_ends() {
    let Some(mut world) = World::running("e2e-flows", |_| {}) else { return };
    traffic::udp(&world.topology, false, [100, 200]);
    let flows = eventually(common::PATIENCE, || {
        let flows = softdpu_testbed::status::flows(&world.edge(At::A).flows().unwrap());
        flows.iter().any(|flow| flow.l4 == "udp").then_some(flows)
    });
    let flows = flows.expect("the datagrams make a flow");
    let flow = flows.iter().find(|flow| flow.l4 == "udp").unwrap();
    assert!(flow.a.starts_with("10.1.0.2:") && flow.b.starts_with("10.2.0.2:"), "{flow:?}");
    assert_eq!(flow.packets, 4, "{flow:?}");
}

#[test]
fn neighbours_and_the_edges_themselves_stay_with_the_kernel() {
    let Some(world) = World::running("e2e-host", |_| {}) else { return };
    // The edges' own addresses answer as before: nobody steered them.
    for (host, address) in [(&world.topology.edge_a, EDGE_B[0]), (&world.topology.edge_b, EDGE_A[1])] {
        let mut ping = host.command("ping");
        let said = softdpu_testbed::process::run(ping.args(["-n", "-c", "2", "-i", "0.05", address]), common::PATIENCE);
        assert!(said.as_ref().unwrap().status.success(), "{address}: {said:?}");
    }
    // A neighbour that is forgotten is found again.
    for edge in [&world.topology.edge_a, &world.topology.edge_b] {
        edge.ip("neigh flush all").unwrap();
    }
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
}
