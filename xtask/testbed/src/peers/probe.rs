//! Loads that say exactly what became of them: numbered datagrams, and iperf3 with the processor time it took.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::{
    account,
    cleanup::RunDir,
    process::{self, Process},
    topology::{CLIENT, SERVER, Topology},
};

/// Numbered datagrams between client and server, at a steady rate.
#[derive(Debug, Clone, Copy)]
pub struct Numbered {
    /// Datagrams a second.
    pub rate: u32,
    /// Bytes of payload; at least 8.
    pub length: usize,
    /// At least this long.
    pub time: Duration,
    pub v6: bool,
    /// From the server to the client.
    pub reverse: bool,
}

/// What became of numbered datagrams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Arrived {
    pub sent: u64,
    /// Different ones that arrived.
    pub arrived: u64,
    /// Further copies of one that had arrived.
    pub duplicates: u64,
    /// Those with a lower number than one that had arrived before.
    pub overtaken: u64,
    /// The first few that did not arrive.
    pub lost: Vec<u64>,
    /// Datagrams that the receiver's own socket had no room for: the load's fault, not the path's.
    pub not_taken: u64,
}

impl Arrived {
    /// How many did not arrive.
    pub fn missing(&self) -> u64 {
        self.sent - self.arrived
    }
}

/// Datagrams that go out back to back when the sender is late.
const BURST: u64 = 16;

impl Numbered {
    /// Sends for `time` and until `meanwhile` is done, then waits for what is still on its way.
    ///
    /// # Errors
    /// When a socket cannot be made, nothing at all arrives, or `meanwhile` fails.
    pub fn run(&self, topology: &Topology, meanwhile: impl FnOnce() -> Result<()>) -> Result<Arrived> {
        let (from, to, address) = match self.reverse {
            false => (&topology.client, &topology.server, SERVER),
            true => (&topology.server, &topology.client, CLIENT),
        };
        let there = SocketAddr::new(address[usize::from(self.v6)].parse()?, 0);
        let receiver = to.within(|| Ok(UdpSocket::bind(there)?))?;
        let any: SocketAddr = if self.v6 { "[::]:0" } else { "0.0.0.0:0" }.parse()?;
        let sender = from.within(|| Ok(UdpSocket::bind(any)?))?;
        room(&receiver, libc::SO_RCVBUFFORCE, 64 << 20)?;
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        sender.connect(receiver.local_addr()?)?;
        let (stop, over, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| take(&receiver, &over));
            let giver = scope.spawn(|| give(self, &sender, &stop, &sent));
            let done = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let given = giver.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
            // What is on its way is there within a moment, or never.
            std::thread::sleep(Duration::from_millis(500));
            over.store(true, Ordering::Relaxed);
            let mut taken = taker.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
            done?;
            given?;
            taken.seen.resize(sent.load(Ordering::Relaxed) as usize, false);
            let lost = taken.seen.iter().zip(0u64..).filter(|(seen, _)| !**seen).map(|(_, n)| n);
            let arrived = Arrived {
                sent: taken.seen.len() as u64,
                arrived: taken.seen.iter().filter(|seen| **seen).count() as u64,
                duplicates: taken.duplicates,
                overtaken: taken.overtaken,
                lost: lost.take(20).collect(),
                not_taken: overflows(&receiver)?,
            };
            ensure!(arrived.arrived > 0, "none of {} datagrams arrived", arrived.sent);
            Ok(arrived)
        })
    }
}

fn give(load: &Numbered, socket: &UdpSocket, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut data = vec![0x5au8; load.length.max(8)];
    let start = Instant::now();
    let mut number = 0u64;
    while start.elapsed() < load.time || !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(load.rate)) as u64;
        if number >= due {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        for _ in 0..(due - number).min(BURST) {
            data[..8].copy_from_slice(&number.to_be_bytes());
            match socket.send(&data) {
                Ok(_) => {}
                // A moment without route or room is the sender's: the number is used again.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => break,
                Err(error) => return Err(error).context("send a numbered datagram"),
            }
            number += 1;
            sent.store(number, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Taken {
    seen: Vec<bool>,
    duplicates: u64,
    overtaken: u64,
}

fn take(socket: &UdpSocket, over: &AtomicBool) -> Result<Taken> {
    let mut taken = Taken::default();
    let mut buffer = [0u8; 65_536];
    while !over.load(Ordering::Relaxed) {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error).context("receive a numbered datagram"),
        };
        let Some(number) = buffer[..length].first_chunk::<8>() else { continue };
        let number = u64::from_be_bytes(*number);
        ensure!(number < 1 << 32, "a datagram that is not ours");
        let at = number as usize;
        if at >= taken.seen.len() {
            taken.seen.resize(at + 1, false);
        } else if taken.seen[at] {
            taken.duplicates += 1;
        } else {
            taken.overtaken += 1;
        }
        taken.seen[at] = true;
    }
    Ok(taken)
}

/// Makes room in a socket beyond what the system allows to users.
fn room(socket: &UdpSocket, which: libc::c_int, bytes: libc::c_int) -> Result<()> {
    // SAFETY: the value outlives the call and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            which,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(done == 0, "room for datagrams: {}", std::io::Error::last_os_error());
    Ok(())
}

/// What a socket had no room for since it was made: the last of the words of `SO_MEMINFO` (`SK_MEMINFO_DROPS`).
fn overflows(socket: &UdpSocket) -> Result<u64> {
    let mut words = [0u32; 9];
    let mut length = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    ensure!(done == 0, "SO_MEMINFO: {}", std::io::Error::last_os_error());
    Ok(u64::from(words[8]))
}

/// An iperf3 server on the topology's server.
#[derive(Debug)]
pub struct Iperf {
    _server: Process,
}

/// What iperf3 found, and what it took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Throughput {
    /// As the receiver counted.
    pub gbit_s: f64,
    /// As the receiver counted.
    pub bytes: f64,
    /// As the sender counted.
    pub bytes_sent: f64,
    /// Processor time of the whole machine, iperf3 itself included.
    pub cpu_s_per_gb: f64,
    pub retransmits: u64,
}

