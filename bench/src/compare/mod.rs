//! `softdpu-bench compare A.json B.json`: better, worse, or cannot tell, for each thing that both runs measured.
//!
//! A difference is told only where three things agree (docs/ledger.md says why each):
//! - the bootstrap's interval of the ratio of medians does not hold 1, at a level shared out over all comparisons (Bonferroni);
//! - the rounds are enough that chance alone would not have put them apart at that level, whatever their distribution;
//! - the difference is larger than the noise: spread of the rounds, stolen time, other load, how fast the machine was.

mod show;
mod verdict;

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::report::{Better, Contender, Report, Section};
use crate::stats::bootstrap::Pairing;

pub use verdict::{Figures, Judged, Settings, Verdict, judge};

/// One measured thing of both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub section: String,
    pub name: String,
    pub title: String,
    pub unit: String,
    pub better: Better,
    pub median_a: f64,
    pub median_b: f64,
    /// Rounds of A and of B.
    pub rounds: (usize, usize),
    /// Rounds of A and B took turns.
    pub paired: bool,
    #[serde(flatten)]
    pub judged: Judged,
}

/// What came out. `version` is of this layout.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub version: u32,
    pub a: String,
    pub b: String,
    pub settings: Settings,
    /// What they have in common was compared; each at a level of `settings.alpha` divided by this.
    pub comparisons: usize,
    /// Why nothing at all can be told.
    pub refused: Option<String>,
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
    /// Measured by one only.
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
}

impl Comparison {
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.judged.verdict == verdict).count()
    }
}

/// Compares two records.
///
/// # Errors
/// A record cannot be read, or they have nothing in common.
pub fn files(a: &Path, b: &Path, settings: Settings) -> Result<Comparison> {
    let label = |p: &Path| p.file_name().unwrap_or(p.as_os_str()).to_string_lossy().into_owned();
    let (of_a, of_b) = (Report::read(a)?, Report::read(b)?);
    let mut done = compare(&of_a, &of_b, settings);
    (done.a, done.b) = (label(a), label(b));
    if done.rows.is_empty() {
        bail!("{} and {} have nothing in common that was measured", done.a, done.b);
    }
    Ok(done)
}

/// What one run has of one thing.
struct Thing<'a> {
    section: &'a Section,
    name: String,
    title: String,
    unit: &'a str,
    better: Better,
    rounds: &'a [f64],
    at: &'a [f64],
}

fn things(report: &Report) -> Vec<Thing<'_>> {
    let mut all = Vec::new();
    for section in &report.sections {
        let measured = |c: &&Contender| !c.rounds.is_empty();
        all.extend(section.contenders.iter().filter(measured).map(|c| Thing {
            section,
            name: c.name.clone(),
            title: c.title.clone(),
            unit: &section.unit,
            better: section.better(),
            rounds: &c.rounds,
            at: &c.at,
        }));
    }
    all
}

pub fn compare(a: &Report, b: &Report, settings: Settings) -> Comparison {
    let (of_a, of_b) = (things(a), things(b));
    let same = |x: &Thing<'_>, y: &Thing<'_>| x.section.name == y.section.name && x.name == y.name && x.unit == y.unit;
    let name = |t: &Thing<'_>| format!("{}/{}", t.section.name, t.name);
    let missing = |of: &[Thing<'_>], from: &[Thing<'_>]| -> Vec<String> {
        of.iter().filter(|x| !from.iter().any(|y| same(x, y))).map(name).collect()
    };
    let both: Vec<(&Thing<'_>, &Thing<'_>)> =
        of_a.iter().filter_map(|x| Some((x, of_b.iter().find(|y| same(x, y))?))).collect();
    let refused = refusal(a, b, settings);
    let rows = both.iter().map(|(x, y)| row(x, y, (a, b), both.len(), settings, refused.as_deref())).collect();
    Comparison {
        version: 1,
        a: "A".into(),
        b: "B".into(),
        settings,
        comparisons: both.len(),
        notes: notes(a, b),
        refused,
        rows,
        only_a: missing(&of_a, &of_b),
        only_b: missing(&of_b, &of_a),
    }
}

