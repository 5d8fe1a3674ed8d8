//! The anti-replay window (RFC 4303 §3.4.3) as a ring of bits that never shifts (RFC 6479), shared by all workers
//! without a lock, and the inference of the high half of an extended sequence number (RFC 4303 appendix A).

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Smallest and largest window, in packets.
pub const MIN_WINDOW: u32 = 64;
pub const MAX_WINDOW: u32 = 32_768;

/// Numbers per slot: the low half of a slot is their bits, the high half says which block of numbers they belong to.
const BLOCK: u64 = 32;
/// A window is made in steps of this many.
const STEP: u32 = if cfg!(loom) { BLOCK as u32 } else { MIN_WINDOW };

/// Why a sequence number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// Seen before, or 0, which no sender uses.
    Seen,
    /// Left of the window.
    TooOld,
}

/// Which of the last `size` sequence numbers have been seen. Empty: everything from 1 on is new.
///
/// Why no number is accepted twice: a number's bit is set by compare-and-swap in the slot of its block, and a slot is
/// only ever given to a block that is newer than the one in it. Whoever finds another block in his slot looks at `top`
/// *after* he read the slot. Every writer has made `top` at least his own number before he wrote the slot, so if the
/// own number is still within the window, what stands in the slot is not newer (a newer block of the same slot is more
/// than a window ahead), hence older, and may go. If it is not, the packet is too old.
///
/// A slot holds 32 bits of its block's number of passes round the ring. Two blocks that agree in them are at least 2^38
/// numbers apart; a sender that jumps by exactly such a distance has up to 32 fresh numbers refused, none accepted
/// twice.
///
/// On a cache line of its own: `top` is written with nearly every packet.
#[derive(Debug)]
#[repr(align(64))]
pub struct ReplayWindow {
    /// Highest number accepted; 0 before the first.
    top: AtomicU64,
    size: u64,
    /// `slots.len()` as a power of two.
    log: u32,
    /// A power of two of slots, at least one more than the window has blocks, so that the block being written to never
    /// overlaps the window's tail.
    slots: Box<[AtomicU64]>,
}

impl ReplayWindow {
    /// `size` is brought into 64..=32768 and up to a multiple of 64.
    pub fn new(size: u32) -> Self {
        Self::with_blocks(size.clamp(MIN_WINDOW, MAX_WINDOW).next_multiple_of(STEP))
    }

