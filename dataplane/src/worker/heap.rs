//! The allocator, told how a dataplane uses memory: workers took all of theirs at the start, and what the control side needs for
//! the next plan is about what the last one needed. Returned to the kernel in between, each page is a fault the next time, and
//! each return interrupts the workers' cores, which share the address space. So memory stays: as much as a reload took at most.
//! Threads keep heaps of their own, as ever: a worker must not wait for who compiles and has no core just then.

/// A heap that grows is given so much at a time.
#[cfg(target_env = "gnu")]
const STEP: libc::c_int = 4 << 20;
/// More than this at the heap's end goes back to the kernel.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 512 << 20;

/// Before the first thread.
#[cfg(target_env = "gnu")]
pub fn settle() {
    let settings = [
        (libc::M_TOP_PAD, STEP),
        (libc::M_TRIM_THRESHOLD, KEPT),
        // Texts and tables are in the heap too, and not each in a mapping that comes and goes.
        (libc::M_MMAP_THRESHOLD, STEP),
    ];
    for (setting, value) in settings {
        // SAFETY: a setting of the allocator, which takes its own lock.
        if unsafe { libc::mallopt(setting, value) } == 0 {
            tracing::debug!("the allocator does not know setting {setting}");
        }
    }
}

/// Other allocators have other settings, or none.
#[cfg(not(target_env = "gnu"))]
pub fn settle() {}
