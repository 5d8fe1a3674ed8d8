//! A `softdpu run` of its own, for as long as it is measured.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::net::cores;
use super::net::namespace::Namespace;
use super::stop;

/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running instance and its files, which go with it.
pub struct Instance {
    child: Child,
    directory: PathBuf,
    /// The policy, where it is not in the directory.
    beside: Option<PathBuf>,
}

impl Instance {
    /// Starts `binary run` in a namespace (`None`: this one) with the policy that `policy` makes of the control socket's path,
    /// and waits until it answers there. `folder`: where the policy is to lie, for the sake of relative paths in it.
    ///
    /// # Errors
    /// Where it ends, or says nothing within ten seconds.
    pub fn start(
        inside: Option<&Namespace>,
        binary: &Path,
        folder: Option<&Path>,
        policy: impl FnOnce(&Path) -> String,
    ) -> Result<Self> {
        if !binary.exists() {
            bail!("{} is not there", binary.display());
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (id, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("softdpu-rig-{id}-{n}"));
        // Ours alone and new: others may write to the folder above.
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.with_context(|| directory.display().to_string())?;
        let socket = directory.join("socket");
        let beside = folder.map(|f| f.join(format!(".softdpu-tune-{id}-{n}.toml")));
        let path = beside.clone().unwrap_or_else(|| directory.join("policy.toml"));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut f| f.write_all(policy(&socket).as_bytes()));
        written.with_context(|| path.display().to_string())?;
        let log = fs::File::create(directory.join("log"))?;
        let mut command = inside.map_or_else(|| Command::new(binary), |ns| ns.command(binary));
        // SAFETY: system calls between fork and exec; threads inherit the priority, and the child ends with us.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                cores::prefer(0);
                Ok(())
            })
        };
        let child = command
            .args(["run", "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut instance = Self { child, directory, beside };
        let patience = Instant::now() + PATIENCE;
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

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("socket")
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
        if let Some(path) = &self.beside {
            fs::remove_file(path).ok();
        }
        match fs::remove_dir_all(&self.directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => eprintln!("{}: {e}", self.directory.display()),
            _ => {}
        }
    }
}
