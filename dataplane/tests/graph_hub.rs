//! A WireGuard hub in memory: what one peer sends to another goes back into the tunnel, and by no port in clear, wherever the
//! forwarding table has the other peer's nets.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::config::Policy;
use softdpu::crypto::outer::{Encapsulation, Endpoints, Outer};
use softdpu::crypto::wg::session::{OpenError, Opened};
use softdpu::crypto::wg::{Identity, Initiator, Opening, PrivateKey, Psk, Remote, Session, Tai64n};
use softdpu::graph::DropReason;
use softdpu::host::fib::{Fib, Link, Route};
use softdpu::tunnel::keys::{Keys, Listen, Seal, Selector, TunnelKeys, Way, WgIn, WgOut};
use softdpu::tunnel::wireguard::allowed::AllowedIps;
use softdpu::wire::ethernet::Mac;
use softdpu::worker::harness::Harness;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use support::udp4;

const LAN: usize = 0;
const UPLINK: usize = 1;
const OTHER: usize = 2;
const PORT: u16 = 51820;

/// In the net of peer 0, 1 or 2, and on the hub's own LAN.
const A: [u8; 4] = [10, 8, 1, 2];
const B: [u8; 4] = [10, 8, 2, 2];
const HOST: [u8; 4] = [10, 1, 0, 2];
/// Nobody's.
const FAR: [u8; 4] = [203, 0, 113, 9];
const SECRET: &[u8] = b"canary-5be2c7a1!";

const UDP: u8 = 17;
const NET_A: &str = "10.8.1.0/24";
const NET_B: &str = "10.8.2.0/24";

/// A peer of the hub: its end of the session, and the hub's.
struct Peer {
    session: Session,
    hubs: Arc<Session>,
    endpoint: SocketAddr,
}

impl Peer {
    fn new(number: u8) -> Self {
        let of = |byte| PrivateKey::from_bytes(&[byte; 32]);
        let (hub, peer) = (Identity::new(of(1)), Identity::new(of(10 + number)));
        let to_hub = Remote::new(&peer, *hub.public(), Psk::default());
        let to_peer = Remote::new(&hub, *peer.public(), Psk::default());
        let index = 0x100 + u32::from(number);
        let (initiator, initiation) = Initiator::start(&hub, &to_peer, index, of(20 + number), Tai64n::now()).unwrap();
        let responder = Opening::open(&peer, &initiation).unwrap().finish(&to_hub, None).unwrap();
        let (response, theirs) = responder.respond(&to_hub, 0x200 + u32::from(number), of(30 + number)).unwrap();
        let hubs = initiator.finish(&hub, &to_peer, &response).unwrap();
        let now = 2_000_000_000;
        Self {
            session: Session::new(theirs, now, Arc::default()),
            hubs: Arc::new(Session::new(hubs, now, Arc::default())),
            endpoint: SocketAddr::from(([192, 0, 2, 2 + number], PORT)),
        }
    }

    /// The frame on the hub's uplink in which the peer sends the IP packet of `inner`, a frame.
    fn seal(&self, inner: &[u8]) -> Vec<u8> {
        let mut buffer = [&[0; 16], &inner[14..], &[0; 64]].concat();
        let place = 16..16 + inner.len() - 14;
        let message = self.session.sealer(1, 2_000_000_000).seal_message(&mut buffer, place, 1500).unwrap();
        let IpAddr::V4(from) = self.endpoint.ip() else { panic!() };
        udp4(from.octets(), [192, 0, 2, 1], (PORT, PORT), 64, &buffer[message])
    }

    /// The IP packet in a frame from the hub, `None` where it is for another peer.
    fn open(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut message = frame[if frame[12..14] == [0x86, 0xdd] { 14 + 48 } else { 14 + 28 }..].to_vec();
        let all = 0..message.len();
        match self.session.opener(2_000_000_000).open_slice(&mut message, all) {
            Ok(Opened::Packet { place, .. }) => Some(message[place].to_vec()),
            Err(OpenError::WrongIndex) => None,
            other => panic!("{other:?}"),
        }
    }
}

