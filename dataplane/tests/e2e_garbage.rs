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
    let received = |world: &World, link: &str| {
        let counter = |which| world.topology.edge_a.link_counter(link, which).unwrap();
        counter(LinkCounter::RxPackets)
    };
    let ports = ["apps", "uplink"];
    let before = ports.map(|link| received(&world, link));
    let counted_before = ports.map(|link| figures.steered.get(link).copied().unwrap_or(0));

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
    for (at, port) in ports.into_iter().enumerate() {
        // What came in, by the kernel's count of the link, and what the program says it did with it.
        let balance = eventually(Duration::from_secs(5), || {
            let came = received(&world, port) - before[at];
            let counted = world.figures(At::A).steered.get(port).copied().unwrap_or(0) - counted_before[at];
            (came == counted).then_some(came)
        });
        let came = received(&world, port) - before[at];
        assert!(balance.is_some(), "{port}: {came} came, counted: {:?}", world.figures(At::A).steered);
        assert!(came as usize > EACH / 2, "{port}: only {came} arrived");
    }
    // And it still works.
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    traffic::tcp(&world.topology, false, &traffic::bytes(10, 1 << 20, true));
    world.assert_sound();
}
