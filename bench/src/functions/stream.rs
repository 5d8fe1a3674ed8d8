//! One TCP connection from client to server, and whether every byte arrived as it was.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use softdpu_testbed::topology::{SERVER, Topology};

use crate::gain::mix::{Text, fill};
use crate::stats::random::Random;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Nothing of it can be compressed.
    Noise,
    /// Records in JSON.
    Text,
}

/// What was delivered.
#[derive(Debug, Clone, Copy)]
pub struct Delivered {
    pub bytes: u64,
    /// From the first byte to the last, at the receiver.
    pub time: Duration,
}

/// A round of the data, over and over. No divisor of what is read at once: each read begins elsewhere.
const ROUND: usize = 4_000_037;
const AT_ONCE: usize = 256 << 10;

/// Sends for `time`.
///
/// # Errors
/// No connection, or bytes came that were not sent.
pub fn tcp(topology: &Topology, data: Data, time: Duration) -> Result<Delivered> {
    let mut round = Vec::with_capacity(ROUND);
    fill(&mut round, if data == Data::Noise { Text::Noise } else { Text::Json }, ROUND, &mut Random::new(7));
    let there = SocketAddr::new(SERVER[0].parse()?, 0);
    let listener = topology.server.within(|| Ok(TcpListener::bind(there)?))?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener, &round));
        let sent = topology.client.within(|| send(address, &round, time));
        if sent.is_err() {
            // Nobody else will come.
            topology.server.within(|| Ok(TcpStream::connect(address)?)).ok();
        }
        let sent = sent.context("sending")?;
        let done = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?.context("receiving")?;
        ensure!(done.bytes == sent, "{sent} bytes were sent, {} arrived", done.bytes);
        Ok(done)
    })
}

fn send(to: SocketAddr, round: &[u8], time: Duration) -> Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let (start, mut sent) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        let at = (sent % round.len() as u64) as usize;
        sent += stream.write(&round[at..(at + AT_ONCE).min(round.len())])? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // Until the other side has all of it.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    ensure!(stream.read(&mut [0])? == 0, "the server said something");
    Ok(sent)
}

fn receive(listener: &TcpListener, round: &[u8]) -> Result<Delivered> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = vec![0; AT_ONCE];
    let (mut bytes, mut first) = (0u64, None);
    loop {
        let got = stream.read(&mut buffer)?;
        let start = *first.get_or_insert_with(Instant::now);
        if got == 0 {
            return Ok(Delivered { bytes, time: start.elapsed() });
        }
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let at = (bytes % round.len() as u64) as usize;
            let same = rest.len().min(round.len() - at);
            ensure!(rest[..same] == round[at..at + same], "other bytes than were sent, at {bytes}");
            bytes += same as u64;
            rest = &rest[same..];
        }
    }
}
