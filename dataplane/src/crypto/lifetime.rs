//! How long a security association may live (RFC 4301 §4.4.2.1), and what it has carried.
//!
//! Workers count by runs of packets and add up once per run. What a worker's run may still carry is fixed when it
//! begins, so a byte limit (and for inbound associations a packet limit) is exact while one worker uses the
//! association; with more, each of the others' present runs may come on top. The packet limit of outbound associations
//! is exact always: it is the end of the sequence numbers.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Limits of one kind. [`u64::MAX`] is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub packets: u64,
    /// Of inner packets.
    pub bytes: u64,
    /// Since the association was added.
    pub age_ns: u64,
    /// Since its first packet.
    pub use_ns: u64,
}

impl Limits {
    pub const NONE: Self = Self { packets: u64::MAX, bytes: u64::MAX, age_ns: u64::MAX, use_ns: u64::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

/// When to ask for a new association, and when to stop using this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    pub soft: Limits,
    pub hard: Limits,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Soft,
    Hard,
}

/// What an association has carried. Times are the callers' monotonic clock, 0 for never or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub packets: u64,
    /// Of inner packets.
    pub bytes: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

const SOFT: u8 = 1;
const HARD: u8 = 2;
/// Shifts a flag to the one that says it was taken notice of.
const TOLD: u8 = 2;

const UNLIMITED: &Lifetime = &Lifetime { soft: Limits::NONE, hard: Limits::NONE };

/// The account of one association: less than a cache line, since every run writes it.
#[derive(Debug)]
pub(super) struct Account {
    packets: AtomicU64,
    bytes: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    added_ns: u64,
    /// Where there are any limits, which a packet has to look at then.
    lifetime: Option<Box<Lifetime>>,
    flags: AtomicU8,
}

/// What a run may still carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Account {
    pub(super) fn new(lifetime: Lifetime, added_ns: u64, used: Used) -> Self {
        let account = Self {
            packets: AtomicU64::new(used.packets),
            bytes: AtomicU64::new(used.bytes),
            first_ns: AtomicU64::new(used.first_ns),
            last_ns: AtomicU64::new(used.last_ns),
            added_ns,
            lifetime: (lifetime != *UNLIMITED).then(|| Box::new(lifetime)),
            flags: AtomicU8::new(0),
        };
        account.compare(used.packets, used.bytes);
        account
    }

    /// A run begins at `now` (0: not known). Nothing may be carried where the association has expired.
    #[inline]
    pub(super) fn begin(&self, now: u64) -> Budget {
        let hard = &self.lifetime().hard;
        if self.flags.load(Ordering::Relaxed) & HARD != 0 || self.past(hard, now) {
            self.raise(HARD);
            return Budget { packets: 0, bytes: 0 };
        }
        if self.lifetime.is_none() || hard.packets == u64::MAX && hard.bytes == u64::MAX {
            return Budget { packets: u64::MAX, bytes: u64::MAX };
        }
        Budget {
            packets: hard.packets.saturating_sub(self.packets.load(Ordering::Relaxed)),
            bytes: hard.bytes.saturating_sub(self.bytes.load(Ordering::Relaxed)),
        }
    }