    /// `size` is a multiple of [`BLOCK`].
    fn with_blocks(size: u32) -> Self {
        let slots = (u64::from(size) / BLOCK + 1).next_power_of_two();
        Self {
            top: AtomicU64::new(0),
            size: size.into(),
            log: slots.trailing_zeros(),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Packets.
    pub fn size(&self) -> u32 {
        self.size as u32
    }

    /// Highest number accepted so far; 0 where there was none.
    #[inline]
    pub fn top(&self) -> u64 {
        self.top.load(Ordering::Acquire)
    }

    /// Bytes it takes beside itself.
    pub fn heap(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Whether `seq` may still come. Changes nothing: a forged packet must not move the window.
    ///
    /// # Errors
    /// See [`ReplayError`].
    #[inline]
    pub fn check(&self, seq: u64) -> Result<(), ReplayError> {
        let top = self.top();
        if seq > top {
            return Ok(());
        }
        if seq == 0 {
            return Err(ReplayError::Seen);
        }
        if top - seq >= self.size {
            return Err(ReplayError::TooOld);
        }
        let (slot, tag, bit) = self.place(seq);
        let held = slot.load(Ordering::Relaxed);
        if held >> 32 == tag && held & bit != 0 { Err(ReplayError::Seen) } else { Ok(()) }
    }

    /// Marks `seq` as seen, once its packet has authenticated. This is the verdict: of several workers that hold the
    /// same packet, one gets `Ok`.
    ///
    /// # Errors
    /// See [`ReplayError`]; nothing has changed then.
    #[inline]
    pub fn accept(&self, seq: u64) -> Result<(), ReplayError> {
        if seq == 0 {
            return Err(ReplayError::Seen);
        }
        let mut top = self.top.load(Ordering::Relaxed);
        while seq > top {
            match self.top.compare_exchange_weak(top, seq, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => top = now,
            }
        }
        if self.left_of_window(seq, top) {
            return Err(ReplayError::TooOld);
        }
        let (slot, tag, bit) = self.place(seq);
        let mut held = slot.load(Ordering::Acquire);
        // Each failed exchange is another's success in this slot, of which there are few: its 32 bits, and newer blocks.
        loop {
            let new = if held >> 32 == tag {
                if held & bit != 0 {
                    return Err(ReplayError::Seen);
                }
                held | bit
            } else {
                if self.left_of_window(seq, self.top.load(Ordering::Acquire)) {
                    return Err(ReplayError::TooOld);
                }
                tag << 32 | bit
            };
            match slot.compare_exchange_weak(held, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => held = now,
            }
        }
    }

    /// Counts everything up to `top` as seen. For windows that nobody else uses yet.
    pub fn close_at(&mut self, top: u64) {
        self.restore(top, |_| true);
    }

    /// Takes over another window's state: its highest number, and of each number of this window below that whether it
    /// has been seen. For windows that nobody else uses yet.
    pub fn restore(&mut self, top: u64, seen: impl Fn(u64) -> bool) {
        for slot in &self.slots {
            slot.store(0, Ordering::Relaxed);
        }
        self.top.store(top, Ordering::Relaxed);
        for seq in top.saturating_sub(self.size - 1).max(1)..=top {
            if seq == top || seen(seq) {
                // It is in the window and not seen yet, so this cannot fail.
                let _ = self.accept(seq);
            }
        }
    }

    #[inline]
    fn left_of_window(&self, seq: u64, top: u64) -> bool {
        top >= seq && top - seq >= self.size
    }

    /// A number's slot, its block's mark there, and its bit.
    ///
    /// Block 0 of the first pass has mark 0, as an empty slot has, with no bit set: the same thing.
    #[inline]
    fn place(&self, seq: u64) -> (&AtomicU64, u64, u64) {
        let block = seq / BLOCK;
        let slot = block as usize & (self.slots.len() - 1);
        (&self.slots[slot], block >> self.log & 0xffff_ffff, 1 << (seq % BLOCK))
    }

    /// Asks for the cache line that the next number's bit is in.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        // SAFETY: a prefetch of memory that `self` owns; it reads nothing.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let (slot, _, _) = self.place(self.top.load(Ordering::Relaxed));
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast());
        }
    }

