//! softdpu itself as a contender, and the bare loop that is its limit.

use std::process::Child;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, bail};

use super::contenders::{Running, Start};
use crate::net::topology::Topology;
use crate::stop;

/// A running `softdpu` and its files.
pub struct Instance {
    child: Child,
    directory: std::path::PathBuf,
}

impl Instance {
    /// Starts `softdpu run` in the topology's middle, with both ports and one rule that forwards, and waits until it
    /// answers on its socket.
    ///
    /// # Errors
    /// Where it ends, or says nothing within ten seconds.
    pub fn start(topology: &Topology, binary: &std::path::Path, core: usize) -> Result<Self> {
        if !binary.exists() {
            bail!("{} is not there (build it, or --softdpu)", binary.display());
        }
        let directory = std::env::temp_dir().join(format!("softdpu-bench-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let socket = directory.join("socket");
        fs::remove_file(&socket).ok();
        let policy = directory.join("policy.toml");
        fs::write(&policy, policy_text(topology, &socket, core))?;
        let log = fs::File::create(directory.join("log"))?;
        let child = topology
            .dut
            .command(binary)
            .args(["run", "-c"])
            .arg(&policy)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut instance = Self { child, directory };
        let patience = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if let Some(status) = instance.child.try_wait()? {
                bail!("softdpu ended with {status}: {}", instance.log_tail());
            }
            if Instant::now() > patience || stop::asked() {
                bail!("softdpu does not answer on its socket: {}", instance.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(instance)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(4)..].join(" / ")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: the child is not reaped yet, so the id is its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let patience = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > patience {
                self.child.kill().ok();
                self.child.wait().ok();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        match fs::remove_dir_all(&self.directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => eprintln!("{}: {e}", self.directory.display()),
            _ => {}
        }
    }
}

fn policy_text(topology: &Topology, socket: &std::path::Path, core: usize) -> String {
    let (near, far) = (&topology.near_if, &topology.far_if);
    let socket = socket.display();
    format!(
        r#"name = "bench"

[control]
socket = "{socket}"

[workers]
cores = [{core}]

[[port]]
name = "near"
kind = "xdp"
interface = "{near}"

[[port]]
name = "far"
kind = "xdp"
interface = "{far}"

[[steer]]
name = "udp"
protocol = "udp"
action = "worker"

[[rule]]
name = "all"
action = "forward"
"#
    )
}

pub fn worker(s: &Start<'_>) -> Result<Running> {
    Ok(Running::new(Instance::start(s.topology, &s.options.softdpu, s.options.dut_core)?))
}

pub fn bare(_: &Start<'_>) -> Result<Running> {
    bail!("not built in")
}

pub fn xdp(_: &Start<'_>) -> Result<Running> {
    bail!("not built in")
}
