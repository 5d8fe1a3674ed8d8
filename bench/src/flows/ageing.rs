//! What ageing adds to a batch: each call of `expire` as a worker makes it, in the three cases in which there is most to do.

use std::time::Instant;

use anyhow::{Result, ensure};
use softdpu::flow::{FlowTable, Hit, Prepared, Tick};
use softdpu::l7::{Inspector, L7Config};
use softdpu::worker::turn::MOST_AGED;

use super::{BATCH, fill, prepare};
use crate::clock::thread_cpu;
use crate::report::Section;

/// Name and title of each case.
const CASES: [(&str, &str); 4] = [
    ("unanswered", "all end that nobody answered, from their queue"),
    ("hung", "all live on and are hung on the wheel"),
    ("wheel", "all end from the wheel, in an order that no cache guesses"),
    ("counting", "counting for as long and as often instead: what the machine adds"),
];
const COUNTING: usize = 3;

/// An unanswered UDP flow is over after this many ticks, by the default timeouts.
const UNANSWERED: u32 = 6000;

/// Each case's calls.
pub(super) struct Ageing {
    /// Of each call the least CPU time of all rounds so far, µs: each round makes the same calls.
    best: [Vec<f64>; CASES.len()],
    section: Section,
    /// What flows hold there they give back when they end, as in a worker.
    inspector: Inspector,
}

impl Ageing {
    pub(super) fn new() -> Self {
        let inspector = Inspector::new(&L7Config::default());
        Self { best: Default::default(), section: Section::new("flow-ageing", "", "µs"), inspector }
    }

    /// A round over a full table of unanswered flows. It is empty at the end, which is at the time that is given back.
    pub(super) fn round(&mut self, table: &mut FlowTable, flows: u32, now: Tick) -> Result<Tick> {
        let now = now.plus(100_000);
        let median = self.case(0, table, now);
        ensure!(table.is_empty(), "{} flows are left", table.len());
        fill(table, flows, now)?;
        answer(table, flows, now);
        let now = now.plus(UNANSWERED);
        self.case(1, table, now);
        ensure!(table.len() == flows as usize, "{} of {flows} flows are left", table.len());
        let now = now.plus(100_000);
        self.case(2, table, now);
        ensure!(table.is_empty(), "{} flows are left", table.len());
        self.counting(median);
        // The wheel stands as it did at the beginning.
        Ok(Tick(now.0.next_multiple_of(256 << 4) + 1))
    }

    /// Ages until nothing is due; gives the median call in µs.
    fn case(&mut self, case: usize, table: &mut FlowTable, now: Tick) -> f64 {
        let mut calls = Vec::with_capacity(table.len() / 32 + 64);
        loop {
            let before = thread_cpu();
            let looked = table.expire(now, MOST_AGED, |idx, flow| self.inspector.release(idx, flow));
            calls.push((thread_cpu() - before) as f64 / 1e3);
            if looked < MOST_AGED / 2 {
                break;
            }
        }
        self.add(case, &calls)
    }

    fn counting(&mut self, us: f64) {
        let calls: Vec<f64> = (0..self.best[0].len())
            .map(|_| {
                let (start, before) = (Instant::now(), thread_cpu());
                while (start.elapsed().as_nanos() as f64) < us * 1e3 {
                    std::hint::spin_loop();
                }
                (thread_cpu() - before) as f64 / 1e3
            })
            .collect();
        self.add(COUNTING, &calls);
    }

    fn add(&mut self, case: usize, calls: &[f64]) -> f64 {
        let best = &mut self.best[case];
        if best.is_empty() {
            best.extend_from_slice(calls);
        }
        best.iter_mut().zip(calls).for_each(|(best, call)| *best = best.min(*call));
        let mut sorted = calls.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize];
        let (name, title) = CASES[case];
        let more = &mut self.section.round(name, title, at(0.5)).more;
        more.entry("of 1,000 the longest".into()).or_default().push(at(0.999));
        more.entry("the longest".into()).or_default().push(at(1.0));
        at(0.5)
    }

    /// The section, and the longest call in µs, each taken at its best of all rounds.
    pub(super) fn section(mut self, flows: &str) -> (Section, Option<f64>) {
        self.section.title =
            format!("ageing of {flows} flows that are all due at once, CPU time per call of {MOST_AGED} flows at most");
        let longest = |best: &Vec<f64>| best.iter().copied().reduce(f64::max);
        let each: Vec<String> = CASES
            .iter()
            .zip(&self.best)
            .filter_map(|((name, _), best)| Some(format!("{name} {:.1}", longest(best)?)))
            .collect();
        self.section.notes.push(format!(
            "The longest call, where of each call the best of the rounds counts (they make the same calls, and what the machine \
             adds comes at random): {}.",
            each.join(", ")
        ));
        self.section.notes.push(
            "CPU time has in it interrupts and what the hypervisor takes; what that adds, the last row shows.".into(),
        );
        let all = self.best[..COUNTING].iter().filter_map(longest).reduce(f64::max);
        (self.section, all)
    }
}

/// Each flow is answered, at times of the last 40 seconds before its queue lets it go, so that each goes to another slot of the
/// wheel than its neighbours.
fn answer(table: &mut FlowTable, flows: u32, now: Tick) {
    let mut prepared = vec![Prepared::default(); BATCH];
    let mut at = 0;
    while at < flows {
        let n = (flows - at).min(BATCH as u32) as usize;
        let first = at;
        prepare(table, &mut prepared[..n], &mut at, flows, now);
        for (i, p) in prepared[..n].iter().enumerate() {
            let when = (first + i as u32).wrapping_mul(0x9e37_79b1) >> 20;
            if let Some((idx, dir)) = table.lookup(p) {
                let hit = Hit { idx, dir: dir.other(), new: false };
                table.touch(hit, p, 60, now.plus(UNANSWERED - 1 - when));
            }
        }
    }
}