fn row(
    x: &Thing<'_>,
    y: &Thing<'_>,
    (a, b): (&Report, &Report),
    comparisons: usize,
    settings: Settings,
    refused: Option<&str>,
) -> Row {
    let pairing = if take_turns(x.at, y.at) { Pairing::Paired } else { Pairing::Apart };
    let figures = Figures { a: x.rounds, b: y.rounds, pairing, better: x.better };
    let noise = verdict::outside(pairing, (x.section, a), (y.section, b));
    let mut judged = judge(&figures, &noise, comparisons, settings);
    if let Some(why) = refused {
        judged.verdict = Verdict::CannotTell;
        judged.why = Some(why.to_owned());
    }
    Row {
        section: x.section.name.clone(),
        name: x.name.clone(),
        title: x.title.clone(),
        unit: x.unit.to_owned(),
        better: x.better,
        median_a: median(x.rounds),
        median_b: median(y.rounds),
        rounds: (x.rounds.len(), y.rounds.len()),
        paired: pairing == Pairing::Paired,
        judged,
    }
}

fn median(rounds: &[f64]) -> f64 {
    crate::stats::median_of(&mut rounds.to_vec())
}

/// Whether rounds were measured in turn: one of either, again and again (A B A B, or A B B A).
fn take_turns(a: &[f64], b: &[f64]) -> bool {
    if a.len() != b.len() || a.len() < 2 {
        return false;
    }
    let pairs: Vec<(f64, f64)> = a.iter().zip(b).map(|(x, y)| (x.min(*y), x.max(*y))).collect();
    pairs.windows(2).all(|two| two[0].1 < two[1].0)
}

/// Why such runs cannot be compared.
fn refusal(a: &Report, b: &Report, settings: Settings) -> Option<String> {
    if a.machine.build == "debug" || b.machine.build == "debug" {
        return Some("a debug build was measured".into());
    }
    if !settings.across && !a.machine.same_place(&b.machine) {
        return Some("another CPU, number of cores or kernel (--across compares all the same)".into());
    }
    let traffic = |r: &Report| {
        r.ledger.as_ref().map(|l| l.sources.iter().map(|s| (s.packets, s.bytes, s.flows)).collect::<Vec<_>>())
    };
    if traffic(a) != traffic(b) {
        return Some("other captures were measured".into());
    }
    // Longer turns measure the same; other flows do not. Old records have no settings.
    let differ = |k: &String| *k != "quick" && a.settings.get(k) != b.settings.get(k);
    if !a.settings.is_empty() && !b.settings.is_empty() {
        return a.settings.keys().find(|k| differ(k)).map(|k| format!("measured with another setting: {k}"));
    }
    None
}

fn notes(a: &Report, b: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if !a.machine.build_id.is_empty() && a.machine.build_id == b.machine.build_id {
        notes.push("Both runs are of the same build: a difference is the machine's.".to_owned());
    }
    if a.settings != b.settings {
        let keys: std::collections::BTreeSet<&String> = a.settings.keys().chain(b.settings.keys()).collect();
        let differ = keys.into_iter().filter(|k| a.settings.get(*k) != b.settings.get(*k)).cloned();
        notes.push(format!("Other settings: {}.", differ.collect::<Vec<_>>().join(", ")));
    }
    for (name, r) in [("A", a), ("B", b)] {
        let n = &r.noise;
        notes.push(format!(
            "{name}: {}, Linux {}, softdpu {}, {}; {:.1} % stolen, {:.0} % used by others, load {} to {}.",
            r.machine.cpu,
            r.machine.kernel,
            r.machine.version,
            r.machine.date,
            n.stolen_percent,
            n.others_percent,
            n.load_before,
            n.load_after
        ));
    }
    notes
}

#[cfg(test)]
mod tests;
