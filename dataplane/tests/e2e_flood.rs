//! Floods and bad packets against a WireGuard tunnel that carries traffic: it goes on, memory stays bounded, and every packet is
//! counted under a name.
#![allow(clippy::unwrap_used)]

mod common;
mod failclosed;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{At, PATIENCE};
use failclosed::{Kind, Load, Trial, alone, assert_no_canary, watch};
use softdpu::crypto::wg::{Identity, PrivateKey, Psk, PublicKey, Remote, cookie::Jar};
use softdpu_testbed::{
    capture::Capture,
    generator::Generator,
    netns::NetNs,
    peers::probe::Iperf,
    process::{self, eventually},
    topology::EDGE_A_APPS,
};
use support::udp4;

const PORT: u16 = 51820;
const EDGE_A: [u8; 4] = [192, 0, 2, 1];
const EDGE_B: [u8; 4] = [192, 0, 2, 2];
/// Where a part of the flood goes nowhere.
const SINK: u16 = 51821;
const INITIATION: usize = 148;

fn link_address(ns: &NetNs, link: &str) -> [u8; 6] {
    let text = ns.ip(&format!("-o link show dev {link}")).unwrap();
    let word = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = word.split(':').map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Packets from the wire to the port of edge-a.
struct Stranger {
    generator: Generator,
    to: [u8; 6],
    from: [u8; 6],
    edge: PublicKey,
}

impl Stranger {
    fn new(trial: &Trial) -> Self {
        let topology = &trial.world.topology;
        // Frames of a stranger leave by the wire's link to edge-a.
        let generator = Generator::open(&topology.wire, "to-a").unwrap();
        let (to, from) = (link_address(&topology.edge_a, "uplink"), link_address(&topology.edge_b, "uplink"));
        let key = &trial.keys.as_ref().unwrap()[0].public;
        Self { generator, to, from, edge: PublicKey::from_bytes(decode(key)) }
    }

    fn frame(&self, source: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = udp4(source, EDGE_A, (port, PORT), 64, payload);
        frame[..6].copy_from_slice(&self.to);
        frame[6..12].copy_from_slice(&self.from);
        frame
    }

    fn send(&self, frames: &[Vec<u8>]) -> u64 {
        self.generator.send(frames.iter().map(Vec::as_slice)).unwrap()
    }

    /// Initiations that are noise. With `mac1` they look as if their sender knew the edge's key.
    fn bogus(&self, random: &mut Random, mac1: bool) -> Vec<u8> {
        let mut message = random.bytes(INITIATION);
        message[..4].copy_from_slice(&[1, 0, 0, 0]);
        if mac1 {
            let identity = Identity::new(PrivateKey::generate().unwrap());
            let remote = Remote::new(&identity, self.edge, Psk::default());
            Jar::default().stamp(&remote, &mut message, 1);
        }
        message
    }
}

fn decode(base64: &str) -> [u8; 32] {
    let value =
        |c: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|x| *x == c);
    let mut out = Vec::new();
    let (mut bits, mut have) = (0u32, 0);
    for c in base64.bytes().filter_map(value) {
        (bits, have) = (bits << 6 | c as u32, have + 6);
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    out.truncate(32);
    out.try_into().unwrap()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::from_fn(|| Some(self.next().to_le_bytes())).flatten().take(length).collect()
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// What edge-a counts: drops of its workers and messages on the control side.
fn counts(trial: &mut Trial) -> BTreeMap<String, u64> {
    let status = trial.world.edge(At::A).status().unwrap();
    let mut counts = trial.world.figures(At::A).drops_by_reason;
    for (name, count) in status["wireguard_messages"].as_object().unwrap() {
        counts.insert(format!("message {name}"), count.as_u64().unwrap());
    }
    counts
}

fn since(before: &BTreeMap<String, u64>, after: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = after.into_iter().map(|(name, count)| {
        let was = before.get(&name).copied().unwrap_or(0);
        (name, count - was)
    });
    more.filter(|(_, count)| *count > 0).collect()
}

/// The policy with an address to listen at, so that fragments are steered too.
#[allow(clippy::needless_pass_by_value)] // as `Trial::running` asks
fn with_local(at: At, policy: String) -> String {
    let local = if at == At::A { "192.0.2.1" } else { "192.0.2.2" };
    policy.replace("type = \"wireguard\"\n", &format!("type = \"wireguard\"\nlocal = \"{local}\"\n"))
}

/// The same, and what goes to [`SINK`] is dropped in the driver: a flood that costs no more than its making.
fn with_sink(at: At, policy: String) -> String {
    let sink = format!("\n[[steer]]\nname = \"sink\"\nprotocol = \"udp\"\nports = [{SINK}]\naction = \"drop\"\n");
    with_local(at, policy).replacen("\n[[tunnel]]", &format!("{sink}\n[[tunnel]]"), 1)
}

/// Sends `frames` over and over, up to 100,000 a second, until told to stop. Returns how many.
fn flood(stranger: &Stranger, frames: &[Vec<u8>], stop: &AtomicBool) -> u64 {
    let (started, mut sent) = (Instant::now(), 0);
    let mut batches = frames.chunks(256).cycle();
    while !stop.load(Ordering::Relaxed) {
        if sent as f64 > started.elapsed().as_secs_f64() * 100_000.0 {
            std::thread::sleep(Duration::from_micros(500));
        } else {
            sent += stranger.send(batches.next().unwrap());
        }
    }
    sent
}

/// Bogus handshakes as fast as they go, up to 100,000 a second.
#[test]
fn a_flood_of_handshakes() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("flood", Kind::WireGuard, with_sink) else { return };
    let stranger = Stranger::new(&trial);
    let mut random = Random(0x9e37_79b9);
    let frames: Vec<Vec<u8>> = (0..4096u16)
        .map(|n| {
            // From everywhere, the peer's own address included; half of them know the key.
            let source = if n % 4 == 0 { EDGE_B } else { [198, 51, 100, n as u8] };
            let message = stranger.bogus(&mut random, n % 2 == 0);
            stranger.frame(source, 1024 + n, &message)
        })
        .collect();
    let iperf = Iperf::start(&trial.world.topology, &trial.world.folder).unwrap();
    let tcp = |trial: &Trial| iperf.tcp(&trial.world.topology, false, false, Duration::from_secs(2)).unwrap().gbit_s;
    let mut quiet = tcp(&trial);
    let pid = trial.world.edge(At::A).id();
    let (memory, before) = (resident(pid), counts(&mut trial));
    let nowhere: Vec<Vec<u8>> = frames
        .iter()
        .map(|frame| {
            let mut frame = frame.clone();
            frame[36..38].copy_from_slice(&SINK.to_be_bytes());
            frame
        })
        .collect();
    let stop = AtomicBool::new(false);
    let idle = std::thread::scope(|scope| {
        scope.spawn(|| flood(&stranger, &nowhere, &stop));
        let idle = tcp(&trial);
        stop.store(true, Ordering::Relaxed);
        idle
    });
    stop.store(false, Ordering::Relaxed);
    let started = Instant::now();
    let (flooded, most, sent, took) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| flood(&stranger, &frames, &stop));
        let flooded = tcp(&trial);
        // The tunnel also renews its keys under it.
        let name = trial.names[0].clone();
        let renewed = eventually(Duration::from_secs(25), || {
            trial.world.edge(At::A).verb(&["rekey", &name]).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            since(&before, counts(&mut trial)).contains_key("message response").then_some(())
        });
        let most = resident(pid);
        stop.store(true, Ordering::Relaxed);
        assert!(renewed.is_some(), "no new session under the flood: {:?}", since(&before, counts(&mut trial)));
        (flooded, most, sender.join().unwrap(), started.elapsed())
    });
    quiet = quiet.max(tcp(&trial));
    let counted = since(&before, counts(&mut trial));
    eprintln!(
        "  {sent} bogus handshakes, {:.0} a second; TCP {quiet:.2} Gbit/s without, {idle:.2} with as many that the driver drops, {flooded:.2} with them: \
         {:.0} % and {:.0} %; {} KiB more\n  {counted:?}",
        sent as f64 / took.as_secs_f64(),
        flooded / quiet * 100.0,
        flooded / idle * 100.0,
        most.saturating_sub(memory) >> 10,
    );
    let of = |name: &str| counted.get(name).copied().unwrap_or(0);
    // Each is with the control side, or was one too many for it; those that the ring had no room for are the kernel's.
    let worker = of("handshake") + of("handshake_flood");
    let seen = worker + of("rx_ring_full") + of("rx_no_frame");
    assert!(worker > 1000 && seen >= sent * 95 / 100, "{seen} of {sent}: {counted:?}");
    // Port 4500, which other frames of the flood come from, makes no ESP of what is for a WireGuard tunnel.
    assert_eq!(of("for_this_host") + of("no_sa"), 0, "{counted:?}");
    assert!(of("message bad_mac") > 0, "{counted:?}");
    assert!(of("message cookie_sent") + of("message busy") > 0, "under load a cookie is asked for: {counted:?}");
    assert!(most.saturating_sub(memory) < 64 << 20, "{memory} bytes became {most}");
    trial.world.topology.reachable("10.2.0.2", PATIENCE).unwrap();
    trial.world.assert_sound();
}

