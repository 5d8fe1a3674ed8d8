//! What the canary test stands on: a load that anybody on the wire would recognise, a capture of all of the wire, and two edges
//! with a tunnel of either type.

#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

pub mod hub;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use softdpu_testbed::{
    capture::{Capture, Seen, describe},
    netns::NetNs,
    peers::{
        ours,
        wireguard::{Config, KeyPair, PORT, write_secret},
    },
    policy::Side,
    process::{self, eventually},
    topology::{CLIENT, CLIENT_NET, EDGE_A, EDGE_B, SERVER, SERVER_NET, Topology},
};

use crate::common::{At, PATIENCE, World};

/// What every datagram of the load is full of, so that each of its fragments and each quote of it has it whole.
pub const CANARY: &[u8; 16] = b"canary-e81f03b7!";
/// Where the load goes on either side.
const SINK: u16 = 7000;
/// Sending sockets of each direction: flows.
const FLOWS: usize = 8;
/// Pause between two rounds of each direction, one datagram each.
const PAUSE: Duration = Duration::from_millis(2);
/// Not losses of the load: what a tunnel's peers say to each other.
const BESIDES: [&str; 2] = ["handshake", "keepalive"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Esp,
    WireGuard,
}

/// The tests of this file have the machine one after the other: each wants all of it.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One direction of the load.
struct Lane {
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Datagrams full of canaries from the client to the server and back, IPv4 and IPv6, short and in fragments. Goes on until
/// it is dropped, whatever becomes of them.
pub struct Load {
    lanes: Vec<Lane>,
}

/// Datagrams of all directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub sent: u64,
    pub arrived: u64,
}

impl Load {
    pub fn start(topology: &Topology) -> Self {
        let (client, server) = (&topology.client, &topology.server);
        let directions = [
            (client, server, SERVER[0]),
            (server, client, CLIENT[0]),
            (client, server, SERVER[1]),
            (server, client, CLIENT[1]),
        ];
        Self::of(&directions)
    }

