//! The pages behind [`SecretBox`](super::SecretBox): slots of equal size per class, cut from a few mappings.
//!
//! A mapping per key would cost 4 KiB and a kernel object for each; ten thousand tunnels have twice as many. So slots are
//! multiples of 64 bytes, each size its own class, and a class grows by a mapping of 64 KiB at a time, and of 2 MiB once it has
//! as much: a large page then, where the kernel has any. Mappings stay for the life of the process; slots are used again. The list of free slots is ordinary memory and holds addresses only.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use zeroize::Zeroize;

/// A cache line: no two keys share one.
const SLOT: usize = 64;
/// Bytes a class grows by, or one slot if that is larger.
const CHUNK: usize = 64 * 1024;
/// Bytes that a class of thousands of keys grows by: with pages of 4 KiB a packet would wait for the way to its key.
const LARGE: usize = 2 * 1024 * 1024;
/// Slots of a class in small mappings before it gets large ones.
const MANY: usize = 1024;
const PAGE: usize = 4096;

/// What the arena holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in slots that are in use.
    pub used: usize,
    /// Bytes mapped.
    pub mapped: usize,
    /// Of those, bytes that could not be locked into memory and may reach the swap.
    pub unlocked: usize,
}

struct Arena {
    /// By slot size.
    classes: BTreeMap<usize, Class>,
    usage: Usage,
}

#[derive(Default)]
struct Class {
    free: Vec<NonNull<u8>>,
    /// How many there are, free or not.
    slots: usize,
}

// SAFETY: the addresses are of memory that belongs to the arena, not to a thread.
unsafe impl Send for Arena {}

static ARENA: Mutex<Arena> =
    Mutex::new(Arena { classes: BTreeMap::new(), usage: Usage { used: 0, mapped: 0, unlocked: 0 } });

fn arena() -> MutexGuard<'static, Arena> {
    // Nothing here is left half done by a panic.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of it there is, and how much could not be locked.
pub fn usage() -> Usage {
    arena().usage
}

fn slot_size(size: usize, align: usize) -> usize {
    assert!(align <= SLOT, "secrets are aligned to a cache line at most");
    size.next_multiple_of(SLOT).max(SLOT)
}

/// A zeroed slot for `size` bytes. Ends the process where there is no memory, as `Box` does.
pub(super) fn take(size: usize, align: usize) -> NonNull<u8> {
    let size = slot_size(size, align);
    let mut arena = arena();
    let arena = &mut *arena;
    arena.usage.used += size;
    let class = arena.classes.entry(size).or_default();
    if let Some(slot) = class.free.pop() {
        return slot;
    }
    let least = if class.slots < MANY { CHUNK } else { LARGE };
    let bytes = least.max(size.next_multiple_of(PAGE));
    let (first, locked) = map(bytes);
    class.slots += bytes / size;
    arena.usage.mapped += bytes;
    arena.usage.unlocked += if locked { 0 } else { bytes };
    // Lowest addresses are used first.
    for n in (0..bytes / size).rev() {
        // SAFETY: within the mapping of `bytes`.
        class.free.push(unsafe { first.add(n * size) });
    }
    class.free.pop().expect("a chunk has at least one slot")
}

/// Zeroes a slot and takes it back.
///
/// # Safety
/// `slot` came from [`take`] with the same arguments and is used no more.
pub(super) unsafe fn give_back(slot: NonNull<u8>, size: usize, align: usize) {
    let size = slot_size(size, align);
    // SAFETY: the slot has `size` bytes, all of them once written by the kernel or by us.
    unsafe { std::slice::from_raw_parts_mut(slot.as_ptr(), size) }.zeroize();
    let mut arena = arena();
    arena.usage.used -= size;
    arena.classes.entry(size).or_default().free.push(slot);
}

/// Maps `bytes` between two guard pages or more; whether they are locked comes with it.
fn map(bytes: usize) -> (NonNull<u8>, bool) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // A large page begins at a multiple of its size; what is in front of that and behind guards.
    let align = if bytes == LARGE { LARGE } else { PAGE };
    let whole = bytes + PAGE + align;
    // SAFETY: a new anonymous mapping where the kernel likes; it aliases nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        no_memory(bytes);
    }
    let start = (base as usize + PAGE).next_multiple_of(align) - base as usize;
    // SAFETY: `start` is at most `align` into the mapping, `bytes` and one more page are behind it.
    let first = unsafe { base.cast::<u8>().add(start) };
    // SAFETY: these are our new pages, which nobody uses yet.
    let locked = unsafe {
        if libc::mprotect(first.cast(), bytes, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            no_memory(bytes);
        }
        if bytes == LARGE {
            // Only a wish.
            libc::madvise(first.cast(), bytes, libc::MADV_HUGEPAGE);
        }
        // Both are of kernels long before AF_XDP; a sandbox may refuse them all the same, so that is said.
        let hidden = libc::madvise(first.cast(), bytes, libc::MADV_DONTDUMP) == 0
            && libc::madvise(first.cast(), bytes, libc::MADV_WIPEONFORK) == 0;
        if !hidden {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| tracing::warn!("cannot keep keys out of core dumps and child processes (madvise)"));
        }
        libc::mlock(first.cast(), bytes) == 0
    };
    if !locked {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing::warn!("cannot lock keys into memory (RLIMIT_MEMLOCK or CAP_IPC_LOCK): they may be swapped out")
        });
    }
    (NonNull::new(first).expect("a mapping is not at address 0"), locked)
}

fn no_memory(bytes: usize) -> ! {
    std::alloc::handle_alloc_error(
        std::alloc::Layout::from_size_align(bytes, PAGE).unwrap_or(std::alloc::Layout::new::<[u8; PAGE]>()),
    )
}
