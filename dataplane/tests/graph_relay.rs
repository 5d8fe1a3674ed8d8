//! From one tunnel of type esp into another, in memory: what rules say is behind a tunnel does not go on in clear because it came
//! out of one.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::crypto::esp::Inner;
use softdpu::crypto::outbound::{OutboundOptions, Start};
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::crypto::{Cipher, OutboundConfig, OutboundSa, keyfile};
use softdpu::graph::DropReason;
use softdpu::host::fib::{Fib, Link, Route};
use softdpu::wire::ethernet::Mac;
use softdpu::worker::harness::Harness;
use support::udp4;

const UPLINK: usize = 0;
const LAN: usize = 1;
const ESP: u8 = 50;

const ONE: [u8; 4] = [10, 1, 0, 2];
const TWO: [u8; 4] = [10, 2, 0, 2];
const FAR: [u8; 4] = [203, 0, 113, 9];

/// A hub with a tunnel to each of two peers, 192.0.2.2 and 192.0.2.3, and what the peers send with.
struct Hub {
    worker: Harness,
    one: OutboundSa,
    two: OutboundSa,
    _keys: tempfile::TempDir,
}

impl Hub {
    /// `rules`: tunnel, `from`, `to`. `routes`: prefixes, all to the LAN.
    fn new(rules: &[(&str, &[&str], &[&str])], routes: &[&str]) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let dir = keys.path();
        for (at, key) in ["one-in", "one-out", "two-in", "two-out"].into_iter().enumerate() {
            support::write_key(&dir.join(format!("{key}.key")), 1 + at as u8, 36);
        }
        let mut text = "name = \"hub\"\n[workers]\nframes = 1024\n".to_owned();
        for port in ["uplink", "lan"] {
            text += &format!("[[port]]\nname = \"{port}\"\nkind = \"loopback\"\nloop_to = \"{port}\"\n");
        }
        for (name, remote, spi) in [("one", 2, 0x1000), ("two", 3, 0x2000)] {
            let dir = dir.display();
            text += &format!(
                "[[tunnel]]\nname = \"{name}\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.{remote}\"\n[tunnel.out]\nspi = {}\nkey_file = \"{dir}/{name}-out.key\"\n[tunnel.in]\nspi = {spi}\nkey_file = \"{dir}/{name}-in.key\"\n",
                spi + 1
            );
        }
        for (at, (tunnel, from, to)) in rules.iter().enumerate() {
            text += &format!("[[rule]]\nname = \"{at}\"\nencrypt = \"{tunnel}\"\n");
            for (key, nets) in [("from", from), ("to", to)] {
                if !nets.is_empty() {
                    text += &format!("{key} = {nets:?}\n");
                }
            }
        }
        let policy = softdpu::config::parse(&text, "hub.toml").unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
        let worker = Harness::with_fib(policy, fib(routes)).unwrap();
        let peer = |name: &str, remote: u8, spi: u32| {
            let key = keyfile::read(&dir.join(format!("{name}-in.key")), Cipher::Aes256Gcm).unwrap();
            OutboundSa::new(&OutboundConfig {
                spi,
                material: &key,
                endpoints: Endpoints::V4 { local: [192, 0, 2, remote].into(), remote: [192, 0, 2, 1].into() },
                encapsulation: Encapsulation::None,
                extended: true,
                start: Start::Clock,
                options: OutboundOptions::default(),
            })
            .unwrap()
        };
        let (one, two) = (peer("one", 2, 0x1000), peer("two", 3, 0x2000));
        Self { worker, one, two, _keys: keys }
    }

    /// A packet out of the tunnel of its source, `one` for 10.1.0.0/16, and what became of it.
    fn send(&mut self, from: [u8; 4], to: [u8; 4], ttl: u8) -> Option<To> {
        let frame = udp4(from, to, if from < to { (1, 2) } else { (2, 1) }, ttl, b"from one peer to the next");
        let sa = if from[1] == 1 { &self.one } else { &self.two };
        let mut buffer = vec![0; 512];
        let place = 128..128 + frame.len() - 14;
        buffer[place.clone()].copy_from_slice(&frame[14..]);
        let sealed = sa.sealer(1).seal_slice(&mut buffer, &Inner { place, next_header: 4, tos: 0 }).unwrap();
        let sealed = &mut buffer[sealed];
        sealed[..12].copy_from_slice(&frame[..12]);
        let out = self.worker.pass(UPLINK, sealed);
        assert!(out.len() <= 1, "{out:?}");
        let (port, frame) = out.into_iter().next()?;
        Some(if frame[23] == ESP { To::Peer(frame[33]) } else { To::Clear(port) })
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.dropped(reason)
    }

    fn end(mut self) {
        assert_eq!(self.worker.worker.counters.escaped_bytes.get(), 0);
        self.worker.assert_no_leak();
    }
}

