//! Round trips of small requests through one thing at a time: alone, and while other traffic takes a share of what that thing can.
//!
//! A request is timed from when it was due, not from when it was sent, and the next does not wait for its answer: what a stall
//! holds up counts (Tene's coordinated omission).

pub mod background;
pub mod pace;
pub mod probe;
mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::net::topology::Napi;
use crate::path::contenders::{self as path, Contender, Flow, Kind, Start};
use crate::path::turns::select;
use crate::path::{Hosts, cpu};
use crate::progress;
use crate::report::{Bound, Curve, Latency, Line, Section, Target};
use crate::stats::latency::Latencies;
use crate::stop;
use background::Background;
use pace::Requests;
use probe::{Echo, Seen};

/// In the order of their turns.
pub const CONTENDERS: [Contender; 9] = [
    path::DIRECT_VETH,
    path::KERNEL,
    path::KERNEL_OWN_CORE,
    path::NAT,
    path::WORKER,
    path::WORKER_BUSY,
    path::WORKER_INTERRUPT,
    path::WORKER_BUSY_POLL,
    path::XDP,
];

const FLOWS: [Flow; 2] = [
    Flow { protocol: 17, client_port: probe::CLIENT_PORT, server_port: probe::ECHO_PORT },
    Flow { protocol: 17, client_port: background::SOURCE_PORT, server_port: background::PORT },
];

/// How long a contender may take until it lets everything by.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub warm_up: Duration,
    /// Of each level of load.
    pub turn: Duration,
    /// On average between two requests.
    pub every: Duration,
    /// Background load, % of the contender's most. 0 is alone.
    pub levels: Vec<u32>,
    /// Where the thing under test runs, and where client, server and load do.
    pub dut_core: usize,
    pub client_core: usize,
    /// The `softdpu` binary.
    pub softdpu: PathBuf,
    /// Names of contenders; empty for all.
    pub only: Vec<String>,
}

#[cfg(test)]
impl Options {
    pub(crate) fn for_tests() -> Self {
        Self {
            rounds: 1,
            warm_up: Duration::from_millis(10),
            turn: Duration::from_millis(10),
            every: Duration::from_millis(1),
            levels: vec![0, 10],
            dut_core: 0,
            client_core: 0,
            softdpu: PathBuf::new(),
            only: Vec::new(),
        }
    }
}

/// What one level of one turn showed.
pub(crate) struct Turn {
    pub seen: Seen,
    pub cpu: cpu::Split,
    /// Packets per second: the contender's most, and of the background what was offered and arrived.
    pub most: f64,
    pub offered: f64,
    pub arrived: f64,
    /// Share of the background that never arrived.
    pub lost: f64,
}

/// Runs all: a section for each level of load, curves in the last.
///
/// # Errors
/// Without root, where the links cannot be made, or for an unknown name in `only`. A contender that fails is named as missing.
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let wanted = select(&CONTENDERS, &options.only)?;
    let inline = Hosts::new('l', Napi::Inline)?;
    let threads = Hosts::new('m', Napi::Thread(options.dut_core))?;
    let mut sections: Vec<Section> = options.levels.iter().map(|l| section(*l, &wanted)).collect();
    let mut all: BTreeMap<(usize, &str), Latencies> = BTreeMap::new();
    let mut most: BTreeMap<&str, f64> = BTreeMap::new();
    let bar = progress::bar((options.rounds * wanted.len()) as u64);
    for round in 0..options.rounds {
        for c in &wanted {
            if stop::asked() {
                break;
            }
            bar.set_message(format!("round {}: {}", round + 1, c.title));
            let hosts = if c.kind == Kind::KernelOwnCore { &threads } else { &inline };
            let seed = round as u64;
            let turns = turns(hosts, c, options, seed, &mut most);
            bar.inc(1);
            let turns = match turns {
                Ok(turns) => turns,
                Err(e) => {
                    sections.iter_mut().for_each(|s| s.missing(c.name, c.title, format!("{e:#}")));
                    continue;
                }
            };
            for (n, t) in turns.iter().enumerate() {
                put(&mut sections[n], c, t, options);
                all.entry((n, c.name)).or_default().add(&t.seen.latencies);
            }
        }
    }
    bar.finish_and_clear();
    for ((n, name), latencies) in &all {
        if let Some(line) = sections[*n].contenders.iter_mut().find(|c| c.name == *name) {
            line.latency = Some(Latency {
                of: "a request, from when it was due to its answer".into(),
                counts: latencies.counts(),
            });
        }
    }
    let targets = finish(&mut sections, options);
    Ok((sections, targets))
}

