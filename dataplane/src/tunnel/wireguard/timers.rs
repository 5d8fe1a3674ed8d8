//! When what is due: the times of the protocol (the paper §6) in monotonic nanoseconds, and the peers in the order of
//! their deadlines.
//!
//! Workers write down when they last sent and received ([`Activity`]); nobody wakes the control side for it. A timer that a
//! packet may start at any time is therefore looked after no later than it could run out if the packet came right now: no
//! timer is late, and an idle peer costs one look per [`KEEPALIVE_NS`].

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::crypto::wg::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, activity::Activity,
};

const fn ns(time: Duration) -> u64 {
    time.as_nanos() as u64
}

pub const REKEY_AFTER_NS: u64 = ns(REKEY_AFTER_TIME);
pub const REJECT_AFTER_NS: u64 = ns(REJECT_AFTER_TIME);
pub const REKEY_ATTEMPT_NS: u64 = ns(REKEY_ATTEMPT_TIME);
pub const REKEY_TIMEOUT_NS: u64 = ns(REKEY_TIMEOUT);
pub const KEEPALIVE_NS: u64 = ns(KEEPALIVE_TIMEOUT);
/// Data sent without anything coming back for so long: the peer has lost its keys, or cannot be reached (§6.5).
pub const SILENCE_NS: u64 = KEEPALIVE_NS + REKEY_TIMEOUT_NS;
/// An initiator that only receives makes a new session at this age: time enough to try before it ends (§6.2).
pub const LAST_MINUTE_NS: u64 = REJECT_AFTER_NS - KEEPALIVE_NS - REKEY_TIMEOUT_NS;
/// All keys are forgotten this long after the last handshake (§6.3).
pub const FORGET_NS: u64 = 3 * REJECT_AFTER_NS;
/// At most so much is added to [`REKEY_TIMEOUT_NS`], at random, so that two peers do not stay in step (§6.1).
pub const JITTER_NS: u64 = 333_000_000;
/// How often a session that is old enough for a new one is looked at: the next packet sent starts the handshake.
pub const AGED_LOOK_NS: u64 = 1_000_000_000;
/// How often a session that waits for its first packet is looked at, where nobody tells ([`Device::confirmed`](super::device::Device::confirmed)).
pub const UNCONFIRMED_LOOK_NS: u64 = 250_000_000;
/// Between an initiation and one that an operator asks for. Peers refuse what comes 20 ms after another.
pub const FORCED_NS: u64 = 100_000_000;

/// The times of a peer that a worker or this side wrote down last; 0: none.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub sent: u64,
    pub received: u64,
    pub unanswered_since: u64,
    pub unacked_since: u64,
}

impl Times {
    pub fn of(activity: &Activity) -> Self {
        Self {
            sent: activity.sent.load(Relaxed),
            received: activity.received.load(Relaxed),
            unanswered_since: activity.unanswered_since.load(Relaxed),
            unacked_since: activity.unacked_since.load(Relaxed),
        }
    }
}

/// Peers by deadline. Each has at most one.
#[derive(Debug, Default)]
pub struct Schedule {
    by_time: BTreeSet<(u64, u32)>,
}

impl Schedule {
    /// Moves the deadline of `slot` from `before` to `after`; `u64::MAX` is none.
    pub fn change(&mut self, slot: u32, before: u64, after: u64) {
        if before == after {
            return;
        }
        if before != u64::MAX {
            self.by_time.remove(&(before, slot));
        }
        if after != u64::MAX {
            self.by_time.insert((after, slot));
        }
    }

    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(time, _)| *time)
    }

    /// The peer that has been due longest.
    pub fn due(&self, now: u64) -> Option<u32> {
        self.by_time.first().filter(|(time, _)| *time <= now).map(|(_, slot)| *slot)
    }

    pub fn clear(&mut self) {
        self.by_time.clear();
    }
}
