//! `softdpu-bench gain FILE.pcap…`: what offload would gain for the traffic of these captures, on this machine.

mod driver;
pub mod function;
pub mod ledger;
pub mod mix;
mod replay;
mod show;
pub mod traffic;

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;

use self::driver::Driver;
use self::function::{Function, Keys};
use self::ledger::{Entry, Ledger, Tier, class_row, middle};
use self::replay::{Load, Replay, frame, keep_deliverable, ports};
use self::traffic::{FlowClass, Traffic};
use crate::machine::NoiseWatch;
use crate::micro::{Effort, alternate};
use crate::report::{Curve, Latency, Line, Section};
use crate::stats::break_even::Costs;
use crate::stats::{Summary, summary};
use crate::stop;

#[derive(Clone, Debug)]
pub struct Options {
    pub files: Vec<PathBuf>,
    pub effort: Effort,
    /// Most classes that are measured, those with most bytes first.
    pub classes: usize,
}

/// The name of the sum over all classes.
pub const ALL: &str = "all traffic";

/// Measures the captures' classes of flows, each by all functions.
///
/// # Errors
/// A capture cannot be read, or memory cannot be had. A tier that cannot be measured is named with why.
pub fn run(options: &Options) -> Result<(Vec<Section>, Ledger)> {
    let mut traffic = Traffic::read(&options.files)?;
    let keys = Keys::new()?;
    let mut ledger = Ledger { sources: std::mem::take(&mut traffic.sources), ..Ledger::default() };
    let total: u64 = traffic.classes.iter().map(FlowClass::bytes).sum();
    let mut sections = Vec::new();
    let (mut driver, no_driver) = match Driver::new() {
        Ok(driver) => (Some(driver), None),
        Err(e) => (None, Some(format!("{e:#}"))),
    };
    let once = match &mut driver {
        Some(driver) => entries(driver, options.effort.rounds, &mut sections)?,
        None => Vec::new(),
    };
    for (n, mut class) in traffic.classes.into_iter().enumerate() {
        if stop::asked() {
            break;
        }
        let share = format!("{:.2} % of the bytes", 100.0 * class.bytes() as f64 / total.max(1) as f64);
        if n >= options.classes {
            ledger.left_out.insert(class.name, format!("{share}: beyond the {} largest classes", options.classes));
            continue;
        }
        let watch = NoiseWatch::start();
        let lost = keep_deliverable(&mut class, &keys)?;
        if class.flows.iter().all(|f| f.packets.is_empty()) {
            ledger.left_out.insert(class.name, format!("{share}: no packet of it can be sent again"));
            continue;
        }
        let missing = no_driver.as_deref();
        let mut measured = Measured::new(&class, options.effort, &keys, driver.as_mut(), missing)?;
        if lost > 0 {
            measured.section.notes.push(format!("{lost} packets that a worker does not forward are left out."));
        }
        measured.settle(&class, total, &once, &mut ledger);
        measured.section.noise = Some(watch.finish());
        sections.push(measured.section);
    }
    sum_up(&mut ledger);
    ledger.notes = notes(no_driver.as_deref());
    if !stop::asked() {
        let watch = NoiseWatch::start();
        let scaling = crate::scale::run(options.effort)?;
        ledger.scaling.clone_from(&scaling.notes);
        sections.push(Section { noise: Some(watch.finish()), ..scaling });
    }
    Ok((sections, ledger))
}

/// What a flow costs to move into the driver's table and out again, by round, ns.
fn entries(driver: &mut Driver, rounds: usize, sections: &mut Vec<Section>) -> Result<Vec<f64>> {
    let mut section =
        Section::new("gain-entries", "entries of the driver's flow table, CPU time per entry, one core", "ns");
    let mut once = Vec::new();
    for _ in 0..rounds {
        let (put, taken) = driver.entry()?;
        section.round("insert", "put in", put);
        section.round("remove", "counted and taken out, with the grace period", taken);
        once.push(2.0 * (put + taken));
    }
    section.notes.push("A flow has two entries, one per direction.".into());
    sections.push(section);
    Ok(once)
}