impl Iperf {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When iperf3 is missing or does not come up.
    pub fn start(topology: &Topology, folder: &RunDir) -> Result<Self> {
        let mut command = topology.server.command("iperf3");
        let log = folder.file(crate::cleanup::unique("iperf3"));
        let mut server = Process::start(command.args(["-s", "--forceflush"]), &log)?;
        // Not by a connection: it would be taken for a client.
        server.until(Duration::from_secs(10), |server| server.said().contains("Server listening"))?;
        Ok(Self { _server: server })
    }

    /// TCP from the client to the server (`reverse`: from server to client) for `time`, whole seconds.
    ///
    /// # Errors
    /// When iperf3 fails or moves nothing.
    pub fn tcp(&self, topology: &Topology, v6: bool, reverse: bool, time: Duration) -> Result<Throughput> {
        let seconds = time.as_secs().max(1);
        let mut iperf = topology.client.command("iperf3");
        iperf.args(["-J", "-c", SERVER[usize::from(v6)], "--connect-timeout", "5000", "-t", &seconds.to_string()]);
        if reverse {
            iperf.arg("-R");
        }
        let mut tries = 0;
        let (value, busy) = loop {
            let before = account::machine_busy()?;
            let said = process::run(&mut iperf, Duration::from_secs(seconds + 20))?;
            let busy = account::machine_busy()? - before;
            let value: Value =
                serde_json::from_str(&said.out).with_context(|| format!("iperf3: {}{}", said.err, said.out))?;
            tries += 1;
            match value["error"].as_str() {
                None => break (value, busy),
                // The server may still be at the end of the test before; it has one at a time.
                Some(error) if tries < 10 && (error.contains("busy") || error.contains("control message")) => {
                    std::thread::sleep(Duration::from_millis(300));
                }
                Some(error) => bail!("iperf3: {error}"),
            }
        };
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_f64).with_context(|| pointer.to_owned());
        let bytes = number("/end/sum_received/bytes")?;
        ensure!(bytes > 0.0, "iperf3 moved nothing");
        Ok(Throughput {
            gbit_s: number("/end/sum_received/bits_per_second")? / 1e9,
            bytes,
            bytes_sent: number("/end/sum_sent/bytes")?,
            cpu_s_per_gb: busy.as_secs_f64() / (bytes / 1e9),
            retransmits: value.pointer("/end/sum_sent/retransmits").and_then(Value::as_u64).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::topology::Options;

    #[test]
    fn every_number_arrives_where_the_kernel_forwards() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let topology = Topology::new(&Options::new("unit-probe")).unwrap();
        topology.reachable(SERVER[0], Duration::from_secs(5)).unwrap();
        let load = Numbered { rate: 5000, length: 200, time: Duration::from_millis(400), v6: false, reverse: false };
        let all = load.run(&topology, || Ok(())).unwrap();
        assert!(all.sent > 500 && all.missing() == 0 && all.duplicates == 0, "{all:?}");
        // While the way is barred, exactly what was sent meanwhile is missing.
        let barred = load
            .run(&topology, || {
                std::thread::sleep(Duration::from_millis(100));
                topology.edge_b.sysctl("net/ipv4/ip_forward", "0")?;
                std::thread::sleep(Duration::from_millis(100));
                topology.edge_b.sysctl("net/ipv4/ip_forward", "1")
            })
            .unwrap();
        assert!(barred.missing() > 0 && !barred.lost.is_empty() && barred.not_taken == 0, "{barred:?}");
    }
}