/// Whom it was sealed to, by the last byte of the outer destination, or by which port it left in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Peer(u8),
    Clear(usize),
}

const FIRST: Option<To> = Some(To::Peer(2));
const SECOND: Option<To> = Some(To::Peer(3));
const CLEAR: Option<To> = Some(To::Clear(LAN));

fn fib(routes: &[&str]) -> Fib {
    let link = || Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true, ..Link::default() };
    let mut fib = Fib::new(1, vec![link(), link()]);
    for (port, address) in [(UPLINK, "192.0.2.1"), (LAN, "198.51.100.1")] {
        fib.set_link_address(port as u8, address.parse().unwrap());
    }
    fib.add_route("192.0.2.0/24".parse().unwrap(), Route::Port { port: UPLINK as u8, gateway: None }, 0);
    for last in [2, 3] {
        fib.add_neighbour(UPLINK as u8, [192, 0, 2, last].into(), Mac([6; 6]));
    }
    let gateway = "198.51.100.2".parse().unwrap();
    fib.add_neighbour(LAN as u8, gateway, Mac([8; 6]));
    for net in routes {
        fib.add_route(net.parse().unwrap(), Route::Port { port: LAN as u8, gateway: Some(gateway) }, 0);
    }
    fib
}

const NET_1: &[&str] = &["10.1.0.0/16"];
const NET_2: &[&str] = &["10.2.0.0/16"];
const TEN: &[&str] = &["10.0.0.0/8"];

#[test]
fn a_hub_seals_both_directions_of_what_it_relays() {
    for routes in [&[][..], &["0.0.0.0/0"], &["10.1.0.0/24", "10.2.0.0/24"]] {
        let mut hub = Hub::new(&[("two", NET_1, NET_2), ("one", NET_2, NET_1)], routes);
        for _ in 0..3 {
            assert_eq!(hub.send(ONE, TWO, 64), SECOND, "{routes:?}");
            assert_eq!(hub.send(TWO, ONE, 64), FIRST, "{routes:?}");
        }
        hub.end();
    }
}

#[test]
fn rules_that_hold_both_ways_relay_by_the_longer_prefix() {
    // Anything to the first peer's net, anything else of 10.0.0.0/8 to the second: what the first sends there holds both ways.
    let rules = [("one", &[][..], NET_1), ("two", &[], TEN)];
    for routes in [&["0.0.0.0/0"][..], &["10.0.0.0/8"], &[]] {
        let mut hub = Hub::new(&rules, routes);
        for _ in 0..3 {
            assert_eq!(hub.send(ONE, TWO, 64), SECOND, "{routes:?}");
            assert_eq!(hub.send(TWO, ONE, 64), FIRST, "{routes:?}");
        }
        hub.end();
    }
    let mut hub = Hub::new(&rules, &["10.2.0.0/24", "0.0.0.0/0"]);
    assert_eq!(hub.send(ONE, TWO, 64), CLEAR, "the route knows it better");
    assert_eq!(hub.send(ONE, [10, 2, 9, 9], 64), SECOND);
    assert_eq!(hub.send(ONE, FAR, 64), CLEAR, "no rule has it behind a tunnel");
    hub.end();
    // What a rule names as this side's, though the route to it is the default one.
    let mut hub = Hub::new(&[("one", NET_2, NET_1), ("two", &[], &[])], &["0.0.0.0/0"]);
    assert_eq!(hub.send(ONE, TWO, 64), CLEAR);
    hub.end();
}

#[test]
fn what_is_behind_the_same_peer_does_not_go_on_in_clear() {
    let mut hub = Hub::new(&[("one", &[], TEN)], &["0.0.0.0/0", "10.3.0.0/24"]);
    for _ in 0..2 {
        assert_eq!(hub.send(ONE, TWO, 64), None);
    }
    assert_eq!(hub.dropped(DropReason::BackToPeer), 2);
    assert_eq!(hub.send(ONE, [10, 3, 0, 2], 64), CLEAR, "a connected net is here");
    assert_eq!(hub.send(ONE, FAR, 64), CLEAR);
    hub.end();
    let mut hub = Hub::new(&[("one", NET_1, NET_2)], &["0.0.0.0/0"]);
    assert_eq!(hub.send(ONE, TWO, 64), None, "the rule's way out");
    assert_eq!(hub.dropped(DropReason::WrongTunnel), 1);
    hub.end();
}

#[test]
fn an_error_about_what_is_relayed_goes_back_into_the_first_tunnel() {
    let mut hub = Hub::new(&[("two", NET_1, NET_2), ("one", NET_2, NET_1)], &[]);
    assert_eq!(hub.send(ONE, TWO, 1), FIRST, "both tunnels are on one port: that is no crossing");
    assert_eq!(hub.dropped(DropReason::SamePort), 0);
    assert_eq!(hub.worker.worker.counters.icmp_sent.get(), 1);
    hub.end();
}
