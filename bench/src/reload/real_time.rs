//! The wall clock, as the kernel stamps packets by it, and threads that wake when they want to.

/// ns since 1970.
pub fn now() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Sleeps until `at`, ns since 1970, or a signal.
pub fn sleep_until(at: u64) {
    let t = libc::timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
    // SAFETY: the structure is ours; no rest is asked for.
    unsafe { libc::clock_nanosleep(libc::CLOCK_REALTIME, libc::TIMER_ABSTIME, &t, std::ptr::null_mut()) };
}

/// Puts the calling thread in front of all others that are not of real time. Best effort.
pub fn prefer(priority: i32) {
    let with = libc::sched_param { sched_priority: priority };
    // SAFETY: the structure is ours; 0 is this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &with) };
}
