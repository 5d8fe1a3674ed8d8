//! haproxy as a proxy of TCP connections on the tested device: the client's end there, and a connection of its own to the server.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::contenders::{Flow, TCP};
use crate::net::topology::{NEAR, SINK, Topology};
use crate::stop;

pub const PACKAGE: &str = "haproxy";

/// While it lives, haproxy runs; its folder goes with it.
pub struct Haproxy {
    child: Child,
    folder: TempDir,
}

/// One thread, no HTTP, no logs. `splice-auto` moves bytes from socket to socket inside the kernel where that pays.
fn config(ports: &BTreeSet<u16>) -> String {
    let mut text = String::from(
        "global\n    nbthread 1\n    maxconn 4000\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n    option splice-auto\n",
    );
    for port in ports {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "frontend front{port}\n    bind {NEAR}:{port}\n    default_backend back{port}\n\
             backend back{port}\n    server server {SINK}:{port}\n"
        );
    }
    text
}

impl Haproxy {
    /// Starts it on `core`, listening for what `flows` go to.
    ///
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start(t: &Topology, flows: &[Flow], core: usize) -> Result<Self> {
        let ports: BTreeSet<u16> = flows.iter().filter(|f| f.protocol == TCP).map(|f| f.server_port).collect();
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config(&ports))?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = super::on_core(t.dut.command(super::program("haproxy")), core);
        // -db: in the foreground, so that it goes with us.
        let child = command
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| super::not_installed("haproxy", PACKAGE))?;
        let mut this = Self { child, folder };
        this.ready(t, ports.first().copied())?;
        Ok(this)
    }

    /// Waits until it listens: looked up, because a connection would be passed on to a server that is not there yet.
    fn ready(&mut self, t: &Topology, port: Option<u16>) -> Result<()> {
        let Some(port) = port else { bail!("no TCP flow to pass on") };
        let listens = format!(":{port:04X} 00000000:0000 0A");
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            let tcp = t.dut.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?))?;
            if tcp.contains(&listens) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("haproxy ended with {status}: {}", self.said());
            }
            if Instant::now() > patience || stop::asked() {
                bail!("haproxy does not listen: {}", self.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().take(4).collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Nothing of its is worth an orderly end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_passed_on_once() {
        let text = config(&BTreeSet::from([443, 5201]));
        assert_eq!(text.matches("\n    bind 10.71.0.1:443\n").count(), 1);
        assert_eq!(text.matches("server server 10.72.0.2:5201\n").count(), 1);
    }
}
