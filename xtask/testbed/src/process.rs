//! Processes as guards, and short commands with a time limit.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// What a short command left: how it ended and what it said.
#[derive(Debug, Clone)]
pub struct Said {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The standard output, or an error with what the command said.
    ///
    /// # Errors
    /// When it ended with anything but 0.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            Ok(self.out)
        } else {
            bail!("{}: {}{}", self.status, self.err.trim(), self.out.trim())
        }
    }
}

/// Runs a command to its end, or kills it after `limit`.
///
/// # Errors
/// When it cannot be started or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Said> {
    let what = describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {what}"))?;
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{what}: still running after {limit:?}\n{}", err.recv().unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(2));
    };
    // A grandchild may hold the pipes open: what was said until now is enough.
    let patience = Duration::from_secs(2);
    Ok(Said {
        status,
        out: out.recv_timeout(patience).unwrap_or_default(),
        err: err.recv_timeout(patience).unwrap_or_default(),
    })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    receiver
}

/// The command line, for messages.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A running process, ended when dropped. What it says goes to a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `log`.
    ///
    /// # Errors
    /// When the log or the process cannot be made.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let what = describe(command);
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        Ok(Self { child, what, log: log.to_owned() })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How it ended, `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: i32) {
        if self.ended().is_none() {
            // SAFETY: kill takes numbers only; the child is not reaped yet, so the id is still its own.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} still runs after {limit:?}:\n{}", self.what, tail(&self.said(), 20));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, then up to `limit` for a clean end.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        let ended = self.wait(limit);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until `ready` says yes.
    ///
    /// # Errors
    /// When the process ends first or `limit` passes; the message has its last words.
    pub fn until(&mut self, limit: Duration, mut ready: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            if ready(self) {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                let how = status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"));
                bail!("{} ended ({how}) before it was ready:\n{}", self.what, tail(&self.said(), 20));
            }
            if Instant::now() >= end {
                bail!("{} is not ready after {limit:?}:\n{}", self.what, tail(&self.said(), 20));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() && self.stop(Duration::from_secs(5)).is_err() {
            eprintln!("{} had to be killed", self.what);
        }
    }
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Tries `check` until it gives something or `limit` passes.
pub fn eventually<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_past_its_limit_is_killed() {
        let start = Instant::now();
        assert!(run(Command::new("sleep").arg("20"), Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn failure_carries_the_last_words() {
        let said = run(Command::new("sh").args(["-c", "echo oops >&2; exit 3"]), Duration::from_secs(5)).unwrap();
        assert!(said.ok().unwrap_err().to_string().contains("oops"));
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = crate::cleanup::RunDir::new("unit").unwrap();
        let process = Process::start(Command::new("sleep").arg("60"), &folder.file("log")).unwrap();
        let pid = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
