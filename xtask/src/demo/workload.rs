//! What the client does, the same in both phases, and what is measured while it does.

use std::{
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;
use softdpu_testbed::{
    account,
    cleanup::RunDir,
    process,
    topology::{SERVER, Topology},
};

use super::{
    apps::{ECHO_PORT, SECURE, SHOP},
    corpus::{self, Document},
};

/// How much to do.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    pub iperf_seconds: u32,
    pub echoes: usize,
    /// How often each document is fetched over HTTP.
    pub repeats: usize,
}

/// One fetched document.
#[derive(Debug, Clone, Serialize)]
pub struct Transfer {
    pub url: String,
    pub bytes: u64,
    pub seconds: f64,
    pub equal: bool,
}

/// What one phase gave.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Measured {
    pub transfers: Vec<Transfer>,
    pub dns_answers: usize,
    pub tcp_gbit_s: f64,
    pub http_gbit_s: f64,
    pub udp_gbit_s: f64,
    pub udp_lost_percent: f64,
    /// Processor time of the whole machine per gigabyte of iperf3 TCP, sender and receiver included.
    pub cpu_s_per_gb: f64,
    /// The part of it that the softdpu processes used.
    pub softdpu_cpu_s_per_gb: Option<f64>,
    pub rtt_p50_us: f64,
    pub rtt_p99_us: f64,
    pub echoes_lost: usize,
}

/// The client's side of the demo.
#[derive(Debug)]
pub struct Workload<'a> {
    pub topology: &'a Topology,
    pub folder: &'a RunDir,
    pub documents: &'a [Document],
    pub amount: Amount,
    /// The softdpu processes, for their share of the processor time.
    pub pids: Vec<u32>,
}