    /// A run ends that carried this much.
    #[inline]
    pub(super) fn add(&self, packets: u64, bytes: u64, now: u64) {
        if packets == 0 {
            return;
        }
        let packets = self.packets.fetch_add(packets, Ordering::Relaxed).saturating_add(packets);
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if now != 0 {
            if self.first_ns.load(Ordering::Relaxed) == 0 {
                let _ = self.first_ns.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
            // Workers' clocks are read once per batch, so two may be out of order by that much.
            self.last_ns.store(now, Ordering::Relaxed);
        }
        self.compare(packets, bytes);
    }

    /// Sets the flags of what has been reached.
    #[inline]
    fn compare(&self, packets: u64, bytes: u64) {
        let Some(lifetime) = &self.lifetime else { return };
        let over = |limits: &Limits| packets >= limits.packets || bytes >= limits.bytes;
        if over(&lifetime.soft) {
            self.raise(SOFT);
        }
        if over(&lifetime.hard) {
            self.raise(HARD);
        }
    }

    /// The association is at its end for another reason: no sequence numbers, or a packet that no longer fits the limit.
    #[cold]
    pub(super) fn end(&self) {
        self.raise(HARD);
    }

    fn raise(&self, flag: u8) {
        if self.flags.load(Ordering::Relaxed) & flag == 0 {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        }
    }

    #[inline]
    fn past(&self, limits: &Limits, now: u64) -> bool {
        if now == 0 || self.lifetime.is_none() || limits.age_ns == u64::MAX && limits.use_ns == u64::MAX {
            return false;
        }
        let first = self.first_ns.load(Ordering::Relaxed);
        now >= self.added_ns.saturating_add(limits.age_ns) || first != 0 && now >= first.saturating_add(limits.use_ns)
    }

    pub(super) fn expired(&self, now: u64) -> Option<Expiry> {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & HARD != 0 || self.past(&self.lifetime().hard, now) {
            Some(Expiry::Hard)
        } else if flags & SOFT != 0 || self.past(&self.lifetime().soft, now) {
            Some(Expiry::Soft)
        } else {
            None
        }
    }

    pub(super) fn take_expiry(&self, now: u64) -> Option<Expiry> {
        let reached = self.expired(now)?;
        // After the hard limit nobody needs to hear of the soft one.
        let (flag, told) = match reached {
            Expiry::Soft => (SOFT, SOFT << TOLD),
            Expiry::Hard => (SOFT | HARD, (SOFT | HARD) << TOLD),
        };
        let before = self.flags.fetch_or(flag | told, Ordering::Relaxed);
        (before & told != told).then_some(reached)
    }

    pub(super) fn used(&self) -> Used {
        Used {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            first_ns: self.first_ns.load(Ordering::Relaxed),
            last_ns: self.last_ns.load(Ordering::Relaxed),
        }
    }

    #[inline]
    pub(super) fn lifetime(&self) -> &Lifetime {
        self.lifetime.as_deref().unwrap_or(UNLIMITED)
    }

    /// Bytes it takes beside itself.
    pub(super) fn heap(&self) -> usize {
        self.lifetime.as_deref().map_or(0, size_of_val)
    }

    pub(super) fn added_ns(&self) -> u64 {
        self.added_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(soft: Limits, hard: Limits) -> Account {
        Account::new(Lifetime { soft, hard }, 1000, Used::default())
    }

    #[test]
    fn soft_then_hard_each_told_once() {
        let a = account(Limits { packets: 10, ..Limits::NONE }, Limits { bytes: 5000, ..Limits::NONE });
        a.add(9, 900, 7);
        assert_eq!((a.expired(8), a.take_expiry(8)), (None, None));
        a.add(1, 100, 9);
        assert_eq!((a.expired(9), a.take_expiry(9), a.take_expiry(9)), (Some(Expiry::Soft), Some(Expiry::Soft), None));
        assert_eq!(a.begin(10).bytes, 4000);
        a.add(1, 4000, 11);
        assert_eq!((a.begin(12).packets, a.begin(12).bytes), (0, 0));
        assert_eq!(
            (a.take_expiry(12), a.take_expiry(12), a.expired(12)),
            (Some(Expiry::Hard), None, Some(Expiry::Hard))
        );
        assert_eq!(a.used(), Used { packets: 11, bytes: 5000, first_ns: 7, last_ns: 11 });
    }

    #[test]
    fn hard_at_once_is_told_as_hard_only() {
        let a = account(Limits { packets: 1, ..Limits::NONE }, Limits { packets: 2, ..Limits::NONE });
        a.add(2, 0, 0);
        assert_eq!((a.take_expiry(0), a.take_expiry(0)), (Some(Expiry::Hard), None));
    }

    #[test]
    fn time_runs_from_addition_and_from_first_use() {
        let a = account(Limits { age_ns: 500, ..Limits::NONE }, Limits { use_ns: 300, ..Limits::NONE });
        assert_eq!((a.expired(1499), a.expired(1500)), (None, Some(Expiry::Soft)));
        assert_eq!(a.begin(9000).packets, u64::MAX, "never used");
        a.add(1, 1, 9000);
        assert_eq!((a.begin(9299).packets, a.begin(9300).packets), (u64::MAX, 0));
        assert_eq!(a.begin(9299).packets, 0, "what has expired stays so");
    }

    #[test]
    fn a_mirrored_association_may_be_expired_from_the_start() {
        let lifetime = Lifetime { hard: Limits { packets: 5, ..Limits::NONE }, ..Lifetime::default() };
        let a = Account::new(lifetime, 0, Used { packets: 5, ..Used::default() });
        assert_eq!((a.begin(0).packets, a.take_expiry(0)), (0, Some(Expiry::Hard)));
    }
}
