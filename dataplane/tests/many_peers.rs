//! A WireGuard gateway with two thousand peers, set by `wg`'s protocol, in memory: every peer makes a session through the graph,
//! and a packet of each goes either way. Peers are real ones but for their sockets.
//!
//! ```text
//!  server 10.0.0.1 ── apps │ softdpu │ uplink ── 2,000 peers, 198.18.0.0/15, each with its own 10.64.x.y
//! ```
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::config;
use softdpu::crypto::outer::{Encapsulation, Endpoints, Outer};
use softdpu::crypto::wg::cookie::Jar;
use softdpu::crypto::wg::session::{Opened, Plain};
use softdpu::crypto::wg::{Identity, Initiator, Message, PrivateKey, Psk, PublicKey, Remote, Session, Tai64n};
use softdpu::graph::DropReason;
use softdpu::tunnel::events::Event;
use softdpu::tunnel::wg_part::WgParts;
use softdpu::tunnel::wireguard::uapi::{Parser, Request};
use softdpu::tunnel::wireguard::{Action, Device, Endpoint, Limits, Now};
use softdpu::worker::harness::Harness;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use support::{APPS, UPLINK, udp4};

const PEERS: usize = 2000;
const PORT: u16 = 51_820;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: [u8; 4] = [10, 0, 0, 1];
/// Link, IPv4 and UDP header of what the gateway sends.
const FRONT: usize = 14 + 20 + 8;

const POLICY: &str = r#"
[workers]
frames = 4096
[[port]]
name = "apps"
kind = "loopback"
loop_to = "uplink"
[[port]]
name = "uplink"
kind = "loopback"
loop_to = "apps"
[[tunnel]]
name = "wg0"
type = "wireguard"
local = "192.0.2.1"
[[rule]]
name = "peers"
to = ["10.64.0.0/10"]
encrypt = "wg0"
"#;

struct Peer {
    identity: Identity,
    psk: [u8; 32],
    outer: Ipv4Addr,
    inner: [u8; 4],
    session: Option<Session>,
}

impl Peer {
    fn new(n: usize) -> Self {
        let mut key = [9; 32];
        key[8..16].copy_from_slice(&(n as u64).to_le_bytes());
        let at = |net: [u8; 4]| (u32::from_be_bytes(net) + n as u32 * 3).to_be_bytes();
        Self {
            identity: Identity::new(PrivateKey::from_bytes(&key)),
            psk: if n.is_multiple_of(2) { [0; 32] } else { key },
            outer: at([198, 18, 0, 0]).into(),
            inner: at([10, 64, 0, 0]),
            session: None,
        }
    }

    fn outer(&self) -> Outer {
        let endpoints = Endpoints::V4 { local: self.outer, remote: GATEWAY };
        Outer::new(endpoints, Encapsulation::Udp { source: PORT, destination: PORT })
    }

    /// The frame that brings an inner packet to the gateway; a keepalive where there is none.
    fn seal(&self, inner: &[u8], now: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes.extend(inner);
        bytes.resize(bytes.len() + 64, 0);
        let plain = Plain { place: 64..64 + inner.len(), tos: 0, mtu: 1420 };
        let session = self.session.as_ref().unwrap();
        let place = session.sealer(1, now).seal_slice(&mut bytes, &plain, &self.outer()).unwrap();
        bytes[place].to_vec()
    }