/// One class, measured.
struct Measured {
    section: Section,
    loads: [Rc<Load>; 2],
    no_driver: Option<String>,
    compression: Option<f64>,
}

impl Measured {
    fn new(
        class: &FlowClass,
        effort: Effort,
        keys: &Keys,
        driver: Option<&mut Driver>,
        no_driver: Option<&str>,
    ) -> Result<Self> {
        let title = format!("{}: packets through a worker in memory, per packet, one core", class.name);
        let mut section = Section::new(&format!("gain-{}", class.name), &title, "ns");
        let loads = [false, true].map(|fresh| Rc::new(Load::new(class, fresh)));
        let (mut cases, mut latencies, mut carried) = (Vec::new(), Vec::new(), [0u64; 2]);
        for (fresh, load) in loads.iter().enumerate().filter(|(_, load)| load.packets > 0) {
            cases.push(ports(load, &format!("ports-{fresh}"), PORTS[fresh])?);
        }
        for function in Function::ALL {
            let load = &loads[usize::from(function.is_fresh())];
            if load.packets == 0 {
                section.missing(function.name(), function.title(), "its flows have beginnings and ends only");
                continue;
            }
            match Replay::new(function, load, keys) {
                Ok(replay) => {
                    match function {
                        Function::Encrypt => carried[0] = replay.carried,
                        Function::Compress => carried[1] = replay.carried,
                        _ => {}
                    }
                    latencies.push((function, replay.latencies()));
                    let name = format!("{}-and-ports", function.name());
                    cases.push(replay.case(&name, &format!("{}, with the ports", function.title())));
                }
                Err(e) => section.missing(function.name(), function.title(), format!("{e:#}")),
            }
        }
        alternate(&mut section, &mut cases, effort);
        drop(cases);
        for (function, latency) in latencies {
            let (name, whole) = (function.name(), format!("{}-and-ports", function.name()));
            section.difference(name, function.title(), &whole, &format!("ports-{}", usize::from(function.is_fresh())));
            let of = "a turn of the worker: up to 64 packets at each of its two ports".to_owned();
            if let Some(c) = section.contenders.iter_mut().find(|c| c.name == name) {
                c.latency = Some(Latency { of, counts: latency.borrow().counts() });
            }
        }
        let mut all = Self {
            section,
            loads,
            no_driver: no_driver.map(str::to_owned),
            compression: (carried[0] > 0).then(|| carried[1] as f64 / carried[0] as f64),
        };
        all.drive(class, effort.rounds, driver)?;
        all.note();
        Ok(all)
    }

