//! The heap in large pages, once there are many associations, sessions or peers. Each packet may be another one's: with pages of
//! 4 KiB it is the way to them, not they, that a packet waits for, six or seven pages each time. Only asked for: where the kernel
//! has no large pages nothing is lost.

/// Beyond this many (of associations, sessions and ways) it is worth while.
const MANY: usize = 256;
/// The heap grows by this at least, so that most of it is asked for in large pages before it is first written.
#[cfg(target_env = "gnu")]
const STEP: libc::c_int = 16 << 20;

/// Looks whether the heap has grown since the last time, and asks for large pages then. For the control side, whenever there may
/// be more. `count`: of what packets need.
pub fn for_heap_of(count: usize) {
    if count >= MANY {
        grown();
    }
}

#[cfg(target_env = "gnu")]
fn grown() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static END: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: asking for the end of the heap changes nothing.
    let end = unsafe { libc::sbrk(0) } as usize;
    let before = END.swap(end, Ordering::Relaxed);
    if before == end {
        return;
    }
    if before == 0 {
        // Tables of a snapshot are looked up in at random too: they are to be in the heap, and not each in a mapping of its own.
        for (setting, value) in
            [(libc::M_TOP_PAD, STEP), (libc::M_TRIM_THRESHOLD, 2 * STEP), (libc::M_MMAP_THRESHOLD, STEP / 4)]
        {
            // SAFETY: a setting of the allocator, which takes its own lock.
            unsafe { libc::mallopt(setting, value) };
        }
    }
    if let Some(start) = heap_start().filter(|start| *start < end) {
        // SAFETY: advice about pages of the allocator's; it changes nothing of what is in them. A page that is not there any
        // more is an error that is answered, no harm.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Where the kernel says that the heap begins, in whole pages.
#[cfg(target_env = "gnu")]
fn heap_start() -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[heap]"))?;
    usize::from_str_radix(line.split('-').next()?, 16).ok()
}

#[cfg(not(target_env = "gnu"))]
fn grown() {}

#[cfg(all(test, target_env = "gnu"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_advised() {
        for_heap_of(MANY - 1);
        for_heap_of(MANY);
        for_heap_of(MANY);
        let start = heap_start().unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut heap = smaps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
        let flags = heap.find(|line| line.starts_with("VmFlags:")).unwrap();
        // "hg": the kernel was asked; one without large pages has no such flag.
        let has = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        assert!(!has || flags.split(' ').any(|flag| flag == "hg"), "{flags}");
    }
}
