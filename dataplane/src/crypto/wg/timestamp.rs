//! TAI64N timestamps (D. J. Bernstein's label format), which make each initiation later than the one before.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The label of the second 1970-01-01T00:00:00 UTC: 2^62, and the ten leap seconds that TAI was ahead then.
const EPOCH: u64 = (1 << 62) + 10;
/// Nanoseconds are cut to a multiple of this: the largest power of two within a 50th of a second, as the Linux kernel does.
/// So the timestamp tells an onlooker (or a peer) little about this host's clock, and no two initiations are sent in one step.
const STEP_NS: u32 = 1 << 24;

/// A point in time as an initiation carries it. Compares as time does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tai64n([u8; 12]);

impl Tai64n {
    /// This host's clock, coarsened.
    pub fn now() -> Self {
        Self::since_1970(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The same for a clock of the caller's, in time since 1970 UTC.
    pub fn since_1970(time: Duration) -> Self {
        let mut label = [0; 12];
        label[..8].copy_from_slice(&EPOCH.saturating_add(time.as_secs()).to_be_bytes());
        label[8..].copy_from_slice(&(time.subsec_nanos() / STEP_NS * STEP_NS).to_be_bytes());
        Self(label)
    }

    /// As a peer wrote it; whatever that is, it compares.
    pub fn from_bytes(label: [u8; 12]) -> Self {
        Self(label)
    }

    pub fn to_bytes(self) -> [u8; 12] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_are_as_the_format_says() {
        let label = Tai64n::since_1970(Duration::ZERO).to_bytes();
        assert_eq!(label, [0x40, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0]);
        let label = Tai64n::since_1970(Duration::new(0x2a2b_2c2d - 10, 999_999_999)).to_bytes();
        assert_eq!(label, [0x40, 0, 0, 0, 0x2a, 0x2b, 0x2c, 0x2d, 0x3b, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn later_compares_later(a in 0_u64..1 << 60, b in 0_u64..1 << 60) {
            let of = |ns| Tai64n::since_1970(Duration::from_nanos(ns));
            if a <= b {
                prop_assert!(of(a) <= of(b));
            }
            prop_assert!(of(a) < of(a + 2 * u64::from(STEP_NS)));
            prop_assert_eq!(u32::from_be_bytes([of(a).0[8], of(a).0[9], of(a).0[10], of(a).0[11]]) % STEP_NS, 0);
        }
    }

    #[test]
    fn a_clock_at_the_end_of_time_is_no_panic() {
        assert!(Tai64n::since_1970(Duration::MAX) > Tai64n::now());
    }
}
