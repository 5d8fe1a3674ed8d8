//! wrk, the client: as many requests as go over some connections that stay.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::server::PORT;
use crate::net::namespace::Namespace;
use crate::path::{not_installed, on_core, program};
use crate::stop;

pub const PACKAGE: &str = "wrk";
const SCRIPT: &str = include_str!("wrk.lua");
/// Before what it says at its end.
const MARK: &str = "softdpu-bench {";
/// It looks ten times a second whether to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// What wrk counted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Seen {
    us: u64,
    pub requests: u64,
    /// Of all answers, heads too.
    pub bytes: u64,
    connect: u64,
    read: u64,
    write: u64,
    /// Answers with other states than 2xx and 3xx.
    status: u64,
    timeout: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// Bodies that were compared, and those of them that were not what they should be.
    pub compared: u64,
    pub wrong: u64,
}

impl Seen {
    pub fn seconds(&self) -> f64 {
        self.us as f64 / 1e6
    }

    pub fn errors(&self) -> u64 {
        self.connect + self.read + self.write + self.status + self.timeout
    }

    /// Holds what was read against `size` bytes a body: each answer has that and a head.
    ///
    /// # Errors
    /// Nothing came, other than was asked for, or more or less than answers of this size are.
    pub fn check(&self, size: u64, connections: u64) -> Result<()> {
        ensure!(self.requests > 0, "no answer; {} errors", self.errors());
        ensure!(self.status == 0, "{} answers with another state than 200", self.status);
        let least = self.requests * (size + HEAD.0);
        // Of answers that were not whole at the end, bytes may have been read.
        let most = (self.requests + connections) * (size + HEAD.1);
        ensure!(
            (least..=most).contains(&self.bytes),
            "{} answers of {size} bytes were {} bytes",
            self.requests,
            self.bytes
        );
        ensure!(self.wrong == 0, "{} of {} bodies are not what the server has", self.wrong, self.compared);
        Ok(())
    }
}

/// Bytes that an answer's head has at least and at most.
const HEAD: (u64, u64) = (100, 1000);

/// One run of it.
pub struct Load<'a> {
    pub server: Ipv4Addr,
    /// Name of the object.
    pub object: &'a str,
    pub connections: usize,
    pub time: Duration,
    /// A file that every body is compared with.
    pub compare: Option<&'a Path>,
    pub core: usize,
}

/// Runs wrk inside `client`. `folder`: for its script.
///
/// # Errors
/// It is not installed, or fails.
pub fn run(client: &Namespace, folder: &Path, load: &Load<'_>) -> Result<Seen> {
    let script = folder.join("wrk.lua");
    std::fs::write(&script, SCRIPT)?;
    let mut command = on_core(client.command(program("wrk")), load.core);
    // Its own time is in whole seconds; it is told to stop before.
    command.args(["-t1", "-d600s", "--timeout", "5s"]).arg(format!("-c{}", load.connections)).arg("-s").arg(&script);
    command.arg(format!("https://{}:{PORT}/{}", load.server, load.object)).arg("--").args(load.compare);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| not_installed("wrk", PACKAGE))?;
    stop::sleep(load.time);
    let patience = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        // Again and again: until it has begun to measure it does not listen.
        // SAFETY: the child is not reaped yet, so the id is its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        if Instant::now() > patience {
            child.kill().ok();
            child.wait().ok();
            bail!("wrk does not stop");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().context("wrk's output")?.read_to_string(&mut out)?;
    child.stderr.take().context("wrk's errors")?.read_to_string(&mut err)?;
    parse(&out).with_context(|| format!("wrk said {}", (out + &err).trim()))
}

fn parse(out: &str) -> Result<Seen> {
    let line =
        out.lines().find_map(|l| l.strip_prefix(&MARK[..MARK.len() - 1])).context("nothing of its own script")?;
    Ok(serde_json::from_str(line)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_counted_is_held_against_what_the_server_has() {
        let text = "Running\nsoftdpu-bench {\"us\":500000,\"requests\":10,\"bytes\":12500,\"connect\":0,\"read\":1,\"write\":0,\
                    \"status\":0,\"timeout\":0,\"p50_us\":80,\"p99_us\":90,\"compared\":10,\"wrong\":0}\nRequests/sec: 20\n";
        let seen = parse(text).unwrap();
        assert_eq!((seen.seconds(), seen.errors(), seen.p99_us), (0.5, 1, 90));
        seen.check(1024, 2).unwrap();
        assert!(seen.check(1250, 2).is_err(), "fewer bytes than that");
        assert!(seen.check(10, 2).is_err(), "more bytes than that");
        assert!(Seen { wrong: 1, ..seen.clone() }.check(1024, 2).is_err());
        assert!(Seen { status: 1, ..seen.clone() }.check(1024, 2).is_err());
        assert!(Seen { requests: 0, bytes: 0, ..seen }.check(0, 0).is_err());
        assert!(parse("unable to connect to 10.72.0.2:443 Connection refused").is_err());
    }
}