    /// The 64-bit number that a packet with the low half `low` most likely has: the one nearest to the window
    /// (RFC 4303 §A2.2). Whether it was right shows when the packet authenticates.
    ///
    /// # Errors
    /// [`ReplayError::TooOld`] where only a number before the first fits.
    #[inline]
    pub fn infer(&self, low: u32) -> Result<u64, ReplayError> {
        let top = self.top();
        let (top_high, top_low) = (top >> 32, top as u32);
        let bottom = top_low.wrapping_sub(self.size as u32 - 1);
        let high = if u64::from(top_low) >= self.size - 1 {
            // Case A: the window lies within one run of the low half.
            if low >= bottom { top_high } else { top_high.wrapping_add(1) }
        } else if low >= bottom {
            // Case B: it straddles two, and this one is in the older. Before the first there is none.
            top_high.checked_sub(1).ok_or(ReplayError::TooOld)?
        } else {
            top_high
        };
        Ok((high & 0xffff_ffff) << 32 | u64::from(low))
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::model::Builder;
    use loom::sync::Arc;
    use loom::thread;

    /// Accepts each number in a thread of its own, in every order of steps with up to `switches` forced changes of
    /// thread, and hands what became of them to `judge`. The window is of 32 numbers, two slots: 5, 69 and 133 meet in
    /// one of them.
    fn race(numbers: &'static [u64], switches: usize, judge: impl Fn(&[bool]) + Send + Sync + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(switches);
        builder.check(move || {
            let window = Arc::new(ReplayWindow::with_blocks(32));
            let others: Vec<_> = numbers[1..]
                .iter()
                .map(|&n| {
                    let window = window.clone();
                    thread::spawn(move || window.accept(n).is_ok())
                })
                .collect();
            let mut all = vec![window.accept(numbers[0]).is_ok()];
            all.extend(others.into_iter().map(|other| other.join().expect("a model thread")));
            judge(&all);
            // Whatever happened, nothing of it may come again.
            for (n, got) in numbers.iter().zip(all) {
                assert!(!got || window.accept(*n).is_err(), "{n} came twice");
            }
        });
    }

    #[test]
    fn one_packet_at_two_workers_is_accepted_once() {
        race(&[5, 5], 10, |got| assert!(got[0] != got[1]));
    }

    #[test]
    fn two_numbers_of_one_slot_are_both_kept() {
        race(&[5, 6], 10, |got| assert_eq!(got, [true, true]));
    }

    #[test]
    fn an_old_block_does_not_come_back_over_a_newer() {
        race(&[5, 69], 10, |got| assert!(got[1]));
    }

    #[test]
    fn one_packet_at_two_workers_while_its_slot_is_given_away() {
        race(&[5, 5, 69], 2, |got| assert!(got[2] && !(got[0] && got[1])));
    }

    #[test]
    fn three_blocks_in_one_slot() {
        race(&[5, 69, 133], 2, |got| assert!(got[2]));
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// All numbers ever accepted: what the window is an approximation of.
    struct Model {
        seen: HashSet<u64>,
        top: u64,
        size: u64,
    }

    impl Model {
        fn check(&self, seq: u64) -> Result<(), ReplayError> {
            if seq == 0 {
                return Err(ReplayError::Seen);
            }
            if seq <= self.top && self.top - seq >= self.size {
                return Err(ReplayError::TooOld);
            }
            if self.seen.contains(&seq) { Err(ReplayError::Seen) } else { Ok(()) }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Steps of all sizes, forwards and back, around zero, around the wrap of the low half, and at the very end.
        #[test]
        fn agrees_with_a_set(
            size in prop_oneof![1_u32..5000, 8000_u32..9000],
            start in prop_oneof![Just(0_u64), Just((1 << 32) - 300), Just(u64::MAX - 5000)],
            steps in proptest::collection::vec(
                prop_oneof![8 => -70_i64..70, 2 => -5000_i64..5000, 1 => -20_000_i64..20_000], 1..400),
        ) {
            let window = ReplayWindow::new(size);
            let mut model = Model { seen: HashSet::new(), top: 0, size: window.size().into() };
            let mut seq = start;
            for step in steps {
                seq = seq.saturating_add_signed(step);
                let verdict = model.check(seq);
                prop_assert_eq!(window.check(seq), verdict, "seq {} top {}", seq, model.top);
                prop_assert_eq!(window.accept(seq), verdict);
                if verdict.is_ok() {
                    model.seen.insert(seq);
                    model.top = model.top.max(seq);
                }
                prop_assert_eq!(window.top(), model.top);
            }
        }

        /// Whatever is less than half the low space away from the window is inferred right.
        #[test]
        fn infers_the_high_half(
            size in 64_u32..4096,
            top in prop_oneof![1_u64..10_000, (1_u64 << 32) - 5000..(1 << 32) + 5000, (7_u64 << 32) - 5000..(7 << 32) + 5000],
            ahead in -4096_i64..(1 << 31),
        ) {
            let window = ReplayWindow::new(size);
            window.accept(top).unwrap();
            let seq = top.saturating_add_signed(ahead);
            prop_assume!(seq > 0 && (ahead >= 0 || ahead.unsigned_abs() < u64::from(window.size())));
            prop_assert_eq!(window.infer(seq as u32), Ok(seq));
        }
    }

    #[test]
    fn before_the_first_packet_there_is_no_older_run() {
        let window = ReplayWindow::new(64);
        assert_eq!(window.infer(1), Ok(1));
        window.accept(1).unwrap();
        assert_eq!(window.infer(u32::MAX), Err(ReplayError::TooOld));
    }

    #[test]
    fn a_forged_check_moves_nothing() {
        let window = ReplayWindow::new(64);
        window.accept(10).unwrap();
        window.check(1 << 40).unwrap();
        assert_eq!(window.top(), 10);
        window.check(9).unwrap();
        assert_eq!(window.check(10), Err(ReplayError::Seen));
    }

    #[test]
    fn closing_refuses_the_past_and_only_that() {
        for top in [1, 62, 63, 64, 1000, u64::MAX - 1] {
            let mut window = ReplayWindow::new(128);
            window.close_at(top);
            for back in 0..200_u64.min(top) {
                assert!(window.check(top - back).is_err());
            }
            window.check(top + 1).unwrap();
            window.accept(top + 1).unwrap();
            assert_eq!(window.check(top + 1), Err(ReplayError::Seen));
        }
    }

    #[test]
    fn sizes_are_brought_into_range() {
        for (asked, got) in [(0, 64), (64, 64), (65, 128), (1000, 1024), (4096, 4096), (8192, 8192), (u32::MAX, 32_768)]
        {
            assert_eq!(ReplayWindow::new(asked).size(), got);
        }
    }

    /// Every number at three workers, in orders that stay within the window: all are accepted, each once.
    #[test]
    fn workers_accept_every_number_exactly_once() {
        const NUMBERS: u64 = 40_000;
        for (size, spread) in [(64, 20), (1024, 400)] {
            let window = ReplayWindow::new(size);
            // The workers keep within `spread` of one another, so that nothing falls out of the window.
            let progress = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
            let accepted = std::thread::scope(|s| {
                let workers: Vec<_> = (0..3_u64)
                    .map(|worker| {
                        let (window, progress) = (&window, &progress);
                        s.spawn(move || {
                            let mut mine = Vec::new();
                            for at in 2..NUMBERS {
                                while progress.iter().any(|p| p.load(Ordering::Relaxed) + spread < at) {
                                    std::thread::yield_now();
                                }
                                // Pairs of neighbours, swapped by one of the three.
                                let seq = if at / 2 % 3 == worker { at ^ 1 } else { at };
                                if window.accept(seq).is_ok() {
                                    mine.push(seq);
                                }
                                progress[worker as usize].store(at, Ordering::Relaxed);
                            }
                            mine
                        })
                    })
                    .collect();
                workers.into_iter().flat_map(|w| w.join().unwrap()).collect::<Vec<u64>>()
            });
            let distinct: HashSet<u64> = accepted.iter().copied().collect();
            assert_eq!(accepted.len(), distinct.len(), "a number came twice");
            assert!((2..NUMBERS).all(|n| distinct.contains(&n)), "a number was lost");
        }
    }

    /// The same without keeping together, and with jumps far over the ring: none twice, whatever is lost.
    #[test]
    fn a_race_over_the_ring_accepts_none_twice() {
        let window = ReplayWindow::new(64);
        let accepted = std::thread::scope(|s| {
            let workers: Vec<_> = (0..3_u64)
                .map(|worker| {
                    let window = &window;
                    s.spawn(move || {
                        let numbers = (0..60_000_u64).map(|i| i + (i % 7) * 40 + (i / 500) * 10_000 + worker % 2);
                        numbers.filter(|n| window.accept(*n).is_ok()).collect::<Vec<u64>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect::<Vec<u64>>()
        });
        let distinct: HashSet<&u64> = accepted.iter().collect();
        assert_eq!(accepted.len(), distinct.len());
    }

    #[test]
    fn a_restored_window_knows_what_the_other_knew() {
        let old = ReplayWindow::new(128);
        let numbers = [1_u64 << 40, (1 << 40) + 3, (1 << 40) + 64, (1 << 40) + 100];
        numbers.iter().for_each(|n| old.accept(*n).unwrap());
        let mut new = ReplayWindow::new(4096);
        new.restore(old.top(), |seq| old.check(seq).is_err());
        for seq in (1 << 40) - 5000..(1 << 40) + 200 {
            assert_eq!(new.check(seq).is_err(), old.check(seq).is_err(), "{seq}");
        }
        let mut unused = ReplayWindow::new(64);
        unused.restore(0, |_| true);
        unused.check(1).unwrap();
    }
}
