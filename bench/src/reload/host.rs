//! The large host's files, what is changed in them from one reload to the next, and who asks for it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use softdpu::control::types::{ReloadReport, Status};

use crate::net::topology::Topology;
use crate::rules::Host;

/// A reload may take so long, with a health check that is not there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors of a ring, twice the default: some 5 ms of the stream. Where sender, softirq and reload share one core, the worker is
/// at times handed what was held up there all at once.
const RING: usize = 4096;
/// As many as these rings ask for.
const FRAMES: usize = 16_384;

/// The files of one instance.
pub struct Files {
    host: Host,
    policy: PathBuf,
    intents: PathBuf,
    changes: usize,
}

impl Files {
    /// Ports of the topology, one worker on `core`, the large host's rules and behind them one that forwards.
    pub fn new(topology: &Topology, socket: &Path, intents: &Path, core: usize) -> Result<Self> {
        let head = format!(
            "name = \"bench\"\nintents = \"{}\"\n[control]\nsocket = \"{}\"\n[workers]\ncores = [{core}]\n\
             frames = {FRAMES}\n\
             [[port]]\nname = \"near\"\nkind = \"xdp\"\ninterface = \"{}\"\nring = {RING}\n\
             [[port]]\nname = \"far\"\nkind = \"xdp\"\ninterface = \"{}\"\nring = {RING}\n\
             [[steer]]\nname = \"udp\"\nprotocol = \"udp\"\naction = \"worker\"\n\
             [[steer]]\nname = \"apps\"\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.0.0.0/8\"]\naction = \"worker\"\n\
             [[steer]]\nname = \"apps-back\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"10.1.0.0/16\"]\naction = \"worker\"\n",
            intents.display(),
            socket.display(),
            topology.near_if,
            topology.far_if,
        );
        let host = Host::new(head);
        host.write_intents(intents)?;
        Ok(Self { host, policy: socket.with_file_name("policy.toml"), intents: intents.to_owned(), changes: 0 })
    }

    pub fn text(&self) -> String {
        self.host.policy()
    }

    /// A few lines, as [`Host::change`] says.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn change(&mut self) -> Result<()> {
        self.changes += 1;
        let intent = self.host.change(self.changes);
        self.host.write_intent(&self.intents, intent)?;
        // As an editor does: a new file takes the old one's place.
        let new = self.policy.with_extension("new");
        std::fs::write(&new, self.host.policy())?;
        Ok(std::fs::rename(&new, &self.policy)?)
    }
}

/// `POST /v1/reload`.
///
/// # Errors
/// What the instance says.
pub fn reload(socket: &Path) -> Result<ReloadReport> {
    ask(socket, "POST", "/v1/reload")
}

/// `GET /v1/status`.
///
/// # Errors
/// The instance does not answer.
pub fn status(socket: &Path) -> Result<Status> {
    ask(socket, "GET", "/v1/status")
}

fn ask<T: DeserializeOwned>(socket: &Path, method: &str, path: &str) -> Result<T> {
    let mut stream = UnixStream::connect(socket).context("the control socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: softdpu\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {} {body}", head.lines().next().unwrap_or_default());
    serde_json::from_str(body).with_context(|| format!("the answer to {path}"))
}
