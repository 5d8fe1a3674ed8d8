//! Runs captures through the whole graph: no privileges, no kernel, the capture's own clock.

use super::build::{Blueprint, wire_fib};
use super::clock;
use super::instance;
use super::turn::WorkerPort;
use crate::config::policy::Policy;
use crate::control::{FlowFilter, ReplayReport};
use crate::io::pcap::{PcapPort, ReplayClock};
use crate::io::pool::FramePool;
use crate::io::port::PortIo;
use crate::io::umem::Umem;
use crate::telemetry::snapshot::Snapshot;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Instant;

/// Reads each input on its port, walks the graph, and writes what leaves a port to that port's output. `inputs` and
/// `outputs`: index of the port in the policy, and the file. Ports of any kind are replaced by captures. There are no
/// routes: of two ports each leads to the other.
///
/// # Errors
/// A file that cannot be read or written, a bad capture, unusable keys, a frame that is missing at the end.
pub fn replay(policy: Policy, inputs: &[(usize, PathBuf)], outputs: &[(usize, PathBuf)]) -> Result<ReplayReport> {
    let began = Instant::now();
    let fib = wire_fib(&policy);
    let blueprint = Blueprint::new(policy, fib, |_, _| true)?;
    let mut exporter = blueprint.exporter()?;
    let mut pool = FramePool::new(Umem::heap(blueprint.policy.workers.frames.max(256), 4096)?);
    let replay_clock = ReplayClock::new(&pool);
    let mut ports = Vec::new();
    for (id, port) in blueprint.policy.ports.iter().enumerate() {
        let file = |files: &[(usize, PathBuf)]| files.iter().find(|(at, _)| *at == id).map(|(_, path)| path.clone());
        let io = PcapPort::open(file(inputs).as_deref(), file(outputs).as_deref(), replay_clock.clone())
            .with_context(|| format!("port `{}`", port.name))?;
        ports.push(WorkerPort { id: id as u8, io: PortIo::Pcap(io) });
    }
    pool.register("replay")?;
    let start = clock::now();
    let (mut worker, _questions) = blueprint.worker(pool, ports, start);
    // The clock shows the packet read last, so the first turn runs at the start and the next ones at the capture's pace.
    let mut first = 0;
    let mut now;
    loop {
        if first == 0 {
            first = replay_clock.now();
        }
        now = start + replay_clock.now().saturating_sub(first);
        let got = worker.turn(now);
        if let Some(exporter) = &mut exporter {
            exporter.take(Instant::now());
        }
        if got == 0 && worker.ports.iter().all(|port| port.io.exhausted()) {
            break;
        }
    }
    worker.finish();
    if let Some(mut exporter) = exporter {
        exporter.finish();
    }
    worker.publish();
    let counters = Snapshot::take(&blueprint.names, [&*worker.counters]);
    for port in worker.ports.drain(..) {
        port.io.close(&mut worker.pool)?;
    }
    if !worker.pool.account().all_free() {
        bail!("frames are missing after the replay: {:?}", worker.pool.account());
    }
    let plan = blueprint.shared.plan.load();
    let all = FlowFilter { limit: usize::MAX, ..FlowFilter::default() };
    Ok(ReplayReport {
        packets_in: counters.ports.iter().map(|port| port.rx.packets).sum(),
        packets_out: counters.ports.iter().map(|port| port.tx.packets).sum(),
        seconds: began.elapsed().as_secs_f64(),
        tunnels: instance::tunnels(&blueprint.policy, &blueprint.shared.keys.load(), &counters),
        drops: instance::drops(&counters),
        flows: instance::flows(&worker, 0, &all, &plan, now),
    })
}