    /// The driver's share, with a packet of about the mean length.
    fn drive(&mut self, class: &FlowClass, rounds: usize, driver: Option<&mut Driver>) -> Result<()> {
        const TITLE: &str = "none, in the driver: offloaded";
        let Some(driver) = driver else {
            let why = self.no_driver.clone().unwrap_or_default();
            self.section.missing("xdp", TITLE, why);
            return Ok(());
        };
        let mean = self.loads[0].mean();
        let packets = class.flows.iter().flat_map(|f| &f.packets).filter(|p| !p.edge);
        let Some(packet) = packets.min_by_key(|p| (p.bytes.len() as f64 - mean).abs() as u64) else {
            self.section.missing("xdp", TITLE, "its flows have beginnings and ends only");
            return Ok(());
        };
        let packet = frame(packet, 1);
        for _ in 0..rounds {
            if stop::asked() {
                break;
            }
            match driver.packet(&packet) {
                Ok(ns) => drop(self.section.round("xdp", TITLE, ns)),
                Err(e) => {
                    self.no_driver = Some(format!("{e:#}"));
                    self.section.missing("xdp", TITLE, format!("{e:#}"));
                    break;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self) {
        let of = |load: &Load| {
            format!("{} packets of {} flows, {:.0} bytes on average", load.packets, load.flows, load.mean())
        };
        let [known, new] = &self.loads;
        self.section.notes.push(format!("Known flows: {}. New flows: {}.", of(known), of(new)));
        self.section.notes.push(
            "What the in-memory ports alone cost is taken off, round by round. Everything came out as it went in."
                .into(),
        );
    }

    fn rounds(&self, name: &str) -> Option<&[f64]> {
        let c = self.section.contenders.iter().find(|c| c.name == name)?;
        (!c.rounds.is_empty()).then_some(c.rounds.as_slice())
    }

    /// Into the ledger with it.
    fn settle(&mut self, class: &FlowClass, total: u64, once: &[f64], ledger: &mut Ledger) {
        let worker_none = self.section.median(Function::None.name());
        for function in Function::ALL {
            let bytes = self.loads[usize::from(function.is_fresh())].mean();
            let mut entry = Entry::new(&class.name, function, Tier::Worker, bytes);
            entry = match self.section.median(function.name()) {
                Some(ns) => entry.costing(ns, None),
                None => entry.refused(self.why(function.name())),
            };
            entry.spread = self.rounds(function.name()).and_then(summary);
            ledger.entries.push(entry);
            let entry = Entry::new(&class.name, function, Tier::Xdp, self.loads[0].mean());
            ledger.entries.push(match (function, self.section.median("xdp")) {
                (Function::None, Some(ns)) => {
                    let mut entry = entry.costing(ns, worker_none);
                    entry.spread = self.rounds("xdp").and_then(summary);
                    entry
                }
                (Function::None, None) => entry.refused(self.why("xdp")),
                (Function::Classify, _) => {
                    entry.refused("undecided: a worker sees a flow's first packets; then it is `none`")
                }
                _ => entry.refused("protected: only a worker seals and opens"),
            });
        }
        let costs = self.costs(class, once);
        let mut row = class_row(class, total, &costs);
        row.compression = self.compression;
        if let Some(costs) = middle(&costs) {
            self.section.curves.push(curve(&costs, &class.name));
        }
        ledger.classes.push(row);
    }

    fn why(&self, name: &str) -> String {
        let c = self.section.contenders.iter().find(|c| c.name == name);
        c.and_then(|c| c.missing.clone()).unwrap_or_else(|| "not measured".into())
    }

    /// What offload costs and gains, by round. Empty where the driver was not measured.
    fn costs(&self, class: &FlowClass, once: &[f64]) -> Vec<Costs> {
        let mut befores: Vec<f64> = class.flows.iter().filter_map(|f| f.before.ok().map(|n| n as f64)).collect();
        let least = softdpu::offload::Setting::default().min_packets as f64;
        let before = if befores.is_empty() { least } else { crate::stats::median_of(&mut befores) };
        let (Some(slow), Some(fast)) = (self.rounds(Function::None.name()), self.rounds("xdp")) else {
            return Vec::new();
        };
        let rounds = slow.iter().zip(fast).zip(once);
        rounds.map(|((slow, fast), once)| Costs { before, once: *once, slow: *slow, fast: *fast }).collect()
    }
}

const PORTS: [&str; 2] = ["the in-memory ports alone, known flows", "the in-memory ports alone, new flows"];

/// CPU time of a flow over its length, with and without offload.
fn curve(costs: &Costs, class: &str) -> Curve {
    let end = costs.break_even().map_or(1000.0, |n| (10.0 * n).max(100.0));
    let lengths: Vec<f64> = (0..=60).map(|i| end.powf(f64::from(i) / 60.0)).collect();
    let line = |title: &str, of: &dyn Fn(f64) -> f64| Line {
        title: title.into(),
        points: lengths.iter().map(|n| (*n, of(*n) / 1e3)).collect(),
    };
    Curve {
        title: format!("{class}: CPU time of a flow by its length"),
        x: "packets".into(),
        y: "µs".into(),
        log: (true, true),
        lines: vec![
            line("stays with the worker", &|n| costs.staying(n)),
            line("offloaded when it can be", &|n| costs.moving(n)),
        ],
        mark: costs.break_even().map(|n| (n, format!("break-even at {n:.0} packets"))),
    }
}

/// All classes together, by their packets.
fn sum_up(ledger: &mut Ledger) {
    let packets = |class: &str| ledger.classes.iter().find(|c| c.class == class).map_or(0.0, |c| c.packets as f64);
    let mut sums = Vec::new();
    for function in Function::ALL {
        for tier in [Tier::Worker, Tier::Xdp] {
            let (mut ns, mut bytes, mut all, mut worker) = (0.0, 0.0, 0.0, 0.0);
            let mut lacking = 0;
            // Least, quartiles and most, as if all classes had their fast and their slow rounds together.
            let mut spread = [0.0; 5];
            for e in ledger.entries.iter().filter(|e| e.function == function && e.tier == tier) {
                let n = packets(&e.class);
                match e.ns {
                    Some(cost) => {
                        let saved = e.saved_per_gbit.unwrap_or(0.0) * 8.0 * e.bytes;
                        ns += n * cost;
                        worker += n * (cost + saved);
                        bytes += n * e.bytes;
                        all += n;
                        let s = e.spread.as_ref().map_or([cost; 5], |s| [s.min, s.q1, s.median, s.q3, s.max]);
                        spread.iter_mut().zip(s).for_each(|(sum, v)| *sum += n * v);
                    }
                    None => lacking += 1,
                }
            }
            let entry = Entry::new(ALL, function, tier, bytes / f64::max(all, 1.0));
            sums.push(if all > 0.0 {
                let mut entry = entry.costing(ns / all, (tier == Tier::Xdp).then_some(worker / all));
                let [min, q1, median, q3, max] = spread.map(|v| v / all);
                entry.spread = Some(Summary { median, min, max, q1, q3 });
                entry.why_not = (lacking > 0).then(|| format!("{lacking} classes without a figure are not in it"));
                entry
            } else {
                let mut whys = ledger.entries.iter().filter(|e| e.function == function && e.tier == tier);
                entry.refused(whys.find_map(|e| e.why_not.clone()).unwrap_or_default())
            });
        }
        sums.push(Entry::new(ALL, function, Tier::Nic, 0.0).refused("no_device_offload: no SmartNIC was measured"));
    }
    ledger.entries.splice(0..0, sums);
}

fn notes(no_driver: Option<&str>) -> Vec<String> {
    let mut notes = vec![
        "Everything is in memory: rings, system calls and devices come on top, for the worker more than for the driver. So what \
         offload saves is at least this, and break-even lengths are at most these."
            .to_owned(),
        "Per packet of the IP packets' bytes. `none`, `encrypt` and `compress` are of packets of known flows; `classify` and `all` \
         of whole flows, from the first packet to the last, as many at a time as there are."
            .to_owned(),
        "An offload's cost is two entries put in, counted and taken out. Packets before it are the worker's in any case.".to_owned(),
    ];
    if let Some(why) = no_driver {
        notes.push(format!("The driver's tier was not measured: {why}."));
    }
    notes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn a_capture_gives_a_ledger() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/tests/real");
        let options = Options {
            files: ["nats.pcap", "redis.pcap", "sflow.pcap"].map(|f| folder.join(f)).to_vec(),
            effort: Effort::new(3, 1000),
            classes: 2,
        };
        let (sections, ledger) = run(&options).unwrap();
        assert_eq!((ledger.sources.len(), ledger.classes.len()), (3, 2));
        assert!(!ledger.left_out.is_empty());
        for class in &ledger.classes {
            let of = |f, t| {
                ledger.entries.iter().find(|e| e.class == class.class && e.function == f && e.tier == t).unwrap()
            };
            for function in Function::ALL {
                let worker = of(function, Tier::Worker);
                assert!(worker.cores_per_gbit.is_some() || worker.why_not.is_some(), "{worker:?}");
            }
            assert!(of(Function::Encrypt, Tier::Xdp).why_not.as_ref().unwrap().contains("protected"));
            let flows: u64 = class.reasons.values().sum();
            assert_eq!(flows + class.paying_flows, class.flows);
        }
        let whole = ledger.entries.iter().find(|e| e.class == ALL && e.function == Function::None).unwrap();
        assert!(whole.ns.unwrap() > 0.0);
        assert!(sections.iter().any(|s| s.contenders.iter().any(|c| c.latency.is_some())));
        assert!(ledger.text().contains("break-even") && ledger.text().contains("workers"));
        assert!(ledger.sentence().starts_with("Forwarding this traffic takes a worker"), "{}", ledger.sentence());
    }
}
