#![allow(dead_code)] // stands in until crypto/replay.rs has it
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
const STEP: u32 = MIN_WINDOW;

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
