//! A stranger on the wire who floods edge-a: single frames by a packet socket, floods by the kernel, which cost the machine little.

#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::ErrorKind,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use softdpu::{
    crypto::wg::{Identity, PrivateKey, Psk, PublicKey, Remote, cookie::Jar},
    host::netns,
    rig::{bpf::replay::Replay, net::namespace::ifindex},
};
use softdpu_testbed::{generator::Generator, netns::NetNs};

use crate::{failclosed::Trial, support::udp4};

pub const PORT: u16 = 51820;
pub const EDGE_A: [u8; 4] = [192, 0, 2, 1];
pub const EDGE_B: [u8; 4] = [192, 0, 2, 2];
/// Where a part of the flood goes nowhere.
pub const SINK: u16 = 51821;
pub const INITIATION: usize = 148;

fn link_address(ns: &NetNs, link: &str) -> [u8; 6] {
    let text = ns.ip(&format!("-o link show dev {link}")).unwrap();
    let word = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = word.split(':').map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Packets from the wire to the port of edge-a.
pub struct Stranger {
    generator: Generator,
    to: [u8; 6],
    from: [u8; 6],
    edge: PublicKey,
}

impl Stranger {
    pub fn new(trial: &Trial) -> Self {
        let topology = &trial.world.topology;
        // Frames of a stranger leave by the wire's link to edge-a.
        let generator = Generator::open(&topology.wire, "to-a").unwrap();
        let (to, from) = (link_address(&topology.edge_a, "uplink"), link_address(&topology.edge_b, "uplink"));
        let key = &trial.keys.as_ref().unwrap()[0].public;
        Self { generator, to, from, edge: PublicKey::from_bytes(decode(key)) }
    }

    pub fn frame(&self, source: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = udp4(source, EDGE_A, (port, PORT), 64, payload);
        frame[..6].copy_from_slice(&self.to);
        frame[6..12].copy_from_slice(&self.from);
        frame
    }

    pub fn send(&self, frames: &[Vec<u8>]) -> u64 {
        self.generator.send(frames.iter().map(Vec::as_slice)).unwrap()
    }

    /// Initiations that are noise. With `mac1` they look as if their sender knew the edge's key.
    pub fn bogus(&self, random: &mut Random, mac1: bool) -> Vec<u8> {
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

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::from_fn(|| Some(self.next().to_le_bytes())).flatten().take(length).collect()
    }
}

/// Frames a second of a flood.
const RATE: f64 = 100_000.0;
/// Frames at once.
const BURST: u32 = 256;
/// Different frames of a flood.
const FRAMES: u16 = 4096;

/// Where a flood goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To where the tunnel listens.
    Edge,
    /// To [`SINK`].
    Nowhere,
}

/// Initiations that are noise, ready to be sent. They come from everywhere, the peer's own address included; half of them have a
/// first authenticator that is right.
pub struct Floods {
    wire: File,
    frames: Vec<Vec<u8>>,
}

impl Floods {
    pub fn new(stranger: &Stranger, wire: &NetNs) -> Self {
        let mut random = Random(0x9e37_79b9);
        let frame = |n: u16| {
            let source = if n.is_multiple_of(4) { EDGE_B } else { [198, 51, 100, n as u8] };
            let message = stranger.bogus(&mut random, n.is_multiple_of(2));
            stranger.frame(source, 1024 + n, &message)
        };
        let frames = (0..FRAMES).map(frame).collect();
        Self { wire: File::open(format!("/run/netns/{}", wire.name())).unwrap(), frames }
    }

    /// Floods while `job` runs. Returns what that did, and how many frames were sent.
    pub fn during<T>(&self, target: Target, job: impl FnOnce() -> T) -> (T, u64) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sender = std::thread::Builder::new().name("stranger".into());
            let sender = sender.spawn_scoped(scope, || self.send(target, &stop)).unwrap();
            // Also where the job panics: the scope waits for the sender.
            let ending = Ending(&stop);
            let done = job();
            drop(ending);
            (done, sender.join().unwrap())
        })
    }

    fn send(&self, target: Target, stop: &AtomicBool) -> u64 {
        netns::enter(self.wire.as_raw_fd()).unwrap();
        let mut frames = self.frames.clone();
        if target == Target::Nowhere {
            frames.iter_mut().for_each(|frame| frame[36..38].copy_from_slice(&SINK.to_be_bytes()));
        }
        let replay = Replay::new(&frames, ifindex("to-a").unwrap(), ifindex("lo").unwrap()).unwrap();
        let (started, mut due) = (Instant::now(), 0.0);
        while !stop.load(Ordering::Relaxed) {
            if due > started.elapsed().as_secs_f64() * RATE {
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            match replay.send(BURST) {
                Ok(()) => due += f64::from(BURST),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
        replay.sent().unwrap()
    }
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
