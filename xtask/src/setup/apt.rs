//! Debian packages, installed quietly and without starting services.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};

use super::say;
use crate::run;

const LISTS: &str = "/var/lib/apt/lists";
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Older lists name versions that mirrors no longer have.
const FRESH: Duration = Duration::from_secs(24 * 3600);

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

/// Fetches the lists when there are none or they are old.
///
/// # Errors
/// When apt-get fails.
pub fn update() -> Result<()> {
    let entries = fs::read_dir(LISTS).into_iter().flatten().flatten();
    let newest = entries
        .filter(|entry| entry.file_name().to_string_lossy().contains("Release"))
        .filter_map(|entry| entry.metadata().ok()?.modified().ok())
        .max();
    // A folder's own time says when lists were last fetched, a list's when the mirror made it.
    let fetched = fs::metadata(LISTS).and_then(|meta| meta.modified()).ok();
    let age = fetched.and_then(|time| SystemTime::now().duration_since(time).ok());
    if newest.is_some() && age.is_some_and(|age| age < FRESH) {
        return Ok(());
    }
    say("apt-get update: the package lists are missing or old");
    ensure!(run::loud(Command::new("apt-get").args(["-qq", "update"]))?, "apt-get update failed");
    Ok(())
}

/// Installs packages without what they only recommend. No service is started, now or at the next boot.
///
/// # Errors
/// When apt-get fails.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    say(&format!("apt-get install {} ({why})", packages.join(" ")));
    let nginx_was_there = run::which("nginx").is_some();
    let _policy = NoServices::new()?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-qq", "-y", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends"]).args(packages);
    ensure!(run::loud(&mut command)?, "apt-get install failed");
    if !nginx_was_there && run::which("nginx").is_some() && Path::new("/run/systemd/system").exists() {
        say("systemctl disable nginx: the demo starts its own");
        run::loud(Command::new("systemctl").args(["--quiet", "disable", "nginx"]))?;
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
