//! Requests and their answers over UDP: the client that times them, and the server that sends all back.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pace::Requests;
use super::socket;
use crate::net::cores;
use crate::net::namespace::Namespace;
use crate::stats::latency::Latencies;
use crate::stop;

/// Where requests come from and go to.
pub const CLIENT_PORT: u16 = 20_001;
pub const ECHO_PORT: u16 = 20_007;

/// Bytes of a request: 60 with its headers, which are 64 on a wire.
const LENGTH: usize = 18;
const MARK: u16 = 0x5d17;
/// How long the last answers may take. A request without an answer by then counts as having waited until then.
const PATIENCE: Duration = Duration::from_millis(300);
/// The client waits for a request's time in sleep until this much before, then awake.
const AWAKE: Duration = Duration::from_micros(70);

/// What one turn showed.
#[derive(Debug, Default)]
pub struct Seen {
    pub latencies: Latencies,
    pub sent: u64,
    pub answered: u64,
    /// Answers that are none of ours, or not what was sent.
    pub wrong: u64,
}

fn datagram(n: u64, due: u64) -> [u8; LENGTH] {
    let mut d = [0; LENGTH];
    d[..2].copy_from_slice(&MARK.to_be_bytes());
    d[2..10].copy_from_slice(&n.to_be_bytes());
    d[10..].copy_from_slice(&due.to_be_bytes());
    d
}

/// Number and time of a request, if it is one.
fn parsed(d: &[u8]) -> Option<(u64, u64)> {
    let d: &[u8; LENGTH] = d.try_into().ok()?;
    let word = |at: usize| {
        u64::from_be_bytes([d[at], d[at + 1], d[at + 2], d[at + 3], d[at + 4], d[at + 5], d[at + 6], d[at + 7]])
    };
    (d[..2] == MARK.to_be_bytes()).then(|| (word(2), word(10)))
}

/// Answers that may come once each.
struct Waiting {
    /// ns after the start by number of request; `None`: answered.
    due: Vec<Option<u64>>,
    open: u64,
}

impl Waiting {
    fn ask(&mut self, due: u64) -> u64 {
        self.due.push(Some(due));
        self.open += 1;
        self.due.len() as u64 - 1
    }

