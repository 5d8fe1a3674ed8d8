//! Timing of things that take nanoseconds to microseconds, in memory, taking turns.

use std::time::Instant;

use crate::clock;
use crate::instructions::callgrind;
use crate::report::Section;
use crate::stop;

/// Time spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub ns: f64,
    pub ticks: f64,
}

impl Spent {
    /// Times `work`. Under callgrind, its instructions are what is counted.
    #[inline]
    pub fn on(work: impl FnOnce()) -> Self {
        let (start, t0) = (Instant::now(), clock::ticks());
        callgrind::counted(work);
        let (ticks, ns) = (clock::ticks() - t0, start.elapsed().as_nanos());
        Self { ns: ns as f64, ticks: ticks as f64 }
    }
}

/// A stop-watch for short stretches: ticks only, which are told in nanoseconds at the end.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    per_ns: f64,
}

impl Ticks {
    pub fn new() -> Self {
        Self { per_ns: clock::ticks_per_ns() }
    }

    /// Times `work`.
    #[inline]
    pub fn on(&self, work: impl FnOnce()) -> Spent {
        let start = clock::ticks();
        callgrind::counted(work);
        let ticks = (clock::ticks() - start) as f64;
        Spent { ns: ticks / self.per_ns, ticks }
    }
}

impl Default for Ticks {
    fn default() -> Self {
        Self::new()
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Self) {
        self.ns += more.ns;
        self.ticks += more.ticks;
    }
}

/// Something to time. Called with a number of operations to do; it does at least as many in whole batches, and says how
/// many it did and how long they took, without what it had to prepare.
pub struct Case<'a> {
    pub name: String,
    pub title: String,
    run: Box<dyn FnMut(usize) -> (usize, Spent) + 'a>,
}

impl<'a> Case<'a> {
    /// All of `run` counts. It is told how many operations to do.
    pub fn new(name: impl Into<String>, title: impl Into<String>, mut run: impl FnMut(usize) + 'a) -> Self {
        Self { name: name.into(), title: title.into(), run: Box::new(move |n| (n, Spent::on(|| run(n)))) }
    }

    /// `run` is told how many operations to do, and times them itself; it says how many it did and how long they took.
    pub fn timed(
        name: impl Into<String>,
        title: impl Into<String>,
        run: impl FnMut(usize) -> (usize, Spent) + 'a,
    ) -> Self {
        Self { name: name.into(), title: title.into(), run: Box::new(run) }
    }

    /// Batches of `size` operations, each prepared (untimed) and run (timed) on `state`.
    pub fn batches<S: 'a>(
        name: impl Into<String>,
        title: impl Into<String>,
        size: usize,
        mut state: S,
        mut prepare: impl FnMut(&mut S) + 'a,
        mut run: impl FnMut(&mut S) + 'a,
    ) -> Self {
        let all = move |n: usize| {
            let (mut done, mut spent) = (0, Spent::default());
            while done < n {
                prepare(&mut state);
                spent += Spent::on(|| run(&mut state));
                done += size;
            }
            (done, spent)
        };
        Self { name: name.into(), title: title.into(), run: Box::new(all) }
    }
}

impl Case<'_> {
    /// Does at least `n` operations. How many it did, and how long they took.
    pub fn run(&mut self, n: usize) -> (usize, Spent) {
        (self.run)(n)
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// Wanted length of one turn, ns. Turns are cut into slices of a fraction of a scheduler tick, and the best slice
    /// counts: whatever else takes the core only ever adds.
    pub turn_ns: u64,
    /// Rounds that were before these, in other processes: the order of the contenders goes on from there.
    pub first: usize,
}

impl Effort {
    pub fn new(rounds: usize, turn_ns: u64) -> Self {
        Self { rounds, turn_ns, first: 0 }
    }

    /// Of a turn. One where turns are too short to be cut: whoever wants such wants to see that it runs.
    fn slices(self) -> usize {
        ((self.turn_ns / 1000) as usize).clamp(1, SLICES)
    }
}

const SLICES: usize = 40;

/// Times `cases` in turn, round by round, and puts ns per operation (and ticks) into `section`. The order turns around
/// every other round, so that nobody always follows the same neighbour.
pub fn alternate(section: &mut Section, cases: &mut [Case<'_>], effort: Effort) {
    let mut reference = Reference::new();
    let slices = effort.slices();
    let lengths: Vec<usize> = cases.iter_mut().map(|c| calibrate(&mut c.run, effort.turn_ns / slices as u64)).collect();
    for case in cases.iter() {
        // In the order of the list, whatever the order of the first round.
        section.declare(&case.name, &case.title);
    }
    for round in effort.first..effort.first + effort.rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            if stop::asked() {
                return;
            }
            let (ns, ticks) = turn(&mut cases[i].run, lengths[i], slices);
            let c = section.round(&cases[i].name, &cases[i].title, ns);
            c.more.entry("ticks".into()).or_default().push(ticks);
        }
        section.reference.push(reference.turn());
    }
}

/// A fixed piece of work, the same in every build: what it takes says how fast the machine is at the moment.
struct Reference(Vec<u64>);

impl Reference {
    /// 256 KiB: within a second-level cache.
    fn new() -> Self {
        Self(vec![1; 1 << 15])
    }

    /// The best of some goes of about 30 µs, in ns.
    fn turn(&mut self) -> f64 {
        let mut best = f64::INFINITY;
        for _ in 0..SLICES {
            let spent = Spent::on(|| {
                let (mut x, mut at) = (1u64, 0usize);
                for _ in 0..8192 {
                    // Each step needs the one before: a multiplication, then a load from where it says.
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(self.0[at]);
                    at = (x >> 49) as usize;
                }
                std::hint::black_box(x);
            });
            best = best.min(spent.ns);
        }
        best
    }
}

/// Operations that take about `slice_ns`. Warms up by the way.
fn calibrate(run: &mut dyn FnMut(usize) -> (usize, Spent), slice_ns: u64) -> usize {
    let mut n = 16;
    loop {
        let (done, spent) = run(n);
        if spent.ns * 4.0 >= slice_ns as f64 || n > 1 << 30 {
            return (done as f64 * slice_ns as f64 / spent.ns.max(1.0)).max(1.0) as usize;
        }
        n *= 2;
    }
}

/// The best slice of one turn, per operation.
fn turn(run: &mut dyn FnMut(usize) -> (usize, Spent), n: usize, slices: usize) -> (f64, f64) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..slices {
        let (done, spent) = run(n);
        best = (best.0.min(spent.ns / done as f64), best.1.min(spent.ticks / done as f64));
    }
    best
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// By a clock of its own: each operation of `one` takes 10 ns, of `two` 20.
    #[test]
    fn figures_are_per_operation() {
        let taking = |ns: f64| move |n: usize| (n, Spent { ns: ns * n as f64, ticks: 3.0 * n as f64 });
        let mut section = Section::new("t", "T", "ns");
        let mut cases = [Case::timed("one", "one", taking(10.0)), Case::timed("two", "two", taking(20.0))];
        alternate(&mut section, &mut cases, Effort::new(5, 400_000));
        assert_eq!((section.median("one"), section.ratio("two", "one")), (Some(10.0), Some(2.0)));
        assert_eq!(section.contenders[0].more["ticks"], [3.0; 5]);
        assert!(section.reference.len() == 5 && section.reference.iter().all(|ns| *ns > 0.0));
    }
}
