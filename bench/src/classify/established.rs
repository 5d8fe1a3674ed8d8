//! Packets of flows that are decided: the nodes `parse`, `flow` and `classify` of a real worker, per packet.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use softdpu::config;
use softdpu::io::frame::Frame;
use softdpu::worker::harness::Harness;
use softdpu::worker::turn::Worker;

use crate::bpf::programs::ip_checksum;
use crate::flows::answer;
use crate::memory::packet;
use crate::micro::{Case, Spent, Ticks};

/// Packets made ready before each timed stretch.
const BURST: usize = 1024;
/// As a worker's by default.
const BATCH: usize = 64;

const POLICY: &str = r#"
[workers]
count = 1
batch = 64
frames = 4096

[flows]
capacity = 400_000

[[port]]
name = "near"
kind = "loopback"
loop_to = "far"

[[port]]
name = "far"
kind = "loopback"
loop_to = "near"

[[steer]]
name = "all"
action = "worker"

[[rule]]
name = "all"
action = "forward"
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A worker whose flows are all decided, and packets of theirs.
pub struct Established {
    harness: Harness,
    /// With packets, ready.
    frames: Vec<Frame>,
    batch: Vec<Frame>,
    /// Whose packets have been looked at.
    done: Vec<Frame>,
    flows: u32,
    transport: Transport,
    /// Number of the next packet.
    at: u32,
    clock: Ticks,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\nx";
const SYN: u8 = 2;
const ACK: u8 = 16;

impl Established {
    /// # Errors
    /// Where memory cannot be had, or flows are not decided in the end.
    pub fn new(transport: Transport, flows: u32) -> Result<Self> {
        let policy =
            config::parse(POLICY, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")?;
        let mut all = Self {
            harness: Harness::new(policy)?,
            frames: Vec::with_capacity(BURST),
            batch: Vec::with_capacity(BATCH),
            done: Vec::with_capacity(BURST),
            flows,
            transport,
            at: 0,
            clock: Ticks::new(),
        };
        match transport {
            Transport::Tcp => all.open_tcp(),
            // Nothing that anybody recognises: given up after its eighth datagram.
            Transport::Udp => {
                for _ in 0..4 {
                    all.feed(|n| packet(n, 60));
                    all.feed(|n| answer(&packet(n, 60)));
                }
            }
        }
        let (undecided, live) = {
            let table = &all.harness.worker.flows;
            (table.iter().filter(|(_, flow)| !flow.is_decided()).count(), table.len())
        };
        ensure!(undecided == 0 && live == flows as usize, "{undecided} of {live} flows are undecided, {flows} wanted");
        Ok(all)
    }

    fn open_tcp(&mut self) {
        self.feed(|n| segment(n, false, SYN, 0, b""));
        self.feed(|n| segment(n, true, SYN | ACK, 0, b""));
        self.feed(|n| segment(n, false, ACK, 1, REQUEST));
        self.feed(|n| segment(n, true, ACK, 1, REPLY));
    }

    /// One packet of each flow.
    fn feed(&mut self, packet: impl Fn(u32) -> Vec<u8>) {
        let worker = &mut self.harness.worker;
        let mut n = 0;
        while n < self.flows {
            let end = self.flows.min(n + BATCH as u32);
            self.batch.extend((n..end).filter_map(|n| worker.pool.scatter(&packet(n))));
            worker.parse(&mut self.batch, self.harness.now);
            worker.understand(self.harness.now);
            worker.give_back(&mut self.batch);
            self.batch.drain(..).for_each(|frame| worker.pool.free(frame));
            n = end;
        }
    }

    /// Puts the next packets into frames, flows in an order that caches cannot guess.
    fn prepare(&mut self) {
        let pool = &mut self.harness.worker.pool;
        self.done.drain(..).for_each(|frame| pool.free(frame));
        for _ in 0..BURST {
            let n = (u64::from(self.at) * 7919 % u64::from(self.flows)) as u32;
            let bytes = match self.transport {
                Transport::Tcp => segment(n, false, ACK, 1 + REQUEST.len() as u32, b"6 more"),
                Transport::Udp => packet(n, 60),
            };
            self.frames.extend(pool.scatter(&bytes));
            self.at = if self.at + 1 == self.flows { 0 } else { self.at + 1 };
        }
    }

    /// The packets that are ready, batch by batch. Gives the time that `parse` took, and `flow` with `classify`.
    fn burst(&mut self) -> [Spent; 2] {
        let mut spent = [Spent::default(); 2];
        self.harness.now += 10_000;
        let (worker, now, clock) = (&mut self.harness.worker, self.harness.now, self.clock);
        while !self.frames.is_empty() {
            let from = self.frames.len().saturating_sub(BATCH);
            self.batch.extend(self.frames.drain(from..));
            spent[0] += clock.on(|| counted_parse(worker, &mut self.batch, now));
            spent[1] += clock.on(|| counted_understand(worker, now));
            worker.give_back(&mut self.done);
        }
        spent
    }

    /// Has some bursts for whoever counts instructions; says of how many packets.
    pub fn count(&mut self) -> usize {
        for _ in 0..4 {
            self.prepare();
            self.burst();
        }
        4 * BURST
    }
}

/// Not inlined, as the next: who counts instructions finds it by name.
#[inline(never)]
fn counted_parse(worker: &mut Worker, frames: &mut Vec<Frame>, now: u64) {
    worker.parse(frames, now);
}

#[inline(never)]
fn counted_understand(worker: &mut Worker, now: u64) {
    worker.understand(now);
}

/// Cases that time `flow` with `classify`, and these with `parse` before, over the same packets.
pub fn cases(established: Established, name: &str, title: &str) -> [Case<'static>; 2] {
    let shared = Rc::new(RefCell::new(established));
    [("", "flow, classify", 1), ("-parse", "parse, flow, classify", 0)].map(|(suffix, stages, first)| {
        let shared = shared.clone();
        Case::timed(format!("{name}{suffix}"), format!("{title}: {stages}"), move |n| {
            let mut all = shared.borrow_mut();
            let (mut done, mut spent) = (0, Spent::default());
            while done < n {
                all.prepare();
                let stages = all.burst();
                stages[first..].iter().for_each(|stage| spent += *stage);
                done += BURST;
            }
            (done, spent)
        })
    })
}

impl Drop for Established {
    fn drop(&mut self) {
        let pool = &mut self.harness.worker.pool;
        self.frames.drain(..).chain(self.done.drain(..)).for_each(|frame| pool.free(frame));
    }
}

/// A segment of flow `n`; sequence numbers count from 0 on both sides. Its TCP checksum is not looked at on the way.
fn segment(n: u32, back: bool, flags: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut p = packet(n, 60);
    p.truncate(34);
    let (source, destination) = ([p[26], p[27], p[28], p[29]], [p[30], p[31], p[32], p[33]]);
    let ports = packet(n, 60)[34..38].to_vec();
    if back {
        p[26..30].copy_from_slice(&destination);
        p[30..34].copy_from_slice(&source);
        p.extend_from_slice(&[ports[2], ports[3], ports[0], ports[1]]);
    } else {
        p.extend_from_slice(&ports);
    }
    p.extend_from_slice(&seq.to_be_bytes());
    p.extend_from_slice(&[0; 4]);
    p.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    p.extend_from_slice(payload);
    let length = (p.len() - 14) as u16;
    p[16..18].copy_from_slice(&length.to_be_bytes());
    p[23] = 6;
    p[24..26].fill(0);
    let sum = ip_checksum(&p[14..34]);
    p[24..26].copy_from_slice(&sum.to_be_bytes());
    let short = p.len().max(60);
    p.resize(short, 0);
    p
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn flows_are_decided_and_counted() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let mut all = Established::new(transport, 100).unwrap();
            let packets = |all: &Established| {
                let flows = all.harness.worker.flows.iter();
                flows.map(|(_, f)| f.packets(softdpu::flow::Direction::FromInitiator)).sum::<u64>()
            };
            let before = packets(&all);
            assert_eq!(all.count() as u64, packets(&all) - before);
        }
    }
}
