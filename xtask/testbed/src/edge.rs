//! softdpu on one host of a topology, driven by its command line as an operator would.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    netns::NetNs,
    policy::EdgeFiles,
    process::{self, Process},
};

/// How long start and stop may take. Generous: test machines are busy, and in the VM the processor is emulated.
fn patience() -> Duration {
    Duration::from_secs(if std::env::var_os("SOFTDPU_VM").is_some() { 60 } else { 20 })
}

/// A running softdpu.
#[derive(Debug)]
pub struct Edge {
    process: Process,
    binary: PathBuf,
    files: EdgeFiles,
}

impl Edge {
    /// Where its policy, socket and log are.
    pub fn files(&self) -> &EdgeFiles {
        &self.files
    }

    /// Starts `binary run -c POLICY` on the host and waits until it answers on its control socket.
    ///
    /// # Errors
    /// When it ends or does not answer; the message has its last words.
    pub fn start(binary: &Path, ns: &NetNs, files: &EdgeFiles) -> Result<Self> {
        Self::start_with(binary, ns, files, &[])
    }

    /// The same with more words for `run`.
    ///
    /// # Errors
    /// As [`Edge::start`].
    pub fn start_with(binary: &Path, ns: &NetNs, files: &EdgeFiles, words: &[&str]) -> Result<Self> {
        let mut command = ns.exec(binary);
        command.arg("run").arg("-c").arg(&files.policy).args(words);
        let process = Process::start(&mut command, &files.log)?;
        let mut this = Self { process, binary: binary.to_owned(), files: files.clone() };
        let (binary, socket) = (&this.binary, &this.files.socket);
        this.process.until(patience(), |_| socket.exists() && ask(binary, socket, "status").is_ok())?;
        Ok(this)
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it logged so far.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// `softdpu status --json`.
    ///
    /// # Errors
    /// When it does not answer or answers no JSON.
    pub fn status(&self) -> Result<Value> {
        ask(&self.binary, &self.files.socket, "status")
    }

    /// `softdpu flows --json`.
    ///
    /// # Errors
    /// As [`Edge::status`].
    pub fn flows(&self) -> Result<Value> {
        ask(&self.binary, &self.files.socket, "flows")
    }

    /// Another verb of the running instance: `softdpu WORDS… --socket SOCKET`. Returns what it printed.
    ///
    /// # Errors
    /// When it ends with anything but 0; the message has what it said.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--socket").arg(&self.files.socket);
        process::run(&mut command, patience())?.ok().with_context(|| process::describe(&command))
    }

    /// SIGTERM and a clean end.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.stop(patience())
    }

    /// SIGKILL: the plug is pulled.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// Asks the instance behind `socket`.
fn ask(binary: &Path, socket: &Path, what: &str) -> Result<Value> {
    let mut command = Command::new(binary);
    command.arg(what).arg("--json").arg("--socket").arg(socket);
    let text = process::run(&mut command, patience())?.ok().with_context(|| process::describe(&command))?;
    serde_json::from_str(&text).with_context(|| format!("{}: no JSON", process::describe(&command)))
}