/// `rule`: what the one rule says besides `encrypt`.
fn policy(rule: &str) -> Policy {
    let mut text = "name = \"hub\"\n[workers]\nframes = 1024\n".to_owned();
    for port in ["lan", "uplink", "other"] {
        text += &format!("[[port]]\nname = \"{port}\"\nkind = \"loopback\"\nloop_to = \"{port}\"\n");
    }
    text += "[[tunnel]]\nname = \"wg0\"\ntype = \"wireguard\"\nlisten_port = 51820\nprivate_key_file = \"/none\"\n";
    text += &format!("[[rule]]\nname = \"all\"\nencrypt = \"wg0\"\n{rule}\n");
    softdpu::config::parse(&text, "hub.toml").unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
}

/// The LAN and the uplink's own net, and these prefixes by these ports.
fn fib(generation: u32, routes: &[(&str, usize)]) -> Fib {
    let link = || Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true, ..Link::default() };
    let mut fib = Fib::new(generation, vec![link(), link(), link()]);
    let connected = [("10.1.0.0/24", LAN), ("192.0.2.0/24", UPLINK), ("2001:db8::/64", UPLINK)];
    for (port, address) in [(LAN, "10.1.0.1"), (UPLINK, "192.0.2.1"), (OTHER, "198.51.100.1")] {
        fib.set_link_address(port as u8, address.parse().unwrap());
        fib.add_local(address.parse().unwrap());
    }
    for (net, port) in connected {
        fib.add_route(net.parse().unwrap(), Route::Port { port: port as u8, gateway: None }, 0);
    }
    for (net, port) in routes {
        let gateway: IpAddr = [[10, 1, 0, 2], [192, 0, 2, 2], [198, 51, 100, 2]][*port].into();
        fib.add_route(net.parse().unwrap(), Route::Port { port: *port as u8, gateway: Some(gateway) }, 0);
    }
    for (port, neighbour) in [(LAN, "10.1.0.2"), (UPLINK, "2001:db8::2"), (OTHER, "198.51.100.2")] {
        fib.add_neighbour(port as u8, neighbour.parse().unwrap(), Mac([6; 6]));
    }
    for last in 2..5 {
        fib.add_neighbour(UPLINK as u8, [192, 0, 2, last].into(), Mac([6; 6]));
    }
    fib
}

struct Hub {
    worker: Harness,
    peers: Vec<Peer>,
    /// Counts what is published.
    keys: u32,
}

impl Hub {
    /// A hub whose peers have these nets each.
    fn new(rule: &str, routes: &[(&str, usize)], allowed: &[&[&str]]) -> Self {
        let worker = Harness::with_fib(policy(rule), fib(1, routes)).unwrap();
        let peers = (0..allowed.len() as u8).map(Peer::new).collect();
        let mut hub = Self { worker, peers, keys: 1 };
        hub.allow(allowed);
        hub
    }

    fn allow(&mut self, allowed: &[&[&str]]) {
        let with_session = vec![true; allowed.len()];
        self.publish(allowed, &with_session);
    }

    fn publish(&mut self, allowed: &[&[&str]], with_session: &[bool]) {
        let mut table = AllowedIps::default();
        for (slot, nets) in allowed.iter().enumerate() {
            nets.iter().for_each(|net| assert!(table.insert(net.parse().unwrap(), slot as u32)));
        }
        let endpoints = |remote: IpAddr| match remote {
            IpAddr::V4(remote) => Endpoints::V4 { local: [192, 0, 2, 1].into(), remote },
            IpAddr::V6(remote) => Endpoints::V6 { local: "2001:db8::1".parse().unwrap(), remote },
        };
        let ways = self.peers.iter().zip(with_session).map(|(peer, with_session)| {
            let outer = Outer::new(
                endpoints(peer.endpoint.ip()),
                Encapsulation::Udp { source: PORT, destination: peer.endpoint.port() },
            );
            let current = Some(peer.hubs.clone());
            let seal = Seal::WireGuard(Box::new(WgOut { next: None, current, outer }));
            let seal = if *with_session { seal } else { Seal::Nothing };
            Some(Arc::new(Way { remote: peer.endpoint, seal, state: Arc::default() }))
        });
        let tunnel = TunnelKeys { selector: Selector::Allowed(Arc::new(table.table())), ways: ways.collect() };
        let sessions = self.peers.iter().enumerate();
        let sessions = sessions.map(|(way, peer)| WgIn { session: peer.hubs.clone(), tunnel: 0, way: way as u32 });
        let listen = vec![Listen { port: PORT, tunnel: 0, local: None }];
        self.keys += 1;
        let keys = Keys::new((self.keys, self.keys), Vec::new(), sessions.collect(), listen, vec![tunnel]).unwrap();
        self.worker.shared.keys.store(Arc::new(keys));
    }

