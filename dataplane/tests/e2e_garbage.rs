//! A million random and mutated packets into both ports of an edge: no crash, no lost frame, every one counted.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{At, World, traffic};
use softdpu_testbed::{
    garbage::Garbage,
    generator::Generator,
    netns::{LinkCounter, NetNs},
    process::eventually,
    topology::SERVER,
};

const EACH: usize = 500_000;

fn link_address(ns: &NetNs, link: &str) -> [u8; 6] {
    let text = ns.ip(&format!("-o link show dev {link}")).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let bytes: Vec<u8> = words.nth(1).unwrap().split(':').map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn a_million_packets_of_garbage() {
    let Some(mut world) = World::running("e2e-garbage", |_| {}) else { return };
    // Real ESP to mutate, so that some of it gets as far as the tunnel's own checks.
    let esp = world.watch_esp(200);
    traffic::tcp(&world.topology, false, &traffic::bytes(9, 100_000, true));
    let esp: Vec<Vec<u8>> = esp.stop().unwrap().frames.into_iter().map(|frame| frame.bytes).collect();
    assert!(!esp.is_empty());
    let figures = world.figures(At::A);
    let received =
        |world: &World, link: &str| world.topology.edge_a.link_counter(link, LinkCounter::RxPackets).unwrap();
    let ports = ["apps", "uplink"];
    let before = ports.map(|link| received(&world, link));
    let seen_before = figures.seen_by_xdp();

    let senders = [(&world.topology.client, "eth0"), (&world.topology.wire, "to-a")];
    std::thread::scope(|scope| {
        for (seed, ((ns, link), port)) in (1u64..).zip(senders.into_iter().zip(ports)) {
            let (edge, esp) = (&world.topology.edge_a, &esp);
            scope.spawn(move || {
                let generator = Generator::open(ns, link).unwrap();
                let mut garbage = Garbage::new(seed * 77, link_address(edge, port));
                garbage.learn(esp.iter().cloned());
                let mut sent = 0;
                for _ in 0..EACH / 1000 {
                    let frames: Vec<Vec<u8>> = (0..1000).map(|_| garbage.next_frame()).collect();
                    sent += generator.send(frames.iter().map(Vec::as_slice)).unwrap();
                }
                assert!(sent as usize > EACH * 9 / 10, "{sent} of {EACH} frames were taken by {link}");
            });
        }
    });

    world.assert_sound();
    // What came in by the kernel's count of the links, and what the program says it did with each.
    let came =
        |world: &World| ports.iter().zip(before).map(|(link, before)| received(world, link) - before).sum::<u64>();
    let balance = eventually(Duration::from_secs(5), || {
        (came(&world) == world.figures(At::A).seen_by_xdp() - seen_before).then_some(())
    });
    assert!(balance.is_some(), "{} came, counted: {:?}", came(&world), world.figures(At::A).xdp_verdicts);
    assert!(came(&world) as usize > EACH, "only {} arrived", came(&world));
    // And it still works. The garbage had ARP in it, so the edge's kernel may have a wrong address for the client; it finds
    // out by itself, in up to 5 s of delay and six probes (neighbour states STALE, DELAY, PROBE).
    world.topology.reachable(SERVER[0], Duration::from_secs(30)).unwrap();
    traffic::tcp(&world.topology, false, &traffic::bytes(10, 1 << 20, true));
    world.assert_sound();
}