fn section(level: u32, wanted: &[Contender]) -> Section {
    let (name, title) = match level {
        0 => ("latency".to_owned(), "request and answer, UDP of 64 B, p99".to_owned()),
        l => (format!("latency-{l}"), format!("request and answer, UDP of 64 B, p99 at {l} % load")),
    };
    let mut section = Section::new(&name, &title, "µs");
    for c in wanted {
        section.declare(c.name, c.title);
    }
    section
}

fn put(section: &mut Section, c: &Contender, t: &Turn, options: &Options) {
    let us = |q: f64| t.seen.latencies.percentile(q) as f64 / 1000.0;
    let line = section.round(c.name, c.title, us(99.0));
    let lost = 100.0 * (1.0 - t.seen.answered as f64 / t.seen.sent.max(1) as f64);
    let mut more = vec![("p50 µs", us(50.0)), ("p99.9 µs", us(99.9)), ("max µs", us(100.0)), ("lost %", lost)];
    if t.offered > 0.0 {
        more.extend([
            ("load offered kpps", t.offered / 1e3),
            ("load arrived kpps", t.arrived / 1e3),
            ("most kpps", t.most / 1e3),
        ]);
    }
    for (name, value) in more {
        line.more.entry(name.into()).or_default().push(value);
    }
    t.cpu.beside(line, options.dut_core, options.client_core, "s");
}

/// One contender's turn: started once, all levels of load after each other.
pub(crate) fn turns<'a>(
    hosts: &Hosts,
    c: &'a Contender,
    options: &Options,
    seed: u64,
    most: &mut BTreeMap<&'a str, f64>,
) -> Result<Vec<Turn>> {
    let start = Start { hosts, softdpu: &options.softdpu, core: options.dut_core, flows: &FLOWS };
    let _running = c.start(&start).context("starting")?;
    let t = &hosts.topology;
    let _echo = Echo::start(&t.sink, options.client_core)?;
    let (server, direct, core) = (c.server(), c.kind == Kind::Direct, options.client_core);
    let ask = |time: Duration, seed: u64| probe::ask(&t.source, server, Requests::new(options.every, time, seed), core);
    // An instance answers on its socket before its ports are attached.
    let patience = Instant::now() + PATIENCE;
    loop {
        let warm = ask(options.warm_up, 0)?;
        if warm.answered == warm.sent {
            break;
        }
        ensure!(
            Instant::now() < patience && !stop::asked(),
            "{} of {} requests were answered after {} s",
            warm.answered,
            warm.sent,
            PATIENCE.as_secs()
        );
    }
    let most = match (most.get(c.name), options.levels.iter().any(|l| *l > 0)) {
        (Some(rate), _) => *rate,
        (None, false) => 0.0,
        (None, true) => {
            let rate = background::most(hosts, server, direct, core, options.turn.min(Duration::from_millis(500)))?;
            ensure!(rate > 0.0, "nothing of the load arrived");
            // What is still on its way.
            stop::sleep(Duration::from_millis(50));
            most.insert(c.name, rate);
            rate
        }
    };
    let mut turns = Vec::with_capacity(options.levels.len());
    for level in &options.levels {
        let rate = most * f64::from(*level) / 100.0;
        let first = if *level > 0 { settled(hosts, direct)? } else { 0 };
        let load = match level {
            0 => None,
            _ => Some(Background::start(&t.source, server, Some(rate), core)?),
        };
        let (watch, before, clock) = (cpu::Watch::start(), hosts.arrived(direct)?, Instant::now());
        let seen = ask(options.turn, seed)?;
        let seconds = clock.elapsed().as_secs_f64();
        let (after, cpu) = (hosts.arrived(direct)?, watch.finish());
        let sent = load.map(Background::finish).transpose()?.unwrap_or(0);
        ensure!(seen.wrong == 0, "{} answers were not what was sent", seen.wrong);
        let arrived = (after - before).saturating_sub(seen.answered) as f64 / seconds;
        let lost = if sent > 0 {
            let all = settled(hosts, direct)? - first;
            1.0 - all.saturating_sub(seen.answered).min(sent) as f64 / sent as f64
        } else {
            0.0
        };
        turns.push(Turn { seen, cpu, most, offered: sent as f64 / seconds, arrived, lost });
    }
    Ok(turns)
}