/// One kind of bad packet: all of them are counted under one of these names, and the tunnel goes on.
fn refused(trial: &mut Trial, stranger: &Stranger, what: &str, frames: &[Vec<u8>], names: &[&str]) {
    let before = counts(trial);
    // No more at once than a ring takes.
    let mut sent = 0;
    for some in frames.chunks(128) {
        sent += stranger.send(some);
        std::thread::sleep(Duration::from_millis(20));
    }
    let sum = |trial: &mut Trial| {
        let counted = since(&before, counts(trial));
        (names.iter().map(|name| counted.get(*name).copied().unwrap_or(0)).sum::<u64>(), counted)
    };
    let all = eventually(PATIENCE, || (sum(trial).0 >= sent).then_some(()));
    let counted = sum(trial);
    eprintln!("  {what}: {sent} sent, {:?}", counted.1);
    assert!(all.is_some() && sent == frames.len() as u64, "{what}: {sent} of {} sent, {counted:?}", frames.len());
}

#[test]
fn bad_packets_have_names() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("bad", Kind::WireGuard, with_local) else { return };
    let stranger = Stranger::new(&trial);
    let seen = watch(&trial.world);
    // Real transport messages to edge-a, to spoil. What raw sockets see must be whole, checksum included.
    let filter = "src host 192.0.2.2 and udp dst port 51820 and udp[8:4] = 0x04000000 and udp[4:2] > 60";
    let capture = Capture::start(&trial.world.topology.wire, "wire", filter, 2048, 0, &trial.world.folder).unwrap();
    let load = Load::start(&trial.world.topology);
    load.flows("before");
    let real: Vec<Vec<u8>> = capture.stop().unwrap().frames.into_iter().map(|frame| frame.bytes).take(500).collect();
    assert!(real.len() > 50);
    let payload = |frame: &Vec<u8>| frame[42..].to_vec();
    let again = |payload: Vec<u8>| stranger.frame(EDGE_B, PORT, &payload);
    let mut random = Random(77);
    let pid = trial.world.edge(At::A).id();
    let memory = resident(pid);

    refused(&mut trial, &stranger, "replayed", &real, &["replay"]);
    let flipped: Vec<Vec<u8>> = real
        .iter()
        .map(|frame| {
            let mut bytes = payload(frame);
            // A counter far ahead, so that it is not refused as a replay.
            bytes[12] = 1;
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            again(bytes)
        })
        .collect();
    refused(&mut trial, &stranger, "tampered with", &flipped, &["bad_icv"]);
    let unknown: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let mut bytes = random.bytes(200);
            bytes[..4].copy_from_slice(&[4, 0, 0, 0]);
            again(bytes)
        })
        .collect();
    refused(&mut trial, &stranger, "of an unknown session", &unknown, &["no_sa"]);
    let short = |kind: u8, lengths: std::ops::Range<usize>, random: &mut Random| -> Vec<Vec<u8>> {
        let one = |length: usize| {
            let mut bytes = random.bytes(length);
            let head = [kind, 0, 0, 0];
            let n = length.min(4);
            bytes[..n].copy_from_slice(&head[..n]);
            again(bytes)
        };
        lengths.map(one).collect()
    };
    let cut: Vec<Vec<u8>> = (8..32).map(|length| again(payload(&real[0])[..length].to_vec())).collect();
    refused(&mut trial, &stranger, "transport cut off", &cut, &["esp_short", "not_wireguard", "no_sa"]);
    let cut = short(1, 0..INITIATION, &mut random);
    let names = ["not_wireguard", "handshake"];
    refused(&mut trial, &stranger, "initiations cut off", &cut, &names);
    let long = short(1, INITIATION + 1..1400, &mut random);
    refused(&mut trial, &stranger, "initiations that are too long", &long, &["not_wireguard"]);
    for kind in [0, 5, 255] {
        let odd = short(kind, 100..200, &mut random);
        refused(&mut trial, &stranger, "of no known type", &odd, &["not_wireguard"]);
    }
    let keyless: Vec<Vec<u8>> = (0..100).map(|_| again(stranger.bogus(&mut random, false))).collect();
    refused(&mut trial, &stranger, "handshakes without the key", &keyless, &["message bad_mac"]);
    let noise: Vec<Vec<u8>> = (0..100).map(|_| again(stranger.bogus(&mut random, true))).collect();
    // Without load somebody looks at them; with it they are asked for a cookie.
    let names = ["message unauthentic", "message cookie_sent"];
    refused(&mut trial, &stranger, "handshakes with the key, of nobody", &noise, &names);
    fragments(&mut trial, &stranger, &mut random);
    nested(&mut trial, &payload(&real[0]));

    load.flows("after all of it");
    drop(load);
    let grown = resident(pid).saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes more");
    trial.losses(&[At::A, At::B]);
    trial.world.assert_sound();
    assert_no_canary(&seen.stop().unwrap(), 1000);
}

