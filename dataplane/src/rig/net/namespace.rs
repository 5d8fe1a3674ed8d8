//! A network namespace held by a file descriptor alone. It has no name, so it goes with this process whatever ends it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::host::netns;

/// A namespace of our own, with `lo` down until something raises it.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Enters `net`, and gets a view of /sys that belongs to it. For a thread or child that will not come back.
fn enter(net: RawFd) -> io::Result<()> {
    netns::enter(net)?;
    netns::own_sys()
}

impl Namespace {
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn new() -> Result<Self> {
        let file = thread::spawn(|| -> io::Result<File> {
            // SAFETY: no pointers; only this thread moves.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that makes the namespace panicked"))?
        .context("making a network namespace (needs CAP_SYS_ADMIN)")?;
        Ok(Self { file })
    }

    /// A path by which other programs (`ip link … netns PATH`) can name it while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `work` in a thread inside.
    ///
    /// # Errors
    /// Where the namespace cannot be entered; whatever `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|s| {
            s.spawn(|| {
                enter(self.file.as_raw_fd()).context("entering the namespace")?;
                work()
            })
            .join()
            .map_err(|_| anyhow::anyhow!("a thread in the namespace panicked"))?
        })
    }

    /// Something that a thread calls to move inside for good.
    ///
    /// # Errors
    /// Where no further descriptor can be had.
    pub fn enter_later(&self) -> Result<impl FnOnce() -> Result<()> + Send + 'static> {
        let file = self.file.try_clone()?;
        Ok(move || enter(file.as_raw_fd()).context("entering the namespace"))
    }

    /// A command that will run inside, and dies with this process.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let net = self.file.as_raw_fd();
        // SAFETY: between fork and exec only system calls are made; nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                enter(net)
            })
        };
        command
    }

    /// Runs `ip` inside with the words of `line`.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, line: &str) -> Result<()> {
        self.tool("ip", line)
    }

    /// Runs any tool inside with the words of `line`.
    ///
    /// # Errors
    /// With what the tool said.
    pub fn tool(&self, tool: &str, line: &str) -> Result<()> {
        let Output { status, stderr, .. } =
            self.command(tool).args(line.split_whitespace()).output().with_context(|| format!("running {tool}"))?;
        if !status.success() {
            bail!("{tool} {line}: {}", String::from_utf8_lossy(&stderr).trim());
        }
        Ok(())
    }

    /// Writes a setting under /proc or /sys as it is seen inside.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn set(&self, path: &str, value: &str) -> Result<()> {
        self.run(|| std::fs::write(path, value).with_context(|| format!("writing {value} to {path}")))
    }
}

/// Index of `interface` in the calling thread's namespace.
///
/// # Errors
/// Where there is none.
pub fn ifindex(interface: &str) -> Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("interface {interface}"));
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_reach_from_one_namespace_into_another() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        a.ip(&format!("link add left type veth peer name right netns {}", b.path())).unwrap();
        assert!(a.run(|| ifindex("left")).unwrap() > 1);
        assert!(b.run(|| ifindex("right")).unwrap() > 1);
        assert!(a.run(|| ifindex("right")).is_err());
        assert!(b.run(|| Ok(std::fs::read_dir("/sys/class/net/right")?.count())).unwrap() > 0, "a /sys of its own");
        assert!(ifindex("left").is_err(), "nothing of it is seen outside");
    }
}
