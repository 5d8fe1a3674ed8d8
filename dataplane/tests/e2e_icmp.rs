//! What the edges answer themselves: hop limits that run out and packets that do not fit.
#![allow(clippy::unwrap_used)]

mod common;

use common::{At, World, traffic};
use softdpu_testbed::{
    process,
    topology::{EDGE_A_APPS, EDGE_B, EDGE_B_APPS, SERVER},
};

#[test]
fn a_hop_limit_that_runs_out_is_answered_by_the_edge_it_ran_out_at() {
    let Some(mut world) = World::running("e2e-ttl", |_| {}) else { return };
    for (v6, words) in [(false, "Time to live exceeded"), (true, "Time exceeded: Hop limit")] {
        let family = usize::from(v6);
        let first = world.ping(&["-c", "1", "-W", "2", "-t", "1", SERVER[family]]);
        assert!(!first.status.success());
        assert!(first.out.contains(words) && first.out.contains(EDGE_A_APPS[family]), "{}", first.out);
        let second = world.ping(&["-c", "1", "-W", "2", "-t", "2", SERVER[family]]);
        assert!(!second.status.success());
        let from_b = [EDGE_B_APPS[family], EDGE_B[family]].iter().any(|address| second.out.contains(address));
        assert!(second.out.contains(words) && from_b, "{}", second.out);
        // One more hop is enough: the tunnel counts as one.
        let third = world.ping(&["-c", "1", "-W", "2", "-t", "3", SERVER[family]]);
        assert!(third.status.success(), "{}", third.out);
    }
    world.assert_sound();
}

#[test]
fn a_packet_too_big_for_the_tunnel_tells_the_sender_how_big_it_may_be() {
    // Without compression, so that what fits does not depend on the content.
    let Some(mut world) = World::running("e2e-pmtu", |setup| setup.policy.compress = false) else { return };
    for (v6, headers) in [(false, 28), (true, 48)] {
        let server = SERVER[usize::from(v6)];
        let full = (1500 - headers).to_string();
        let said = world.ping(&["-c", "3", "-i", "0.2", "-W", "1", "-M", "do", "-s", &full, server]);
        assert!(!said.status.success(), "{}", said.out);
        let mtu = mtu(&format!("{}{}", said.out, said.err)).unwrap_or_else(|| panic!("no MTU in: {}", said.out));
        // ESP in tunnel mode costs 20 or 40 bytes of outer header and about 40 of its own.
        assert!((1380..1480).contains(&mtu), "MTU {mtu}");
        let fits = (mtu - headers).to_string();
        let said = world.ping(&["-c", "2", "-i", "0.05", "-W", "1", "-M", "do", "-s", &fits, server]);
        assert!(said.status.success(), "{fits} bytes should fit: {}", said.out);
        // TCP learns it and goes on.
        traffic::tcp(&world.topology, v6, &traffic::bytes(3, 1 << 20, false));
    }
    world.assert_sound();
}

#[test]
fn packets_that_may_be_fragmented_arrive_whole() {
    let Some(mut world) = World::running("e2e-frag", |setup| setup.policy.compress = false) else { return };
    let clear = world.watch_for_clear();
    // 1472: one packet that is too big for the tunnel. 4000: fragments already, each too big.
    for length in ["1472", "4000"] {
        let said = world.ping(&["-c", "3", "-i", "0.1", "-W", "2", "-M", "dont", "-s", length, SERVER[0]]);
        assert!(said.status.success(), "{length}: {}", said.out);
    }
    let said = world.ping(&["-c", "3", "-i", "0.1", "-W", "2", "-s", "4000", SERVER[1]]);
    // The first may be lost to learning the MTU; the sender then makes smaller fragments.
    assert!(!said.out.contains(" 0 received"), "{}", said.out);
    common::assert_nothing_in_clear(&clear.stop().unwrap());
    world.assert_sound();
}

#[test]
fn traceroute_sees_both_edges() {
    let Some(mut world) = World::running("e2e-trace", |_| {}) else { return };
    let hops: Vec<String> = (1..=3)
        .map(|ttl: u32| {
            let mut ping = world.topology.client.command("ping");
            ping.args(["-n", "-c", "1", "-W", "2", "-t", &ttl.to_string(), SERVER[0]]);
            process::run(&mut ping, common::PATIENCE).unwrap().out
        })
        .collect();
    assert!(hops[0].contains(&format!("From {}", EDGE_A_APPS[0])), "{hops:?}");
    assert!(hops[1].contains("From "), "{hops:?}");
    assert!(hops[2].contains(&format!("from {}", SERVER[0])), "{hops:?}");
    assert!(world.edge(At::B).alive());
}

/// The first number behind `mtu` in what ping says.
fn mtu(said: &str) -> Option<u32> {
    let at = said.find("mtu")?;
    let digits = said[at + 3..].trim_start_matches([' ', '=', ':']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
