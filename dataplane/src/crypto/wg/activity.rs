//! What workers tell the timers of a peer (the paper §6): when something was last sent and received, and what waits for an
//! answer. Written once per run of packets, never per packet.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One per peer, shared by its sessions. Times are monotonic nanoseconds, 0 = none. Relaxed throughout: each number stands for
/// itself, and a timer that reads it a moment early reads it again.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Activity {
    /// Last authenticated packet of any kind sent.
    pub sent: AtomicU64,
    /// Last authenticated packet of any kind received.
    pub received: AtomicU64,
    /// First data sent since anything was received: no answer within 15 s, and the session is taken for dead.
    pub unanswered_since: AtomicU64,
    /// First data received since anything was sent: nothing to send within 10 s, and a keepalive goes out.
    pub unacked_since: AtomicU64,
    /// Bytes of WireGuard messages, as `wg show` counts them: headers and tags included, UDP and IP not.
    pub tx_bytes: AtomicU64,
    pub rx_bytes: AtomicU64,
}

impl Activity {
    /// Messages of `bytes` in all went out at `now`; with `data`, packets were among them.
    pub fn sent(&self, now: u64, bytes: u64, data: bool) {
        later(&self.sent, now);
        self.tx_bytes.fetch_add(bytes, Relaxed);
        clear(&self.unacked_since);
        if data {
            begin(&self.unanswered_since, now);
        }
    }

    /// Authenticated messages of `bytes` in all came in at `now`; with `data`, packets were among them.
    pub fn received(&self, now: u64, bytes: u64, data: bool) {
        later(&self.received, now);
        self.rx_bytes.fetch_add(bytes, Relaxed);
        clear(&self.unanswered_since);
        if data {
            begin(&self.unacked_since, now);
        }
    }
}

/// Not one step, which would cost as much as all the rest: two workers that write at once may leave the earlier of their times,
/// a batch's time from the later.
#[inline]
fn later(time: &AtomicU64, now: u64) {
    if time.load(Relaxed) < now {
        time.store(now, Relaxed);
    }
}

/// Most runs find it clear already; then the cache line stays shared.
fn clear(since: &AtomicU64) {
    if since.load(Relaxed) != 0 {
        since.store(0, Relaxed);
    }
}

fn begin(since: &AtomicU64, now: u64) {
    if since.load(Relaxed) == 0 {
        let _ = since.compare_exchange(0, now.max(1), Relaxed, Relaxed);
    }
}

/// What one run of packets adds up to.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) packets: u32,
    pub(super) bytes: u64,
    pub(super) data: bool,
}

impl Run {
    /// A message of `message` bytes with a text of `text` in it.
    #[inline]
    pub(super) fn add(&mut self, message: usize, text: usize) {
        self.packets += 1;
        self.bytes += message as u64;
        self.data |= text > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_an_answer_is_known_by_its_first_packet() {
        let activity = Activity::default();
        let read = |a: &AtomicU64| a.load(Relaxed);
        activity.sent(10, 32, false);
        assert_eq!((read(&activity.sent), read(&activity.unanswered_since)), (10, 0), "a keepalive wants no answer");
        activity.sent(20, 100, true);
        activity.sent(30, 100, true);
        assert_eq!((read(&activity.unanswered_since), read(&activity.tx_bytes)), (20, 232));
        activity.received(40, 32, false);
        assert_eq!((read(&activity.unanswered_since), read(&activity.unacked_since)), (0, 0));
        activity.received(50, 64, true);
        activity.received(60, 64, true);
        assert_eq!((read(&activity.unacked_since), read(&activity.received), read(&activity.rx_bytes)), (50, 60, 160));
        activity.sent(70, 32, false);
        assert_eq!(read(&activity.unacked_since), 0);
        activity.sent(65, 32, false);
        assert_eq!(read(&activity.sent), 70, "a worker that is late does not set it back");
    }
}
