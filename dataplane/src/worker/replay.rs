//! Runs captures through the whole graph: no privileges, no kernel, the capture's own clock.

use super::build::{Blueprint, wire_fib};
use super::clock;
use super::turn::WorkerPort;
use crate::config::policy::Policy;
use crate::io::pcap::{PcapPort, ReplayClock};
use crate::io::pool::FramePool;
use crate::io::port::PortIo;
use crate::io::umem::Umem;
use crate::telemetry::snapshot::Snapshot;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// What a replay did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ReplayReport {
    /// Packets read.
    pub received: u64,
    /// Packets written.
    pub sent: u64,
    pub dropped: u64,
    /// Every frame is back in the pool.
    pub balanced: bool,
    pub counters: Snapshot,
}

/// Reads each input on its port, walks the graph, and writes what leaves a port to that port's output. `inputs` and
/// `outputs` name ports of the policy; ports of any kind are replaced by captures. Without routes there is one rule: of two
/// ports each leads to the other.
///
/// # Errors
/// An unknown port, a file that cannot be read or written, a bad capture, unusable keys.
pub fn replay(policy: Policy, inputs: &[(String, PathBuf)], outputs: &[(String, PathBuf)]) -> Result<ReplayReport> {
    for (name, _) in inputs.iter().chain(outputs) {
        if policy.port(name).is_none() {
            let known: Vec<_> = policy.ports.iter().map(|port| port.name.as_str()).collect();
            bail!("the policy has no port `{name}`; it has {}", known.join(", "));
        }
    }
    let fib = wire_fib(&policy);
    let blueprint = Blueprint::new(policy, fib, |_, _| true)?;
    let mut pool = FramePool::new(Umem::heap(blueprint.policy.workers.frames.max(256), 4096)?);
    let replay_clock = ReplayClock::new(&pool);
    let mut ports = Vec::new();
    for (id, port) in blueprint.policy.ports.iter().enumerate() {
        let file = |files: &[(String, PathBuf)]| {
            files.iter().find(|(name, _)| *name == port.name).map(|(_, path)| path.clone())
        };
        let io = PcapPort::open(file(inputs).as_deref(), file(outputs).as_deref(), replay_clock.clone())
            .with_context(|| format!("port `{}`", port.name))?;
        ports.push(WorkerPort { id: id as u8, io: PortIo::Pcap(io) });
    }
    pool.register("replay")?;
    let start = clock::now();
    let (mut worker, _questions) = blueprint.worker(pool, ports, start)?;
    let mut first = None;
    loop {
        let captured = replay_clock.now();
        let first = *first.get_or_insert(captured);
        let got = worker.turn(start + captured.saturating_sub(first));
        if got == 0 && worker.ports.iter().all(|port| port.io.exhausted()) {
            break;
        }
    }
    worker.finish();
    worker.publish();
    let counters = Snapshot::take(&blueprint.names, [&*worker.counters]);
    for port in worker.ports.drain(..) {
        port.io.close(&mut worker.pool)?;
    }
    Ok(ReplayReport {
        received: counters.ports.iter().map(|port| port.rx.packets).sum(),
        sent: counters.ports.iter().map(|port| port.tx.packets).sum(),
        dropped: counters.dropped(),
        balanced: worker.pool.account().all_free(),
        counters,
    })
}
