//! Reloads under load: 10,000 rules and 1,000 intents change while a stream at half of the maximum goes through the worker, with
//! requests beside it. Turns with reloads and without alternate, in one instance.

mod host;
mod probe;
mod real_time;
mod stream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use softdpu::rig::instance::Instance;

use crate::net::cores;
use crate::net::generator::{Generator, Limits};
use crate::net::topology::{NEAR, NEAR_MAC, Napi, SINK, Topology};
use crate::report::{Bound, Latency, Section, Target};
use crate::stats::latency::Latencies;
use crate::{progress, stop};
use host::Files;
use probe::{Answers, Probe};
use stream::{Outcome, Sent, Stream};

/// From one reload to the next, where it does not take longer.
const SPACING: Duration = Duration::from_millis(500);
/// What was sent so long before a reload or after it may have been lost to it, ns: the rings hold less.
const BEFORE: u64 = 5_000_000;
const AFTER: u64 = 20_000_000;

/// The maximum is looked for in so many steps, to 1.6 % of what arrives when more is sent,
const TRIALS: usize = 6;
/// each of so long.
const TRIAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    /// In each turn that has them.
    pub reloads: usize,
    pub dut_core: usize,
    pub sender_core: usize,
    /// The `softdpu` binary.
    pub softdpu: PathBuf,
}

/// One reload.
struct Reload {
    /// Wall clock, ns.
    begun: u64,
    ended: u64,
    compile_ms: f64,
    switch_ms: f64,
}

struct Turn {
    answers: Answers,
    sent: Sent,
    outcome: Outcome,
    reloads: Vec<Reload>,
    /// What counted losses meanwhile, by name.
    drops: BTreeMap<String, u64>,
}

impl Turn {
    /// Packets that were lost while a reload was going on, and those of them that were sent while it compiled.
    fn lost_to_reload(&self) -> (u64, u64) {
        let mut lost = (0, 0);
        for at in self.outcome.lost.iter().map(|n| self.sent.when(*n)) {
            let during = |r: &&Reload| at + BEFORE >= r.begun && at <= r.ended + AFTER;
            let Some(reload) = self.reloads.iter().find(during) else { continue };
            lost.0 += 1;
            lost.1 += u64::from(at < reload.begun + (reload.compile_ms * 1e6) as u64);
        }
        lost
    }
}

/// What all turns of a kind came to.
#[derive(Default)]
struct Kind {
    rtt: Latencies,
    packets: u64,
    lost: u64,
    lost_to_reload: u64,
    lost_to_compile: u64,
    duplicates: u64,
    requests: u64,
    unanswered: u64,
    drops: BTreeMap<String, u64>,
}

impl Kind {
    fn add(&mut self, turn: &Turn) {
        self.rtt.add(&turn.answers.rtt);
        self.packets += turn.outcome.sent;
        self.lost += turn.outcome.lost.len() as u64;
        let (reload, compile) = turn.lost_to_reload();
        self.lost_to_reload += reload;
        self.lost_to_compile += compile;
        self.duplicates += turn.outcome.duplicates;
        self.requests += turn.answers.sent;
        self.unanswered += turn.answers.lost;
        for (name, count) in &turn.drops {
            *self.drops.entry(name.clone()).or_default() += count;
        }
    }

    fn note(&self, what: &str) -> String {
        let drops = match self.drops.is_empty() {
            true => "nothing".to_owned(),
            false => self.drops.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", "),
        };
        format!(
            "{what}: {} packets, {} lost ({} while a reload was going on, {} of these while it compiled), {} twice; {} of {} requests \
             unanswered; counted: {drops}.",
            self.packets,
            self.lost,
            self.lost_to_reload,
            self.lost_to_compile,
            self.duplicates,
            self.unanswered,
            self.requests,
        )
    }
}

struct Bench<'a> {
    options: &'a Options,
    topology: Topology,
    socket: PathBuf,
    files: Files,
    /// Packets per second.
    rate: f64,
    /// That arrived when more were sent.
    most: f64,
}

const WITHOUT: (&str, &str) = ("without", "RTT p99 beside the stream, no reloads");
const WITH: (&str, &str) = ("with", "RTT p99 beside the stream, reloads");

/// Runs all, and returns the sections and their targets.
///
/// # Errors
/// Without root, or where the instance does not start or refuses a reload.
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let topology = Topology::new('r', Napi::Inline)?;
    prepare(&topology)?;
    let folder = tempfile::tempdir()?;
    let mut files = None;
    let instance = Instance::start(Some(&topology.dut), &options.softdpu, None, |socket| {
        let made =
            Files::new(&topology.near_if, &topology.far_if, socket, &folder.path().join("intents"), options.dut_core);
        let text = made.as_ref().map(Files::text).unwrap_or_default();
        files = Some(made);
        text
    })
    .context("build it, or --softdpu")?;
    let files = files.context("no policy was asked for")??;
    only_workers_in_front(instance.pid());
    // What this thread does (files, requests) is not to be where the worker is.
    cores::pin(0, options.sender_core)?;
    let most = overload(&topology, options)?;
    let rate = maximum(&topology, options, most)? / 2.0;
    let mut bench = Bench { options, topology, socket: instance.socket(), files, rate, most };
    let done = bench.rounds();
    drop(instance);
    done
}

