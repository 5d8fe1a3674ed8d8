//! Idle timeouts by a coarse timer wheel that the packet path never touches.
//!
//! A packet only stores its time in the flow. Each live flow hangs in exactly one slot of the wheel; when the slot comes
//! up, the flow is looked at, and either has been idle for its timeout or is hung further on. The look comes at the
//! latest after the flow's own age (or [`FIRST_LOOK`]), because a timeout may have shrunk in the meantime (FIN, RST).

use std::time::Duration;

use super::tcp::L4State;

/// Time in hundredths of a second since the worker's start. Wraps after 497 days; spans up to half of that compare right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tick(pub u32);

impl Tick {
    pub const PER_SECOND: u32 = 100;

    pub fn from_duration(since_start: Duration) -> Self {
        Self((since_start.as_millis() / 10) as u32)
    }

    pub fn from_nanos(since_start: u64) -> Self {
        Self((since_start / 10_000_000) as u32)
    }

    /// Ticks from `earlier` to `self`; 0 where the clock went back.
    #[inline]
    pub fn since(self, earlier: Self) -> u32 {
        let d = self.0.wrapping_sub(earlier.0);
        if d > u32::MAX / 2 { 0 } else { d }
    }

    #[must_use]
    pub fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }
}

/// How long a flow may be idle, in ticks, by its L4 state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    by_state: [u32; L4State::COUNT],
}

impl Timeouts {
    /// `tcp_established` also holds for half-closed connections. Each is at least one tick and at most 120 days.
    pub fn new(
        tcp_opening: Duration,
        tcp_established: Duration,
        tcp_closing: Duration,
        udp: Duration,
        other: Duration,
    ) -> Self {
        let [opening, established, closing, udp, other] = [tcp_opening, tcp_established, tcp_closing, udp, other]
            .map(|d| (d.as_millis() / 10).clamp(1, 120 * 86_400 * u128::from(Tick::PER_SECOND)) as u32);
        use L4State as S;
        let of = |state| match state {
            S::OtherOneSided | S::Other => other,
            S::UdpOneSided | S::Udp => udp,
            S::TcpOpening | S::TcpAnswered | S::TcpFound => opening,
            S::TcpEstablished | S::TcpInitiatorDone | S::TcpResponderDone => established,
            S::TcpClosing | S::TcpTimeWait | S::TcpClosed => closing,
        };
        Self { by_state: std::array::from_fn(|n| of(S::of(n as u8))) }
    }

    /// The same for every state.
    pub fn all(d: Duration) -> Self {
        Self::new(d, d, d, d, d)
    }

    #[inline]
    pub fn of(&self, state: L4State) -> u32 {
        self.by_state[state as usize]
    }
}

impl Default for Timeouts {
    /// Opening 10 s, established 300 s, closing 5 s, UDP 60 s, other 30 s.
    fn default() -> Self {
        let s = Duration::from_secs;
        Self::new(s(10), s(300), s(5), s(60), s(30))
    }
}

/// Ticks after which a young flow is first looked at: 4 s.
pub const FIRST_LOOK: u32 = 4 * Tick::PER_SECOND;

const SLOTS: u32 = 256;
/// A slot is 16 ticks, the whole wheel 41 s.
const SHIFT: u32 = 4;

/// The wheel: 256 singly linked lists. The links are the flows' own.
pub(super) struct Wheel {
    heads: [Option<u32>; SLOTS as usize],
    /// The last slot time that was taken from the wheel.
    cursor: u32,
    /// What of the slot at `cursor` is still to be looked at.
    pending: Option<u32>,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Self { heads: [None; SLOTS as usize], cursor: now.0 >> SHIFT, pending: None }
    }

    /// Hangs an entry up so that it comes round at `at` or soon after, but within one turn of the wheel. Gives the entry that
    /// its link has to lead to.
    #[must_use]
    pub(super) fn hang(&mut self, entry: u32, at: Tick) -> Option<u32> {
        // +1: a slot is taken when its time is over, so that nothing comes early.
        let ahead = slot_distance((at.0 >> SHIFT).wrapping_add(1), self.cursor).clamp(1, SLOTS - 1);
        let slot = self.cursor.wrapping_add(ahead) % SLOTS;
        self.heads[slot as usize].replace(entry)
    }

    /// The next entry to look at, or `None` when all slots up to `now` are done. The entry is off the wheel then.
    /// `link_of` reads an entry's link.
    pub(super) fn next_due(&mut self, now: Tick, link_of: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        while self.pending.is_none() {
            let now_slot = now.0 >> SHIFT;
            let behind = slot_distance(now_slot, self.cursor);
            if behind == 0 {
                return None;
            }
            // After a long sleep each slot need be emptied only once.
            if behind > SLOTS {
                self.cursor = now_slot.wrapping_sub(SLOTS) & SLOT_MASK;
            }
            self.cursor = self.cursor.wrapping_add(1) & SLOT_MASK;
            self.pending = self.heads[(self.cursor % SLOTS) as usize].take();
        }
        let entry = self.pending?;
        self.pending = link_of(entry);
        Some(entry)
    }

    /// The entry that comes after the last one, where it is in the same slot.
    pub(super) fn next(&self) -> Option<u32> {
        self.pending
    }
}

/// Slot times have the upper bits of a tick: they wrap at 2^28.
const SLOT_MASK: u32 = u32::MAX >> SHIFT;

/// Slots from `from` on to `to`; 0 where `to` is not ahead.
fn slot_distance(to: u32, from: u32) -> u32 {
    let d = to.wrapping_sub(from) & SLOT_MASK;
    if d > SLOT_MASK / 2 { 0 } else { d }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the obvious model: nothing comes before its time, and nothing later than a slot after it (or after a
        /// turn of the wheel, where it was hung further out than that).
        #[test]
        fn comes_round_in_time(start: u32, entries in proptest::collection::vec(0u32..6000, 1..60),
                               steps in proptest::collection::vec(1u32..900, 1..40)) {
            let mut now = Tick(start);
            let mut wheel = Wheel::new(now);
            let mut links = vec![None; entries.len()];
            for (i, delay) in entries.iter().enumerate() {
                links[i] = wheel.hang(i as u32, now.plus(*delay));
            }
            let mut came = vec![None; entries.len()];
            for step in steps.iter().copied().chain(std::iter::repeat_n(100, 70)) {
                let before = now;
                now = now.plus(step);
                while let Some(e) = wheel.next_due(now, |e| links[e as usize]) {
                    prop_assert!(came[e as usize].replace((before, now)).is_none(), "twice");
                }
            }
            let turn = (SLOTS - 1) << SHIFT;
            for (delay, came) in entries.iter().zip(came) {
                let Some((before, at)) = came else { return Err(TestCaseError::fail("never came")) };
                let (before, at) = (before.since(Tick(start)), at.since(Tick(start)));
                if *delay < turn - 32 {
                    prop_assert!(at >= *delay, "{} came at {}", delay, at);
                }
                prop_assert!(before <= (*delay).min(turn) + (2 << SHIFT), "{} came only after {}", delay, before);
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_is_no_time() {
        assert_eq!(Tick(5).since(Tick(9)), 0);
        assert_eq!(Tick(3).since(Tick(u32::MAX)), 4);
        let mut wheel = Wheel::new(Tick(1000));
        assert_eq!(wheel.next_due(Tick(10), |_| None), None);
    }
}
