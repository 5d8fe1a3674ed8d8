//! Packets of real captures, damaged in every way that is cheap to make, through the whole graph of a worker in memory: no
//! panic, every packet accounted for, and nothing left when all flows have ended.
//!
//! The captures are found as `tests/captures.rs` finds them; without them the test says so and passes. A million packets by
//! default, as many as `SOFTDPU_MUTATIONS` says otherwise. The seed is printed; `SOFTDPU_SEED` sets it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use softdpu::config;
use softdpu::graph::DropReason;
use softdpu::io::pcap::CaptureReader;
use softdpu::l7::Reason;
use softdpu::worker::harness::Harness;
use softdpu_testbed::packet::finish_ipv4;

const POLICY: &str = r#"
[workers]
count = 1
frames = 2048

[flows]
capacity = 4096

[[port]]
name = "near"
kind = "loopback"
loop_to = "far"
mtu = 9000

[[port]]
name = "far"
kind = "loopback"
loop_to = "near"
mtu = 9000

[[steer]]
name = "all"
action = "worker"

[[rule]]
name = "ports"
ports = [9]
action = "drop"

[[rule]]
name = "all"
action = "forward"
"#;

const ETHERNET: u32 = 1;
/// Packets that are put in before the worker runs.
const TURN: usize = 64;
/// Packets of a capture that go in one after the other.
const RUN: usize = 48;
/// Of each capture, so that the longest do not fill the memory.
const MOST: usize = 3000;

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("SOFTDPU_CAPTURES").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    named.or(Some(beside)).filter(|p| p.join("labels.csv").is_file())
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// The Ethernet frames of each capture, in order.
fn captures(folder: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e != "csv")) {
        let Ok(mut reader) = CaptureReader::open(path) else { continue };
        let mut frames = Vec::new();
        while frames.len() < MOST {
            if let Some(record) = reader.current().filter(|r| r.link == ETHERNET && r.bytes.len() > 14) {
                frames.push(record.bytes.to_vec());
            }
            // A capture that was damaged on purpose is read as far as it goes.
            if !reader.advance().unwrap_or(false) {
                break;
            }
        }
        if !frames.is_empty() {
            all.push(frames);
        }
    }
    all
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Where the payload of IP begins, roughly: enough to choose what to damage.
fn payload_of(frame: &[u8]) -> usize {
    let l4 = match frame.get(12..14) {
        Some([8, 0]) => 14 + usize::from(frame.get(14).map_or(5, |b| b & 0x0f)) * 4,
        Some([0x86, 0xdd]) => 54,
        _ => 14,
    };
    l4.min(frame.len().saturating_sub(1))
}

/// Makes the lengths of IP and UDP what the frame has.
fn fit(frame: &mut [u8]) {
    let len = frame.len();
    let (at, value, udp) = match frame.get(12..24) {
        Some([8, 0, ..]) => (16, len - 14, frame[23] == 17),
        Some([0x86, 0xdd, ..]) if len > 54 => (18, len - 54, frame[20] == 17),
        _ => return,
    };
    frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    let l4 = payload_of(frame);
    if udp && len >= l4 + 8 {
        frame[l4 + 4..l4 + 6].copy_from_slice(&((len - l4) as u16).to_be_bytes());
    }
}

const VALUES: [u16; 10] = [0, 1, 2, 4, 5, 0x7f, 0xff, 0x7fff, 0x8000, 0xffff];

fn damage(frame: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let payload = payload_of(frame);
    let len = frame.len();
    let word = |frame: &mut [u8], at: usize, value: u16| {
        if let Some(place) = frame.get_mut(at..at + 2) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    };
    match random.below(12) {
        // Bits, anywhere and in what the protocols say.
        0 | 1 => (0..=random.below(8)).for_each(|_| {
            let (at, bit) = (random.below(len), random.below(8));
            frame[at] ^= 1 << bit;
        }),
        2 | 3 => (0..=random.below(16)).for_each(|_| {
            let (at, byte) = (payload + random.below(len - payload), random.next() as u8);
            frame[at] = byte;
        }),
        // Cut short; the IP length as it was, or as it is now.
        4 => {
            frame.truncate(1 + random.below(len));
            if random.below(2) == 0 && frame.len() > 34 {
                let total = (frame.len() - 14) as u16;
                word(frame, 16, total);
            }
        }
        // The head of one, the tail of another.
        5 => {
            let (at, from) = (random.below(len), random.below(other.len()));
            frame.truncate(at.max(1));
            frame.extend(&other[from..]);
        }
        // Another's payload in this one's flow.
        6 => {
            frame.truncate((payload + 8).min(len));
            frame.extend(&other[payload_of(other)..]);
        }
        // Lengths: of IP, of what is in it, of whatever stands in the first bytes of the payload.
        7 => word(frame, 16, VALUES[random.below(VALUES.len())]),
        8 => word(frame, payload + [4, 12, 20, 2][random.below(4)], VALUES[random.below(VALUES.len())]),
        9 | 10 => {
            let at = payload + 8 + random.below((len - payload).clamp(1, 64));
            word(frame, at, VALUES[random.below(VALUES.len())]);
        }
        // Bytes twice, or gone.
        _ => {
            let (from, n) = (payload + random.below(len - payload), random.below(64));
            let to = (from + n).min(len);
            if random.below(2) == 0 {
                let again = frame[from..to].to_vec();
                frame.splice(from..from, again);
            } else {
                frame.drain(from..to);
            }
        }
    }
    if frame.is_empty() {
        frame.push(0);
    }
    // Longer than a frame's chunk they would only be chains.
    frame.truncate(3000);
}

