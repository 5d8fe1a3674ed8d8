//! Latencies as HDR histograms: every value counted, three significant digits kept, and what a stalled sender did not send
//! counted too.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What a record keeps of a histogram: (ns, how often), lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(pub Vec<(u64, u64)>);

/// Percentiles that are shown.
pub const SHOWN: [(f64, &str); 4] = [(50.0, "p50"), (99.0, "p99"), (99.9, "p99.9"), (100.0, "max")];

/// 1 ns to an hour.
const HIGHEST: u64 = 3_600_000_000_000;

#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, HIGHEST, 3).expect("the bounds are sound"))
    }

    /// Counts one value, ns. Below 1 and above an hour it counts as that.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Counts one value of a sender that sends every `interval` ns and waits for the answer: what it would have sent while it
    /// waited would have waited too (Tene's coordinated omission).
    pub fn record_waiting(&mut self, ns: u64, interval: u64) {
        // Cannot fail: the value is within the bounds.
        let _ = self.0.record_correct(ns.clamp(1, HIGHEST), interval);
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In ns; `q` is 0–100.
    pub fn percentile(&self, q: f64) -> u64 {
        self.0.value_at_percentile(q)
    }

    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    pub fn counts(&self) -> Counts {
        Counts(self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect())
    }

    /// # Errors
    /// A count that no histogram holds.
    pub fn of(counts: &Counts) -> Result<Self> {
        let mut all = Self::new();
        for (ns, times) in &counts.0 {
            all.0.record_n((*ns).clamp(1, HIGHEST), *times).context("a count of a histogram")?;
        }
        Ok(all)
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_are_known_and_survive_the_record() {
        let mut l = Latencies::new();
        (1..=10_000).for_each(|v| l.record(v * 1000));
        let near = |l: &Latencies, q, want: f64| {
            let seen = l.percentile(q) as f64;
            assert!((seen / want - 1.0).abs() < 1e-3, "{q}: {seen}");
        };
        let again = Latencies::of(&l.counts()).unwrap();
        for l in [&l, &again] {
            near(l, 50.0, 5e6);
            near(l, 99.0, 9.9e6);
            near(l, 99.9, 9.99e6);
            near(l, 100.0, 1e7);
        }
        assert_eq!(again.counts(), l.counts());
    }

    #[test]
    fn a_stall_counts_for_all_that_would_have_been_sent() {
        let (mut naive, mut right) = (Latencies::new(), Latencies::new());
        for l in [&mut naive, &mut right] {
            (0..9900).for_each(|_| l.record(1000));
        }
        // One second without an answer, at one request per millisecond.
        naive.record(1_000_000_000);
        right.record_waiting(1_000_000_000, 1_000_000);
        assert!(naive.percentile(99.0) < 2000);
        assert!(right.percentile(99.0) > 500_000_000, "{}", right.percentile(99.0));
        assert_eq!(right.len(), 9900 + 1000);
    }

    #[test]
    fn nothing_and_too_much() {
        let mut l = Latencies::new();
        assert!(l.is_empty());
        l.record(0);
        l.record(u64::MAX);
        assert_eq!(l.len(), 2);
        let mut sum = Latencies::new();
        sum.add(&l);
        assert_eq!(sum.len(), 2);
    }
}
