//! What a run found: every raw round, summed up, as a table for people and JSON for programs. The layout is documented in
//! docs/ledger.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use serde::{Deserialize, Serialize};

use crate::absent::Absent;
use crate::gain::ledger::Ledger;
use crate::machine::{Machine, Noise, now};
use crate::modelled::Modelled;
use crate::stats::latency::{Counts, Latencies};
use crate::stats::{Summary, ratios, summary};

mod table;

pub use table::figure;
pub(crate) use table::{right, style};

/// Of the layout; goes up when a reader of the old one would misread the new one. Version 1 had less, and is still read.
pub const VERSION: u32 = 2;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// See [`VERSION`].
    pub version: u32,
    pub machine: Machine,
    /// What was asked for, by name: what is compared should have been measured alike.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Of the whole run.
    pub noise: Noise,
    pub sections: Vec<Section>,
    /// What offload gains for somebody's traffic. All of it is measured, or computed from what was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// What named hardware would do, by others' figures. Nothing of it was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modelled: Vec<Modelled>,
    /// What belongs beside the sections and was not measured, with why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_measured: Vec<Absent>,
    pub targets: Vec<Target>,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    Higher,
    Lower,
}

impl Better {
    /// Times, shares of CPU and memory are better low; all other units are rates.
    pub fn of(unit: &str) -> Self {
        match unit {
            "ns" | "µs" | "ms" | "s" | "ticks" | "%" | "bytes" | "B" | "MB" | "instructions" => Self::Lower,
            _ if unit.starts_with("% ") || unit.starts_with("cores") || unit.starts_with("instructions") => Self::Lower,
            _ => Self::Higher,
        }
    }
}

/// CPU time by what it went to, in seconds, of all cores together. Whoever used it: other programs too.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct CpuTime {
    pub user: f64,
    pub kernel: f64,
    pub softirq: f64,
    pub stolen: f64,
    pub idle: f64,
}

/// Points of a line, and what its axes are. What it is made of is in the section's contenders.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Curve {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Whether the axes are logarithmic.
    pub log: (bool, bool),
    pub lines: Vec<Line>,
    /// A place on the x axis worth a mark, and its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<(f64, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Line {
    pub title: String,
    pub points: Vec<(f64, f64)>,
}

/// One comparison: contenders that took turns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    pub name: String,
    pub title: String,
    /// Of all figures in it, such as `Mpps` or `ns`.
    pub unit: String,
    /// By the unit, unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    pub contenders: Vec<Contender>,
    pub ratios: Vec<Ratio>,
    /// How it was set up, and what the figures mean.
    pub notes: Vec<String>,
    /// ns that a fixed piece of work took in each round: how fast the machine was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<f64>,
    /// While this section was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contender {
    pub name: String,
    pub title: String,
    pub rounds: Vec<f64>,
    /// When each round ended, seconds since 1970: tells whether two runs took turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<f64>,
    pub summary: Option<Summary>,
    /// How long single things took, and of what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Further figures by name, one per round.
    pub more: BTreeMap<String, Vec<f64>>,
    /// Why it has no rounds.
    pub missing: Option<String>,
}

/// A histogram of latencies of one contender, all rounds together.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Latency {
    /// What one value is the time of.
    pub of: String,
    pub counts: Counts,
}

impl Latency {
    /// Of both runs together. A histogram that is damaged counts for nothing.
    fn with(self, more: &Self) -> Self {
        match (Latencies::of(&self.counts), Latencies::of(&more.counts)) {
            (Ok(mut all), Ok(more)) => {
                all.add(&more);
                Self { counts: all.counts(), ..self }
            }
            _ => self,
        }
    }
}

/// One contender over another, round by round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ratio {
    pub over: String,
    pub under: String,
    pub rounds: Vec<f64>,
    pub summary: Option<Summary>,
}

/// Which way a target is met.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    AtLeast,
    AtMost,
}

/// A figure the project wants, and what was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    pub title: String,
    pub bound: Bound,
    pub wanted: f64,
    pub seen: Option<f64>,
    /// What each of several runs saw, where their rounds were put together: `seen` is the median.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<f64>,
    /// `None`: not measured.
    pub met: Option<bool>,
}