    /// A packet that a peer sends through its tunnel, and what became of it: whom it was sealed to, or by which port it left in
    /// clear, and the packet.
    fn from(&mut self, peer: usize, inner: &[u8]) -> Option<(To, Vec<u8>)> {
        let sealed = self.peers[peer].seal(inner);
        let out = self.worker.pass(UPLINK, &sealed);
        assert!(out.len() <= 1, "{out:?}");
        let (port, frame) = out.into_iter().next()?;
        let outer = frame[23] == UDP && frame[36..38] == PORT.to_be_bytes() && frame[26..29] == [192, 0, 2];
        if port != UPLINK || (frame[12..14] == [8, 0] && !outer) {
            return Some((To::Clear(port), frame[14..].to_vec()));
        }
        assert!(!frame.windows(SECRET.len()).any(|part| part == SECRET));
        let opened = self.peers.iter().enumerate().find_map(|(at, peer)| Some((at, peer.open(&frame)?)));
        opened.map(|(at, packet)| (To::Peer(at), packet))
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.dropped(reason)
    }

    fn end(mut self) {
        assert_eq!(self.worker.worker.counters.escaped_bytes.get(), 0);
        self.worker.assert_no_leak();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Peer(usize),
    Clear(usize),
}

fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    // The same flow both ways.
    let ports = if from < to { (4000, 5000) } else { (5000, 4000) };
    udp4(from, to, ports, 64, SECRET)
}

fn to(sent: Option<(To, Vec<u8>)>) -> Option<To> {
    sent.map(|(to, _)| to)
}

#[test]
fn peers_reach_each_other_wherever_the_table_has_their_nets() {
    let tables: [&[(&str, usize)]; 6] = [
        &[],
        &[("0.0.0.0/0", UPLINK)],
        &[("0.0.0.0/0", OTHER)],
        &[(NET_A, LAN), (NET_B, LAN)],
        &[(NET_A, OTHER), (NET_B, OTHER)],
        &[("10.8.0.0/16", LAN), ("0.0.0.0/0", OTHER)],
    ];
    let rules = [
        "",
        "to = [\"10.8.0.0/16\"]",
        "from = [\"10.0.0.0/8\"]\nto = [\"10.8.0.0/16\"]",
        // One that holds one way only.
        "from = [\"10.8.1.0/24\"]\nto = [\"10.8.2.0/24\"]",
    ];
    for (routes, rule) in tables.iter().flat_map(|routes| rules.map(|rule| (routes, rule))) {
        let mut hub = Hub::new(rule, routes, &[&[NET_A], &[NET_B]]);
        for round in 0..3 {
            let (there, back) = (packet(A, B), packet(B, A));
            for (from, to, frame) in [(0, 1, there), (1, 0, back)] {
                let Some((went, got)) = hub.from(from, &frame) else { panic!("{rule} {routes:?} {round}: dropped") };
                assert_eq!(went, To::Peer(to), "{rule} {routes:?} {round}");
                assert_eq!(got[8], 63, "a hop like any other");
                assert_eq!((&got[12..20], &got[28..]), (&frame[26..34], &frame[42..]));
            }
        }
        let tunnel = &hub.worker.worker.counters.tunnels[0];
        assert_eq!((tunnel.opened.packets.get(), tunnel.sealed.packets.get()), (6, 6));
        hub.end();
    }
}

#[test]
fn the_longer_prefix_decides_between_lan_and_peer() {
    let all = "0.0.0.0/0";
    // Peer 1 is the way to everywhere else.
    let mut hub = Hub::new("", &[(all, OTHER), ("10.8.2.2/32", LAN)], &[&[NET_A], &[NET_B, all]]);
    assert_eq!(to(hub.from(0, &packet(A, HOST))), Some(To::Clear(LAN)), "a connected net before 0.0.0.0/0");
    assert_eq!(to(hub.from(0, &packet(A, B))), Some(To::Clear(LAN)), "the route of one host before the allowed /24");
    assert_eq!(to(hub.from(0, &packet(A, [10, 8, 2, 3]))), Some(To::Peer(1)));
    assert_eq!(to(hub.from(0, &packet(A, FAR))), Some(To::Peer(1)), "the default route is not longer");
    assert_eq!(to(hub.from(1, &packet(FAR, A))), Some(To::Peer(0)));
    assert_eq!(to(hub.from(0, &packet(A, [10, 1, 0, 1]))), None, "the hub's own address is the hub's");
    assert_eq!(hub.dropped(DropReason::ForThisHost), 1);
    hub.end();
}

