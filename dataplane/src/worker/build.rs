//! Puts a worker together from a plan: the part that every way of running one (on interfaces, on captures, in memory) shares.

use super::neighbours::Asks;
use super::turn::{Parts, Question, Shared, Worker, WorkerPort};
use crate::config::policy::{self, Policy, PortKind};
use crate::flow::{FlowConfig, FlowTable, Seed, Tick, Timeouts};
use crate::graph::DropReason;
use crate::host::fib::{Fib, Link};
use crate::host::watch::AskQueue;
use crate::io::pool::FramePool;
use crate::l7::{Class, Inspector, L7Config};
use crate::plan::{self, Plan};
use crate::telemetry::counters::{Names, WorkerCounters};
use crate::telemetry::export::{self, Sink};
use crate::telemetry::journal::Journal;
use crate::tunnel;
use crate::tunnel::events::Events;
use crate::tunnel::publisher::Publisher;
use crate::wire::ethernet::Mac;
use anyhow::Result;
use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// Questions that may wait for a worker.
const QUESTIONS: usize = 16;

/// A plan with its keys, and what is made once for all workers.
pub struct Blueprint {
    pub policy: Policy,
    pub shared: Shared,
    /// Where the control side puts keys.
    pub publisher: Arc<Mutex<Publisher>>,
    pub events: Arc<Events>,
    pub asks: Arc<AskQueue>,
    /// What happens, for those who follow the instance.
    pub journal: Arc<Journal>,
    pub names: Arc<Names>,
    pub l7: L7Config,
    /// From workers to the exporter, where the policy has one.
    pub export: Option<Arc<export::Queue>>,
}

impl Blueprint {
    /// # Errors
    /// What is wrong with keys.
    pub fn new(policy: Policy, fib: Fib, checksums: impl Fn(usize, &policy::Port) -> bool) -> Result<Self> {
        let mut plan = plan::build(&policy, 1)?;
        let publisher = Publisher::new(tunnel::esp::parts(&policy)?)?;
        for (at, (port, of_policy)) in plan.ports.iter_mut().zip(&policy.ports).enumerate() {
            port.finish_checksums = match of_policy.checksum {
                // Completed where it is read, as the kernel says of each packet.
                _ if matches!(of_policy.kind, PortKind::Tap(_)) => false,
                policy::Checksum::Finish => true,
                policy::Checksum::Trust => false,
                policy::Checksum::Auto => checksums(at, of_policy),
            };
        }
        let names = names(&plan);
        let export = policy.export.as_ref().map(|_| export::Queue::new());
        let shared = Shared {
            plan: Arc::new(ArcSwap::from_pointee(plan)),
            keys: publisher.keys(),
            fib: Arc::new(ArcSwap::from_pointee(fib)),
            stop: Arc::new(AtomicBool::new(false)),
        };
        Ok(Self {
            policy,
            shared,
            publisher: Arc::new(Mutex::new(publisher)),
            events: Events::new(),
            asks: AskQueue::new(),
            journal: Journal::new(),
            names,
            l7: L7Config::default(),
            export,
        })
    }

    /// What is to be done after each publication of keys.
    pub fn on_new_keys(&self, done: Box<dyn Fn() + Send + Sync>) {
        if let Ok(mut publisher) = self.publisher.lock() {
            publisher.on_change(done);
        }
    }

    /// What takes the workers' flow records, where the policy says where to.
    ///
    /// # Errors
    /// The file cannot be written, or there is no socket to be had.
    pub fn exporter(&self) -> Result<Option<export::Exporter>> {
        let (Some(to), Some(queue)) = (&self.policy.export, &self.export) else { return Ok(None) };
        export::Exporter::open(to, queue.clone()).map(Some)
    }

    /// A worker over these ports, and the way to ask it things.
    pub fn worker(&self, pool: FramePool, ports: Vec<WorkerPort>, now: u64) -> (Worker, Sender<Question>) {
        let (ask, questions): (_, Receiver<Question>) = bounded(QUESTIONS);
        let flows = FlowConfig {
            capacity: u32::try_from(self.policy.flows.capacity).unwrap_or(u32::MAX),
            timeouts: timeouts(&self.policy.flows.timeouts),
            unproven_percent: self.policy.flows.unproven_percent,
        };
        let worker = Worker::new(Parts {
            shared: self.shared.clone(),
            pool,
            ports,
            flows: FlowTable::new(&flows, Seed::random(), Tick::from_nanos(now)),
            inspector: Inspector::new(&self.l7),
            export: self
                .policy
                .export
                .as_ref()
                .zip(self.export.clone())
                .map(|(to, queue)| Sink::new(queue, to.active_timeout)),
            events: self.events.clone(),
            counters: Arc::new(WorkerCounters::new(self.names.clone())),
            neighbours: Asks::new(self.asks.clone()),
            questions,
            batch_size: self.policy.workers.batch,
        });
        (worker, ask)
    }
}

fn names(plan: &Plan) -> Arc<Names> {
    Arc::new(Names {
        ports: plan.ports.iter().map(|port| port.name.clone()).collect(),
        tunnels: plan.tunnels.iter().map(|tunnel| tunnel.name.clone()).collect(),
        reasons: DropReason::CODES,
        classes: Class::NAMES,
        applications: plan.applications.names().to_vec(),
    })
}

pub(super) fn timeouts(t: &policy::Timeouts) -> Timeouts {
    Timeouts::new(t.tcp_opening, t.tcp_established, t.tcp_closing, t.udp, t.other)
}

/// The forwarding table of a run without a kernel: every port is a link without neighbours, and of two ports each leads to
/// the other.
pub fn wire_fib(policy: &Policy) -> Fib {
    let links = policy.ports.iter().enumerate().map(|(at, port)| {
        let mtu = match &port.kind {
            PortKind::Pcap { mtu, .. } | PortKind::Loopback { mtu, .. } => *mtu,
            PortKind::Tap(tap) => tap.mtu,
            PortKind::Xdp(_) => 1500,
        };
        Link {
            mac: Mac([2, 0, 0, 0, 0, at as u8 + 1]),
            mtu: mtu.min(u32::from(u16::MAX)) as u16,
            up: true,
            neighbourless: true,
            ..Link::default()
        }
    });
    let mut fib = Fib::new(1, links.collect()).with_cross_connect();
    fib.add_neighbourless();
    fib
}
