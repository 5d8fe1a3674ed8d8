//! A session of our own. Where the kernel shares the CPU out by session (autogroup), a high priority only counts within its
//! session; a session's own can be raised, but that must not outlive the bench nor touch the caller's shell.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::stop;

/// Marks the process that has its own session already.
const MARK: &str = "SOFTDPU_BENCH_OWN_SESSION";

/// Whether this process runs in a session of its own. Raises that session's priority, as far as it may.
pub fn is_own() -> bool {
    let own = std::env::var_os(MARK).is_some();
    if own {
        // Best effort: without autogroup or the right to it, things are as they are.
        std::fs::write("/proc/self/autogroup", "-20").ok();
    }
    own
}

/// Runs this program again, the same way, in a new session, and returns its exit status. Passes the wish to stop on, and
/// takes it along if this process is killed.
///
/// # Errors
/// Where it cannot be started.
pub fn run_in_own() -> Result<u8> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(std::env::args_os().skip(1)).env(MARK, "1");
    // SAFETY: two system calls between fork and exec; nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        })
    };
    let mut child = command.spawn().context("starting in a session of its own")?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1));
        }
        if stop::asked() && !told {
            // SAFETY: the child is not reaped, so the id is its own.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            told = true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
