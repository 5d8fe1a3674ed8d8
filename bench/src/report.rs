//! What a run found: every raw round, summed up, as a table for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use serde::Serialize;

use crate::machine::{Machine, Noise};
use crate::stats::{Summary, ratios, summary};

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this layout; goes up when a reader of the old one would misread the new one.
    pub version: u32,
    pub machine: Machine,
    pub noise: Noise,
    pub sections: Vec<Section>,
    pub targets: Vec<Target>,
}

/// One comparison: contenders that took turns.
#[derive(Debug, Serialize)]
pub struct Section {
    pub name: String,
    pub title: String,
    /// Of all figures in it, such as `Mpps` or `ns`.
    pub unit: String,
    pub contenders: Vec<Contender>,
    pub ratios: Vec<Ratio>,
    /// How it was set up, and what the figures mean.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Contender {
    pub name: String,
    pub title: String,
    pub rounds: Vec<f64>,
    pub summary: Option<Summary>,
    /// Further figures by name, one per round.
    pub more: BTreeMap<String, Vec<f64>>,
    /// Why it has no rounds.
    pub missing: Option<String>,
}

/// One contender over another, round by round.
#[derive(Debug, Serialize)]
pub struct Ratio {
    pub over: String,
    pub under: String,
    pub rounds: Vec<f64>,
    pub summary: Option<Summary>,
}

/// Which way a target is met.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    AtLeast,
    AtMost,
}

/// A figure the project wants, and what was seen.
#[derive(Debug, Serialize)]
pub struct Target {
    pub title: String,
    pub bound: Bound,
    pub wanted: f64,
    pub seen: Option<f64>,
    /// `None`: not measured.
    pub met: Option<bool>,
}

impl Target {
    pub fn new(title: impl Into<String>, bound: Bound, wanted: f64, seen: Option<f64>) -> Self {
        let met = seen.map(|s| match bound {
            Bound::AtLeast => s >= wanted,
            Bound::AtMost => s <= wanted,
        });
        Self { title: title.into(), bound, wanted, seen, met }
    }
}

impl Section {
    pub fn new(name: &str, title: &str, unit: &str) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            unit: unit.into(),
            contenders: Vec::new(),
            ratios: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Puts a round of contender `name` in.
    pub fn round(&mut self, name: &str, title: &str, value: f64) -> &mut Contender {
        let c = self.contender(name, title);
        c.rounds.push(value);
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
                summary: None,
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

/// Four significant digits or so: more would claim more than a noisy machine can tell.
fn figure(v: f64) -> String {
    match v.abs() {
        a if a >= 1000.0 => format!("{v:.0}"),
        a if a >= 100.0 => format!("{v:.1}"),
        a if a >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

impl Report {
    /// The tables, for a terminal or a log.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let m = &self.machine;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{} ({} cores), Linux {}, {}", m.cpu, m.cores, m.kernel, m.date);
        let n = &self.noise;
        let _ = writeln!(
            out,
            "noise: {:.1} % of the CPU time stolen by the hypervisor, load {} before and {} after",
            n.stolen_percent, n.load_before, n.load_after
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
    fn table(&self) -> Table {
        let mut table = Table::new();
        let more: Vec<&String> = self
            .contenders
            .iter()
            .flat_map(|c| c.more.keys())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut header = vec![String::new(), format!("median {}", self.unit), "min – max".into(), "rounds".into()];
        header.extend(more.iter().map(|m| (*m).clone()));
        let columns = header.len();
        style(&mut table).set_header(header);
        for c in &self.contenders {
            let mut row = match (&c.summary, &c.missing) {
                (Some(s), _) => vec![
                    c.title.clone(),
                    figure(s.median),
                    format!("{} – {}", figure(s.min), figure(s.max)),
                    c.rounds.len().to_string(),
                ],
                (None, _) => vec![c.title.clone(), "–".into(), "missing".into(), "0".into()],
            };
            row.extend(
                more.iter()
                    .map(|m| c.more.get(*m).and_then(|r| summary(r)).map_or_else(String::new, |s| figure(s.median))),
            );
            table.add_row(row);
        }
        for r in &self.ratios {
            if let Some(s) = &r.summary {
                let spread = format!("{} – {}", figure(s.min), figure(s.max));
                table.add_row([
                    format!("{} / {}", r.over, r.under),
                    format!("× {}", figure(s.median)),
                    spread,
                    r.rounds.len().to_string(),
                ]);
            }
        }
        right(&mut table, 1..columns);
        table
    }
}

/// Lines above and below, none between rows.
fn style(table: &mut Table) -> &mut Table {
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
}

fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for i in columns {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
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
        let report = Report {
            version: 1,
            machine: Machine::look(),
            noise: Noise::default(),
            sections: vec![s],
            targets: Vec::new(),
        };
        assert!(report.text().contains("missing: worker: no binary"));
    }

    #[test]
    fn targets_know_their_side() {
        assert_eq!(Target::new("t", Bound::AtLeast, 0.9, Some(0.89)).met, Some(false));
        assert_eq!(Target::new("t", Bound::AtMost, 80.0, Some(79.0)).met, Some(true));
        assert_eq!(Target::new("t", Bound::AtMost, 80.0, None).met, None);
    }
}
