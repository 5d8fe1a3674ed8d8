//! A worker in memory: loopback ports, no kernel, time by hand. What tests, fuzzers and benches run the whole graph with.

use super::build::{Blueprint, wire_fib};
use super::turn::{Shared, Worker, WorkerPort};
use crate::config::policy::{Policy, Port};
use crate::graph::DropReason;
use crate::host::fib::Fib;
use crate::io::loopback::{LoopbackPort, Wire};
use crate::io::pool::FramePool;
use crate::io::port::PortIo;
use crate::io::umem::Umem;
use crate::telemetry::counters::Names;
use crate::tunnel::events::Events;
use crate::tunnel::publisher::Publisher;
use anyhow::Result;
use std::sync::{Arc, Mutex};

/// Packets that a port's wire holds in each direction.
const WIRE: usize = 4096;

pub struct Harness {
    pub worker: Worker,
    pub shared: Shared,
    /// Where the control side, which tests play, puts keys.
    pub publisher: Arc<Mutex<Publisher>>,
    /// What the worker tells it.
    pub events: Arc<Events>,
    /// What counters are of.
    pub names: Arc<Names>,
    /// Per port: the far ends, into the worker and out of it.
    wires: Vec<(Wire, Wire)>,
    /// Monotonic nanoseconds; tests move it.
    pub now: u64,
}

impl Harness {
    /// A worker over one in-memory port per port of the policy, whatever their kind. With two ports each leads to the other.
    ///
    /// # Errors
    /// Keys that cannot be read.
    pub fn new(policy: Policy) -> Result<Self> {
        let fib = wire_fib(&policy);
        Self::with_fib(policy, fib)
    }

    /// The same with a forwarding table of one's own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_fib(policy: Policy, fib: Fib) -> Result<Self> {
        Self::with_checksums(policy, fib, |_, _| true)
    }

    /// The same, and which ports' senders leave checksums to their device, where the policy does not say.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_checksums(policy: Policy, fib: Fib, checksums: impl Fn(usize, &Port) -> bool) -> Result<Self> {
        Self::with_all(policy, fib, checksums, WIRE)
    }

    /// The same with wires of so many packets. What is measured wants few: their buffers go round, and those of 4,096 large
    /// packets leave no cache to the worker.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_wires(policy: Policy, fib: Fib, packets: usize) -> Result<Self> {
        Self::with_all(policy, fib, |_, _| true, packets)
    }

    fn with_all(policy: Policy, fib: Fib, checksums: impl Fn(usize, &Port) -> bool, packets: usize) -> Result<Self> {
        let blueprint = Blueprint::new(policy, fib, checksums)?;
        let pool = FramePool::new(Umem::heap(blueprint.policy.workers.frames.max(256), 4096)?);
        let mut ports = Vec::new();
        let mut wires = Vec::new();
        for id in 0..blueprint.policy.ports.len() {
            let (inward, outward) = (Wire::new(packets), Wire::new(packets));
            let io = PortIo::Loopback(LoopbackPort::new(inward.clone(), outward.clone()));
            ports.push(WorkerPort { id: id as u8, io });
            wires.push((inward, outward));
        }
        let now = 2_000_000_000;
        let (worker, _questions) = blueprint.worker(pool, ports, now);
        let Blueprint { shared, publisher, events, names, .. } = blueprint;
        Ok(Self { worker, shared, publisher, events, names, wires, now })
    }

    /// Puts a frame on a port's wire. `false` where the wire is full.
    pub fn send(&self, port: usize, frame: &[u8]) -> bool {
        self.wires[port].0.push(frame)
    }

    /// Takes a frame that left by a port.
    pub fn receive(&self, port: usize) -> Option<Vec<u8>> {
        self.wires[port].1.take()
    }

    /// Turns until nothing comes in any more.
    pub fn settle(&mut self) {
        self.now += 1000;
        while self.worker.turn(self.now) > 0 {}
    }

    /// Lets time pass, one housekeeping after the other.
    pub fn wait(&mut self, nanoseconds: u64) {
        let until = self.now + nanoseconds;
        while self.now < until {
            self.now += 10_000_000;
            self.worker.turn(self.now);
        }
    }

    /// One frame in by `port`, and whatever left by the other ports, in order.
    pub fn pass(&mut self, port: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        assert!(self.send(port, frame), "the wire is full");
        self.settle();
        self.left()
    }

    /// Whatever left and was not taken yet, port by port.
    pub fn left(&self) -> Vec<(usize, Vec<u8>)> {
        (0..self.wires.len())
            .flat_map(|p| std::iter::from_fn(move || Some((p, self.receive(p)?))).collect::<Vec<_>>())
            .collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.counters.drops[reason as usize].get()
    }

    pub fn set_fib(&self, fib: Fib) {
        self.shared.fib.store(Arc::new(fib));
    }

    /// Fails where a frame is missing.
    pub fn assert_no_leak(&mut self) {
        self.worker.finish();
        self.worker.pool.assert_no_leak();
    }
}
