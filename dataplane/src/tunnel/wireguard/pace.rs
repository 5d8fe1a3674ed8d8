//! How often a device's changes are published. With thousands of peers one publication costs the better part of a millisecond,
//! and in a storm of rekeyings each handshake is a change: those that come within a moment are published together. What is
//! sent after a change waits for its publication, so peers never hear of a session that workers do not know.

/// Publishing takes at most one part in this many of the time.
const SHARE: u64 = 8;
/// No change waits longer than this (nanoseconds) for others, whatever publishing costs.
const LONGEST: u64 = 5_000_000;

/// When the next publication may be. Times are monotonic nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    not_before: u64,
}

impl Pace {
    /// Whether a change may be published at once.
    pub(super) fn allows(&self, now: u64) -> bool {
        now >= self.not_before
    }

    /// When the change that waits may be published.
    pub(super) fn not_before(&self) -> u64 {
        self.not_before
    }

    /// One was published, which took from `begin` to `end`.
    pub(super) fn published(&mut self, begin: u64, end: u64) {
        let took = end.saturating_sub(begin);
        self.not_before = end.saturating_add(took.saturating_mul(SHARE - 1).min(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_once_then_a_share_of_the_time_and_never_long() {
        let mut pace = Pace::default();
        assert!(pace.allows(0));
        pace.published(1000, 3000);
        assert!(!pace.allows(3000) && !pace.allows(16_999));
        assert!(pace.allows(17_000), "2 us of 16");
        pace.published(20_000, 20_000_000);
        assert_eq!(pace.not_before(), 25_000_000, "a stall of the process is no reason to wait long");
    }
}
