//! An array map whose memory is ours too.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// The values of an array map made with `BPF_F_MMAPABLE`, in the kernel's own memory. Readers of an entry are the XDP
/// programs on all CPUs; writers besides this process are only their atomic instructions.
pub(super) struct Shared<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached through `&mut self` or by volatile reads.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// Maps `len` values. Their size has to be a multiple of 8, as the kernel lays them out.
    pub fn map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: a new shared mapping of a map's descriptor; the result is checked.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Where value `at` is. Reads and writes through it have to be volatile or atomic: the kernel reads meanwhile.
    pub fn at(&self, at: usize) -> *mut T {
        assert!(at < self.len, "beyond the map");
        // SAFETY: inside the mapping, just checked.
        unsafe { self.start.as_ptr().add(at) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, which nobody else unmaps.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
