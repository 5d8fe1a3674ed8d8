//! What flows share: the ceiling of an application, over all of its flows, both directions and all workers.
//!
//! One bucket per application. A worker draws from it for several packets at a time, so that the cache line seldom moves
//! between cores; what it has drawn is spent in the bucket already. So never more goes by than rate and burst allow, but for
//! what workers had drawn before and kept: a sixteenth of the burst each.

use super::rules::RuleMeter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a worker draws at a time, as a part of the burst.
const DRAWN: u64 = 16;

/// The bucket of one application.
#[derive(Clone, Debug)]
pub struct Share {
    /// Whose it is.
    pub name: Arc<str>,
    pub meter: RuleMeter,
    /// When it is full again, nanoseconds of the workers' clock. Stays when plans change.
    full_at: Arc<AtomicU64>,
}

impl Share {
    pub fn new(name: Arc<str>, meter: RuleMeter) -> Self {
        Self { name, meter, full_at: Arc::default() }
    }

    /// Goes on where the shares of the plan before are.
    pub fn follow(list: &mut [Self], before: &[Self]) {
        let by_name: std::collections::HashMap<&str, &Self> =
            before.iter().map(|share| (&*share.name, share)).collect();
        for share in list {
            if let Some(before) = by_name.get(&*share.name) {
                share.full_at = before.full_at.clone();
            }
        }
    }

    /// Whether a packet that takes `cost` nanoseconds may pass. `credit`: what the worker has drawn and not used.
    #[inline]
    pub fn conforms(&self, credit: &mut u64, now: u64, cost: u64) -> bool {
        if *credit < cost {
            *credit += self.draw(now, cost - *credit);
        }
        let passes = *credit >= cost;
        if passes {
            *credit -= cost;
        }
        passes
    }

    /// Draws at least `least`, or nothing. The virtual scheduling algorithm of ITU-T I.371, as of the meters of flows.
    #[cold]
    fn draw(&self, now: u64, least: u64) -> u64 {
        let more = least.max(self.meter.burst / DRAWN);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let from = full_at.max(now);
            let room = self.meter.burst.saturating_sub(from - now);
            let drawn = if room >= more { more } else { least };
            if room < drawn {
                return 0;
            }
            // Another worker may have come first; then that one has got on.
            match self.full_at.compare_exchange_weak(full_at, from + drawn, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return drawn,
                Err(seen) => full_at = seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::io::steer::Meter;

    fn share() -> Share {
        // 1 MB a second, 64 KiB at once.
        Share::new("app".into(), RuleMeter::new(Meter { rate: 1_000_000, burst: 65_536 }))
    }

    #[test]
    fn all_workers_together_get_the_rate() {
        let share = share();
        let cost = (1000 * share.meter.per_byte) >> 16;
        let mut credits = [0; 4];
        // Four workers, each with five times the rate, for ten seconds; one comes late.
        let mut passed = 0u64;
        for n in 0..50_000u64 {
            let now = 1_000_000_000 + n * 200_000;
            for (worker, credit) in credits.iter_mut().enumerate() {
                if worker < 3 || n > 25_000 {
                    passed += u64::from(share.conforms(credit, now, cost));
                }
            }
        }
        assert!((9_990..=10_070).contains(&passed), "10 MB and the burst: {passed}");
    }

    #[test]
    fn threads_do_not_get_more_than_there_is() {
        let share = share();
        let cost = (1000 * share.meter.per_byte) >> 16;
        let take = |share: &Share| {
            let mut credit = 0;
            (0..10_000u64).filter(|n| share.conforms(&mut credit, 1_000_000_000 + n * 1000, cost)).count()
        };
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| take(&share))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // 10 ms of the rate and the burst, however they take turns.
        assert!(passed <= 10 + 66, "{passed}");
        assert!(passed >= 60, "{passed}");
    }

    #[test]
    fn another_plan_does_not_fill_the_bucket() {
        let share = share();
        let cost = (1000 * share.meter.per_byte) >> 16;
        let mut credit = 0;
        while share.conforms(&mut credit, 1_000_000_000, cost) {}
        let mut next = [Share::new("other".into(), share.meter), Share::new("app".into(), share.meter)];
        Share::follow(&mut next, &[share]);
        assert!(next[0].conforms(&mut 0, 1_000_000_000, cost));
        assert!(!next[1].conforms(&mut 0, 1_000_000_000, cost));
    }
}
