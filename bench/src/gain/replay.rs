//! A class's packets through a real worker in memory, once per function, and what each packet costs there.
//!
//! Packets of all flows take turns, the n-th of each flow together, and flows of a small class are there several times: a worker
//! that has little to do would be measured otherwise. Requests come in at one port, replies at the other; with a tunnel, replies
//! come sealed (the peer's worker seals them outside the time that counts).

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use softdpu::config::{self, Policy};
use softdpu::io::frame::Frame;
use softdpu::io::loopback::{LoopbackPort, Wire};
use softdpu::io::pool::FramePool;
use softdpu::io::port::PortIo;
use softdpu::io::umem::Umem;
use softdpu::wire::checksum;
use softdpu::worker::harness::Harness;
use softdpu_ebpf_common::walk::proto;

use super::function::{Function, Keys, policy};
use super::traffic::{FlowClass, IpPacket};
use crate::micro::{Case, Spent, Ticks};
use crate::stats::latency::Latencies;

/// Packets that are put on the wires at a time.
const TURN: usize = 1024;
/// Packets of a class that are sent per pass, and of a flow.
const MOST: usize = 4096;
const MOST_OF_A_FLOW: usize = 1024;
/// Copies of a class's flows.
const COPIES: usize = 64;
/// By when all flows of the bench's policies are forgotten.
const FORGOTTEN: u64 = 3600 * 1_000_000_000;
const INSIDE: usize = 0;
const OUTSIDE: usize = 1;

/// A frame and the port it comes in by.
#[derive(Clone, Debug)]
struct Sent {
    port: usize,
    frame: Vec<u8>,
}

/// A class's packets, ready to be sent: the n-th packets of all flows, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Load {
    steps: Vec<Vec<Sent>>,
    pub packets: usize,
    /// Of the IP packets.
    pub bytes: u64,
    pub flows: usize,
}

impl Load {
    /// `fresh`: whole flows, as captured. Else what is between their beginnings and ends. Empty where there is nothing.
    pub fn new(class: &FlowClass, fresh: bool) -> Self {
        let wanted = |p: &&IpPacket| fresh || !p.edge;
        let per_pass: usize =
            class.flows.iter().map(|f| f.packets.iter().filter(wanted).count().min(MOST_OF_A_FLOW)).sum();
        let copies = (MOST / per_pass.max(1)).clamp(1, COPIES);
        let mut load = Self::default();
        for copy in 0..copies {
            for (n, flow) in class.flows.iter().enumerate() {
                let number = copy * class.flows.len() + n;
                if load.packets >= MOST || number > usize::from(u16::MAX) {
                    break;
                }
                let mut any = false;
                for (step, p) in flow.packets.iter().filter(wanted).take(MOST_OF_A_FLOW).enumerate() {
                    if load.steps.len() <= step {
                        load.steps.push(Vec::new());
                    }
                    load.packets += 1;
                    load.bytes += p.bytes.len() as u64;
                    load.steps[step].push(Sent { port: usize::from(p.back), frame: frame(p, number as u16) });
                    any = true;
                }
                load.flows += usize::from(any);
            }
        }
        load
    }

    /// Mean length of the IP packets.
    pub fn mean(&self) -> f64 {
        self.bytes as f64 / self.packets.max(1) as f64
    }

    fn turns(&self) -> impl Iterator<Item = &[Sent]> {
        self.steps.iter().flat_map(|step| step.chunks(TURN))
    }
}

/// An Ethernet frame of the packet as one between the sites, of flow `number`.
pub fn frame(p: &IpPacket, number: u16) -> Vec<u8> {
    let port = u8::from(p.back);
    let v6 = p.bytes[0] >> 4 == 6;
    let mut out = vec![2, 0, 0, 0, 0, port + 1, 2, 0, 0, 0, 0, 0xee];
    out.extend_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
    out.extend_from_slice(&p.bytes);
    let [high, low] = number.to_be_bytes();
    let ip = &mut out[14..];
    let sites = if p.back { [2, 1] } else { [1, 2] };
    if v6 {
        for (at, site) in [(8, sites[0]), (24, sites[1])] {
            ip[at..at + 16].copy_from_slice(&[0xfd, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]);
        }
        ip[7] = 64;
    } else {
        for (at, site) in [(12, sites[0]), (16, sites[1])] {
            ip[at..at + 4].copy_from_slice(&[10, site, high, low]);
        }
        ip[8] = 64;
        let end = usize::from(ip[0] & 15) * 4;
        ip[10..12].fill(0);
        let sum = checksum::of(&ip[..end]);
        ip[10..12].copy_from_slice(&sum);
    }
    let length = out.len().max(60);
    out.resize(length, 0);
    out
}

/// A worker that does `function` with a load.
pub struct Replay {
    here: Harness,
    /// Seals replies, and opens what was sealed to see that it is right.
    peer: Option<Harness>,
    load: Rc<Load>,
    fresh: bool,
    clock: Ticks,
    sealed: Vec<Sent>,
    latencies: Rc<RefCell<Latencies>>,
    /// IP bytes that crossed the outside port in the last pass, both ways.
    pub carried: u64,
}