    /// What is inside of a frame from the gateway.
    fn open(&self, frame: &[u8], now: u64) -> Vec<u8> {
        let mut bytes = frame.to_vec();
        let all = FRONT..bytes.len();
        match self.session.as_ref().unwrap().opener(now).open_slice(&mut bytes, all) {
            Ok(Opened::Packet { place, .. }) => bytes[place].to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

/// The worker, and the control side played by hand: what the runtime's tasks do, without their sockets.
struct Gateway {
    harness: Harness,
    device: Device,
    parts: WgParts,
    public: PublicKey,
    publications: u32,
}

fn clock(mono: u64) -> Now {
    Now { mono, wall: Duration::from_secs(1_700_000_000) + Duration::from_nanos(mono) }
}

impl Gateway {
    fn new(peers: &[Peer]) -> Self {
        let policy = config::parse(POLICY, "test").unwrap_or_else(|errors| panic!("{errors:?}"));
        let harness = Harness::new(policy).unwrap();
        let key = PrivateKey::generate().unwrap();
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let mut text = format!("set=1\nprivate_key={}\nlisten_port={PORT}\nreplace_peers=true\n", hex(key.expose()));
        for peer in peers {
            let (public, psk) = (hex(peer.identity.public().as_bytes()), hex(&peer.psk));
            writeln!(text, "public_key={public}\npreshared_key={psk}\nallowed_ip={}/32", Ipv4Addr::from(peer.inner))
                .unwrap();
        }
        let mut parser = Parser::default();
        let request = text.lines().chain([""]).find_map(|line| parser.line(line.as_bytes()).unwrap());
        let Some(Request::Set(set)) = request else { panic!("{request:?}") };
        let limits = Limits { free_per_second: 1 << 20, ..Limits::default() };
        let mut device = Device::new(limits, clock(harness.now)).unwrap();
        let mut out = Vec::new();
        device.set(&set, clock(harness.now), &mut out).unwrap();
        let parts = WgParts::new(0, Some(IpAddr::V4(GATEWAY)));
        let mut gateway = Self { harness, device, parts, public: key.public(), publications: 0 };
        gateway.act(out);
        gateway
    }

    /// Publishes where that is to be done, once, and then hands out what is to be sent.
    fn act(&mut self, out: Vec<Action>) -> Vec<(SocketAddr, Vec<u8>)> {
        if out.contains(&Action::Changed) {
            let (part, selection) = self.parts.build(&mut self.device);
            self.harness.publisher.lock().unwrap().set(0, part, selection).unwrap();
            self.device.published();
            self.publications += 1;
        }
        let sent = |action| match action {
            Action::Send { to, bytes, .. } => Some((to, bytes)),
            Action::Changed => None,
        };
        out.into_iter().filter_map(sent).collect()
    }

    /// What the worker told, taken in.
    fn listen(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let now = clock(self.harness.now);
        let mut out = Vec::new();
        while let Some(event) = self.harness.events.pop() {
            match event {
                Event::Handshake { from, local, message, .. } => {
                    let mut bytes = message.as_slice().to_vec();
                    self.device.receive(now, from, Some(local), &mut bytes, &mut out).unwrap();
                }
                Event::Confirmed { index, .. } => self.device.confirmed(index, now, &mut out),
                Event::Roamed { index, from, local, .. } => {
                    self.device.moved(index, Endpoint { to: from, from: Some(local) }, &mut out);
                }
                other => panic!("{other:?}"),
            }
        }
        self.act(out)
    }

    /// Puts frames on a port's wire and returns what leaves by the other.
    fn pass(&mut self, port: usize, frames: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        frames.for_each(|frame| assert!(self.harness.send(port, &frame), "the wire is full"));
        self.harness.settle();
        assert!(self.harness.receive(port).is_none(), "nothing comes back");
        std::iter::from_fn(|| self.harness.receive(1 - port)).collect()
    }
}

/// A frame with a UDP payload from the peer to the gateway's port.
fn datagram(peer: &Peer, payload: &[u8]) -> Vec<u8> {
    udp4(peer.outer.octets(), GATEWAY.octets(), (PORT, PORT), 64, payload)
}

#[test]
fn two_thousand_peers_each_with_a_session_and_a_packet_each_way() {
    let mut peers: Vec<Peer> = (0..PEERS).map(Peer::new).collect();
    let by_outer: HashMap<Ipv4Addr, usize> = peers.iter().enumerate().map(|(n, peer)| (peer.outer, n)).collect();
    let mut gateway = Gateway::new(&peers);
    assert_eq!((gateway.device.peer_count(), gateway.publications), (PEERS, 1));

    // All shake hands, some hundred at a time: more than wait for the control side would be lost, and tried again.
    for first in (0..PEERS).step_by(50) {
        // Workers let only so many handshakes of strangers through.
        gateway.harness.wait(20_000_000);
        let now = gateway.harness.now;
        let mut waiting = HashMap::new();
        let mut frames = Vec::new();
        for (n, peer) in peers.iter().enumerate().skip(first).take(50) {
            let remote = Remote::new(&peer.identity, gateway.public, Psk::from_bytes(&peer.psk));
            let ephemeral = PrivateKey::generate().unwrap();
            let time = Tai64n::since_1970(clock(now).wall);
            let (initiator, message) = Initiator::start(&peer.identity, &remote, n as u32, ephemeral, time).unwrap();
            let mut bytes = message.to_bytes();
            Jar::default().stamp(&remote, &mut bytes, now);
            frames.push(datagram(peer, &bytes));
            waiting.insert(n, (initiator, remote));
        }
        assert!(gateway.pass(UPLINK, frames.into_iter()).is_empty());
        for (to, bytes) in gateway.listen() {
            let IpAddr::V4(to) = to.ip() else { panic!("{to}") };
            let Ok(Message::Response(response)) = Message::parse(&bytes) else { panic!("a response") };
            let n = by_outer[&to];
            let (initiator, remote) = &waiting[&n];
            let keys = initiator.finish(&peers[n].identity, remote, &response).unwrap();
            peers[n].session = Some(Session::new(keys, now, Arc::default()));
        }
    }
    assert!(peers.iter().all(|peer| peer.session.is_some()));

    // From each peer: what is inside arrives as it was, and nobody else's address is taken from it.
    let now = gateway.harness.now;
    let payload = |n: usize| format!("from peer {n}").into_bytes();
    for round in 0..2 {
        for first in (0..PEERS).step_by(500) {
            let frames = peers[first..first + 500]
                .iter()
                .enumerate()
                .map(|(i, peer)| peer.seal(&udp4(peer.inner, SERVER, (4000, 53), 64, &payload(first + i))[14..], now));
            let arrived = gateway.pass(UPLINK, frames);
            assert_eq!(arrived.len(), 500);
            for (i, frame) in arrived.iter().enumerate() {
                assert_eq!((&frame[26..30], &frame[42..]), (&peers[first + i].inner[..], &payload(first + i)[..]));
            }
            gateway.listen();
        }
        assert_eq!(gateway.harness.worker.counters.tunnels[0].opened.packets.get(), (round + 1) * PEERS as u64);
    }
    let stolen = udp4(peers[1].inner, SERVER, (4000, 53), 64, b"mine now");
    let frame = peers[0].seal(&stolen[14..], now);
    assert!(gateway.pass(UPLINK, [frame].into_iter()).is_empty());
    assert_eq!(gateway.harness.dropped(DropReason::NotAllowed), 1);

    // To each peer, in an order that makes every packet another's: only that peer can read it.
    let order: Vec<usize> = (0..PEERS).map(|i| i * 7 % PEERS).collect();
    for some in order.chunks(500) {
        let frames = some.iter().map(|n| udp4(SERVER, peers[*n].inner, (53, 4000), 64, &payload(*n)));
        let sent = gateway.pass(APPS, frames);
        assert_eq!(sent.len(), 500);
        for (n, frame) in some.iter().zip(&sent) {
            assert_eq!(frame[30..34], peers[*n].outer.octets(), "to where that peer is");
            let inner = peers[*n].open(frame, now);
            assert_eq!((&inner[16..20], &inner[28..]), (&peers[*n].inner[..], &payload(*n)[..]));
        }
    }
    let escaped = gateway.harness.worker.counters.escaped_bytes.get();
    assert_eq!(escaped, 0);
    gateway.harness.assert_no_leak();
}