fn prepare(topology: &Topology) -> Result<()> {
    let source = &topology.source;
    let mac = NEAR_MAC.map(|b| format!("{b:02x}")).join(":");
    source.ip(&format!("neighbour replace {NEAR} lladdr {mac} dev {} nud permanent", topology.source_if))?;
    source.ip(&format!("route add {SINK}/32 via {NEAR} dev {}", topology.source_if))
}

/// The rig puts a whole instance in front of others; here its own threads are each other's rivals, as they are in service.
fn only_workers_in_front(pid: u32) {
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let tid = task.file_name().to_str().and_then(|t| t.parse::<libc::id_t>().ok());
        if let (false, Some(tid)) = (name.starts_with("worker-"), tid) {
            // SAFETY: no pointers; a thread that is gone is an error that changes nothing.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, 0) };
        }
    }
}

/// Packets per second that arrive when more are sent than the worker can take.
fn overload(topology: &Topology, options: &Options) -> Result<f64> {
    let _sink = Stream::new(topology)?;
    let limits = Limits {
        packets: 40_000_000,
        time: Duration::from_secs(6),
        rate: Some(4e6),
        core: options.sender_core,
        batch: 64,
    };
    let generator = Generator::start(topology, &topology.traffic(1, 60), limits)?;
    stop::sleep(Duration::from_millis(500));
    let (begun, before) = (Instant::now(), topology.arrived()?);
    stop::sleep(Duration::from_millis(2000));
    let rate = (topology.arrived()? - before) as f64 / begun.elapsed().as_secs_f64();
    generator.finish()?;
    anyhow::ensure!(rate > 1000.0, "hardly anything goes through: {rate} packets per second");
    Ok(rate)
}

/// The highest rate at which nothing is lost (RFC 2544 §26.1), by halving what is in question below `most`; packets per second. A
/// rate that loses is tried once more: what takes a core away for a moment is not the worker.
fn maximum(topology: &Topology, options: &Options, most: f64) -> Result<f64> {
    let (mut held, mut lost) = (0.0, most);
    for _ in 0..TRIALS {
        let rate = (held + lost) / 2.0;
        if whole(topology, options, rate)? || whole(topology, options, rate)? {
            held = rate;
        } else {
            lost = rate;
        }
    }
    anyhow::ensure!(held > 0.0, "packets are lost at every rate: is the machine quiet?");
    Ok(held)
}

/// Whether all of a stream arrives.
fn whole(topology: &Topology, options: &Options, rate: f64) -> Result<bool> {
    let stream = Stream::new(topology)?;
    let sending = stream.send(topology, rate, options.sender_core)?;
    stop::sleep(TRIAL);
    let sent = sending.finish()?;
    std::thread::sleep(Duration::from_millis(100));
    // A sender that cannot send so much says nothing of the worker.
    Ok(sent.rate() * 1e6 > rate * 0.98 && stream.outcome(sent.packets)?.lost.is_empty())
}

