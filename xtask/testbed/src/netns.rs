//! A network namespace as a host, guarded.

use std::{
    ffi::OsStr,
    fs::File,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{cleanup, process};

/// Longest that one `ip` command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A named namespace with `lo` up; deleted when dropped, with every link and process in it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes the namespace.
    ///
    /// # Errors
    /// When the kernel refuses (no privileges) or the name is taken.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(cleanup::maker(name).is_some(), "{name}: take names from cleanup::unique");
        cleanup::note_namespace(name);
        process::run(Command::new("ip").args(["netns", "add", name]), PATIENCE)?.ok().context("make a namespace")?;
        let file = File::open(format!("/run/netns/{name}")).context("open the namespace")?;
        let this = Self { name: name.to_owned(), file };
        this.ip("link set lo up")?;
        Ok(this)
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME …` with the words of `arguments`. Returns what it printed.
    ///
    /// # Errors
    /// When `ip` fails; the message has the command and the reason.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        process::run(&mut command, PATIENCE)?.ok().with_context(|| process::describe(&command))
    }

    /// Takes the link with a MAC address out of the caller's namespace and names it. A device goes back there by itself when
    /// the namespace goes, if it is no virtual one.
    ///
    /// # Errors
    /// When there is no such link within a few seconds: links of a namespace that just went take a moment to come back.
    pub fn take_link(&self, mac: &str, name: &str) -> Result<()> {
        let find = || {
            let links = std::fs::read_dir("/sys/class/net").ok()?.flatten();
            let mut links = links.filter(|link| {
                std::fs::read_to_string(link.path().join("address")).is_ok_and(|address| address.trim() == mac)
            });
            links.next()?.file_name().into_string().ok()
        };
        let link = process::eventually(Duration::from_secs(5), find).with_context(|| format!("no link has {mac}"))?;
        let mut command = Command::new("ip");
        command.args(["link", "set", "dev", &link, "netns", &self.name, "name", name]);
        process::run(&mut command, PATIENCE)?.ok().with_context(|| process::describe(&command)).map(|_| ())
    }

    /// A command that will run inside. Unlike `ip netns exec` it keeps the caller's mounts, and the child ends with us.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let fd = self.file.as_raw_fd();
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only the two system calls are made; `fd` is read as a number and stays open as
        // long as the guard, which outlives the spawn.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    /// A command that will run inside by `ip netns exec`: with the /sys of the namespace, as an operator would start it.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    /// Runs `job` on a thread of its own inside the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the job's own error.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let fd = self.file.as_raw_fd();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: a valid descriptor; only this thread's namespace changes, and the thread ends after the job.
                ensure!(unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0, std::io::Error::last_os_error());
                job()
            });
            thread.join().map_err(|_| anyhow::anyhow!("the job in {} panicked", self.name))?
        })
    }

    /// Sets a sysctl of the namespace, by its path under /proc/sys.
    ///
    /// # Errors
    /// When there is no such key or the value is refused.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.within(|| {
            std::fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("sysctl {key}={value}"))
        })
    }

    /// A counter of a link, from `/proc/net/dev`: bytes or packets, received or sent.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn link_counter(&self, link: &str, counter: LinkCounter) -> Result<u64> {
        self.within(|| {
            // The file follows the thread, not the process.
            let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
            let fields = text.lines().find_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'));
            let field = fields.and_then(|fields| fields.split_whitespace().nth(counter as usize));
            field.with_context(|| format!("no link {link}"))?.parse().context("/proc/net/dev")
        })
    }
}

/// Column of `/proc/net/dev`.
#[derive(Debug, Clone, Copy)]
pub enum LinkCounter {
    RxBytes = 0,
    RxPackets = 1,
    RxDropped = 3,
    TxBytes = 8,
    TxPackets = 9,
    TxDropped = 11,
}

impl Drop for NetNs {
    fn drop(&mut self) {
        cleanup::remove_namespace(&self.name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_namespace_lives_as_long_as_its_guard() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let ns = NetNs::new(&cleanup::unique("unit")).unwrap();
        let name = ns.name().to_owned();
        assert!(cleanup::namespaces().contains(&name));
        ns.ip("link add left type veth peer name right").unwrap();
        ns.ip("link set left up").unwrap();
        assert_eq!(ns.link_counter("left", LinkCounter::RxPackets).unwrap(), 0);
        assert!(ns.link_counter("none", LinkCounter::RxPackets).is_err());
        ns.sysctl("net/ipv4/ip_forward", "1").unwrap();
        let inside = process::run(ns.command("cat").arg("/proc/sys/net/ipv4/ip_forward"), PATIENCE).unwrap();
        assert_eq!(inside.ok().unwrap().trim(), "1");
        let mut sleeper = ns.command("sleep").arg("60").spawn().unwrap();
        drop(ns);
        assert!(!cleanup::namespaces().contains(&name));
        assert!(!sleeper.wait().unwrap().success());
    }
}
