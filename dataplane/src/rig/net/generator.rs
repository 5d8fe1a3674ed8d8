//! The generator: the kernel runs our program on frames of its own (`BPF_PROG_TEST_RUN` with live frames) and redirects
//! each into the source's veth. No socket, no skb: several million packets a second from one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cores;
use super::namespace::ifindex;
use super::topology::Topology;
use crate::rig::bpf::programs::{Traffic, generator};
use crate::rig::bpf::sys::{Program, Words};
use crate::rig::stop;

/// Frames of one system call. Each call waits about 20 ms for the kernel to put the program in and out of its dispatcher, so
/// few long calls, ended by a signal.
const CHUNK: u32 = 1 << 24;

/// How much is sent at most, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub packets: u64,
    pub time: Duration,
    /// Packets per second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// The core it runs on.
    pub core: usize,
    /// Frames per batch of the kernel, at most 256.
    pub batch: u32,
}

/// A generator at work, in a thread of its own.
pub struct Generator {
    counter: Arc<Words>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Generator {
    /// Starts sending `traffic` out of the topology's source.
    ///
    /// # Errors
    /// Where the program cannot be loaded.
    pub fn start(topology: &Topology, traffic: &Traffic, limits: Limits) -> Result<Self> {
        let counter = Arc::new(Words::new(2).context("making a BPF map")?);
        let out = topology.source.run(|| ifindex(&topology.source_if))?;
        let interval = limits.rate.map(|r| (1e9 * 1024.0 / r).clamp(1.0, f64::from(i32::MAX)) as u32);
        let program = Program::load("generator", &generator(traffic, out, counter.fd(), limits.packets, interval))?;
        stop::wake_by_signal();
        let stop = Arc::new(AtomicBool::new(false));
        let enter = topology.source.enter_later()?;
        let (packet, stop_here, counter_here) = (traffic.packet(), stop.clone(), counter.clone());
        let thread = thread::Builder::new().name("generator".into()).spawn(move || {
            enter()?;
            cores::pin(0, limits.core).context("pinning the generator")?;
            cores::prefer(0);
            send(&program, &packet, limits, &stop_here, &counter_here)
        })?;
        Ok(Self { counter, stop, thread: Some(thread) })
    }

    /// Packets made so far.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sent(&self) -> Result<u64> {
        Ok(self.counter.read()?[0])
    }

    /// Stops, and waits for it. Returns the number of packets made.
    ///
    /// # Errors
    /// What the thread met.
    pub fn finish(mut self) -> Result<u64> {
        self.join()?;
        self.sent()
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        // The signal may come just before the system call: again, until it has been heard.
        while let Some(thread) = self.thread.as_ref().filter(|t| !t.is_finished()) {
            stop::wake(thread);
            thread::sleep(Duration::from_millis(2));
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(_)) => anyhow::bail!("the generator panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.join().ok();
    }
}

fn send(program: &Program, packet: &[u8], limits: Limits, stop: &AtomicBool, counter: &Words) -> Result<()> {
    let start = Instant::now();
    while counter.read()?[0] < limits.packets
        && start.elapsed() < limits.time
        && !stop.load(Ordering::Relaxed)
        && !stop::asked()
    {
        match program.run_live(packet, CHUNK, limits.batch) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("BPF_PROG_TEST_RUN with live frames (kernel 5.18 or later)"),
        }
    }
    Ok(())
}
