//! What more cores bring: workers in memory, each with packets and tables of its own, on as many cores at once as there are, and
//! the universal scalability law through their rates.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::graph;
use crate::micro::Effort;
use crate::net::cores;
use crate::report::{Curve, Line, Section};
use crate::stats::median_of;
use crate::stats::usl::Usl;
use crate::stop;

/// Flows of each worker.
const FLOWS: u32 = 1000;
/// The law has three unknowns: fewer numbers of workers fit any of them.
const LEAST: usize = 3;
/// Packets of a stretch: a fraction of a millisecond.
const PACKETS: usize = 4096;

/// Measures 1, 2, … workers at once.
///
/// # Errors
/// Where a worker cannot be made.
pub fn run(effort: Effort) -> Result<Section> {
    let cores = cores::allowed().context("asking which cores there are")?;
    let mut section = Section::new(
        "scaling",
        "forwarding in memory by several workers at once, 64 B, a core each, all together",
        "Mpps",
    );
    let turn = Duration::from_nanos(effort.turn_ns);
    let numbers = numbers(cores.len());
    for n in &numbers {
        section.declare(&name(*n), &title(*n));
    }
    for round in 0..effort.rounds {
        let mut order = numbers.clone();
        if (round + effort.first) % 2 == 1 {
            order.reverse();
        }
        for n in order {
            if stop::asked() {
                return Ok(section);
            }
            let rate = together(&cores[..n], turn)?;
            section.round(&name(n), &title(n), rate).more.entry("workers".into()).or_default().push(n as f64);
        }
    }
    conclude(&mut section, cores.len());
    Ok(section)
}

fn name(n: usize) -> String {
    format!("workers-{n}")
}

fn title(n: usize) -> String {
    format!("softdpu, {n} worker{}", if n == 1 { "" } else { "s" })
}

/// 1 to 4, then about one and a half times as many, and all.
fn numbers(cores: usize) -> Vec<usize> {
    let mut all: Vec<usize> =
        [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128].into_iter().filter(|n| *n < cores).collect();
    all.push(cores.max(1));
    all
}

/// Packets per µs of a worker on each of these cores, all at the same time.
fn together(cores: &[usize], turn: Duration) -> Result<f64> {
    let start = Barrier::new(cores.len());
    let one = |core: usize| -> Result<f64> {
        // Whatever fails, the others do not wait for ever.
        let made = cores::pin(0, core).context("pinning a worker").and_then(|()| graph::one("worker", FLOWS));
        start.wait();
        let mut case = made?;
        let (begun, mut rates) = (Instant::now(), Vec::new());
        while begun.elapsed() < turn || rates.is_empty() {
            let (packets, spent) = case.run(PACKETS);
            rates.push(1e3 * packets as f64 / spent.ns.max(1.0));
        }
        // Other programs take the core for a few stretches; what workers take from each other is in all of them.
        Ok(median_of(&mut rates))
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = cores.iter().map(|core| scope.spawn(|| one(*core))).collect();
        all.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?).sum()
    })
}

/// (workers, Mpps) of every round.
fn points(section: &Section) -> Vec<(f64, f64)> {
    let of = |c: &crate::report::Contender| {
        let n = c.more.get("workers").and_then(|n| n.first()).copied().unwrap_or(1.0);
        c.rounds.iter().map(|rate| (n, *rate)).collect::<Vec<_>>()
    };
    section.contenders.iter().flat_map(of).collect()
}