#[test]
fn what_lies_behind_the_same_peer_is_not_sent_back_and_not_in_clear() {
    let all = "0.0.0.0/0";
    let mut hub = Hub::new("", &[(all, OTHER), (NET_A, LAN)], &[&[NET_A], &[all]]);
    assert_eq!(to(hub.from(0, &packet(A, [10, 8, 1, 9]))), None);
    assert_eq!(to(hub.from(1, &packet([198, 18, 0, 1], FAR))), None);
    assert_eq!(hub.dropped(DropReason::BackToPeer), 2);
    assert_eq!(to(hub.from(1, &packet(FAR, HOST))), Some(To::Clear(LAN)));
    hub.end();
    // Where the rule says what is on this side, that is.
    let mut hub = Hub::new("from = [\"203.0.113.0/24\"]", &[(all, OTHER)], &[&[NET_A], &[all]]);
    assert_eq!(to(hub.from(1, &packet([198, 18, 0, 1], FAR))), Some(To::Clear(OTHER)));
    hub.end();
}

#[test]
fn a_rule_must_let_it_come_by_the_tunnel() {
    let routes = [("10.8.0.0/16", LAN)];
    let mut hub = Hub::new("from = [\"10.1.0.0/24\"]\nto = [\"10.8.0.0/16\"]", &routes, &[&[NET_A], &[NET_B]]);
    assert_eq!(to(hub.from(0, &packet(A, B))), None, "no rule is for it");
    assert_eq!(hub.dropped(DropReason::WrongTunnel), 1);
    assert_eq!(to(hub.from(0, &packet(A, HOST))), Some(To::Clear(LAN)));
    hub.end();
    // The way out of a rule, for a net that no peer has: not in clear either.
    let mut hub = Hub::new("from = [\"10.8.1.0/24\"]\nto = [\"10.8.0.0/16\"]", &routes, &[&[NET_A], &[]]);
    assert_eq!(to(hub.from(0, &packet(A, B))), None);
    assert_eq!(hub.dropped(DropReason::WrongTunnel), 1);
    hub.end();
}

#[test]
fn a_net_that_no_peer_has_any_more_is_still_the_far_sides_where_the_rule_says_so() {
    let rules = [
        ("to = [\"10.8.0.0/16\"]", DropReason::NoSelector),
        ("from = [\"10.0.0.0/8\"]\nto = [\"10.8.2.0/24\", \"10.8.1.0/24\"]", DropReason::NoSelector),
        ("from = [\"10.8.1.0/24\"]\nto = [\"10.8.2.0/24\"]", DropReason::WrongTunnel),
    ];
    for (rule, reason) in rules {
        let mut hub = Hub::new(rule, &[("10.8.0.0/16", LAN)], &[&[NET_A], &[NET_B]]);
        assert_eq!(to(hub.from(0, &packet(A, B))), Some(To::Peer(1)), "{rule}");
        hub.allow(&[&[NET_A], &[]]);
        for _ in 0..2 {
            assert_eq!(to(hub.from(0, &packet(A, B))), None, "{rule}");
        }
        assert_eq!(hub.dropped(reason), 2, "{rule}");
        hub.end();
    }
}

#[test]
fn without_a_session_it_waits_and_is_dropped_under_a_name() {
    let routes = [(NET_B, LAN)];
    let nets: [&[&str]; 2] = [&[NET_A], &[NET_B]];
    let mut hub = Hub::new("", &routes, &nets);
    hub.publish(&nets, &[true, false]);
    assert_eq!(to(hub.from(0, &packet(A, B))), None);
    hub.worker.wait(2_000_000_000);
    assert_eq!(hub.dropped(DropReason::NoSession), 1);
    assert_eq!(to(hub.from(0, &packet(A, B))), None);
    hub.allow(&nets);
    hub.worker.wait(20_000_000);
    let late = hub.worker.receive(UPLINK).expect("with the session it goes on");
    assert!(hub.peers[1].open(&late).is_some());
    hub.end();
}