/// What has arrived when nothing more comes.
fn settled(hosts: &Hosts, direct: bool) -> Result<u64> {
    let mut seen = hosts.arrived(direct)?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        let now = hosts.arrived(direct)?;
        if now == seen {
            break;
        }
        seen = now;
    }
    Ok(seen)
}

fn finish(sections: &mut [Section], options: &Options) -> Vec<Target> {
    let mut targets = Vec::new();
    for (s, level) in sections.iter_mut().zip(&options.levels) {
        let worker = s.ratio("worker", "kernel");
        let xdp = s.ratio("xdp", "kernel");
        for (over, under) in
            [("worker", "kernel-own-core"), ("worker-busy", "kernel"), ("nftables", "kernel"), ("worker", "direct")]
        {
            s.ratio(over, under);
        }
        if *level == 10 {
            let title = |who: &str| format!("{who} / kernel ip_forward, p99 of requests at 10 % load");
            targets.push(Target::new(title("worker tier"), Bound::AtMost, 1.5, worker));
            targets.push(Target::new(title("XDP tier"), Bound::AtMost, 1.0, xdp));
        }
        s.notes = notes(options, *level);
    }
    let curves = [(99.0, "p99"), (50.0, "p50")].map(|(_, name)| curve(sections, &options.levels, name));
    if let (true, Some(last)) = (options.levels.len() > 1, sections.last_mut()) {
        last.curves.extend(curves);
    }
    targets
}

/// Latency over load, a line for each contender.
fn curve(sections: &[Section], levels: &[u32], percentile: &str) -> Curve {
    let names = sections.first().map(|s| s.contenders.as_slice()).unwrap_or_default();
    let lines = names.iter().filter_map(|c| {
        let points: Vec<(f64, f64)> = sections
            .iter()
            .zip(levels)
            .filter_map(|(s, level)| {
                let line = s.contenders.iter().find(|l| l.name == c.name)?;
                let us = match percentile {
                    "p50" => crate::stats::summary(line.more.get("p50 µs")?)?.median,
                    _ => line.summary.as_ref()?.median,
                };
                Some((f64::from(*level), us))
            })
            .collect();
        (!points.is_empty()).then(|| Line { title: c.title.clone(), points })
    });
    Curve {
        title: format!("Latency over load, {percentile}"),
        x: "load, % of each contender's most".into(),
        y: "µs".into(),
        log: (false, true),
        lines: lines.collect(),
        mark: None,
    }
}

fn notes(options: &Options, level: u32) -> Vec<String> {
    let mut notes = vec![
        format!(
            "UDP, 64 B on the wire; a request every {} µs on average, timed from when it was due; those without an answer count as having \
             waited to the end. Client and server sleep until something comes, both on core {}; the thing under test has core {}.",
            options.every.as_micros(),
            options.client_core,
            options.dut_core
        ),
        "kernel, nftables and XDP work in softirq on the core of whoever sends: no other thread has to wake. A worker is a thread \
         on another core, which has to wake in both directions, and so are the kernel's NAPI threads."
            .into(),
        "Every answer is compared with its request. CPU is in seconds per turn, all programs together.".into(),
    ];
    if level > 0 {
        notes.push(
            "most: what one sender with sendmmsg gets to the server through this contender, in bursts every 200 µs when it is loaded; \
             the row `direct` is the sender's own limit. The sender has the client's core, so at high load it takes its share of it."
                .into(),
        );
    }
    notes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn curves_have_a_point_for_each_level() {
        let mut sections: Vec<Section> = [0, 10].map(|l| section(l, &CONTENDERS)).into();
        for (n, s) in sections.iter_mut().enumerate() {
            let line = s.round("kernel", "kernel ip_forward", 20.0 + n as f64);
            line.more.entry("p50 µs".into()).or_default().push(10.0);
        }
        let c = curve(&sections, &[0, 10], "p99");
        assert_eq!(c.lines.len(), 1);
        assert_eq!(c.lines[0].points, [(0.0, 20.0), (10.0, 21.0)]);
        assert_eq!(curve(&sections, &[0, 10], "p50").lines[0].points[1], (10.0, 10.0));
    }
}
