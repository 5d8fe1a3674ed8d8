//! Real peers for our tunnels: user-space programs that others run, each in the namespace of a host and a guard like the rest.
//!
//! - [`wireguard`]: wireguard-go, boringtun-cli and gotatun, configured by `wg` as people do.
//! - [`strongswan`]: charon with ESP in user space (kernel-libipsec), configured by `swanctl`. [`keys`] reads out of its log what
//!   the two sides agreed on, which is how an instance without IKE gets its keys.
//!
//! Each gets a `/run` of its own, because the places of their sockets are fixed (`/var/run/wireguard`, `/var/run/charon.vici`)
//! and tests run side by side.

pub mod kernel;
pub mod keys;
pub mod ours;
pub mod probe;
pub mod shuffle;
pub mod strongswan;
pub mod wireguard;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{cleanup, cleanup::RunDir, netns::NetNs, process};

/// Longest start, stop or question.
const PATIENCE: Duration = Duration::from_secs(20);

/// The `/run` of one peer: a folder that goes with the guard.
#[derive(Debug)]
pub struct OwnRun {
    folder: PathBuf,
}

impl OwnRun {
    /// Makes it within `folder`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: &RunDir, who: &str) -> Result<Self> {
        let folder = folder.file(cleanup::unique(who));
        fs::create_dir_all(folder.join("wireguard")).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    /// What is `/run/NAME` for the peer.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A command in `ns` that has this folder as its `/run`. The process that is started becomes the program, so that its id
    /// and its end are the program's.
    pub fn command(&self, ns: &NetNs, program: &Path) -> Command {
        let mut command = ns.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", r#"mount --bind "$0" /run && exec "$@""#]);
        command.arg(&self.folder).arg(program);
        command
    }
}

impl Drop for OwnRun {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where a program is: on PATH, where setup puts what it builds (`target/peers/bin`), or among root's programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/bin");
    let folders = [built].into_iter().chain(std::env::split_paths(&path));
    let folders = folders.chain(["/usr/sbin".into(), "/sbin".into(), "/usr/lib/ipsec".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What a program says of its version: the first line with a digit in it.
pub(crate) fn version(program: &Path, argument: &str) -> Option<String> {
    let said = process::run(Command::new(program).arg(argument), Duration::from_secs(5)).ok()?;
    let both = said.out + &said.err;
    let line = both.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?;
    Some(line.trim().to_owned())
}

/// Version of a Debian package, without what Debian appends to it (`0.0.20220316-1+b4` is `0.0.20220316`).
pub(crate) fn package_version(package: &str) -> Option<String> {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${Version}", package]);
    let said = process::run(&mut command, Duration::from_secs(5)).ok()?.ok().ok()?;
    let version = said.split('-').next().unwrap_or_default().trim();
    (!version.is_empty()).then(|| version.to_owned())
}

/// Whether `/dev/net/tun` can be opened: user-space peers live on it.
pub fn has_tun() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok())
}
