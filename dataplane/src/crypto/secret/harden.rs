//! What keeps other processes of the same user, and core dumps, away from the whole process.

use std::io;

/// What [`harden_process`] could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardened {
    /// No core dump, no ptrace and no /proc/PID/mem but for root (PR_SET_DUMPABLE).
    pub not_dumpable: bool,
    /// The limit for core files is 0, for child processes too (RLIMIT_CORE).
    pub no_core: bool,
}

/// Switches core dumps and attaching off. To be called at start, before keys are read.
///
/// An operator who wants to see a core of a process under test says so with `SOFTDPU_DUMPABLE=1`; secret pages are
/// left out of it even then.
pub fn harden_process() -> Hardened {
    if std::env::var_os("SOFTDPU_DUMPABLE").is_some_and(|v| v == "1") {
        tracing::warn!("SOFTDPU_DUMPABLE=1: core dumps stay on; keys are left out of them, packets may not be");
        return Hardened { not_dumpable: false, no_core: false };
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: PR_SET_DUMPABLE takes a number; setrlimit reads the struct it is given.
    let (dumpable, core) =
        unsafe { (libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0), libc::setrlimit(libc::RLIMIT_CORE, &none)) };
    let done = Hardened { not_dumpable: dumpable == 0, no_core: core == 0 };
    if !(done.not_dumpable && done.no_core) {
        tracing::warn!("cannot switch core dumps off: {}", io::Error::last_os_error());
    }
    done
}
