//! Our device against the real wireguard-go, in namespaces of their own:
//!
//! ```text
//!   this test ── 192.0.2.1, 2001:db8::1 ══ veth ══ 192.0.2.2, 2001:db8::2 ── wireguard-go ── tun 10.9.0.2 ── ping
//! ```
//!
//! The test does a worker's part: it seals, opens, and answers pings.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use softdpu::crypto::secret::Secret;
use softdpu::crypto::wg::message::TRANSPORT_HEADER_LEN;
use softdpu::crypto::wg::session::OVERHEAD;
use softdpu::crypto::wg::{PrivateKey, PublicKey};
use softdpu::tunnel::wireguard::receive::Received;
use softdpu::tunnel::wireguard::serve::now;
use softdpu::tunnel::wireguard::uapi::{AllowedIp, SetDevice, SetPeer};
use softdpu::tunnel::wireguard::udp::Sockets;
use softdpu::tunnel::wireguard::{Action, Device, Limits};
use softdpu::wire::prefix::Prefix;
use softdpu_testbed::cleanup::{RunDir, unique};
use softdpu_testbed::netns::NetNs;
use softdpu_testbed::process::{Process, eventually, run};

const PATIENCE: Duration = Duration::from_secs(20);
const OURS: [u8; 4] = [10, 9, 0, 1];
const THEIRS: [u8; 4] = [10, 9, 0, 2];

/// A device, its sockets, and what a worker would do.
struct Host {
    device: Device,
    sockets: Sockets,
    out: Vec<Action>,
    received: Vec<Received>,
    requests: u32,
    replies: u32,
}

impl Host {
    fn new(set: &SetDevice) -> Self {
        let mut device = Device::new(Limits::default(), now()).unwrap();
        let mut out = Vec::new();
        device.set(set, now(), &mut out).unwrap();
        let sockets = Sockets::bind(device.listen_port(), 0).unwrap();
        Self { device, sockets, out, received: Vec::new(), requests: 0, replies: 0 }
    }

    fn count(&self, wanted: Received) -> usize {
        self.received.iter().filter(|r| **r == wanted).count()
    }

    /// Sends what is to be sent, waits for a datagram or a timer, deals with it; until `done` or out of patience.
    async fn run(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            if Instant::now() > end {
                return false;
            }
            self.device.tick(now(), &mut self.out);
            for action in self.out.drain(..) {
                if let Action::Send { to, from, bytes } = action {
                    self.sockets.send(to, from, &bytes).unwrap();
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), self.sockets.readable()).await;
            let mut buffer = [0; 2048];
            while let Ok((len, from, local)) = self.sockets.try_receive(&mut buffer) {
                let message = &mut buffer[..len];
                match self.device.receive(now(), from, local, message, &mut self.out) {
                    Ok(Received::Packet { slot, start, end }) => {
                        let packet = message[start..end].to_vec();
                        self.packet(slot, packet);
                    }
                    Ok(received) => self.received.push(received),
                    Err(refused) => panic!("{refused:?} from {from}"),
                }
            }
        }
        true
    }

    fn packet(&mut self, slot: u32, mut packet: Vec<u8>) {
        let source: [u8; 4] = packet[12..16].try_into().unwrap();
        assert_eq!(self.device.allowed().look_up(source.into()), Some(slot));
        match packet[20] {
            8 => {
                self.requests += 1;
                packet[12..16].copy_from_slice(&OURS);
                packet[16..20].copy_from_slice(&source);
                packet[20] = 0;
                fill_checksums(&mut packet);
                self.send(slot, &packet);
            }
            0 => self.replies += 1,
            other => panic!("ICMP type {other}"),
        }
    }

    fn send(&mut self, slot: u32, packet: &[u8]) {
        let view = self.device.peer(slot).unwrap();
        let mut buffer = vec![0; OVERHEAD + packet.len() + 16];
        let place = TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + packet.len();
        buffer[place.clone()].copy_from_slice(packet);
        let sealed = view
            .sessions
            .sending()
            .and_then(|session| session.sealer(1, now().mono).seal_message(&mut buffer, place, 1420).ok());
        match (sealed, view.endpoint) {
            (Some(place), Some(endpoint)) => {
                self.sockets.send(endpoint.to, endpoint.from, &buffer[place]).unwrap();
            }
            _ => self.device.wanted(slot, now(), &mut self.out),
        }
    }

    fn ping(&mut self, slot: u32) {
        let mut packet = vec![0; 60];
        packet[0] = 0x45;
        packet[3] = 60;
        packet[8] = 64;
        packet[9] = 1;
        packet[12..16].copy_from_slice(&OURS);
        packet[16..20].copy_from_slice(&THEIRS);
        packet[20] = 8;
        fill_checksums(&mut packet);
        self.send(slot, &packet);
    }

    /// Pings until a reply comes.
    async fn reach(&mut self, slot: u32) -> bool {
        let before = self.replies;
        for _ in 0..20 {
            self.ping(slot);
            let end = Instant::now() + Duration::from_secs(1);
            self.run(|host| host.replies > before || Instant::now() > end).await;
            if self.replies > before {
                return true;
            }
        }
        false
    }
}