impl Target {
    pub fn new(title: impl Into<String>, bound: Bound, wanted: f64, seen: Option<f64>) -> Self {
        let mut target = Self { title: title.into(), bound, wanted, seen, runs: Vec::new(), met: None };
        target.judge();
        target
    }

    fn judge(&mut self) {
        self.met = self.seen.map(|seen| match self.bound {
            Bound::AtLeast => seen >= self.wanted,
            Bound::AtMost => seen <= self.wanted,
        });
    }

    /// With what a later run saw.
    fn append(&mut self, more: Self) {
        if self.runs.is_empty() {
            self.runs.extend(self.seen);
        }
        self.runs.extend(if more.runs.is_empty() { more.seen.into_iter().collect() } else { more.runs });
        self.seen = summary(&self.runs).map(|s| s.median);
        (self.bound, self.wanted) = (more.bound, more.wanted);
        self.judge();
    }
}

impl Section {
    pub fn new(name: &str, title: &str, unit: &str) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            unit: unit.into(),
            better: None,
            contenders: Vec::new(),
            ratios: Vec::new(),
            notes: Vec::new(),
            reference: Vec::new(),
            noise: None,
            curves: Vec::new(),
        }
    }

    /// Which way figures are better.
    pub fn better(&self) -> Better {
        self.better.unwrap_or_else(|| Better::of(&self.unit))
    }

    /// Puts a round of contender `name` in.
    pub fn round(&mut self, name: &str, title: &str, value: f64) -> &mut Contender {
        let c = self.contender(name, title);
        c.rounds.push(value);
        c.at.push(now());
        c.summary = summary(&c.rounds);
        c
    }

    /// Gives contender `name` its line before its first round.
    pub fn declare(&mut self, name: &str, title: &str) {
        self.contender(name, title);
    }

    /// Says why `name` was not measured.
    pub fn missing(&mut self, name: &str, title: &str, why: impl Into<String>) {
        self.contender(name, title).missing = Some(why.into());
    }

    fn contender(&mut self, name: &str, title: &str) -> &mut Contender {
        let at = self.contenders.iter().position(|c| c.name == name).unwrap_or_else(|| {
            self.contenders.push(Contender {
                name: name.into(),
                title: title.into(),
                rounds: Vec::new(),
                at: Vec::new(),
                summary: None,
                latency: None,
                more: BTreeMap::new(),
                missing: None,
            });
            self.contenders.len() - 1
        });
        &mut self.contenders[at]
    }

    /// Adds `over / under` by rounds, where both were measured. Returns its median.
    pub fn ratio(&mut self, over: &str, under: &str) -> Option<f64> {
        let rounds_of = |name: &str| self.contenders.iter().find(|c| c.name == name).map(|c| c.rounds.as_slice());
        let rounds = ratios(rounds_of(over)?, rounds_of(under)?);
        let sum = summary(&rounds)?;
        let median = sum.median;
        self.ratios.push(Ratio { over: over.into(), under: under.into(), rounds, summary: Some(sum) });
        Some(median)
    }

    /// Adds a line `name`: `a` minus `b`, round by round, where both were measured.
    pub fn difference(&mut self, name: &str, title: &str, a: &str, b: &str) {
        let rounds_of = |name: &str| self.contenders.iter().find(|c| c.name == name).map(|c| c.rounds.clone());
        let (Some(a), Some(b)) = (rounds_of(a), rounds_of(b)) else { return };
        for (a, b) in a.iter().zip(&b) {
            self.round(name, title, a - b);
        }
    }

    pub fn median(&self, name: &str) -> Option<f64> {
        self.contenders.iter().find(|c| c.name == name)?.summary.as_ref().map(|s| s.median)
    }
}

