//! Runs captures through the whole graph: no privileges, no kernel, the capture's own clock.

use super::build::{Blueprint, wire_fib};
use super::clock;
use super::instance;
use super::turn::{Worker, WorkerPort};
use super::watching;
use crate::config::policy::{self, Policy, PortKind};
use crate::control::{FlowFilter, ReplayReport};
use crate::io::pcap::{PcapPort, ReplayClock};
use crate::io::pool::FramePool;
use crate::io::port::PortIo;
use crate::io::umem::Umem;
use crate::plan::steering;
use crate::telemetry::snapshot::Snapshot;
use crate::watch::feed::{Feed, Source};
use crate::watch::way::Way;
use crate::watch::{Watch, WatchRequest};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Reads each input on its port, walks the graph, and writes what leaves a port to that port's output. `inputs` and
/// `outputs`: index of the port in the policy, and the file. Ports of any kind are replaced by captures. There are no
/// routes: of two ports each leads to the other.
///
/// # Errors
/// A file that cannot be read or written, a bad capture, unusable keys, a frame that is missing at the end.
pub fn replay(policy: Policy, inputs: &[(usize, PathBuf)], outputs: &[(usize, PathBuf)]) -> Result<ReplayReport> {
    play(policy, inputs, outputs, |_, _| {}, |_| true)
}

/// The same, telling each packet's way that `request` asks for, as soon as it has come to its end. Nothing is written.
///
/// # Errors
/// As [`replay`], and what is wrong with the request.
pub fn trace(
    policy: Policy,
    inputs: &[(usize, PathBuf)],
    request: &WatchRequest,
    mut told: impl FnMut(&Way) -> Result<()>,
) -> Result<()> {
    let mut session = request.session(true, usize::from(u16::MAX))?;
    session.live = false;
    let session = Arc::new(session);
    // Interfaces need only be told apart.
    let interface = |(at, port): (usize, &policy::Port)| matches!(port.kind, PortKind::Xdp(_)).then_some(at as u32 + 1);
    let interfaces: Vec<Option<u32>> = policy.ports.iter().enumerate().map(interface).collect();
    let tunnels = steering::of_tunnels(&policy).into_iter().flatten().collect();
    let rules = steering::rules(&policy, &interfaces, tunnels);
    let ports = policy.ports.iter().map(|port| (port.name.clone(), String::new())).collect();
    let mut feed = None;
    let mut failed = Ok(());
    let mut tell = |feed: &mut Option<Feed>, all| {
        for way in feed.as_mut().map(|feed| feed.ways(all)).unwrap_or_default() {
            if failed.is_ok() {
                failed = told(&way);
            }
        }
        failed.is_ok()
    };
    let feed = &std::cell::RefCell::new(&mut feed);
    play(
        policy,
        inputs,
        &[],
        |blueprint, worker| {
            worker.watch = Some(Box::new(Watch::new(session.clone(), 0)));
            let (plan, filter) = (blueprint.shared.plan.clone(), request.expression().to_owned());
            let source = Source {
                plan,
                ports,
                steer: watching::steer(rules, interfaces),
                driver: Err("captures are replayed".to_owned()),
                offset: 0,
                filter,
            };
            **feed.borrow_mut() = Some(Feed::new(session.clone(), source, 0, Box::new(|_| {})));
        },
        |offset| {
            let mut feed = feed.borrow_mut();
            if let Some(feed) = feed.as_mut() {
                feed.set_offset(offset);
            }
            tell(&mut feed, false) && !session.has_enough()
        },
    )?;
    tell(&mut feed.borrow_mut(), true);
    failed
}

/// `each`: called after each turn, with what the worker's time is less than the capture's; `false`: that is enough.
fn play(
    policy: Policy,
    inputs: &[(usize, PathBuf)],
    outputs: &[(usize, PathBuf)],
    prepare: impl FnOnce(&Blueprint, &mut Worker),
    mut each: impl FnMut(i64) -> bool,
) -> Result<ReplayReport> {
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
    prepare(&blueprint, &mut worker);
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
        let enough = !each(if first == 0 { replay_clock.now() } else { first }.wrapping_sub(start) as i64);
        if enough || got == 0 && worker.ports.iter().all(|port| port.io.exhausted()) {
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
