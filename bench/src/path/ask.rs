//! What is asked of a running instance on its control socket.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use softdpu::control::types::Status;

/// A reload may take so long, with a health check that is not there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `method` for `path`, and reads the answer.
///
/// # Errors
/// The instance does not answer, or says that it will not.
pub fn ask<T: DeserializeOwned>(socket: &Path, method: &str, path: &str) -> Result<T> {
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

/// `GET /v1/status`.
///
/// # Errors
/// The instance does not answer.
pub fn status(socket: &Path) -> Result<Status> {
    ask(socket, "GET", "/v1/status")
}

/// What an instance has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Packets that its driver's program and its workers handled.
    pub driver: u64,
    pub worker: u64,
    /// By reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Done {
    /// # Errors
    /// As [`status`].
    pub fn of(socket: &Path) -> Result<Self> {
        let status = status(socket)?;
        let tier = |name: &str| status.tiers.iter().filter(|t| t.tier == name).map(|t| t.packets).sum();
        let mut dropped = BTreeMap::new();
        for drop in &status.drops {
            *dropped.entry(drop.reason.clone()).or_default() += drop.count;
        }
        Ok(Self { driver: tier("xdp"), worker: tier("worker"), dropped })
    }

    /// What was done since `before`. Counters may lag a little behind each other; none goes back.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (reason, count) in &mut self.dropped {
            *count = count.saturating_sub(before.dropped.get(reason).copied().unwrap_or(0));
        }
        self.dropped.retain(|_, count| *count > 0);
        Self {
            driver: self.driver.saturating_sub(before.driver),
            worker: self.worker.saturating_sub(before.worker),
            ..self
        }
    }

    /// Of all packets, those that no worker saw, %.
    pub fn driver_percent(&self) -> f64 {
        100.0 * self.driver as f64 / (self.driver + self.worker).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_done_meanwhile() {
        let drops = |all: &[(&str, u64)]| all.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect();
        let before = Done { driver: 100, worker: 100, dropped: drops(&[("ttl", 2)]) };
        let after = Done { driver: 400, worker: 200, dropped: drops(&[("ttl", 2), ("tx_full", 7)]) };
        let done = after.since(&before);
        assert_eq!((done.driver_percent(), done.dropped), (75.0, drops(&[("tx_full", 7)])));
        assert_eq!(Done::default().driver_percent(), 0.0);
    }
}