#[test]
fn errors_go_back_into_the_tunnel_to_the_one_who_sent() {
    let mut hub = Hub::new("", &[(NET_B, LAN)], &[&[NET_A], &[NET_B]]);
    let mut old = packet(A, B);
    old = udp4(A, B, (4000, 5000), 1, &old[42..]);
    let (went, error) = hub.from(0, &old).unwrap();
    assert_eq!((went, error[9], error[20]), (To::Peer(0), 1, 11), "time exceeded");
    assert_eq!((&error[12..16], &error[16..20]), ([10, 1, 0, 1].as_slice(), A.as_slice()), "from the protected side");

    // By IPv6 the tunnel carries 20 bytes less to the second peer than from the first.
    hub.peers[1].endpoint = "[2001:db8::2]:51820".parse().unwrap();
    hub.allow(&[&[NET_A], &[NET_B]]);
    let large = |len: usize| {
        let mut frame = udp4(A, B, (4000, 5000), 64, &vec![7; len - 28]);
        frame[20] = 0x40;
        frame[24..26].fill(0);
        let sum = softdpu::wire::checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    let (went, error) = hub.from(0, &large(1421)).unwrap();
    assert_eq!((went, error[9], error[20], error[21]), (To::Peer(0), 1, 3, 4), "fragmentation needed");
    assert_eq!(u16::from_be_bytes([error[26], error[27]]), 1420);
    let (went, fits) = hub.from(0, &large(1420)).unwrap();
    assert_eq!((went, fits.len()), (To::Peer(1), 1420));
    assert_eq!(hub.dropped(DropReason::SamePort), 0);
    hub.end();
}

#[test]
fn a_known_flow_follows_the_table_and_the_allowed_ips() {
    let exact = [("10.8.2.2/32", LAN)];
    let mut hub = Hub::new("", &exact, &[&[NET_A], &[NET_B]]);
    let frame = packet(A, B);
    for _ in 0..2 {
        assert_eq!(to(hub.from(0, &frame)), Some(To::Clear(LAN)));
    }
    for generation in (2..8).step_by(2) {
        hub.worker.set_fib(fib(generation, &[(NET_B, LAN)]));
        for _ in 0..2 {
            assert_eq!(to(hub.from(0, &frame)), Some(To::Peer(1)), "{generation}");
        }
        hub.worker.set_fib(fib(generation + 1, &exact));
        for _ in 0..2 {
            assert_eq!(to(hub.from(0, &frame)), Some(To::Clear(LAN)), "{generation}");
        }
    }
    for _ in 0..2 {
        hub.allow(&[&[NET_A], &[NET_B, "10.8.2.2/32"]]);
        for _ in 0..2 {
            assert_eq!(to(hub.from(0, &frame)), Some(To::Peer(1)));
        }
        hub.allow(&[&[NET_A], &["10.8.2.2/31"]]);
        for _ in 0..2 {
            assert_eq!(to(hub.from(0, &frame)), Some(To::Clear(LAN)));
        }
    }
    hub.end();
}

#[test]
fn what_waits_for_a_neighbour_is_asked_about_again_when_it_goes_on() {
    // On the uplink there is nobody of that address.
    let nowhere = |generation| {
        let mut fib = fib(generation, &[]);
        fib.add_route(NET_B.parse().unwrap(), Route::Port { port: UPLINK as u8, gateway: None }, 0);
        fib
    };
    let mut hub = Hub::new("", &[], &[&[NET_A], &[]]);
    hub.worker.set_fib(nowhere(2));
    assert_eq!(to(hub.from(0, &packet(A, B))), None, "it waits");
    hub.allow(&[&[NET_A], &[NET_B]]);
    hub.worker.set_fib(fib(3, &[(NET_B, LAN)]));
    hub.worker.wait(20_000_000);
    assert_eq!(hub.worker.receive(LAN), None);
    let late = hub.worker.receive(UPLINK).expect("sealed to the peer");
    assert!(hub.peers[1].open(&late).is_some());

    hub.allow(&[&[NET_A], &[]]);
    hub.worker.set_fib(nowhere(4));
    assert_eq!(to(hub.from(0, &packet(A, B))), None, "it waits");
    hub.allow(&[&[NET_A, NET_B], &[]]);
    hub.worker.set_fib(fib(5, &[(NET_B, LAN)]));
    hub.worker.wait(20_000_000);
    assert_eq!((hub.worker.receive(LAN), hub.dropped(DropReason::BackToPeer)), (None, 1));
    hub.end();
}

/// A flow remembers each direction by itself: one that stays here says nothing of what another peer sends the other way.
#[test]
fn a_peer_that_speaks_for_the_lan_gets_nothing_out_in_clear() {
    let mut hub = Hub::new("", &[("10.8.0.0/16", OTHER)], &[&[NET_A], &[NET_B, "0.0.0.0/0"]]);
    for _ in 0..3 {
        assert_eq!(to(hub.from(0, &packet(A, HOST))), Some(To::Clear(LAN)));
        assert_eq!(to(hub.from(1, &packet(HOST, A))), Some(To::Peer(0)));
    }
    let out = hub.worker.pass(LAN, &packet(HOST, A));
    assert!(matches!(out.as_slice(), [(UPLINK, frame)] if hub.peers[0].open(frame).is_some()));
    hub.end();
}

#[test]
fn fragments_and_flows_that_the_table_has_no_room_for_go_the_same_way() {
    let mut policy = policy("ports = [\"5000\"]");
    policy.flows.capacity = 1;
    for policy in [policy, self::policy("")] {
        let worker = Harness::with_fib(policy, fib(1, &[("10.8.0.0/16", LAN)])).unwrap();
        let mut hub = Hub { worker, peers: (0..2).map(Peer::new).collect(), keys: 1 };
        hub.allow(&[&[NET_A], &[NET_B]]);
        for last in 2..40 {
            let frame = udp4([10, 8, 1, last], B, (4000, 5000), 64, SECRET);
            assert_eq!(to(hub.from(0, &frame)), Some(To::Peer(1)));
        }
        let whole = udp4(A, B, (4000, 5000), 64, &[7; 64]);
        let piece = |word: u16, bytes: std::ops::Range<usize>| {
            let mut frame = [&whole[..34], &whole[34..][bytes]].concat();
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            let len = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            frame[24..26].fill(0);
            let sum = softdpu::wire::checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
            frame
        };
        let mut got = 0;
        for frame in [piece(0x2000, 0..16), piece(0x0002, 16..72)] {
            let sealed = hub.peers[0].seal(&frame);
            for (port, frame) in hub.worker.pass(UPLINK, &sealed) {
                assert_eq!(port, UPLINK);
                assert!(hub.peers[1].open(&frame).is_some());
                got += 1;
            }
        }
        assert_eq!(got, 2);
        hub.end();
    }
}

/// What each relays is numbered by the one session, and none of it is a replay.
#[test]
fn several_workers_relay_into_one_session() {
    let mut hub = Hub::new("", &[(NET_B, LAN)], &[&[NET_A], &[NET_B]]);
    let mut second = Harness::with_fib(policy(""), fib(1, &[(NET_B, LAN)])).unwrap();
    second.shared.keys.store(hub.worker.shared.keys.load_full());
    for round in 0..50 {
        assert_eq!(to(hub.from(0, &packet(A, B))), Some(To::Peer(1)), "{round}");
        let sealed = hub.peers[0].seal(&packet(A, B));
        let out = second.pass(UPLINK, &sealed);
        assert!(matches!(out.as_slice(), [(UPLINK, frame)] if hub.peers[1].open(frame).is_some()), "{round}");
        assert_eq!(hub.worker.pass(UPLINK, &sealed), [], "what one has opened the other has not to open");
    }
    assert_eq!(hub.dropped(DropReason::Replay), 50);
    second.assert_no_leak();
    hub.end();
}

/// Each move makes a new snapshot of the keys.
#[test]
fn a_peer_that_moves_with_every_packet_is_told_of_four_times_a_second() {
    let mut hub = Hub::new("", &[], &[&[NET_A], &[NET_B]]);
    for round in 0..1000_u16 {
        hub.worker.now += 2_000_000;
        let mut sealed = hub.peers[0].seal(&packet(A, HOST));
        sealed[34..36].copy_from_slice(&(PORT + round % 2).to_be_bytes());
        sealed[40..42].fill(0);
        let out = hub.worker.pass(UPLINK, &sealed);
        assert!(matches!(out.as_slice(), [(LAN, _)]), "its packets are its packets");
    }
    let told = std::iter::from_fn(|| hub.worker.events.pop()).count();
    assert!((7..=9).contains(&told), "{told}");
    hub.end();
}