    /// From one host to another's address each, which the receiver must have.
    pub fn of(directions: &[(&NetNs, &NetNs, &str)]) -> Self {
        let lane = |&(from, to, address): &(&NetNs, &NetNs, &str)| {
            let there = SocketAddr::new(address.parse().unwrap(), SINK);
            let sink = to.within(|| Ok(UdpSocket::bind(there)?)).unwrap();
            room(&sink);
            sink.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let any: SocketAddr = if there.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
            let sources: Vec<UdpSocket> =
                (0..FLOWS).map(|_| from.within(|| Ok(UdpSocket::bind(any)?)).unwrap()).collect();
            let (sent, arrived, stop) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>)>::default();
            let give = {
                let (sent, stop) = (sent.clone(), stop.clone());
                std::thread::spawn(move || give(&sources, there, &sent, &stop))
            };
            let take = {
                let (arrived, stop) = (arrived.clone(), stop.clone());
                std::thread::spawn(move || take(&sink, &arrived, &stop))
            };
            Lane { sent, arrived, stop, threads: vec![give, take] }
        };
        Self { lanes: directions.iter().map(lane).collect() }
    }

    pub fn carried(&self) -> Carried {
        let sum = |of: fn(&Lane) -> &AtomicU64| self.lanes.iter().map(|lane| of(lane).load(Ordering::Relaxed)).sum();
        Carried { arrived: sum(|lane| &lane.arrived), sent: sum(|lane| &lane.sent) }
    }

    /// Waits until every direction delivers again.
    pub fn flows(&self, what: &str) {
        let before: Vec<u64> = self.lanes.iter().map(|lane| lane.arrived.load(Ordering::Relaxed)).collect();
        let more = |(lane, before): (&Lane, &u64)| lane.arrived.load(Ordering::Relaxed) > before + 20;
        let flows = eventually(Duration::from_secs(20), || self.lanes.iter().zip(&before).all(more).then_some(()));
        assert!(flows.is_some(), "{what}: not every direction delivers");
    }

    /// How many arrive within a moment.
    pub fn arriving(&self) -> u64 {
        let before = self.carried().arrived;
        std::thread::sleep(Duration::from_millis(300));
        self.carried().arrived - before
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            lane.stop.store(true, Ordering::Relaxed);
            for thread in lane.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// Room for what comes at once after a standstill: what the sink's own host loses is no loss of the path.
fn room(sink: &UdpSocket) {
    let bytes: libc::c_int = 32 << 20;
    // SAFETY: the value outlives the call and its size is given.
    let done = unsafe {
        let (value, size) = ((&raw const bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        libc::setsockopt(sink.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, size)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// `length` bytes of canaries.
pub fn canaries(length: usize) -> Vec<u8> {
    CANARY.iter().copied().cycle().take(length).collect()
}

fn give(sources: &[UdpSocket], there: SocketAddr, sent: &AtomicU64, stop: &AtomicBool) {
    let (short, long) = (canaries(200), canaries(2500));
    let mut round = 0usize;
    while !stop.load(Ordering::Relaxed) {
        let data = if round % 32 == 31 { &long } else { &short };
        // What the sender's own host refuses (no route for a moment) was never sent.
        if sources[round % sources.len()].send_to(data, there).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        round += 1;
        std::thread::sleep(PAUSE);
    }
}

fn take(sink: &UdpSocket, arrived: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    let mut late = 0;
    // What is on its way when the senders stop still counts.
    while late < 10 {
        late += u32::from(stop.load(Ordering::Relaxed));
        if let Ok(length) = sink.recv(&mut buffer) {
            assert!(buffer[..length].starts_with(CANARY));
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Frames with a canary in them.
pub fn escaped(seen: &Seen) -> Vec<String> {
    let found = |bytes: &[u8]| {
        // The first byte is looked for alone: comparing at each offset takes a debug build seconds.
        let ends = bytes.len().saturating_sub(CANARY.len() - 1);
        (0..ends).any(|at| bytes[at] == CANARY[0] && bytes[at..].starts_with(CANARY))
    };
    seen.frames.iter().filter(|frame| found(&frame.bytes)).map(describe).collect()
}

/// Fails where a canary was on the wire, or where the capture is not one to tell by.
pub fn assert_no_canary(seen: &Seen, at_least: usize) {
    let escaped = escaped(seen);
    assert!(escaped.is_empty(), "{} frames in clear: {:#?}", escaped.len(), &escaped[..escaped.len().min(5)]);
    assert!(seen.frames.len() >= at_least, "only {} frames on the wire", seen.frames.len());
    assert_eq!(seen.lost, 0, "the capture is not complete");
}

/// All of the wire.
pub fn watch(world: &World) -> Capture {
    watch_link(world, &world.topology.wire, "wire")
}

/// All of a link.
pub fn watch_link(world: &World, host: &NetNs, link: &str) -> Capture {
    // Whole frames, but no more: the capture's ring has as many places as this length leaves it.
    Capture::start(host, link, "", 2048, 0, &world.folder).unwrap()
}

/// Two edges with a tunnel.
pub struct Trial {
    pub world: World,
    pub kind: Kind,
    /// Of the tunnel, on each edge. WireGuard's are those of the sockets for `wg`.
    pub names: [String; 2],
    /// WireGuard's.
    pub keys: Option<[KeyPair; 2]>,
}

impl Trial {
    /// Hosts and policies, nothing running. `change` makes the text of a policy another. `None`, said aloud, without root.
    pub fn idle(tag: &str, kind: Kind, change: impl Fn(At, String) -> String) -> Option<Self> {
        let tag = format!("fc-{tag}{}", if kind == Kind::Esp { "e" } else { "w" });
        let world = World::idle(&tag, |_| {})?;
        let mut trial = Self { world, kind, names: ["peer".into(), "peer".into()], keys: None };
        if kind == Kind::WireGuard {
            trial.wireguard();
        }
        for at in [At::A, At::B] {
            let file = &trial.world.files(at).policy;
            let text = std::fs::read_to_string(file).unwrap();
            std::fs::write(file, change(at, text)).unwrap();
        }
        Some(trial)
    }

    /// Both edges running, and traffic through the tunnel both ways.
    pub fn running(tag: &str, kind: Kind, change: impl Fn(At, String) -> String) -> Option<Self> {
        let mut trial = Self::idle(tag, kind, change)?;
        trial.world.start(At::A);
        trial.world.start(At::B);
        for address in SERVER {
            trial.world.topology.reachable(address, Duration::from_secs(20)).unwrap();
        }
        Some(trial)
    }

    /// The files of the edges become those of WireGuard tunnels.
    fn wireguard(&mut self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        self.names = ["a", "b"].map(|edge| format!("fc{edge}{}x{next}", std::process::id()));
        let keys = [KeyPair::new().unwrap(), KeyPair::new().unwrap()];
        let sides = [(Side::A, EDGE_B, SERVER_NET), (Side::B, EDGE_A, CLIENT_NET)];
        for (at, (side, other, allowed)) in sides.into_iter().enumerate() {
            let mut config = Config::new(&keys[at], &keys[1 - at].public, &allowed);
            config.endpoint = Some(SocketAddr::new(other[0].parse().unwrap(), PORT));
            // Overwrites what is there, under the same names.
            ours::wireguard(&self.world.folder, side, &self.names[at], &config).unwrap();
        }
        self.keys = Some(keys);
    }

    /// `wg set` on the tunnel of an edge.
    pub fn wg(&self, at: At, words: &[&str]) {
        let mut command = Command::new("wg");
        command.arg("set").arg(&self.names[at as usize]).args(words);
        process::run(&mut command, PATIENCE).unwrap().ok().unwrap();
    }

    /// A fresh private key for an edge, in a file. Returns the public one and the file.
    pub fn fresh_key(&self) -> (String, String) {
        let keys = KeyPair::new().unwrap();
        let file = self.world.folder.file("fresh.key");
        write_secret(&file, &keys.private).unwrap();
        (keys.public, file.display().to_string())
    }

    /// What the edges that run dropped, by reason; and asserts that nothing escaped.
    pub fn losses(&mut self, edges: &[At]) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for at in edges {
            let status = self.world.edge(*at).status().unwrap();
            assert_eq!(status["escaped_bytes"], 0, "{at:?}");
            for tunnel in status["tunnels"].as_array().unwrap() {
                assert_eq!(tunnel["escaped_bytes"], 0, "{at:?}: {}", tunnel["name"]);
            }
            let drops = self.world.figures(*at).drops_by_reason;
            for (reason, count) in drops.into_iter().filter(|(reason, _)| !BESIDES.contains(&reason.as_str())) {
                *sums.entry(reason).or_default() += count;
            }
        }
        sums
    }
}

/// One edge-to-edge run: the load goes, the wire is watched, `during` does its worst, and in the end no canary was on the wire.
/// `accounted`: no edge was killed, so that each datagram that was lost must be counted by one of them.
pub fn under_load(trial: &mut Trial, accounted: bool, during: impl FnOnce(&mut Trial, &Load)) -> BTreeMap<String, u64> {
    let seen = watch(&trial.world);
    // A first load, which is not accounted for: hosts learn the path's MTU by a packet that is answered, not delivered.
    let load = Load::start(&trial.world.topology);
    load.flows("first");
    std::thread::sleep(Duration::from_millis(300));
    drop(load);
    let before = trial.losses(&[At::A, At::B]);
    let load = Load::start(&trial.world.topology);
    load.flows("before");
    during(trial, &load);
    for lane in &load.lanes {
        lane.stop.store(true, Ordering::Relaxed);
    }
    // Packets wait for a neighbour or a session for a while before they are given up.
    std::thread::sleep(Duration::from_millis(2500));
    let carried = load.carried();
    drop(load);
    trial.world.assert_sound();
    let after = trial.losses(&[At::A, At::B]);
    assert_no_canary(&seen.stop().unwrap(), 100);
    let mut counted = after;
    if accounted {
        for (reason, count) in &mut counted {
            *count -= before.get(reason).copied().unwrap_or(0);
        }
        counted.retain(|_, count| *count > 0);
        let named: u64 = counted.values().sum();
        let lost = carried.sent - carried.arrived;
        eprintln!("  {:?}: {carried:?}, lost {lost}, counted {counted:?}", trial.kind);
        assert!(lost <= named, "{lost} lost, but counted are {counted:?}");
    } else {
        eprintln!("  {:?}: {carried:?}, counted {counted:?}", trial.kind);
    }
    counted
}