fn mutate(count: u64, seed: u64, captures: &[Vec<Vec<u8>>]) {
    let mut h = Harness::new(config::parse(POLICY, "mutated").unwrap()).unwrap();
    let mut random = Random(seed | 1);
    let (mut sent, mut came, mut damaged) = (0u64, 0u64, 0u64);
    let mut batch: Vec<(usize, Vec<u8>)> = Vec::with_capacity(TURN + RUN);
    let memory = h.worker.flows.memory();
    while sent < count {
        let capture = &captures[random.below(captures.len())];
        let from = random.below(capture.len());
        for frame in capture.iter().skip(from).take(RUN) {
            let mut frame = frame.clone();
            frame.truncate(3000);
            if random.below(10) < 7 {
                let of = &captures[random.below(captures.len())];
                let other = &of[random.below(of.len())];
                (0..=random.below(3)).for_each(|_| damage(&mut frame, other, &mut random));
                damaged += 1;
            }
            // Mostly with lengths and a sum that are right, or little would get further than the header.
            if random.below(4) > 0 {
                fit(&mut frame);
            }
            if random.below(16) > 0 && frame.len() > 34 && frame[12..14] == [8, 0] {
                finish_ipv4(&mut frame[14..]);
            }
            // Both sides of a connection come by the port that its hosts are at.
            let port = usize::from(frame.get(29).copied().unwrap_or(0) & 1);
            batch.push((port, frame));
            let last = batch.len() - 1;
            match random.below(20) {
                0 if last > 0 => batch.swap(last, last - 1),
                1 => batch.push(batch[random.below(last + 1)].clone()),
                _ => {}
            }
        }
        while batch.len() >= TURN {
            for (port, frame) in batch.drain(..TURN) {
                assert!(h.send(port, &frame));
                sent += 1;
            }
            h.settle();
            came += (0..2).map(|p| std::iter::from_fn(|| h.receive(p)).count() as u64).sum::<u64>();
            // Mostly moments, now and then long enough for everything that waits.
            h.now += if random.below(400) == 0 { 40_000_000_000 } else { random.below(20_000_000) as u64 };
        }
    }
    // A frame of a moment ago may still wait to become a whole datagram.
    h.wait(60_000_000_000);
    came += (0..2).map(|p| std::iter::from_fn(|| h.receive(p)).count() as u64).sum::<u64>();
    h.worker.publish();
    let c = &h.worker.counters;
    let drops: u64 = c.drops.iter().map(|d| d.get()).sum();
    let inspector = &h.worker.inspector;
    println!(
        "{sent} packets, {damaged} damaged: {came} came out, {drops} were dropped under a name; {} flows recognised, {} given up",
        inspector.recognised(),
        Reason::ALL.iter().map(|r| inspector.given_up(*r)).sum::<u64>()
    );
    let mut reasons: Vec<_> = DropReason::ALL.iter().map(|r| (c.drops[*r as usize].get(), r.code())).collect();
    reasons.sort_unstable();
    let reasons: Vec<String> = reasons.iter().rev().take(12).map(|(n, code)| format!("{code} {n}")).collect();
    println!("drops: {}", reasons.join(", "));
    // Those whose TTL ran out are answered with an ICMP error in their own frame, and that comes out too.
    assert_eq!(sent, came + drops + c.fragments_held.get(), "every packet is accounted for");
    assert!(came > sent / 4 && inspector.recognised() > sent / 1000, "most of the damage got through the headers");
    assert_eq!(h.worker.flows.memory(), memory);
    // Everything ends: 120 days, and turns that look at a part of the table each.
    h.now += 120 * 86_400 * 1_000_000_000;
    for _ in 0..1000 {
        h.now += 10_000_000;
        h.worker.turn(h.now);
    }
    assert_eq!((h.worker.flows.len(), h.worker.inspector.pool().in_use()), (0, 0));
    h.assert_no_leak();
}

#[test]
fn damaged_packets_of_real_captures_do_no_harm() {
    let Some(folder) = folder() else {
        eprintln!("SKIPPED: no captures; SOFTDPU_CAPTURES names their folder");
        return;
    };
    let captures = captures(&folder);
    assert!(captures.len() > 50);
    let (count, seed) = (number("SOFTDPU_MUTATIONS", 1_000_000), number("SOFTDPU_SEED", 0x5eed_0004));
    println!("seed {seed}");
    let start = Instant::now();
    mutate(count, seed, &captures);
    println!("{:.1} s", start.elapsed().as_secs_f64());
}