fn fill_checksums(packet: &mut [u8]) {
    for (from, to, at) in [(0, 20, 10), (20, packet.len(), 22)] {
        packet[at..at + 2].fill(0);
        let mut sum: u32 =
            packet[from..to].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        packet[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

fn base64(key: &[u8; 32]) -> String {
    PublicKey::from_bytes(*key).to_string()
}

fn there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Two hosts and a running wireguard-go on the second.
struct World {
    go: Option<Process>,
    name: String,
    here: NetNs,
    peer: NetNs,
    files: RunDir,
    key: PrivateKey,
    go_key: PrivateKey,
}

impl World {
    fn new(tag: &str) -> Option<Self> {
        if !softdpu_testbed::is_root() || !there("wireguard-go") || !there("wg") {
            eprintln!("SKIPPED: {tag} needs root, wireguard-go and wg");
            return None;
        }
        let here = NetNs::new(&unique(&format!("{tag}a"))).unwrap();
        let peer = NetNs::new(&unique(&format!("{tag}b"))).unwrap();
        here.ip(&format!("link add veth0 type veth peer name veth0 netns {}", peer.name())).unwrap();
        for (host, last) in [(&here, 1), (&peer, 2)] {
            host.ip(&format!("address add 192.0.2.{last}/24 dev veth0")).unwrap();
            host.ip(&format!("address add 2001:db8::{last}/64 dev veth0 nodad")).unwrap();
            host.ip("link set veth0 up").unwrap();
        }
        // The name of its socket is the whole machine's.
        let name = format!("{tag}{}", std::process::id());
        let files = RunDir::new(tag).unwrap();
        let go = Process::start(peer.command("wireguard-go").args(["-f", &name]), &files.file("go.log")).unwrap();
        let socket = format!("/var/run/wireguard/{name}.sock");
        assert!(eventually(PATIENCE, || Path::new(&socket).exists().then_some(())).is_some(), "{}", go.said());
        let (key, go_key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        std::fs::write(files.file("key"), base64(go_key.expose())).unwrap();
        std::fs::write(files.file("psk"), base64(&[6; 32])).unwrap();
        let world = Self { go: Some(go), name, here, peer, files, key, go_key };
        let key_file = world.files.file("key");
        world.wg(&format!("set {} private-key {} listen-port 7000", world.name, key_file.display()));
        world.add_us();
        world.peer.ip(&format!("address add 10.9.0.2/24 dev {}", world.name)).unwrap();
        world.peer.ip(&format!("link set {} mtu 1420 up", world.name)).unwrap();
        Some(world)
    }

    fn add_us(&self) {
        let (public, psk) = (self.key.public(), self.files.file("psk"));
        let peer = format!("peer {public} preshared-key {} allowed-ips 10.9.0.1/32", psk.display());
        self.wg(&format!("set {} {peer}", self.name));
    }

    fn wg(&self, arguments: &str) -> String {
        run(self.peer.command("wg").args(arguments.split(' ')), PATIENCE).unwrap().ok().unwrap()
    }

    fn set(&self, endpoint: Option<&str>) -> SetDevice {
        SetDevice {
            private_key: Some(Secret::new(self.key.expose())),
            listen_port: Some(7001),
            peers: vec![SetPeer {
                public_key: *self.go_key.public().as_bytes(),
                preshared_key: Some(Secret::new(&[6; 32])),
                endpoint: endpoint.map(|e| e.parse::<SocketAddr>().unwrap()),
                allowed_ips: vec![AllowedIp { prefix: Prefix::host(IpAddr::from(THEIRS)), remove: false }],
                ..SetPeer::default()
            }],
            ..SetDevice::default()
        }
    }

    /// Runs `job` here.
    fn here<T: Send>(&self, job: impl AsyncFnOnce() -> T + Send) -> T {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.here.within(|| Ok(runtime().block_on(job()))).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut go) = self.go.take() {
            let _ = go.stop(Duration::from_secs(5));
        }
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name));
    }
}

#[test]
fn we_initiate() {
    let Some(world) = World::new("wgi") else { return };
    for endpoint in ["192.0.2.2:7000", "[2001:db8::2]:7000"] {
        world.here(async || {
            let mut host = Host::new(&world.set(Some(endpoint)));
            assert!(host.reach(0).await, "{endpoint}");
            assert_eq!(host.count(Received::Response), 1);
            // Again and again, and nothing is lost.
            let key = world.go_key.public();
            for n in 1..=5 {
                assert!(host.device.rekey(&key, now(), &mut host.out));
                let before = host.replies;
                for _ in 0..10 {
                    host.ping(0);
                }
                assert!(host.run(|h| h.replies == before + 10 && h.count(Received::Response) == 1 + n).await);
                host.ping(0);
                assert!(host.run(|h| h.replies == before + 11).await);
            }
            // A set that changes nothing disturbs nothing, on either side.
            let again = world.set(Some(endpoint));
            host.device.set(&again, now(), &mut host.out).unwrap();
            world.wg(&format!("set {} peer {} allowed-ips 10.9.0.1/32", world.name, world.key.public()));
            let before = host.replies;
            host.ping(0);
            assert!(host.run(|h| h.replies > before).await);
            assert_eq!(host.count(Received::Response), 6);
        });
    }
    assert!(world.wg(&format!("show {} endpoints", world.name)).contains("[2001:db8::1]:7001"));
}

#[test]
fn they_initiate_and_keep_it_alive() {
    let Some(world) = World::new("wgr") else { return };
    for (endpoint, seen) in [("192.0.2.1:7001", "192.0.2.2:7000"), ("[2001:db8::1]:7001", "[2001:db8::2]:7000")] {
        let public = world.key.public();
        // Made anew, without the sessions of the round before.
        world.wg(&format!("set {} peer {public} remove", world.name));
        world.add_us();
        world.wg(&format!("set {} peer {public} endpoint {endpoint}", world.name));
        let pinged = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pinged = &pinged;
            let ping = scope.spawn(|| {
                let mut command = world.peer.command("ping");
                let said = run(command.args(["-c", "5", "-i", "0.2", "-W", "10", "10.9.0.1"]), PATIENCE);
                pinged.store(true, Relaxed);
                said.unwrap().ok().unwrap()
            });
            world.here(async || {
                // It does not know where they are.
                let mut host = Host::new(&world.set(None));
                assert!(host.run(|_| pinged.load(Relaxed)).await);
                assert_eq!(host.requests, 5);
                assert!(host.count(Received::Initiation) >= 1);
                let state = host.device.get();
                assert_eq!(state.peers[0].endpoint, Some(seen.parse().unwrap()));
                assert!(host.reach(0).await, "the other way, in the same session");
                // Ten seconds after the last data, or each second: keepalives.
                world.wg(&format!("set {} peer {public} persistent-keepalive 1", world.name));
                let before = host.count(Received::Keepalive);
                assert!(host.run(|h| h.count(Received::Keepalive) >= before + 3).await);
                world.wg(&format!("set {} peer {public} persistent-keepalive 0", world.name));
            });
            let said = ping.join().unwrap();
            assert!(said.contains(" 0% packet loss"), "{said}");
        });
    }
    let transfer = world.wg(&format!("show {} transfer", world.name));
    assert!(!transfer.contains("\t0"), "{transfer}");
}