impl Replay {
    /// Sends everything once, and makes sure that it arrives as it was.
    ///
    /// # Errors
    /// Memory or keys cannot be had; packets were lost or changed, with the count.
    pub fn new(function: Function, load: &Rc<Load>, keys: &Keys) -> Result<Self> {
        let parsed = |site| policy(function, site, keys);
        let mut all = Self {
            here: Harness::new(parsed(1)?)?,
            peer: if function.has_tunnel() { Some(Harness::new(parsed(2)?)?) } else { None },
            load: load.clone(),
            fresh: function.is_fresh(),
            clock: Ticks::new(),
            sealed: Vec::new(),
            latencies: Rc::default(),
            carried: 0,
        };
        all.check()?;
        // Flows that nothing is recognised in are looked into for their first packets.
        for _ in 0..if all.fresh { 1 } else { 16 } {
            all.pass();
        }
        all.latencies.replace(Latencies::new());
        Ok(all)
    }

    pub fn latencies(&self) -> Rc<RefCell<Latencies>> {
        self.latencies.clone()
    }

    /// Every packet has to come out, with the bytes that it had.
    fn check(&mut self) -> Result<()> {
        let load = self.load.clone();
        let (mut sent, mut arrived, mut sums) = (0, 0, (0u64, 0u64));
        for turn in load.turns() {
            self.put(turn);
            for p in turn {
                sums.0 = sums.0.wrapping_add(sum(&p.frame));
            }
            sent += turn.len();
            self.here.settle();
            let mut out: Vec<Vec<u8>> = std::iter::from_fn(|| self.here.receive(OUTSIDE)).collect();
            if let Some(peer) = &mut self.peer {
                for sealed in std::mem::take(&mut out) {
                    ensure!(peer.send(OUTSIDE, &sealed), "the wire holds a turn");
                }
                peer.settle();
                out.extend(std::iter::from_fn(|| peer.receive(INSIDE)));
            }
            out.extend(std::iter::from_fn(|| self.here.receive(INSIDE)));
            arrived += out.len();
            out.iter().for_each(|frame| sums.1 = sums.1.wrapping_add(sum(frame)));
        }
        ensure!(arrived == sent, "{} of {sent} packets did not come out", sent - arrived.min(sent));
        ensure!(sums.0 == sums.1, "packets came out with other bytes");
        Ok(())
    }

    /// Puts a turn's packets on the wires, replies sealed where there is a peer.
    fn put(&mut self, turn: &[Sent]) {
        let Some(peer) = &mut self.peer else {
            for p in turn {
                assert!(self.here.send(p.port, &p.frame), "the wire holds a turn");
            }
            return;
        };
        self.sealed.clear();
        for p in turn.iter().filter(|p| p.port == OUTSIDE) {
            assert!(peer.send(INSIDE, &p.frame), "the wire holds a turn");
        }
        peer.settle();
        while let Some(frame) = peer.receive(OUTSIDE) {
            self.carried += frame.len() as u64 - 14;
            assert!(self.here.send(OUTSIDE, &frame), "the wire holds a turn");
        }
        for p in turn.iter().filter(|p| p.port == INSIDE) {
            assert!(self.here.send(INSIDE, &p.frame), "the wire holds a turn");
        }
    }

    /// All packets once: how many, and the worker's time for them.
    fn pass(&mut self) -> (usize, Spent) {
        if self.fresh {
            self.forget();
        }
        let load = self.load.clone();
        let (mut done, mut spent) = (0, Spent::default());
        self.carried = 0;
        for turn in load.turns() {
            self.put(turn);
            let (here, clock, latencies) = (&mut self.here, self.clock, &self.latencies);
            let mut latencies = latencies.borrow_mut();
            loop {
                here.now += 10_000;
                let mut got = 0;
                let one = clock.on(|| got = here.worker.turn(here.now));
                if got == 0 {
                    break;
                }
                done += got;
                spent += one;
                latencies.record(one.ns as u64);
            }
            drop(latencies);
            while let Some(out) = self.here.receive(OUTSIDE) {
                self.carried += out.len() as u64 - 14;
            }
            while self.here.receive(INSIDE).is_some() {}
        }
        (done, spent)
    }

    /// Until the worker knows no flow any more: the next packets are their flows' first.
    fn forget(&mut self) {
        self.here.now += FORGOTTEN;
        for _ in 0..1 << 16 {
            if self.here.worker.flows.is_empty() {
                return;
            }
            self.here.now += 10_000_000;
            self.here.worker.turn(self.here.now);
        }
    }

    /// To be timed beside others.
    pub fn case(mut self, name: &str, title: &str) -> Case<'static> {
        Case::timed(name, title, move |n| {
            let (mut done, mut spent) = (0, Spent::default());
            while done < n.max(1) {
                let (more, time) = self.pass();
                if more == 0 {
                    // Cannot be: the load was looked at. Better a wrong figure than no end.
                    return (1, time);
                }
                done += more;
                spent += time;
            }
            (done, spent)
        })
    }
}

