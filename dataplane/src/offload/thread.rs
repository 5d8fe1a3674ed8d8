//! The thread that puts flows into the driver's table and takes their counters out.

use super::lane::{Ask, Client, Lane};
use super::nic::{NicMode, Nics};
use super::table::Gate;
use crate::host::watch::AskQueue;
use crate::telemetry::journal::Journal;
use crate::tunnel::steering::Steering;
use crate::worker::idle::Waker;
use crate::worker::turn::Shared;
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Counters are read this often.
const ROUND: Duration = Duration::from_secs(1);
/// A worker whose notes are full is told the rest after this.
const SOON: Duration = Duration::from_millis(2);
/// Proposals of one worker that are taken in a row.
const IN_A_ROW: usize = 256;

/// What the policy says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub enabled: bool,
    /// Most flows in the driver's table; each takes two entries.
    pub capacity: u32,
    pub min_packets: u64,
    pub wait_for_class: bool,
    /// Whether devices are asked to take what rules drop.
    pub nic: NicMode,
}

impl Default for Setting {
    fn default() -> Self {
        Self { enabled: true, capacity: 16_384, min_packets: 4, wait_for_class: true, nic: NicMode::Auto }
    }
}

/// The thread, once it runs.
pub type Unparker = Arc<OnceLock<Thread>>;

/// The queues, before there are workers.
pub struct Lanes {
    thread: Arc<OnceLock<Thread>>,
    lanes: Vec<Arc<Lane>>,
    interfaces: Arc<[u32]>,
    setting: Setting,
    nics: Nics,
    devices: Arc<[bool]>,
}

impl Lanes {
    /// `interfaces`: index per port, `None` for ports that are not of kind xdp. `nics`: those of them that take flows.
    pub fn new(setting: Setting, interfaces: &[Option<u32>], workers: usize, nics: Nics) -> Self {
        let thread = Arc::new(OnceLock::new());
        let lanes = (0..workers).map(|_| Lane::new(thread.clone())).collect();
        let interfaces = interfaces.iter().map(|index| index.unwrap_or(0)).collect();
        let devices = nics.there().into();
        Self { thread, lanes, interfaces, setting, nics, devices }
    }

    pub fn unparker(&self) -> Unparker {
        self.thread.clone()
    }

    /// A worker's end.
    pub fn client(&self, worker: usize) -> Option<Client> {
        Some(Client {
            lane: self.lanes.get(worker)?.clone(),
            interfaces: self.interfaces.clone(),
            devices: self.devices.clone(),
            min_packets: self.setting.min_packets,
            wait_for_class: self.setting.wait_for_class,
        })
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        self,
        shared: &Shared,
        steering: Arc<Steering>,
        wakers: Vec<Waker>,
        (asks, journal): (Arc<AskQueue>, Arc<Journal>),
    ) -> Result<Offload> {
        let from = (shared.plan.clone(), shared.keys.clone(), shared.fib.clone());
        let gate = Arc::new(Gate::new(steering, from, self.interfaces, (self.lanes, wakers), self.nics, journal));
        let stop = Arc::new(AtomicBool::new(false));
        let (its_gate, its_stop) = (gate.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("offload".into())
            .spawn(move || run(&its_gate, &its_stop, &asks))
            .context("cannot start the offload thread")?;
        let _ = self.thread.set(thread.thread().clone());
        Ok(Offload { gate, stop, unpark: thread.thread().clone(), thread: Mutex::new(Some(thread)) })
    }
}

/// The running thread.
pub struct Offload {
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    unpark: Thread,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Offload {
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Something has changed (routes, or what was demoted).
    pub fn wake(&self) {
        self.unpark.unpark();
    }

    /// For callers that outlive it.
    pub fn waker(&self) -> Thread {
        self.unpark.clone()
    }

    /// Takes every flow out, tells the last counts, and ends the thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the offload thread had panicked");
        }
    }
}

fn run(gate: &Gate, stop: &AtomicBool, asks: &AskQueue) {
    let mut next = Instant::now() + ROUND;
    let mut looked: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut more = false;
        gate.follow_routes();
        if looked.is_none_or(|at| at.elapsed() >= ROUND) {
            looked = Some(Instant::now());
            gate.look_at_ports();
        }
        for (worker, lane) in gate.lanes.iter().enumerate() {
            for _ in 0..IN_A_ROW {
                let Some(ask) = lane.asks.pop() else { break };
                match ask {
                    Ask::Place(candidate) => gate.place(worker, &candidate),
                    Ask::Block(blocked) => gate.block(worker, &blocked),
                    Ask::Leave(flow) => gate.leave(worker, &flow, None),
                    Ask::Ends(flow, dir, segment) => gate.leave(worker, &flow, Some((dir, segment))),
                }
            }
            more |= !lane.asks.is_empty();
        }
        let now = Instant::now();
        if now >= next {
            next = now + ROUND;
            gate.fold();
            for (port, address) in gate.to_confirm() {
                asks.ask(port, address);
            }
            gate.wakers.iter().filter(|_| !gate.is_empty()).for_each(Waker::wake);
        }
        if gate.unsettled() {
            gate.settle();
            gate.wakers.iter().for_each(Waker::wake);
            more |= gate.lanes.iter().any(|lane| !lane.asks.is_empty());
        }
        if !gate.tell_waiting() {
            // The worker has not read what it was told yet.
            gate.wakers.iter().for_each(Waker::wake);
            std::thread::park_timeout(SOON);
            continue;
        }
        if !more {
            let idle = gate.is_empty();
            std::thread::park_timeout(if idle {
                Duration::from_secs(60)
            } else {
                next.saturating_duration_since(Instant::now())
            });
            if idle {
                next = Instant::now() + ROUND;
            }
        }
    }
    gate.finish();
}