impl Bench<'_> {
    fn rounds(&mut self) -> Result<(Vec<Section>, Vec<Target>)> {
        let mut rtt = Section::new("reload", "reloads beside a stream at half of the maximum", "µs");
        let mut made = Section::new("reload-plan", "a reload of 10,000 rules and 1,000 intents under load, each", "ms");
        for (name, title) in [WITHOUT, WITH] {
            rtt.declare(name, title);
        }
        let mut kinds = [Kind::default(), Kind::default()];
        let bar = progress::bar(2 * self.options.rounds as u64);
        for round in 0..self.options.rounds {
            // Who comes first changes, so that nobody always follows the other.
            for with in if round % 2 == 0 { [false, true] } else { [true, false] } {
                if stop::asked() {
                    break;
                }
                let turn = self.turn(with)?;
                let (name, title) = if with { WITH } else { WITHOUT };
                let line = rtt.round(name, title, turn.answers.rtt.percentile(99.0) as f64 / 1e3);
                let mut more = |name: &str, value: f64| line.more.entry(name.into()).or_default().push(value);
                more("p50 µs", turn.answers.rtt.percentile(50.0) as f64 / 1e3);
                more("p99.9 µs", turn.answers.rtt.percentile(99.9) as f64 / 1e3);
                more("p99 from when due µs", turn.answers.due.percentile(99.0) as f64 / 1e3);
                more("sent Mpps", turn.sent.rate());
                more("burst", turn.sent.burst());
                more("sender's longest pause ms", turn.sent.pause as f64 / 1e6);
                more("lost", turn.outcome.lost.len() as f64);
                for reload in &turn.reloads {
                    made.round("compile", "reading, checking and compiling", reload.compile_ms);
                    made.round("switch", "going on to it", reload.switch_ms);
                    made.round("whole", "all of it, as who asked sees it", (reload.ended - reload.begun) as f64 / 1e6);
                }
                kinds[usize::from(with)].add(&turn);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let [without, with] = kinds;
        for (name, kind) in [(WITHOUT.0, &without), (WITH.0, &with)] {
            if let Some(line) = rtt.contenders.iter_mut().find(|c| c.name == name) {
                let of = "a request beside the stream, from sending to the answer".to_owned();
                line.latency = Some(Latency { of, counts: kind.rtt.counts() });
            }
        }
        rtt.notes = vec![
            format!(
                "UDP, 64 B, {:.3} Mpps in bursts every 0.2 ms: half of the {:.3} Mpps of which nothing was lost in {:?} (RFC 2544 \
                 §26.1); when more was sent, {:.3} Mpps arrived. Requests every 1.04 ms, due whether answered or not.",
                self.rate / 1e6,
                self.rate / 5e5,
                TRIAL,
                self.most / 1e6
            ),
            without.note("Without reloads"),
            with.note("With reloads"),
        ];
        let ratio = rtt.ratio(WITH.0, WITHOUT.0);
        let most = |name: &str| {
            let line = made.contenders.iter().find(|c| c.name == name)?;
            line.rounds.iter().copied().reduce(f64::max)
        };
        let lost = (with.packets > 0).then_some(with.lost_to_reload as f64);
        let targets = vec![
            Target::new("packets lost while a reload was going on", Bound::AtMost, 0.0, lost),
            Target::new(
                "packets that came twice, with reloads",
                Bound::AtMost,
                0.0,
                lost.map(|_| with.duplicates as f64),
            ),
            Target::new("longest compile of all reloads, ms", Bound::AtMost, 200.0, most("compile")),
            Target::new("RTT p99 with reloads / without", Bound::AtMost, 1.2, ratio),
        ];
        Ok((vec![rtt, made], targets))
    }

    fn turn(&mut self, with: bool) -> Result<Turn> {
        let stream = Stream::new(&self.topology)?;
        let before = drops(&self.topology, &self.socket)?;
        let sending = stream.send(&self.topology, self.rate, self.options.sender_core)?;
        stop::sleep(Duration::from_millis(300));
        let probe = Probe::start(&self.topology, self.options.sender_core)?;
        let begun = Instant::now();
        let mut reloads = Vec::new();
        for n in 0..self.options.reloads {
            let due = begun + SPACING * n as u32;
            stop::sleep(due.saturating_duration_since(Instant::now()));
            if with && !stop::asked() {
                self.files.change()?;
                let begun = real_time::now();
                let report = host::reload(&self.socket)?;
                anyhow::ensure!(report.applied, "a reload changed nothing");
                let ended = real_time::now();
                reloads.push(Reload { begun, ended, compile_ms: report.compile_ms, switch_ms: report.switch_ms });
            }
        }
        stop::sleep((begun + SPACING * self.options.reloads as u32).saturating_duration_since(Instant::now()));
        let answers = probe.finish()?;
        let sent = sending.finish()?;
        std::thread::sleep(Duration::from_millis(200));
        let outcome = stream.outcome(sent.packets)?;
        let mut drops = drops(&self.topology, &self.socket)?;
        drops.retain(|name, count| {
            *count = count.saturating_sub(before.get(name).copied().unwrap_or_default());
            *count > 0
        });
        Ok(Turn { answers, sent, outcome, reloads, drops })
    }
}

/// Everything that counts a lost packet: the instance's reasons, and the interfaces'.
fn drops(topology: &Topology, socket: &Path) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for drop in host::status(socket)?.drops {
        all.insert(drop.reason, drop.count);
    }
    let interfaces = [
        ("source", &topology.source, &topology.source_if),
        ("near", &topology.dut, &topology.near_if),
        ("far", &topology.dut, &topology.far_if),
        ("sink", &topology.sink, &topology.sink_if),
    ];
    for (name, namespace, interface) in interfaces {
        let said = namespace.command("ethtool").args(["-S", interface]).output().context("running ethtool")?;
        for line in String::from_utf8_lossy(&said.stdout).lines() {
            let Some((key, count)) = line.trim().split_once(": ") else { continue };
            // The sink drops what it has counted; that is no loss.
            let lost = key.contains("err") || (key.contains("drop") && !(name == "sink" && key.contains("xdp_drops")));
            if let (true, Ok(count)) = (lost, count.parse()) {
                all.insert(format!("{name} {key}"), count);
            }
        }
        let folder = format!("/sys/class/net/{interface}/statistics");
        let counts = namespace.run(|| {
            let read = |which: &str| {
                Ok::<u64, anyhow::Error>(std::fs::read_to_string(format!("{folder}/{which}"))?.trim().parse()?)
            };
            Ok([("rx_dropped", read("rx_dropped")?), ("tx_dropped", read("tx_dropped")?)])
        })?;
        for (which, count) in counts {
            all.insert(format!("{name} {which}"), count);
        }
    }
    Ok(all)
}
