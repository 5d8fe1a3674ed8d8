//! The whole graph in memory: real packets through a real worker over in-memory ports.
//!
//! The in-memory ports copy each packet in and out, which the rings of a real port do not (the kernel does). So the same
//! ports are measured with nothing between them as well, in turn, and the graph's own cost is the difference, round by
//! round.

use anyhow::{Context, Result};

use softdpu::config::{self, Policy};
use softdpu::io::loopback::{LoopbackPort, Wire};
use softdpu::io::pool::FramePool;
use softdpu::io::port::PortIo;
use softdpu::io::umem::Umem;
use softdpu::worker::harness::Harness;

use crate::memory::packet;
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};

/// Packets put on the wire before each timed stretch: some batches' worth.
const BURST: usize = 1024;
const BATCH: usize = 64;

pub(crate) const POLICY: &str = r#"
[workers]
count = 1
batch = 64
frames = 4096

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

/// Measures forwarding of 64-byte packets of one and of many flows.
///
/// # Errors
/// Where the policy or memory fails.
pub fn run(effort: Effort) -> Result<(Section, Vec<Target>)> {
    let mut section = Section::new("graph", "forwarding through the graph in memory, 64 B, per packet, one core", "ns");
    let mut cases = vec![
        ports("ports", "the in-memory ports alone", 60)?,
        graph("graph-and-ports", "graph and ports, 1 flow", 1, policy()?)?,
    ];
    cases.push(graph("graph-and-ports-1k", "graph and ports, 1,000 flows", 1000, policy()?)?);
    alternate(&mut section, &mut cases, effort);
    drop(cases);
    section.difference("graph", "graph alone, 1 flow", "graph-and-ports", "ports");
    section.difference("graph-1k", "graph alone, 1,000 flows", "graph-and-ports-1k", "ports");
    section.notes.push("The in-memory ports copy each packet twice; graph alone is the difference, by rounds.".into());
    section.notes.push(format!("Batches of {BATCH}; the flow is old and decided."));
    let seen = section.median("graph");
    Ok((section, vec![Target::new("graph forward in memory, ns per packet (VPP: 42)", Bound::AtMost, 45.0, seen)]))
}

fn packets(flows: u32, length: usize) -> Vec<Vec<u8>> {
    (0..BURST as u32).map(|n| packet(n % flows, length)).collect()
}

fn policy() -> Result<Policy> {
    config::parse(POLICY, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")
}

/// A worker with packets of `flows` old flows, to be run by itself.
///
/// # Errors
/// Where the policy or memory fails.
pub(crate) fn one<'a>(name: &str, flows: u32) -> Result<Case<'a>> {
    graph(name, name, flows, policy()?)
}

/// Packets of `flows` old flows through a worker of this policy, which has the ports of [`POLICY`].
pub(crate) fn graph<'a>(name: &str, title: &str, flows: u32, policy: Policy) -> Result<Case<'a>> {
    let mut harness = Harness::new(policy)?;
    let packets = packets(flows, 60);
    // Flows that nothing was recognised in are looked into for their first packets.
    for _ in 0..16 {
        fill(&packets, |p| harness.send(0, p));
        harness.settle();
        let arrived = std::iter::from_fn(|| harness.receive(1)).count();
        anyhow::ensure!(arrived == BURST, "{arrived} of {BURST} packets came through the graph");
    }
    let prepare = move |h: &mut Harness| {
        while h.receive(1).is_some() {}
        fill(&packets, |p| h.send(0, p));
    };
    let run = |h: &mut Harness| {
        let mut done = 0;
        while done < BURST {
            h.now += 10_000;
            done += h.worker.turn(h.now);
        }
    };
    Ok(Case::batches(name, title, BURST, harness, prepare, run))
}

fn fill(packets: &[Vec<u8>], mut send: impl FnMut(&[u8]) -> bool) {
    for p in packets {
        assert!(send(p), "the wire holds a burst");
    }
}

/// The same ports with nothing between.
struct Bare {
    pool: FramePool,
    near: PortIo,
    far: PortIo,
    frames: Vec<softdpu::io::frame::Frame>,
    inward: Wire,
    outward: Wire,
}

/// Frames of `length` bytes from one wire to the other, as the graph's ports move them.
///
/// # Errors
/// Where memory cannot be had.
pub(crate) fn ports<'a>(name: &str, title: &str, length: usize) -> Result<Case<'a>> {
    let [inward, outward, unused_in, unused_out] = [4096, 4096, 1, 1].map(Wire::new);
    let bare = Bare {
        pool: FramePool::new(Umem::heap(4096, 4096)?),
        near: PortIo::Loopback(LoopbackPort::new(inward.clone(), unused_out)),
        far: PortIo::Loopback(LoopbackPort::new(unused_in, outward.clone())),
        frames: Vec::with_capacity(BATCH),
        inward,
        outward,
    };
    let packets = packets(1, length);
    let prepare = move |b: &mut Bare| {
        while b.outward.take_with(|_| {}) {}
        fill(&packets, |p| b.inward.push(p));
    };
    let run = |b: &mut Bare| {
        let mut done = 0;
        while done < BURST {
            b.near.reap(&mut b.pool);
            done += b.near.rx_burst(&mut b.pool, &mut b.frames, BATCH);
            b.far.send(&mut b.pool, &mut b.frames);
        }
    };
    Ok(Case::batches(name, title, BURST, bare, prepare, run))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packets_go_through_and_the_graph_costs_something() {
        let (section, targets) = run(Effort::new(2, 1000)).unwrap();
        assert!(section.median("graph-and-ports").unwrap() > 0.0);
        assert_eq!(section.contenders.iter().find(|c| c.name == "graph").unwrap().rounds.len(), 2);
        assert!(targets[0].seen.is_some());
    }
}
