//! When something is due. Both kinds know it before anything is sent, and neither asks what became of what was: a slow answer
//! delays no later request, and is counted from when its request was due.

use std::time::Duration;

use crate::stats::random::Random;

/// Requests, one by one: on average every `mean`, each up to half of it earlier or later, so that they do not keep step with
/// anything.
#[derive(Clone, Debug)]
pub struct Requests {
    mean: f64,
    random: Random,
    n: u64,
    end: f64,
}

impl Requests {
    /// From 0 to `time`.
    #[must_use]
    pub fn new(mean: Duration, time: Duration, seed: u64) -> Self {
        Self { mean: mean.as_nanos() as f64, random: Random::new(seed), n: 0, end: time.as_nanos() as f64 }
    }
}

impl Iterator for Requests {
    /// ns after the start.
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let at = (self.n as f64 + 0.5 + self.random.unit()) * self.mean;
        self.n += 1;
        (at < self.end).then_some(at as u64)
    }
}

/// Packets at a fixed rate, some at once where the sender comes late.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Packets per ns; `None`: as many as go.
    per_ns: Option<f64>,
    sent: u64,
}

/// At most so many at once: what a sender that slept too long makes up for in one go.
pub const MOST_AT_ONCE: u64 = 1024;

impl Rate {
    /// Of so many per second; `None`: as fast as it goes.
    #[must_use]
    pub fn new(per_second: Option<f64>) -> Self {
        Self { per_ns: per_second.map(|r| r / 1e9), sent: 0 }
    }

    /// How many are due `ns` after the start.
    #[must_use]
    pub fn due(&self, ns: u64) -> u64 {
        match self.per_ns {
            None => MOST_AT_ONCE,
            Some(rate) => ((ns as f64 * rate) as u64).saturating_sub(self.sent).min(MOST_AT_ONCE),
        }
    }

    pub fn sent(&mut self, packets: u64) {
        self.sent += packets;
    }

    #[must_use]
    pub fn all(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_rate_and_keep_no_step() {
        let (mean, time) = (Duration::from_micros(500), Duration::from_secs(2));
        let at: Vec<u64> = Requests::new(mean, time, 7).collect();
        assert!((3998..=4000).contains(&at.len()), "{}", at.len());
        assert!(at.is_sorted() && *at.last().unwrap_or(&0) < 2_000_000_000);
        let gaps: Vec<u64> = at.windows(2).map(|w| w[1] - w[0]).collect();
        let near = gaps.iter().filter(|g| (480_000..520_000).contains(*g)).count();
        assert!(near < gaps.len() / 4, "{near} of {} are about the mean", gaps.len());
        assert_eq!(at, Requests::new(mean, time, 7).collect::<Vec<_>>());
    }

    #[test]
    fn a_late_sender_catches_up_but_not_without_bound() {
        let mut rate = Rate::new(Some(100_000.0));
        assert_eq!(rate.due(0), 0);
        assert_eq!(rate.due(1_000_000), 100);
        rate.sent(100);
        assert_eq!(rate.due(1_000_000), 0);
        assert_eq!(rate.due(3_000_000), 200);
        assert_eq!(rate.due(1_000_000_000), MOST_AT_ONCE);
        assert_eq!((Rate::new(None).due(0), rate.all()), (MOST_AT_ONCE, 100));
    }
}
