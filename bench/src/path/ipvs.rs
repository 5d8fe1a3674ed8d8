//! The kernel's IPVS on the tested device: connections to it go to the server, by translated addresses (`ipvsadm -m`).

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::contenders::{Enter, Flow, TCP};
use super::{find, not_installed};
use crate::net::topology::{NEAR, SINK, Topology};

pub const PACKAGE: &str = "ipvsadm";

/// Its services; deleted when this goes.
pub struct Ipvs {
    /// Moves a thread to where they are.
    enter: Option<Enter>,
}

impl Ipvs {
    /// # Errors
    /// `ipvsadm` is not installed, or the kernel has no IPVS.
    pub fn on(t: &Topology, flows: &[Flow]) -> Result<Self> {
        let program = find("ipvsadm").with_context(|| not_installed("ipvsadm", PACKAGE))?;
        let this = Self { enter: Some(Box::new(t.dut.enter_later()?)) };
        let ports: BTreeSet<u16> = flows.iter().filter(|f| f.protocol == TCP).map(|f| f.server_port).collect();
        for port in ports {
            let service = format!("{NEAR}:{port}");
            let server = format!("{SINK}:{port}");
            for words in [vec!["-A", "-t", &service, "-s", "rr"], vec!["-a", "-t", &service, "-r", &server, "-m"]] {
                let done = t.dut.command(&program).args(&words).output()?;
                ensure!(done.status.success(), "ipvsadm: {}", String::from_utf8_lossy(&done.stderr).trim());
            }
        }
        Ok(this)
    }
}

impl Drop for Ipvs {
    fn drop(&mut self) {
        let Some(enter) = self.enter.take() else { return };
        let clear = move || -> Result<()> {
            enter()?;
            let done = Command::new(super::program("ipvsadm")).arg("-C").output()?;
            ensure!(done.status.success(), "ipvsadm: {}", String::from_utf8_lossy(&done.stderr).trim());
            Ok(())
        };
        // Where the kernel has none, there is nothing to clear.
        if std::path::Path::new("/sys/module/ip_vs").exists()
            && let Ok(Err(e)) = std::thread::spawn(clear).join()
        {
            eprintln!("softdpu-bench: {e:#}");
        }
    }
}
