//! Atomic instructions on map values. The target's `core` has no atomics that change memory.

use core::arch::asm;

/// Adds, and forgets what was there.
#[inline(always)]
pub fn add(word: &mut u64, value: u64) {
    // SAFETY: one instruction on memory that the reference owns.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) value, options(nostack)) };
}

/// Adds; gives what was there. Kernel 5.12.
#[inline(always)]
pub fn fetch_add(word: &mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: one instruction on memory that the reference owns.
    unsafe { asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) word, inout(reg) value, options(nostack)) };
    value
}

/// Stores `new` where `old` still stands; whether it did. Kernel 5.12.
#[inline(always)]
pub fn exchange(word: &mut u64, old: u64, new: u64) -> bool {
    let mut there = old;
    // SAFETY: one instruction on memory that the reference owns.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) word, in(reg) new, inout("r0") there, options(nostack));
    };
    there == old
}