impl Workload<'_> {
    /// Asks the DNS server for both names, of both families. Returns how many right answers came.
    ///
    /// # Errors
    /// When dig cannot be run.
    pub fn dns(&self) -> Result<usize> {
        let mut right = 0;
        for name in [SHOP, SECURE] {
            for (kind, address) in ["A", "AAAA"].iter().zip(SERVER) {
                let mut dig = self.topology.client.command("dig");
                dig.args(["+short", "+tries=2", "+time=2", "-r", &format!("@{}", SERVER[0]), name, kind]);
                let said = process::run(&mut dig, Duration::from_secs(10))?;
                right += usize::from(said.out.trim() == address);
            }
        }
        Ok(right)
    }

    /// Fetches documents and compares checksums. A transfer that fails is one that is not equal.
    ///
    /// # Errors
    /// When curl cannot be run.
    pub fn fetch(&self, scheme: &str, v6: bool, wanted: impl Fn(&Document) -> bool) -> Result<Vec<Transfer>> {
        let (host, port) = if scheme == "https" { (SECURE, 443) } else { (SHOP, 80) };
        let address = if v6 { format!("[{}]", SERVER[1]) } else { SERVER[0].to_owned() };
        let mut transfers = Vec::new();
        for document in self.documents.iter().filter(|document| wanted(document)) {
            let (url, to) = (format!("{scheme}://{host}/{}", document.name), self.folder.file("fetched"));
            let mut curl = self.topology.client.command("curl");
            curl.args(["-sS", "--fail", "--max-time", "30", "--noproxy", "*", "-w", "%{time_total}"]);
            curl.arg("--resolve").arg(format!("{host}:{port}:{address}"));
            curl.arg("--cacert").arg(self.folder.file("cert.pem")).arg("-o").arg(&to).arg(&url);
            let said = process::run(&mut curl, Duration::from_secs(40))?;
            if !said.status.success() {
                eprintln!("  {url}: {}", said.err.trim());
            }
            let equal = said.status.success() && corpus::sha256(&to)? == document.sha256;
            let bytes = std::fs::metadata(&to).map_or(0, |meta| meta.len());
            let _ = std::fs::remove_file(&to);
            let seconds = said.out.trim().parse().unwrap_or(0.0);
            transfers.push(Transfer { url, bytes, seconds, equal });
        }
        Ok(transfers)
    }

    /// iperf3 TCP from the client to the server.
    ///
    /// # Errors
    /// When iperf3 fails.
    pub fn tcp(&self, measured: &mut Measured) -> Result<()> {
        let before = self.busy()?;
        let said = self.iperf(&["-t", &self.amount.iperf_seconds.to_string()])?;
        let after = self.busy()?;
        let bytes = number(&said, "/end/sum_received/bytes")?;
        measured.tcp_gbit_s = number(&said, "/end/sum_received/bits_per_second")? / 1e9;
        ensure!(bytes > 0.0, "iperf3 moved nothing");
        measured.cpu_s_per_gb = (after.0 - before.0).as_secs_f64() / (bytes / 1e9);
        if !self.pids.is_empty() {
            measured.softdpu_cpu_s_per_gb = Some((after.1 - before.1).as_secs_f64() / (bytes / 1e9));
        }
        Ok(())
    }

    /// iperf3 UDP from the client to the server, at a rate both phases can carry.
    ///
    /// # Errors
    /// When iperf3 fails.
    pub fn udp(&self, measured: &mut Measured) -> Result<()> {
        let seconds = self.amount.iperf_seconds.min(3).to_string();
        let said = self.iperf(&["-u", "-b", "200M", "-l", "1200", "-t", &seconds])?;
        let (packets, lost) = (number(&said, "/end/sum/packets")?, number(&said, "/end/sum/lost_packets")?);
        measured.udp_gbit_s = number(&said, "/end/sum/bits_per_second")? / 1e9 * (1.0 - lost / packets.max(1.0));
        measured.udp_lost_percent = number(&said, "/end/sum/lost_percent")?;
        Ok(())
    }

    fn iperf(&self, arguments: &[&str]) -> Result<Value> {
        let mut iperf = self.topology.client.command("iperf3");
        iperf.args(["-J", "-c", SERVER[0], "--connect-timeout", "5000"]).args(arguments);
        let said = process::run(&mut iperf, Duration::from_secs(u64::from(self.amount.iperf_seconds) + 20))?;
        let value: Value =
            serde_json::from_str(&said.out).with_context(|| format!("iperf3: {}{}", said.err, said.out))?;
        ensure!(value.get("error").is_none(), "iperf3: {}", value["error"]);
        Ok(value)
    }

    /// Processor time of the machine and of softdpu until now.
    fn busy(&self) -> Result<(Duration, Duration)> {
        let own = self.pids.iter().map(|pid| account::process_busy(*pid)).sum::<Result<Duration>>()?;
        Ok((account::machine_busy()?, own))
    }

    /// One small datagram at a time, there and back.
    ///
    /// # Errors
    /// When none comes back.
    pub fn echo(&self, measured: &mut Measured) -> Result<()> {
        let socket = self.topology.client.within(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect((SERVER[0], ECHO_PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(250)))?;
            Ok(socket)
        })?;
        let mut histogram = Histogram::<u64>::new_with_max(10_000_000_000, 3)?;
        let mut lost = 0;
        // The first ones find neighbours and warm caches.
        let warm = self.amount.echoes / 20;
        for number in 0..(self.amount.echoes + warm) as u64 {
            let sent = Instant::now();
            socket.send(&[number.to_be_bytes(); 8].concat())?;
            if answered(&socket, number) {
                if number >= warm as u64 {
                    histogram.record(sent.elapsed().as_nanos() as u64)?;
                }
            } else {
                lost += 1;
                ensure!(lost < 40, "the echo does not answer");
            }
        }
        measured.echoes_lost = lost;
        measured.rtt_p50_us = histogram.value_at_quantile(0.5) as f64 / 1e3;
        measured.rtt_p99_us = histogram.value_at_quantile(0.99) as f64 / 1e3;
        Ok(())
    }
}

/// Waits for the answer with this number; late answers to others are passed over.
fn answered(socket: &UdpSocket, number: u64) -> bool {
    let mut buffer = [0u8; 128];
    while let Ok(length) = socket.recv(&mut buffer) {
        if buffer[..length].starts_with(&number.to_be_bytes()) {
            return true;
        }
    }
    false
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("iperf3 gave no {pointer}"))
}

/// Bits per second of all transfers together, in billions.
pub fn gbit_s(transfers: &[Transfer]) -> f64 {
    let (bytes, seconds) = transfers.iter().fold((0u64, 0.0), |(b, s), one| (b + one.bytes, s + one.seconds));
    if seconds > 0.0 { bytes as f64 * 8.0 / seconds / 1e9 } else { 0.0 }
}

/// Whether a path is an executable file; says what to do where it is not.
///
/// # Errors
/// When it is not there.
pub fn binary(path: &Path) -> Result<()> {
    ensure!(path.is_file(), "{} is not there: cargo build --release --package softdpu", path.display());
    Ok(())
}