/// Of the bytes behind the IP header, which no node changes but for the segment size that SYNs offer: those are left out.
fn sum(frame: &[u8]) -> u64 {
    let (from, end) = match frame[14] >> 4 {
        6 => (54, 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))),
        _ => (14 + usize::from(frame[14] & 15) * 4, 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))),
    };
    let tcp = frame[if frame[14] >> 4 == 6 { 20 } else { 23 }] == proto::TCP;
    if tcp && frame.get(from + 13).is_some_and(|flags| flags & 2 != 0) {
        return 0;
    }
    let bytes = frame.get(from..end.min(frame.len())).unwrap_or_default();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// The same load by in-memory ports with nothing between: what of a worker's time is theirs.
///
/// # Errors
/// Memory cannot be had.
pub fn ports(load: &Rc<Load>, name: &str, title: &str) -> Result<Case<'static>> {
    let wires: Vec<[Wire; 2]> = (0..2).map(|_| [Wire::new(4096), Wire::new(4096)]).collect();
    let mut ports: Vec<PortIo> =
        wires.iter().map(|[i, o]| PortIo::Loopback(LoopbackPort::new(i.clone(), o.clone()))).collect();
    let mut pool = FramePool::new(Umem::heap(4096, 4096).context("memory for frames")?);
    let mut frames: Vec<Frame> = Vec::with_capacity(64);
    let (clock, load) = (Ticks::new(), load.clone());
    Ok(Case::timed(name, title, move |n| {
        let (mut done, mut spent) = (0, Spent::default());
        while done < n.max(1) {
            for turn in load.turns() {
                for p in turn {
                    assert!(wires[p.port][0].push(&p.frame), "the wire holds a turn");
                }
                spent += clock.on(|| {
                    let mut left = turn.len();
                    while left > 0 {
                        for (from, to) in [(0, 1), (1, 0)] {
                            ports[from].reap(&mut pool);
                            left -= ports[from].rx_burst(&mut pool, &mut frames, 64);
                            ports[to].send(&mut pool, &mut frames);
                        }
                    }
                });
                done += turn.len();
                wires.iter().for_each(|[_, out]| while out.take_with(|_| {}) {});
            }
        }
        (done, spent)
    }))
}

/// Packets of the class that a worker forwards: others (such as errors about flows that are not there) are taken out. Says how
/// many.
///
/// # Errors
/// Memory cannot be had.
pub fn keep_deliverable(class: &mut FlowClass, keys: &Keys) -> Result<u64> {
    let mut here = Harness::new(policy(Function::None, 1, keys)?)?;
    let mut lost = 0;
    for (n, flow) in class.flows.iter_mut().enumerate() {
        flow.packets.retain(|p| {
            let out = here.pass(usize::from(p.back), &frame(p, n as u16));
            let arrives = out.len() == 1 && out[0].0 == usize::from(!p.back);
            lost += u64::from(!arrives);
            arrives
        });
    }
    Ok(lost)
}

/// The bench's policy, parsed.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Policy> {
    config::parse(text, "gain").map_err(|e| anyhow::anyhow!("{e:?}")).context("the bench's policy")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::gain::traffic::Traffic;
    use std::path::Path;

    fn class(name: &str) -> FlowClass {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/tests/real").join(name);
        let mut class = Traffic::read(&[file]).unwrap().classes.remove(0);
        keep_deliverable(&mut class, &Keys::new().unwrap()).unwrap();
        class
    }

    #[test]
    fn every_function_delivers_what_it_was_given() {
        let keys = Keys::new().unwrap();
        for file in ["redis.pcap", "sflow.pcap", "nats.pcap"] {
            let class = class(file);
            for function in Function::ALL {
                let load = Rc::new(Load::new(&class, function.is_fresh()));
                assert!(load.packets > 0, "{file}");
                let mut replay =
                    Replay::new(function, &load, &keys).unwrap_or_else(|e| panic!("{file} {function:?}: {e:#}"));
                let (done, spent) = replay.pass();
                assert_eq!(done, load.packets, "{file} {function:?}");
                assert!(spent.ns > 0.0 && !replay.latencies.borrow().is_empty());
            }
        }
    }

    #[test]
    fn flows_are_new_in_every_pass_where_that_is_asked() {
        let keys = Keys::new().unwrap();
        let load = Rc::new(Load::new(&class("redis.pcap"), true));
        let mut replay = Replay::new(Function::Classify, &load, &keys).unwrap();
        replay.forget();
        assert!(replay.here.worker.flows.is_empty());
        replay.pass();
        assert_eq!(replay.here.worker.flows.len(), load.flows);
    }

    #[test]
    fn ports_alone_move_all() {
        let load = Rc::new(Load::new(&class("redis.pcap"), true));
        let mut section = crate::report::Section::new("t", "T", "ns");
        let effort = crate::micro::Effort::new(1, 1000);
        crate::micro::alternate(&mut section, &mut [ports(&load, "p", "P").unwrap()], effort);
        assert!(section.median("p").unwrap() > 0.0);
    }
}
