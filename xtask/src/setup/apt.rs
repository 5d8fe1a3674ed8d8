//! Debian packages, installed quietly and without starting services.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Once};

use anyhow::{Result, ensure};

use super::say;
use crate::run;

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Programs whose packages would start a service at the next boot, and its unit.
const SERVICES: [(&str, &str); 3] = [("nginx", "nginx"), ("haproxy", "haproxy"), ("ipsec", "strongswan-starter")];

/// Whether packages can be installed here: root, and apt is there.
pub fn usable() -> bool {
    softdpu_testbed::is_root() && run::which("apt-get").is_some()
}

/// Whether the lists offer a package.
pub fn offers(package: &str) -> bool {
    let said = Command::new("apt-cache").args(["policy", package]).output();
    said.is_ok_and(|said| {
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        text.lines().any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
    })
}

/// Fetches the package lists, once in the life of this process. Called only when something is to be installed: a list that is
/// there may be of another day (names versions that mirrors no longer have) or of fewer sources than are configured by now,
/// and nothing on disk says so.
pub fn update() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        say("apt-get update");
        let fetched = run::loud(Command::new("apt-get").args(["-qq", "update"]));
        if !fetched.is_ok_and(|fetched| fetched) {
            say("apt-get update failed; going on with the lists that are there");
        }
    });
}

/// Installs packages without what they only recommend. No service is started, now or at the next boot.
///
/// # Errors
/// When apt-get fails.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    say(&format!("apt-get install {} ({why})", packages.join(" ")));
    let there = |(program, _): &(&str, &str)| run::which(program).is_some();
    let news: Vec<_> = SERVICES.iter().filter(|service| !there(service)).collect();
    let _policy = NoServices::new()?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-qq", "-y", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends"]).args(packages);
    ensure!(run::loud(&mut command)?, "apt-get install failed");
    for (program, unit) in news.into_iter().filter(|service| there(service)) {
        if Path::new("/run/systemd/system").exists() {
            say(&format!("systemctl disable {unit}: demo and tests start their own {program}"));
            run::loud(Command::new("systemctl").args(["--quiet", "disable", unit]))?;
        }
    }
    Ok(())
}

/// Debian's way of saying that packages must not start services; taken back when dropped, unless somebody else had said so.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
