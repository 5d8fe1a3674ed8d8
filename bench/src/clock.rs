//! Time: the TSC, and how many of its ticks a nanosecond has.

use std::time::Instant;

/// Ticks of the time stamp counter; nanoseconds where the machine has none. Loads and stores before it are not waited
/// for: what is measured here takes microseconds.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 CPU has RDTSC.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64)
    }
}

/// Ticks per nanosecond, measured over 20 ms against the monotonic clock.
pub fn ticks_per_ns() -> f64 {
    let (start, t0) = (Instant::now(), ticks());
    while start.elapsed().as_millis() < 20 {
        std::hint::spin_loop();
    }
    let t1 = ticks();
    (t1 - t0) as f64 / start.elapsed().as_nanos() as f64
}

/// Nanoseconds that this thread has had a core for.
pub fn thread_cpu() -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, which `t` is.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}
