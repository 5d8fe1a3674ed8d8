//! Large arrays: on large pages where the kernel has them, so that a look-up among millions of flows does not also miss the
//! TLB.

/// Arrays from this size on ask for large pages.
const LARGE: usize = 4 << 20;

/// `n` copies of `value`, all written, so that no page is missing later.
pub(super) fn filled<T: Clone>(n: usize, value: &T) -> Box<[T]> {
    let mut all = Vec::with_capacity(n);
    let bytes = n * std::mem::size_of::<T>();
    if bytes >= LARGE {
        advise(all.as_mut_ptr() as usize, bytes);
    }
    all.resize(n, value.clone());
    all.into_boxed_slice()
}

/// Before the pages are first touched. What comes of it is the kernel's decision; nothing depends on it but speed.
fn advise(start: usize, bytes: usize) {
    const PAGE: usize = 4096;
    let from = start.next_multiple_of(PAGE);
    let end = (start + bytes) / PAGE * PAGE;
    if end > from {
        // SAFETY: the range is whole pages of one allocation, and MADV_HUGEPAGE changes none of its contents.
        unsafe { libc::madvise(from as *mut libc::c_void, end - from, libc::MADV_HUGEPAGE) };
    }
}

/// Asks for a value's first cache line.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    prefetch_at(value, 0);
}

/// Asks for the cache line of the byte at `offset` within the value.
#[inline(always)]
pub(super) fn prefetch_at<T>(value: &T, offset: usize) {
    debug_assert!(offset < std::mem::size_of::<T>());
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, and SSE is part of every x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *value).cast::<i8>().wrapping_add(offset)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, offset);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_and_small_are_filled() {
        assert!(filled(5, &7u16).iter().all(|v| *v == 7));
        let large = filled(LARGE / 8 + 3, &9u64);
        assert_eq!(large.len(), LARGE / 8 + 3);
        assert!(large.iter().all(|v| *v == 9));
    }
}
