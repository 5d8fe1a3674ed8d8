//! From rounds to a verdict.

use serde::Serialize;

use crate::report::{Better, Report, Section};
use crate::stats::bootstrap::{Interval, Pairing, Resampled, attainable};
use crate::stats::{spread, summary};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Better,
    Worse,
    CannotTell,
}

impl Verdict {
    pub fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::CannotTell => "cannot tell",
        }
    }
}

/// How sure to be.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Settings {
    /// Chance of any false alarm over all comparisons together.
    pub alpha: f64,
    /// Smaller differences are not told, in parts of 1: where code is placed in memory alone can make as much.
    pub least: f64,
    pub resamples: usize,
    pub seed: u64,
    /// Compares runs of different machines.
    pub across: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { alpha: 0.05, least: 0.02, resamples: 10_000, seed: 1, across: false }
    }
}

/// Rounds of one thing, of both runs.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    pub a: &'a [f64],
    pub b: &'a [f64],
    pub pairing: Pairing,
    pub better: Better,
}

/// What else could have made a difference, in parts of 1.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Noise {
    /// The hypervisor's share of the time in the run where it was larger.
    pub stolen: f64,
    /// How much more of the CPU others used in one run than in the other.
    pub others: f64,
    /// How much faster the machine itself was, by the fixed piece of work.
    pub machine: f64,
    /// Between rounds of a run; of paired rounds, of their ratios.
    pub spread: f64,
}

impl Noise {
    /// The largest, and its name.
    fn largest(&self) -> (f64, &'static str) {
        let all = [
            (self.spread, "the spread between rounds"),
            (self.stolen, "the stolen CPU time"),
            (self.others, "the difference in what others used of the CPU"),
            (self.machine, "the change of the machine's own speed"),
        ];
        all.into_iter().fold((0.0, ""), |most, next| if next.0 > most.0 { next } else { most })
    }
}

/// What can be told of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub verdict: Verdict,
    /// Median of B over median of A, and where it lies with 95 %. `None` where there is none.
    pub ratio: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// The same at the level shared out over all comparisons: what the verdict is by.
    pub sure_low: Option<f64>,
    pub sure_high: Option<f64>,
    pub noise: Noise,
    /// Why it cannot be told.
    pub why: Option<String>,
}

/// Rounds below this are no sample.
const LEAST_ROUNDS: usize = 3;

/// Noise from outside, of two runs of a section. What hits paired rounds hits both sides.
pub fn outside(pairing: Pairing, a: (&Section, &Report), b: (&Section, &Report)) -> Noise {
    if pairing == Pairing::Paired {
        return Noise::default();
    }
    let of = |(section, report): (&Section, &Report)| section.noise.clone().unwrap_or_else(|| report.noise.clone());
    let (na, nb) = (of(a), of(b));
    let machine = match (summary(&a.0.reference), summary(&b.0.reference)) {
        (Some(a), Some(b)) if a.median > 0.0 => (b.median / a.median - 1.0).abs(),
        _ => 0.0,
    };
    Noise {
        stolen: na.stolen_percent.max(nb.stolen_percent) / 100.0,
        others: (na.others_percent - nb.others_percent).abs() / 100.0,
        machine,
        spread: 0.0,
    }
}

/// The verdict on one of `comparisons` things.
pub fn judge(figures: &Figures<'_>, outside: &Noise, comparisons: usize, settings: Settings) -> Judged {
    let Figures { a, b, pairing, better } = *figures;
    let mut noise = *outside;
    let mut judged = Judged {
        verdict: Verdict::CannotTell,
        ratio: None,
        low: None,
        high: None,
        sure_low: None,
        sure_high: None,
        noise,
        why: None,
    };
    let Some(resampled) = Resampled::ratio_of_medians(a, b, pairing, settings.resamples, settings.seed) else {
        judged.why = Some("not all rounds are above zero".into());
        return judged;
    };
    let plain = resampled.interval(0.95);
    let level = settings.alpha / comparisons.max(1) as f64;
    let sure = resampled.interval(1.0 - level);
    noise.spread = match pairing {
        Pairing::Apart => [a, b].iter().filter_map(|r| summary(r)).map(|s| spread(&s)).fold(0.0, f64::max),
        Pairing::Paired => summary(&crate::stats::ratios(b, a)).map_or(0.0, |s| spread(&s)),
    };
    judged.noise = noise;
    (judged.ratio, judged.low, judged.high) = (Some(plain.estimate), Some(plain.low), Some(plain.high));
    (judged.sure_low, judged.sure_high) = (Some(sure.low), Some(sure.high));
    judged.why = doubt(figures, sure, &noise, level, comparisons, settings);
    if judged.why.is_none() {
        let up = sure.estimate > 1.0;
        judged.verdict = if up == (better == Better::Higher) { Verdict::Better } else { Verdict::Worse };
    }
    judged
}

/// The first reason not to conclude.
fn doubt(
    figures: &Figures<'_>,
    sure: Interval,
    noise: &Noise,
    level: f64,
    comparisons: usize,
    settings: Settings,
) -> Option<String> {
    let (n, m) = (figures.a.len(), figures.b.len());
    if n.min(m) < LEAST_ROUNDS {
        return Some(format!("{} rounds are no sample", n.min(m)));
    }
    // As a part of the smaller: half and twice are the same distance from 1.
    let difference = if sure.estimate > 1.0 { sure.estimate - 1.0 } else { 1.0 / sure.estimate - 1.0 };
    if difference < settings.least {
        return Some(format!("less than {} %", settings.least * 100.0));
    }
    let (largest, whose) = noise.largest();
    if difference <= largest {
        return Some(format!("{whose} is {:.1} %", largest * 100.0));
    }
    if !sure.excludes(1.0) {
        return Some("the interval holds 1".into());
    }
    if attainable(n, m, figures.pairing) > level {
        let enough = (n.min(m)..200).find(|n| attainable(*n, *n, figures.pairing) <= level).unwrap_or(200);
        return Some(format!("{} rounds are too few for {comparisons} comparisons: {enough} would do", n.min(m)));
    }
    None
}