    /// Whether this is the first answer to a request of ours.
    fn answer(&mut self, n: u64, due: u64) -> bool {
        match usize::try_from(n).ok().and_then(|n| self.due.get_mut(n)) {
            Some(open) if *open == Some(due) => {
                *open = None;
                self.open -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Sends requests inside `client` when they are due, and times the answers from then on.
///
/// # Errors
/// Where the socket cannot be had.
pub fn ask(client: &Namespace, server: Ipv4Addr, requests: Requests, core: usize) -> Result<Seen> {
    client.run(|| {
        cores::pin(0, core).context("pinning the client")?;
        cores::prefer(0);
        socket::exact_timers();
        let socket = socket::udp(CLIENT_PORT).context("the client's socket")?;
        socket.connect(SocketAddrV4::new(server, ECHO_PORT))?;
        socket.set_nonblocking(true)?;
        Ok(exchange(&socket, requests))
    })
}

fn exchange(socket: &UdpSocket, mut requests: Requests) -> Seen {
    let mut seen = Seen::default();
    let mut waiting = Waiting { due: Vec::new(), open: 0 };
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let mut next = requests.next();
    let mut patience = u64::MAX;
    let mut buffer = [0u8; 64];
    loop {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                let at = now();
                match parsed(&buffer[..n]).filter(|(n, due)| waiting.answer(*n, *due)) {
                    Some((_, due)) => {
                        seen.answered += 1;
                        seen.latencies.record(at.saturating_sub(due));
                    }
                    None => seen.wrong += 1,
                }
                continue;
            }
            // A refusal by the server's host comes here, too: then nothing answers.
            Err(e) if e.kind() != ErrorKind::WouldBlock => {}
            Err(_) => {}
        }
        let at = now();
        match next {
            Some(due) if at >= due => {
                let n = waiting.ask(due);
                seen.sent += 1;
                // What the kernel does not take is a request without an answer.
                socket.send(&datagram(n, due)).ok();
                next = requests.next();
            }
            Some(due) => {
                let left = Duration::from_nanos(due - at);
                // While an answer is out the core is the server's.
                if waiting.open > 0 {
                    socket::wait(socket, left);
                } else if left > AWAKE {
                    socket::wait(socket, left - AWAKE);
                }
            }
            None if patience == u64::MAX => patience = at + PATIENCE.as_nanos() as u64,
            None if waiting.open == 0 || at >= patience || stop::asked() => break,
            None => socket::wait(socket, Duration::from_nanos(patience - at)),
        }
    }
    let end = now();
    for due in waiting.due.into_iter().flatten() {
        seen.latencies.record(end.saturating_sub(due));
    }
    seen
}

/// Sends back whatever comes, until it is dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Takes what the load sends; nothing reads it, and what does not fit is dropped at the socket.
    _load: UdpSocket,
}

impl Echo {
    /// Starts it inside `server`.
    ///
    /// # Errors
    /// Where the sockets cannot be had.
    pub fn start(server: &Namespace, core: usize) -> Result<Self> {
        let (socket, load) = server.run(|| {
            let load = socket::udp(super::background::PORT)?;
            socket::set(&load, libc::SO_RCVBUF, 0)?;
            Ok((socket::udp(ECHO_PORT)?, load))
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stop_here = stop.clone();
        let thread = std::thread::Builder::new().name("echo".into()).spawn(move || {
            // Best effort: anywhere else it answers, too.
            cores::pin(0, core).ok();
            cores::prefer(0);
            let mut buffer = [0u8; 2048];
            while !stop_here.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..n], from).ok();
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread), _load: load })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_counts_once_and_only_if_it_was_asked_for() {
        let mut waiting = Waiting { due: Vec::new(), open: 0 };
        let n = waiting.ask(5);
        let (got, due) = parsed(&datagram(n, 5)).unwrap();
        assert!(!waiting.answer(got, due + 1) && !waiting.answer(7, due) && !waiting.answer(u64::MAX, due));
        assert!(waiting.answer(got, due) && !waiting.answer(got, due));
        assert_eq!(waiting.open, 0);
        assert!(parsed(&[0; LENGTH]).is_none() && parsed(&[0; 3]).is_none());
    }

    #[test]
    fn requests_without_answers_are_slow_ones() {
        // A socket that nobody reads: everything is taken and nothing comes back.
        let deaf = socket::udp(0).unwrap();
        let socket = socket::udp(0).unwrap();
        socket.connect(("127.0.0.1", deaf.local_addr().unwrap().port())).unwrap();
        socket.set_nonblocking(true).unwrap();
        let seen = exchange(&socket, Requests::new(Duration::from_millis(2), Duration::from_millis(21), 1));
        assert_eq!((seen.sent, seen.answered, seen.latencies.len()), (10, 0, 10));
        assert!(seen.latencies.percentile(0.0) >= PATIENCE.as_nanos() as u64 * 9 / 10);
    }

    #[test]
    fn answers_are_timed() {
        let server = socket::udp(0).unwrap();
        let to = server.local_addr().unwrap().port();
        std::thread::scope(|s| {
            s.spawn(|| {
                server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let mut b = [0; 64];
                while let Ok((n, from)) = server.recv_from(&mut b) {
                    server.send_to(&b[..n], from).unwrap();
                }
            });
            let socket = socket::udp(0).unwrap();
            socket.connect(("127.0.0.1", to)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let seen = exchange(&socket, Requests::new(Duration::from_millis(2), Duration::from_millis(100), 1));
            assert!(seen.sent >= 49 && seen.answered == seen.sent && seen.wrong == 0, "{seen:?}");
        });
    }
}