/// First fragments whose rest never comes: bounded, and counted when they make room or their time is over.
fn fragments(trial: &mut Trial, stranger: &Stranger, random: &mut Random) {
    let before = counts(trial);
    let frames: Vec<Vec<u8>> = (0..3000u16)
        .map(|id| {
            let mut bytes = random.bytes(256);
            bytes[..4].copy_from_slice(&[4, 0, 0, 0]);
            let mut frame = stranger.frame([198, 51, (id >> 8) as u8, id as u8], PORT, &bytes);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            // More fragments follow.
            frame[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
            frame[24..26].fill(0);
            let sum = softdpu::wire::checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
            frame
        })
        .collect();
    let mut sent = 0;
    for some in frames.chunks(64) {
        sent += stranger.send(some);
        std::thread::sleep(Duration::from_millis(10));
    }
    let named = |trial: &mut Trial| {
        let counted = since(&before, counts(trial));
        let of = |name: &str| counted.get(name).copied().unwrap_or(0);
        (of("reassembly_full") + of("reassembly_timeout"), counted)
    };
    // All but those that may wait.
    let most = eventually(PATIENCE, || (named(trial).0 + 64 >= sent).then_some(()));
    assert!(most.is_some(), "{sent} sent, {:?}", named(trial));
    let rest = eventually(Duration::from_secs(40), || {
        std::thread::sleep(Duration::from_millis(500));
        (named(trial).0 >= sent).then_some(())
    });
    eprintln!("  fragments forever: {sent} sent, {:?}", named(trial).1);
    assert!(rest.is_some(), "{sent} sent, {:?}", named(trial));
}

/// A packet of the tunnel that comes through the tunnel. Its inner address is edge-a's own, on the protected side.
fn nested(trial: &mut Trial, message: &[u8]) {
    let before = counts(trial);
    let topology = &trial.world.topology;
    let socket = topology.server.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    for _ in 0..50 {
        socket.send_to(message, (EDGE_A_APPS[0], PORT)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let all = eventually(PATIENCE, || {
        let counted = since(&before, counts(trial));
        (counted.get("for_this_host").copied().unwrap_or(0) >= 50).then_some(())
    });
    eprintln!("  in itself: 50 sent, {:?}", since(&before, counts(trial)));
    assert!(all.is_some(), "{:?}", since(&before, counts(trial)));
    assert!(process::eventually(PATIENCE, || trial.world.edge(At::A).alive().then_some(())).is_some());
}