impl Report {
    /// Nothing yet.
    pub fn new(machine: Machine) -> Self {
        Self {
            version: VERSION,
            machine,
            settings: BTreeMap::new(),
            noise: Noise::default(),
            sections: Vec::new(),
            ledger: None,
            modelled: Vec::new(),
            not_measured: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It cannot be read, is no record, or is of a version that this program does not know.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(&text)
            .with_context(|| format!("{shown} is no record of a run (`softdpu-bench --json FILE` writes one)"))?;
        ensure!(
            (1..=VERSION).contains(&version),
            "{shown} is a record of version {version}; this program reads 1 to {VERSION}: use the softdpu-bench that wrote it"
        );
        serde_json::from_str(&text).with_context(|| format!("{shown} is damaged"))
    }

    /// Writes the record.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Adds a later run's rounds to this one's. Contenders and sections that are new come behind.
    ///
    /// # Errors
    /// The other is of another machine, kernel, build or setting: its rounds are not rounds of the same.
    pub fn append(&mut self, more: Self) -> Result<()> {
        ensure!(
            self.machine.same_place(&more.machine) && self.machine.build_id == more.machine.build_id,
            "rounds of another machine, kernel or build are not appended"
        );
        ensure!(self.settings == more.settings, "rounds of other settings are not appended");
        for section in more.sections {
            match self.sections.iter_mut().find(|s| s.name == section.name) {
                Some(old) => old.append(section),
                None => self.sections.push(section),
            }
        }
        for target in more.targets {
            match self.targets.iter_mut().find(|t| t.title == target.title) {
                Some(old) => old.append(target),
                None => self.targets.push(target),
            }
        }
        self.noise = self.noise.with(&more.noise);
        if !more.not_measured.is_empty() {
            self.not_measured = more.not_measured;
        }
        self.ledger = more.ledger.or(self.ledger.take());
        self.modelled = if more.modelled.is_empty() { std::mem::take(&mut self.modelled) } else { more.modelled };
        Ok(())
    }

    /// The tables, for a terminal or a log.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let m = &self.machine;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{} ({} cores), Linux {}, {}", m.cpu, m.cores, m.kernel, m.date);
        let n = &self.noise;
        let _ = writeln!(
            out,
            "noise: {:.1} % of the CPU time stolen by the hypervisor, {:.0} % used by others, load {} before and {} after",
            n.stolen_percent, n.others_percent, n.load_before, n.load_after
        );
        for s in &self.sections {
            let _ = writeln!(out, "\n{}\n{}", s.title, s.table());
            for note in &s.notes {
                let _ = writeln!(out, "  {note}");
            }
            for c in &s.contenders {
                if let Some(why) = &c.missing {
                    let rounds = if c.rounds.is_empty() { "missing" } else { "incomplete" };
                    let _ = writeln!(out, "  {rounds}: {}: {why}", c.title);
                }
            }
        }
        if !self.not_measured.is_empty() {
            let _ = writeln!(out, "\nnot measured here, and not estimated");
            for a in &self.not_measured {
                let [title, parts, why, how] = a.cells();
                let how = if how.is_empty() { how } else { format!(" To get it: {how}") };
                let _ = writeln!(out, "  {title} ({parts}): {why}.{how}");
            }
        }
        if !self.targets.is_empty() {
            let _ = writeln!(out, "\ntargets\n{}", self.target_table());
        }
        out
    }

    fn target_table(&self) -> Table {
        let mut table = Table::new();
        style(&mut table).set_header(["target", "wanted", "seen", ""]);
        for t in &self.targets {
            let sign = if t.bound == Bound::AtLeast { "≥" } else { "≤" };
            table.add_row([
                t.title.clone(),
                format!("{sign} {}", figure(t.wanted)),
                t.seen.map_or_else(|| "–".into(), figure),
                match t.met {
                    Some(true) => "met".into(),
                    Some(false) => "missed".into(),
                    None => String::from("not measured"),
                },
            ]);
        }
        right(&mut table, 1..3);
        table
    }
}

