//! The rig itself, with the kernel forwarding: what the other end-to-end tests stand on.
#![allow(clippy::unwrap_used)]

mod common;

use common::{World, traffic};
use softdpu_testbed::topology::SERVER;

#[test]
fn the_kernel_forwards_and_the_watch_sees_it_in_clear() {
    let Some(world) = World::idle("e2e-rig", |_| {}) else { return };
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    let clear = world.watch_for_clear();
    for v6 in [false, true] {
        traffic::tcp(&world.topology, v6, &traffic::bytes(1, 100_000, true));
        traffic::udp(&world.topology, v6, [1, 700, 1400]);
    }
    assert!(!clear.stop().unwrap().frames.is_empty());
    assert_eq!(traffic::checksum_errors(&world.topology), 0);
}

#[test]
fn jumbo_frames_pass_the_rig() {
    let jumbo = |setup: &mut common::Setup| {
        setup.topology.apps_mtu = 9000;
        setup.topology.uplink_mtu = 9000;
        setup.policy.queues = 2;
    };
    let Some(world) = World::idle("e2e-rigjumbo", jumbo) else { return };
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    traffic::udp(&world.topology, false, [8000, 8900]);
    let said = world.ping(&["-c", "1", "-M", "do", "-s", "8900", SERVER[0]]);
    assert!(said.status.success(), "{}", said.out);
}
