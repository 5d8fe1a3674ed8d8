//! One frame: an owned token for one chunk of UMEM and the packet bytes in it.

use std::ptr::NonNull;

/// Free bytes that every received packet has in front of it, for headers that services put on. Multiple of 64.
pub const HEADROOM: usize = 256;
/// Free bytes that a packet is promised behind it, for ESP's padding, trailer and ICV. A packet that arrived longer has
/// less, and the service that needs more drops it under a name.
pub const TAILROOM: usize = 64;

/// No further part (see [`Frame::next`]).
pub const NO_NEXT: u32 = u32::MAX;

/// An owned chunk of UMEM. Exactly one token exists per chunk outside the kernel; whoever takes it must hand it on (to a
/// ring, to the pool, into a batch). There is no `Clone`, and in debug builds dropping one panics: a lost frame is a bug.
///
/// A packet larger than a chunk (multi-buffer) is a chain: this token is its first part, `next` the chunk index of the
/// second, and the pool's part table holds the rest.
pub struct Frame {
    /// First byte of the chunk.
    chunk: NonNull<u8>,
    /// Which chunk of the UMEM.
    index: u32,
    /// Length of the chunk in bytes.
    size: u32,
    /// Where the packet starts in the chunk.
    off: u32,
    /// Bytes of the packet in this chunk.
    len: u32,
    /// Chunk index of the next part, or [`NO_NEXT`].
    next: u32,
    /// Bytes in the further parts.
    more: u32,
}

// SAFETY: the token is the only way to its chunk, so it may move to another thread like a `Box<[u8]>` does.
unsafe impl Send for Frame {}

impl Frame {
    /// # Safety
    /// `chunk` must point to `size` bytes that stay mapped for as long as the token lives and that no other token and no
    /// ring refers to; `off + len <= size`.
    pub unsafe fn from_raw(chunk: NonNull<u8>, index: u32, size: u32, off: u32, len: u32) -> Self {
        debug_assert!(off + len <= size);
        Self { chunk, index, size, off, len, next: NO_NEXT, more: 0 }
    }

    /// Ends the token without the leak check: for code that has stored the index elsewhere (a ring, the free list).
    pub fn into_index(self) -> u32 {
        let index = self.index;
        std::mem::forget(self);
        index
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    /// The chunk's first byte: lets a pool tell its own frames from another's.
    pub(crate) fn chunk_ptr(&self) -> *mut u8 {
        self.chunk.as_ptr()
    }

    /// Offset of the first packet byte in its chunk.
    pub fn offset(&self) -> usize {
        self.off as usize
    }

    /// Bytes of the packet in this chunk (see [`Self::total_len`] for a chain).
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the whole packet, all parts.
    pub fn total_len(&self) -> usize {
        (self.len + self.more) as usize
    }

    pub fn is_chain(&self) -> bool {
        self.next != NO_NEXT
    }

    pub fn next(&self) -> u32 {
        self.next
    }

    /// Sets the continuation of a chain. `more`: bytes in all further parts.
    pub fn set_chain(&mut self, next: u32, more: u32) {
        self.next = next;
        self.more = more;
    }

    pub fn headroom(&self) -> usize {
        self.off as usize
    }

    pub fn tailroom(&self) -> usize {
        (self.size - self.off - self.len) as usize
    }

    /// Asks for the packet's first cache line.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch within the chunk; it reads nothing.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.chunk.as_ptr().add(self.off as usize).cast());
        }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `from_raw`'s caller gave us the chunk alone, and off + len stays inside it.
        unsafe { std::slice::from_raw_parts(self.chunk.as_ptr().add(self.off as usize), self.len as usize) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.off as usize), self.len as usize) }
    }

    /// Chunk bytes from its start to its end, with the packet's place in it: for services that work beyond the packet's
    /// present ends.
    pub fn chunk_mut(&mut self) -> (&mut [u8], std::ops::Range<usize>) {
        let place = self.off as usize..(self.off + self.len) as usize;
        // SAFETY: as in `bytes_mut`.
        (unsafe { std::slice::from_raw_parts_mut(self.chunk.as_ptr(), self.size as usize) }, place)
    }

    /// Makes the packet `n` bytes longer at the front. `false` (and no change) where the headroom does not suffice.
    #[must_use]
    pub fn grow_front(&mut self, n: usize) -> bool {
        if n > self.headroom() {
            return false;
        }
        self.off -= n as u32;
        self.len += n as u32;
        true
    }

    /// Takes `n` bytes off the front. `false` (and no change) where there are not so many in this part.
    #[must_use]
    pub fn trim_front(&mut self, n: usize) -> bool {
        if n > self.len() {
            return false;
        }
        self.off += n as u32;
        self.len -= n as u32;
        true
    }

    /// Makes the packet `n` bytes longer at the end; the new bytes are whatever the chunk held. `false` where the
    /// tailroom does not suffice.
    #[must_use]
    pub fn grow_back(&mut self, n: usize) -> bool {
        if n > self.tailroom() {
            return false;
        }
        self.len += n as u32;
        true
    }

    /// Cuts the packet to `len` bytes. `false` where it is shorter already.
    #[must_use]
    pub fn truncate(&mut self, len: usize) -> bool {
        if len > self.len() {
            return false;
        }
        self.len = len as u32;
        true
    }

    /// Puts the packet at another place in its chunk. `false` where that does not fit.
    #[must_use]
    pub fn set_place(&mut self, place: std::ops::Range<usize>) -> bool {
        if place.start > place.end || place.end > self.size as usize {
            return false;
        }
        self.off = place.start as u32;
        self.len = (place.end - place.start) as u32;
        true
    }
}

impl std::fmt::Debug for Frame {
    /// Never the bytes: they may be somebody's payload.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} @{}+{}{})", self.index, self.off, self.len, if self.is_chain() { "…" } else { "" })
    }
}

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("frame {} was lost: it must go to a ring or back to its pool", self.index);
        }
    }
}