impl Section {
    fn append(&mut self, more: Self) {
        for c in more.contenders {
            let old = self.contender(&c.name, &c.title);
            old.rounds.extend(c.rounds);
            old.at.extend(c.at);
            old.summary = summary(&old.rounds);
            old.missing = c.missing.or(old.missing.take());
            old.latency = match (old.latency.take(), c.latency) {
                (Some(a), Some(b)) => Some(a.with(&b)),
                (a, b) => a.or(b),
            };
            for (name, values) in c.more {
                old.more.entry(name).or_default().extend(values);
            }
        }
        for ratio in more.ratios {
            match self.ratios.iter_mut().find(|r| r.over == ratio.over && r.under == ratio.under) {
                Some(old) => {
                    old.rounds.extend(ratio.rounds);
                    old.summary = summary(&old.rounds);
                }
                None => self.ratios.push(ratio),
            }
        }
        self.reference.extend(more.reference);
        self.noise = match (self.noise.take(), more.noise) {
            (Some(a), Some(b)) => Some(a.with(&b)),
            (a, b) => a.or(b),
        };
        self.curves = if more.curves.is_empty() { std::mem::take(&mut self.curves) } else { more.curves };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ratios_are_taken_within_rounds() {
        let mut s = Section::new("x", "X", "Mpps");
        for (a, b) in [(2.0, 1.0), (1.0, 0.5), (9.0, 3.0)] {
            s.round("a", "A", a);
            s.round("b", "B", b);
        }
        assert_eq!(s.ratio("a", "b"), Some(2.0));
        assert_eq!(s.ratio("a", "nobody"), None);
        assert_eq!(s.median("b"), Some(1.0));
    }

    #[test]
    fn a_missing_contender_is_named() {
        let mut s = Section::new("x", "X", "Mpps");
        s.missing("w", "worker", "no binary");
        assert!(s.table().to_string().contains("missing"));
        let report = Report { sections: vec![s], ..Report::new(Machine::look()) };
        assert!(report.text().contains("missing: worker: no binary"));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_old_ones_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let mut section = Section::new("x", "X", "ns");
        section.round("a", "A", 2.5);
        let mut report = Report { sections: vec![section], ..Report::new(Machine::look()) };
        // Figures that no decimal rounds: the last bit of others may change on the way.
        (report.machine.ticks_per_ns, report.sections[0].contenders[0].at) = (2.5, vec![1.5]);
        report.write(&path).unwrap();
        let again = Report::read(&path).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&report).unwrap());
        let old = r#"{"version":1,"machine":{"cpu":"c","cores":2,"kernel":"k","date":"d","ticks_per_ns":2.5,"build":"release",
            "version":"0.1.0"},"noise":{"stolen_percent":0.5,"load_before":1,"load_after":2},"sections":[{"name":"x","title":"X",
            "unit":"ns","contenders":[{"name":"a","title":"A","rounds":[1,2],"summary":null,"more":{},"missing":null}],
            "ratios":[],"notes":[]}],"targets":[]}"#;
        std::fs::write(&path, old).unwrap();
        assert_eq!(Report::read(&path).unwrap().sections[0].contenders[0].rounds, [1.0, 2.0]);
        std::fs::write(&path, old.replace("\"version\":1,", "\"version\":99,")).unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains("version 99") && error.contains("1 to 2"), "{error}");
        std::fs::write(&path, "[]").unwrap();
        assert!(Report::read(&path).unwrap_err().to_string().contains("no record"));
    }

    #[test]
    fn rounds_are_appended_to_their_own() {
        let one = |value: f64| {
            let mut s = Section::new("x", "X", "ns");
            s.round("a", "A", value).more.entry("ticks".into()).or_default().push(value);
            s.round("b", "B", 1.0);
            s.ratio("a", "b");
            let targets = vec![Target::new("t", Bound::AtMost, 1.5, Some(value))];
            Report { sections: vec![s], targets, ..Report::new(Machine::look()) }
        };
        let mut all = one(1.0);
        all.append(one(3.0)).unwrap();
        let s = &all.sections[0];
        assert_eq!((s.contenders[0].rounds.as_slice(), s.median("a")), ([1.0, 3.0].as_slice(), Some(2.0)));
        assert_eq!((s.contenders[0].more["ticks"].len(), s.ratios[0].rounds.len()), (2, 2));
        assert_eq!((all.targets[0].seen, all.targets[0].met), (Some(2.0), Some(false)), "{:?}", all.targets[0].runs);
        let mut other = one(1.0);
        other.machine.cpu = "another".into();
        assert!(all.append(other).is_err());
    }

    #[test]
    fn units_know_what_is_better() {
        for unit in ["ns", "ms", "% of a core", "cores per Gbit/s"] {
            assert_eq!(Better::of(unit), Better::Lower, "{unit}");
        }
        for unit in ["Mpps", "Gbit/s", "M/s", "million/s"] {
            assert_eq!(Better::of(unit), Better::Higher, "{unit}");
        }
    }

    #[test]
    fn targets_know_their_side() {
        assert_eq!(Target::new("t", Bound::AtLeast, 0.9, Some(0.89)).met, Some(false));
        assert_eq!(Target::new("t", Bound::AtMost, 80.0, Some(79.0)).met, Some(true));
        assert_eq!(Target::new("t", Bound::AtMost, 80.0, None).met, None);
    }
}
