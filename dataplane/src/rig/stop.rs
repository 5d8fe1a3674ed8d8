//! Ctrl-C and SIGTERM end the run in good order: loops ask, nothing is torn down under them.

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Takes SIGINT and SIGTERM. A second one kills as usual.
pub fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is valid; the handler only stores to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether somebody asked to stop.
pub fn asked() -> bool {
    STOP.load(Ordering::Relaxed)
}

extern "C" fn on_wake(_: libc::c_int) {}

/// Lets [`wake`] end a system call that a thread is in: SIGUSR1 is caught, and does nothing else.
pub fn wake_by_signal() {
    // SAFETY: an all-zero sigaction is valid (no SA_RESTART: calls shall end); the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_wake as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
}

/// Interrupts the system call `thread` is in. [`wake_by_signal`] first.
pub fn wake<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle is not joined yet, so the thread's id is valid.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
}

/// Sleeps, but not past the wish to stop.
pub fn sleep(time: std::time::Duration) {
    let end = std::time::Instant::now() + time;
    while !asked() {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(std::time::Duration::from_millis(100)));
    }
}