/// The law, or why there is none.
fn conclude(section: &mut Section, cores: usize) {
    let points = points(section);
    let measured: Vec<(f64, f64)> = section
        .contenders
        .iter()
        .filter_map(|c| Some((*c.more.get("workers")?.first()?, c.summary.as_ref()?.median)))
        .collect();
    let mut lines = vec![Line { title: "softdpu, workers, measured".into(), points: measured.clone() }];
    section.notes.push(
        "Workers share nothing but the machine: caches, memory, and cores that are two of one. Rates are of the time in \
         ports and graph, the median of stretches of 4,096 packets."
            .into(),
    );
    section.notes.push(efficiency(section, &measured));
    if measured.len() < LEAST {
        section.notes.push(format!(
            "No fit of the universal scalability law: it has three unknowns, and on {cores} core{} there are {} numbers of workers. From \
             {LEAST} cores on it is fitted.",
            if cores == 1 { "" } else { "s" },
            measured.len()
        ));
    } else if let Some(law) = Usl::fit(&points) {
        let peak = law.peak().map_or_else(|| "none".to_owned(), |n| format!("{n:.0}"));
        section.notes.push(format!(
            "Universal scalability law, fitted to {} rounds of {} numbers of workers: one does {:.2} Mpps, contention {:.4}, coherency \
             {:.6}, error {:.1} %; workers beyond which more do less: {peak}.",
            points.len(),
            measured.len(),
            law.lambda,
            law.sigma,
            law.kappa,
            100.0 * law.error
        ));
        let fitted = (0..=40).map(|i| 1.0 + f64::from(i) / 40.0 * (cores as f64 - 1.0)).map(|n| (n, law.rate(n)));
        lines.push(Line { title: "limit by the fitted law".into(), points: fitted.collect() });
    } else {
        section.notes.push("No fit of the universal scalability law: no such law goes through these rates.".into());
    }
    if measured.len() > 1 {
        section.curves.push(Curve {
            title: "Workers and rate".into(),
            x: "workers".into(),
            y: "Mpps".into(),
            log: (false, false),
            lines,
            mark: None,
        });
    }
}

/// How much of as many times one worker's rate there is, round by round.
fn efficiency(section: &Section, measured: &[(f64, f64)]) -> String {
    let rounds = |n: f64| section.contenders.iter().find(|c| c.name == name(n as usize)).map(|c| c.rounds.as_slice());
    let most = measured.last().map_or(1.0, |p| p.0);
    let (Some(one), Some(all)) = (rounds(1.0), rounds(most)) else { return "Nothing was measured.".into() };
    let parts: Vec<f64> = all.iter().zip(one).map(|(all, one)| 100.0 * all / one / most).collect();
    match crate::stats::summary(&parts) {
        Some(s) if most > 1.0 => format!(
            "{most:.0} workers do {:.0} % of {most:.0} times what one does ({:.0} to {:.0} % by round).",
            s.median, s.min, s.max
        ),
        _ => "There is one core: nothing to scale to.".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a machine of so many cores would show that obeys the law exactly.
    fn made_up(cores: usize) -> Section {
        let law = Usl { lambda: 10.0, sigma: 0.05, kappa: 0.001, error: 0.0 };
        let mut section = Section::new("scaling", "S", "Mpps");
        for n in numbers(cores) {
            for _ in 0..3 {
                let line = section.round(&name(n), &title(n), law.rate(n as f64));
                line.more.entry("workers".into()).or_default().push(n as f64);
            }
        }
        conclude(&mut section, cores);
        section
    }

    #[test]
    fn numbers_of_workers_end_with_all_cores() {
        assert_eq!(numbers(1), [1]);
        assert_eq!(numbers(2), [1, 2]);
        assert_eq!(numbers(10), [1, 2, 3, 4, 6, 8, 10]);
    }

    #[test]
    fn two_cores_are_no_law() {
        let section = made_up(2);
        assert!(section.notes.iter().any(|n| n.starts_with("No fit") && n.contains("2 cores")), "{:?}", section.notes);
        assert_eq!(section.curves[0].lines.len(), 1);
        assert!(made_up(1).notes.iter().any(|n| n.contains("1 core there")) && made_up(1).curves.is_empty());
    }

    #[test]
    fn more_cores_are_fitted() {
        let section = made_up(16);
        let note = section.notes.iter().find(|n| n.starts_with("Universal")).unwrap();
        // √((1 − 0.05) / 0.001)
        assert!(note.contains("contention 0.0500, coherency 0.001000") && note.ends_with("do less: 31."), "{note}");
        assert_eq!(section.curves[0].lines.len(), 2);
    }

    #[test]
    fn workers_forward_at_once() {
        let section = run(Effort::new(2, 1000)).unwrap();
        assert!(section.contenders.iter().all(|c| c.rounds.len() == 2 && c.rounds[0] > 0.0));
    }
}
