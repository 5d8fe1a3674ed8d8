//! Contenders in turn on the path, each started for its turn and gone after it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::ask::Done;
use super::contenders::{Contender, Flow, Kind, Start};
use super::cpu::{Split, Watch};
use super::{Carried, Hosts};
use crate::net::topology::Napi;
use crate::report::{Latency, Section};
use crate::stats::latency::Latencies;
use crate::{progress, stop};

#[derive(Clone, Debug)]
pub struct Rig {
    pub rounds: usize,
    /// Where the thing under test runs, and where client and server do.
    pub dut_core: usize,
    pub client_core: usize,
    /// The `softdpu` binary.
    pub softdpu: PathBuf,
    /// Names of contenders; empty for all.
    pub only: Vec<String>,
}

/// Whose turn it is, and where.
pub struct At<'a> {
    pub hosts: &'a Hosts,
    pub contender: &'a Contender,
    pub rig: &'a Rig,
    /// Where the client finds the server.
    pub server: Ipv4Addr,
    control: Option<&'a Path>,
}

/// What happened beside the load.
#[derive(Clone, Debug)]
pub struct Meanwhile {
    pub seconds: f64,
    pub cpu: Split,
    /// Packets that arrived at the server; bytes to it and from it.
    pub packets: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Of an instance of ours.
    pub done: Option<Done>,
}

/// What goes into a section of one turn.
pub struct Turn {
    pub value: f64,
    /// Further figures by name.
    pub more: Vec<(&'static str, f64)>,
    pub latencies: Option<Latencies>,
    pub meanwhile: Meanwhile,
}

impl At<'_> {
    pub fn direct(&self) -> bool {
        self.contender.kind == Kind::Direct
    }

    /// Puts `load` on, and looks at what happens meanwhile.
    ///
    /// # Errors
    /// The load's, or a counter that cannot be read.
    pub fn watch<T>(&self, load: impl FnOnce() -> Result<T>) -> Result<(T, Meanwhile)> {
        let look = || -> Result<_> {
            let of = |what| self.hosts.carried(self.direct(), what);
            Ok((
                self.hosts.arrived(self.direct())?,
                of(Carried::In)?,
                of(Carried::Out)?,
                self.control.map(Done::of).transpose()?,
            ))
        };
        let before = look()?;
        let (watch, clock) = (Watch::start(), Instant::now());
        let loaded = load()?;
        let (seconds, cpu) = (clock.elapsed().as_secs_f64(), watch.finish());
        let after = look()?;
        let done = after.3.zip(before.3).map(|(after, before)| after.since(&before));
        let meanwhile = Meanwhile {
            seconds,
            cpu,
            packets: after.0 - before.0,
            bytes_in: after.1 - before.1,
            bytes_out: after.2 - before.2,
            done,
        };
        Ok((loaded, meanwhile))
    }
}

/// Those of `all` that were asked for.
///
/// # Errors
/// A name that none has.
pub fn select(all: &[Contender], only: &[String]) -> Result<Vec<Contender>> {
    for name in only {
        let names = || all.iter().map(|c| c.name);
        ensure!(
            names().any(|n| n == name),
            "no contender `{name}`; there are {}",
            names().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(all.iter().filter(|c| only.is_empty() || only.iter().any(|o| o == c.name)).copied().collect())
}

/// Says of all why nothing is measured.
pub fn none(sections: &mut [Section], contenders: &[Contender], why: &str) {
    for section in sections {
        contenders.iter().for_each(|c| section.missing(c.name, c.title, why));
    }
}

/// Runs all rounds, and notes what was dropped by reason. `turn` gives one [`Turn`] for each of `sections`.
///
/// # Errors
/// Without root, where the links cannot be made, or for an unknown name in `only`. A contender that fails is named as missing.
pub fn run(
    rig: &Rig,
    contenders: &[Contender],
    flows: &[Flow],
    labels: [char; 2],
    of: &str,
    sections: &mut [Section],
    turn: impl Fn(&At<'_>) -> Result<Vec<Turn>>,
) -> Result<()> {
    let wanted = select(contenders, &rig.only)?;
    for section in sections.iter_mut() {
        wanted.iter().for_each(|c| section.declare(c.name, c.title));
    }
    let usual = Hosts::new(labels[0], Napi::Inline)?;
    let whole = Hosts::whole_packets(labels[1])?;
    let mut all: BTreeMap<(usize, &str), Latencies> = BTreeMap::new();
    let mut drops: BTreeMap<(usize, &str), BTreeMap<String, u64>> = BTreeMap::new();
    let bar = progress::bar((rig.rounds * wanted.len()) as u64);
    for round in 0..rig.rounds {
        for c in &wanted {
            if stop::asked() {
                break;
            }
            bar.set_message(format!("round {}: {}", round + 1, c.title));
            let hosts = if c.needs_whole_packets() { &whole } else { &usual };
            let start = Start { hosts, softdpu: &rig.softdpu, core: rig.dut_core, flows };
            let turns = c.start(&start).context("starting").and_then(|running| {
                let at = At { hosts, contender: c, rig, server: c.server(), control: running.control.as_deref() };
                turn(&at)
            });
            bar.inc(1);
            // A turn that was cut short says nothing.
            if stop::asked() {
                break;
            }
            match turns {
                Ok(turns) => {
                    for (n, (section, t)) in sections.iter_mut().zip(turns).enumerate() {
                        if let Some(latencies) = &t.latencies {
                            all.entry((n, c.name)).or_default().add(latencies);
                        }
                        for (reason, count) in t.meanwhile.done.iter().flat_map(|d| &d.dropped) {
                            *drops.entry((n, c.name)).or_default().entry(reason.clone()).or_default() += count;
                        }
                        put(section, c, t, rig);
                    }
                }
                Err(e) => sections.iter_mut().for_each(|s| s.missing(c.name, c.title, format!("{e:#}"))),
            }
        }
    }
    bar.finish_and_clear();
    for ((n, name), latencies) in &all {
        if let Some(line) = sections[*n].contenders.iter_mut().find(|c| c.name == *name) {
            line.latency = Some(Latency { of: of.into(), counts: latencies.counts() });
        }
    }
    for ((n, name), dropped) in &drops {
        let reasons: Vec<String> = dropped.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        sections[*n].notes.push(format!("{name} dropped, all rounds (docs/drops.md): {}.", reasons.join(", ")));
    }
    Ok(())
}

fn put(section: &mut Section, c: &Contender, turn: Turn, rig: &Rig) {
    let line = section.round(c.name, c.title, turn.value);
    let mut more = turn.more;
    if let Some(done) = &turn.meanwhile.done {
        let dropped: u64 = done.dropped.values().sum();
        more.extend([("by the driver %", done.driver_percent()), ("dropped", dropped as f64)]);
    }
    for (name, value) in more {
        line.more.entry(name.into()).or_default().push(value);
    }
    turn.meanwhile.cpu.per(turn.meanwhile.seconds / 100.0).beside(line, rig.dut_core, rig.client_core, "%");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::contenders as path;
    use super::*;

    #[test]
    fn contenders_are_chosen_by_name() {
        let all = [path::KERNEL, path::XDP];
        assert_eq!(select(&all, &[]).unwrap().len(), 2);
        assert_eq!(select(&all, &["xdp".into()]).unwrap()[0].name, "xdp");
        assert!(select(&all, &["xpd".into()]).unwrap_err().to_string().contains("kernel, xdp"));
    }
}
