//! The memory that frames live in: one region of equal chunks, shared with the kernel by the sockets of one worker.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::error::IoError;
use super::frame::{HEADROOM, TAILROOM};

const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// What the region is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Mapped, 2 MiB pages.
    Huge,
    /// Mapped, the kernel's ordinary pages.
    Plain,
    /// From the allocator: for ports without a kernel behind them, tests, fuzzing, miri. Cannot be given to a socket.
    Heap,
}

/// One worker's UMEM. A [`super::pool::FramePool`] takes it over; chunks are only reached through that pool's tokens.
pub struct Umem {
    base: NonNull<u8>,
    /// Bytes mapped or allocated (a whole number of pages, so perhaps more than the chunks).
    bytes: usize,
    chunks: u32,
    chunk_size: u32,
    memory: Memory,
    /// Sockets that the region is registered with. The first one alive lends it to the next (XDP_SHARED_UMEM).
    sockets: Mutex<Vec<Weak<OwnedFd>>>,
    /// Whether those sockets have multi-buffer on: it is the region's property, not the socket's.
    multi_buffer: AtomicBool,
}

// SAFETY: the region itself is plain memory; who may touch which chunk is the pool's and the tokens' matter.
unsafe impl Send for Umem {}
// SAFETY: `&Umem` gives out addresses and numbers, never bytes; the socket list has its lock.
unsafe impl Sync for Umem {}

impl Umem {
    /// Maps a region. With `huge` 2 MiB pages are tried first; [`Self::memory`] says what came of it.
    /// `chunk_size`: 2048 or 4096 bytes. `chunks`: 1 to 2^24.
    pub fn map(chunks: u32, chunk_size: u32, huge: bool) -> Result<Self, IoError> {
        let bytes = Self::check(chunks, chunk_size)?;
        if huge {
            let rounded = bytes.next_multiple_of(HUGE_PAGE);
            if let Ok(base) = map_region(rounded, libc::MAP_HUGETLB) {
                return Ok(Self::new(base, rounded, chunks, chunk_size, Memory::Huge));
            }
        }
        let rounded = bytes.next_multiple_of(PAGE);
        let base = map_region(rounded, 0).map_err(|source| IoError::Map {
            bytes: rounded,
            source,
            hint: " (fewer frames, or a higher memory limit)",
        })?;
        if huge {
            // SAFETY: the region was mapped above. Only a hint: where it is refused, ordinary pages serve.
            unsafe { libc::madvise(base.as_ptr().cast(), rounded, libc::MADV_HUGEPAGE) };
        }
        Ok(Self::new(base, rounded, chunks, chunk_size, Memory::Plain))
    }

    /// The same over memory from the allocator: no privileges, no sockets.
    pub fn heap(chunks: u32, chunk_size: u32) -> Result<Self, IoError> {
        let bytes = Self::check(chunks, chunk_size)?.next_multiple_of(PAGE);
        let layout = heap_layout(bytes)?;
        // SAFETY: `check` refused zero chunks, so the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(IoError::Map {
            bytes,
            source: io::Error::from(io::ErrorKind::OutOfMemory),
            hint: "",
        })?;
        Ok(Self::new(base, bytes, chunks, chunk_size, Memory::Heap))
    }

    fn check(chunks: u32, chunk_size: u32) -> Result<usize, IoError> {
        if chunk_size != 2048 && chunk_size != 4096 {
            return Err(IoError::Umem(format!("chunks of {chunk_size} bytes: only 2048 and 4096 are possible")));
        }
        if chunks == 0 || chunks > 1 << 24 {
            return Err(IoError::Umem(format!("{chunks} frames: 1 to 16777216 are possible")));
        }
        Ok(chunks as usize * chunk_size as usize)
    }

    fn new(base: NonNull<u8>, bytes: usize, chunks: u32, chunk_size: u32, memory: Memory) -> Self {
        Self {
            base,
            bytes,
            chunks,
            chunk_size,
            memory,
            sockets: Mutex::default(),
            multi_buffer: AtomicBool::new(false),
        }
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Bytes per chunk, 2048 or 4096.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Bytes of all chunks: what a socket registers.
    pub fn chunk_bytes(&self) -> usize {
        self.chunks as usize * self.chunk_size as usize
    }

    /// Packet bytes that fit one chunk with full headroom and tailroom.
    pub fn part_capacity(&self) -> usize {
        self.chunk_size as usize - HEADROOM - TAILROOM
    }

    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// A live socket that the region is registered with, if any.
    pub(super) fn lender(&self) -> Option<Arc<OwnedFd>> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|s| s.strong_count() > 0);
        sockets.first().and_then(Weak::upgrade)
    }

    pub(super) fn multi_buffer(&self) -> bool {
        self.multi_buffer.load(Ordering::Relaxed)
    }

    pub(super) fn registered_with(&self, socket: &Arc<OwnedFd>, multi_buffer: bool) {
        self.multi_buffer.store(multi_buffer, Ordering::Relaxed);
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(socket));
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        match self.memory {
            Memory::Heap => {
                if let Ok(layout) = heap_layout(self.bytes) {
                    // SAFETY: allocated in `heap` with this very layout.
                    unsafe { dealloc(self.base.as_ptr(), layout) }
                }
            }
            Memory::Huge | Memory::Plain => {
                // SAFETY: mapped in `map` with this length; nothing points into it any more, because the pool keeps the
                // region for as long as tokens are out and ports keep it for as long as the kernel may write to it.
                unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
            }
        }
    }
}

fn heap_layout(bytes: usize) -> Result<Layout, IoError> {
    Layout::from_size_align(bytes, PAGE).map_err(|_| IoError::Umem(format!("{bytes} bytes cannot be laid out")))
}

/// Anonymous memory, populated now so that no page fault falls on the packet path.
fn map_region(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | flags;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: advice for the mapping made above: packets are somebody's secrets, so no core dump holds them. Where it is
    // refused they stay in; the process switches core dumps off as well.
    unsafe { libc::madvise(base, bytes, libc::MADV_DONTDUMP) };
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_the_kernel_refuses_are_refused_here() {
        for (chunks, size) in [(0, 2048), (1, 1024), (1, 3000), (1, 8192), ((1 << 24) + 1, 2048)] {
            assert!(Umem::map(chunks, size, false).is_err() && Umem::heap(chunks, size).is_err(), "{chunks} × {size}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "no huge pages under miri")]
    fn huge_pages_are_an_attempt() {
        let umem = Umem::map(3, 4096, true).unwrap();
        assert!(matches!(umem.memory(), Memory::Huge | Memory::Plain));
        // SAFETY: nobody else has the region; its last byte must be mapped and writable.
        unsafe { umem.base().as_ptr().add(umem.chunk_bytes() - 1).write(7) };
    }
}
