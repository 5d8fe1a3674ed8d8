//! iperf3 between the path's hosts.

use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use softdpu_testbed::process;

use crate::net::namespace::Namespace;
use crate::path::{not_installed, on_core, program};
use crate::stop;

/// iperf3's own.
pub const PORT: u16 = 5201;
pub const PACKAGE: &str = "iperf3";

/// While it lives, a server runs.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts it inside `host`, and waits until it listens.
    ///
    /// # Errors
    /// iperf3 is not installed, or does not come up.
    pub fn start(host: &Namespace, core: usize) -> Result<Self> {
        let child = on_core(host.command(program("iperf3")), core)
            .args(["-s", "-p", &PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| not_installed("iperf3", PACKAGE))?;
        let mut this = Self { child };
        let patience = Instant::now() + Duration::from_secs(5);
        // Not by a connection: it would be taken for a client. State 0A is listening.
        let listens = format!(":{PORT:04X} ");
        loop {
            let tables = host.run(|| {
                let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                Ok(read("tcp")? + &read("tcp6").unwrap_or_default())
            })?;
            if tables.lines().any(|l| l.contains(&listens) && l.contains(" 0A ")) {
                return Ok(this);
            }
            if let Some(status) = this.child.try_wait()? {
                bail!("iperf3's server ended with {status}");
            }
            ensure!(Instant::now() < patience && !stop::asked(), "iperf3's server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What iperf3 found.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// As the receiver counted.
    pub gbit_s: f64,
    pub bytes: f64,
    /// As the sender counted.
    pub bytes_sent: f64,
    pub retransmits: u64,
    /// The least of a stream over the most: 1 where all had the same.
    pub fairness: f64,
}

/// Sends from `client` by so many connections for whole seconds.
///
/// # Errors
/// iperf3 fails, or moves nothing.
pub fn send(client: &Namespace, server: Ipv4Addr, streams: usize, time: Duration, core: usize) -> Result<Seen> {
    let seconds = time.as_secs().max(1);
    let mut tries = 0;
    loop {
        let mut iperf = on_core(client.command(program("iperf3")), core);
        iperf.args(["-J", "-c", &server.to_string(), "-p", &PORT.to_string(), "--connect-timeout", "2000"]);
        iperf.args(["-t", &seconds.to_string(), "-P", &streams.to_string()]);
        let said = process::run(&mut iperf, Duration::from_secs(seconds + 15))?;
        let value: Value =
            serde_json::from_str(&said.out).with_context(|| format!("iperf3: {}{}", said.err, said.out))?;
        tries += 1;
        match value["error"].as_str() {
            None => return parse(&value),
            // The server may still be at the end of the test before; an instance's ports may not be attached yet.
            Some(_) if tries < 10 && !stop::asked() => std::thread::sleep(Duration::from_millis(200)),
            Some(error) => bail!("iperf3: {error}"),
        }
    }
}

fn parse(value: &Value) -> Result<Seen> {
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_f64).with_context(|| pointer.to_owned());
    let bytes = number("/end/sum_received/bytes")?;
    ensure!(bytes > 0.0, "iperf3 moved nothing");
    let streams = value.pointer("/end/streams").and_then(Value::as_array).context("/end/streams")?;
    let rates: Vec<f64> = streams.iter().filter_map(|s| s.pointer("/receiver/bytes")?.as_f64()).collect();
    let (least, most) = rates.iter().fold((f64::MAX, 0.0f64), |(l, m), r| (l.min(*r), m.max(*r)));
    Ok(Seen {
        gbit_s: number("/end/sum_received/bits_per_second")? / 1e9,
        bytes,
        bytes_sent: number("/end/sum_sent/bytes")?,
        retransmits: value.pointer("/end/sum_sent/retransmits").and_then(Value::as_u64).unwrap_or(0),
        fairness: if most > 0.0 { least / most } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_receiver_counted_is_what_counts() {
        let stream = |bytes: u64| serde_json::json!({ "receiver": { "bytes": bytes } });
        let value = serde_json::json!({ "end": {
            "streams": [stream(100), stream(400)],
            "sum_sent": { "bytes": 510, "retransmits": 3 },
            "sum_received": { "bytes": 500, "bits_per_second": 4e9 },
        } });
        let seen = parse(&value).unwrap();
        assert_eq!((seen.gbit_s, seen.bytes, seen.retransmits, seen.fairness), (4.0, 500.0, 3, 0.25));
        assert!(parse(&serde_json::json!({ "end": {} })).is_err());
    }
}
