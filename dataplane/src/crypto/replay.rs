//! The anti-replay window (RFC 4303 §3.4.3) as a ring of bits that never shifts (RFC 6479), and the inference of the
//! high half of an extended sequence number (RFC 4303 appendix A).

/// Smallest and largest window, in packets.
pub const MIN_WINDOW: u32 = 64;
pub const MAX_WINDOW: u32 = 4096;

/// Why a sequence number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// Seen before, or 0, which no sender uses.
    Seen,
    /// Left of the window.
    TooOld,
}

/// Which of the last `size` sequence numbers have been seen. Empty: everything from 1 on is new.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// A ring of 64-bit blocks, a power of two of them and at least one more than the window, so that the block being
    /// written to never overlaps the window's tail.
    bits: Box<[u64]>,
    /// Highest number accepted; 0 before the first.
    top: u64,
    size: u64,
}

impl ReplayWindow {
    /// `size` is brought into 64..=4096 and up to a multiple of 64.
    pub fn new(size: u32) -> Self {
        let size = size.clamp(MIN_WINDOW, MAX_WINDOW).next_multiple_of(64);
        let blocks = (size as usize / 64 + 1).next_power_of_two();
        Self { bits: vec![0; blocks].into(), top: 0, size: size.into() }
    }

    /// Packets.
    pub fn size(&self) -> u32 {
        self.size as u32
    }

    /// Highest number accepted so far; 0 where there was none.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Whether `seq` may still come. Changes nothing: a forged packet must not move the window.
    ///
    /// # Errors
    /// See [`ReplayError`].
    #[inline]
    pub fn check(&self, seq: u64) -> Result<(), ReplayError> {
        if seq > self.top {
            return Ok(());
        }
        if seq == 0 {
            return Err(ReplayError::Seen);
        }
        if self.top - seq >= self.size {
            return Err(ReplayError::TooOld);
        }
        if self.bits[self.block(seq)] >> (seq % 64) & 1 != 0 {
            return Err(ReplayError::Seen);
        }
        Ok(())
    }

    /// Marks `seq` as seen; to be called once the packet has authenticated. What [`Self::check`] refuses is ignored.
    #[inline]
    pub fn accept(&mut self, seq: u64) {
        if self.check(seq).is_err() {
            return;
        }
        if seq > self.top {
            // Every block between the old top's and the new one's is for numbers not seen yet.
            let fresh = (seq / 64 - self.top / 64).min(self.bits.len() as u64);
            for i in 0..fresh {
                let block = self.block(seq - i * 64);
                self.bits[block] = 0;
            }
            self.top = seq;
        }
        let block = self.block(seq);
        self.bits[block] |= 1 << (seq % 64);
    }

    /// Counts everything up to `top` as seen.
    pub fn close_at(&mut self, top: u64) {
        self.bits.fill(u64::MAX);
        self.top = top;
        // The rest of the top's own block is still to come.
        if let Some(seen) = u64::MAX.checked_shr(63 - (top % 64) as u32) {
            let block = self.block(top);
            self.bits[block] = seen;
        }
    }

    #[inline]
    fn block(&self, seq: u64) -> usize {
        (seq / 64) as usize & (self.bits.len() - 1)
    }

    /// The 64-bit number that a packet with the low half `low` most likely has: the one nearest to the window
    /// (RFC 4303 §A2.2). Whether it was right shows when the packet authenticates.
    ///
    /// # Errors
    /// [`ReplayError::TooOld`] where only a number before the first fits.
    #[inline]
    pub fn infer(&self, low: u32) -> Result<u64, ReplayError> {
        let (top_high, top_low) = (self.top >> 32, self.top as u32);
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

#[cfg(test)]
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
            size in 1_u32..5000,
            start in prop_oneof![Just(0_u64), Just((1 << 32) - 300), Just(u64::MAX - 5000)],
            steps in proptest::collection::vec(
                prop_oneof![8 => -70_i64..70, 2 => -5000_i64..5000, 1 => -20_000_i64..20_000], 1..400),
        ) {
            let mut window = ReplayWindow::new(size);
            let mut model = Model { seen: HashSet::new(), top: 0, size: window.size().into() };
            let mut seq = start;
            for step in steps {
                seq = seq.saturating_add_signed(step);
                let verdict = model.check(seq);
                prop_assert_eq!(window.check(seq), verdict, "seq {} top {}", seq, model.top);
                window.accept(seq);
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
            let mut window = ReplayWindow::new(size);
            window.accept(top);
            let seq = top.saturating_add_signed(ahead);
            prop_assume!(seq > 0 && (ahead >= 0 || ahead.unsigned_abs() < u64::from(window.size())));
            prop_assert_eq!(window.infer(seq as u32), Ok(seq));
        }
    }

    #[test]
    fn before_the_first_packet_there_is_no_older_run() {
        let mut window = ReplayWindow::new(64);
        assert_eq!(window.infer(1), Ok(1));
        window.accept(1);
        assert_eq!(window.infer(u32::MAX), Err(ReplayError::TooOld));
    }

    #[test]
    fn a_forged_check_moves_nothing() {
        let mut window = ReplayWindow::new(64);
        window.accept(10);
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
            window.accept(top + 1);
            assert_eq!(window.check(top + 1), Err(ReplayError::Seen));
        }
    }

    #[test]
    fn sizes_are_brought_into_range() {
        for (asked, got) in [(0, 64), (64, 64), (65, 128), (1000, 1024), (4096, 4096), (u32::MAX, 4096)] {
            assert_eq!(ReplayWindow::new(asked).size(), got);
        }
    }
}
