//! The client: so many connections at a time, each with one request and its answer; where one ends, the next begins.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::message::{ANSWER, REQUEST, answer, request};
use super::server::PORT;
use super::socket::{self, Epoll};
use crate::net::cores;
use crate::net::namespace::Namespace;
use crate::stats::latency::Latencies;
use crate::stop;

/// What connections came to.
#[derive(Debug, Default)]
pub struct Seen {
    /// From the call that opens a connection to the last byte of the answer.
    pub latencies: Latencies,
    /// Connections that had the right answer and the server's end of the connection.
    pub done: u64,
    /// Others, by what became of them.
    pub failed: BTreeMap<String, u64>,
    /// Within which the above came to their ends.
    pub seconds: f64,
}

impl Seen {
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn fail(&mut self, why: &dyn std::fmt::Display) {
        *self.failed.entry(why.to_string()).or_default() += 1;
    }
}

/// One that is open.
struct Connection {
    socket: OwnedFd,
    since: Instant,
    request: [u8; REQUEST],
    /// Still to be sent.
    asks: bool,
    read: [u8; ANSWER + 1],
    got: usize,
    /// Until the whole answer was there.
    took: Option<Duration>,
}

/// How one ended.
type End = Result<Duration, String>;

impl Connection {
    fn open(to: SocketAddrV4, number: u64, salt: u64) -> io::Result<Self> {
        let since = Instant::now();
        Ok(Self {
            socket: socket::connect(to)?,
            since,
            request: request(number, salt),
            asks: true,
            read: [0; ANSWER + 1],
            got: 0,
            took: None,
        })
    }

    /// After something happened to it. `None`: more is to come.
    fn go_on(&mut self, readable: bool, writable: bool) -> Option<End> {
        // A failed connection is writable, too; sending says why it failed.
        if writable && self.asks {
            self.asks = false;
            if let Err(e) = socket::send(&self.socket, &self.request) {
                return Some(Err(e.kind().to_string()));
            }
        }
        if !readable {
            return None;
        }
        loop {
            match socket::receive(&self.socket, &mut self.read[self.got..]) {
                Ok(0) => return Some(self.ended()),
                Ok(n) => self.got += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) => return Some(Err(e.kind().to_string())),
            }
            if self.got == ANSWER {
                self.took = Some(self.since.elapsed());
            } else if self.got > ANSWER {
                return Some(Err("an answer that is too long".into()));
            }
        }
    }

    fn ended(&self) -> End {
        match self.took {
            Some(took) if answer(&self.request).is_some_and(|a| a == self.read[..ANSWER]) => Ok(took),
            Some(_) => Err("another answer than the request's".into()),
            None => Err("closed without an answer".into()),
        }
    }
}

/// Opens connections inside `client` for `time`, `at_once` of them at a time. Those that are open at the end are given up.
///
/// # Errors
/// Where the kernel has no sockets to give.
pub fn connect(
    client: &Namespace,
    server: Ipv4Addr,
    at_once: usize,
    time: Duration,
    salt: u64,
    core: usize,
) -> Result<Seen> {
    client.run(|| {
        cores::pin(0, core).context("pinning the client")?;
        cores::prefer(0);
        Ok(run(SocketAddrV4::new(server, PORT), at_once, time, salt)?)
    })
}

fn run(to: SocketAddrV4, at_once: usize, time: Duration, salt: u64) -> io::Result<Seen> {
    let epoll = Epoll::new()?;
    let (mut seen, mut events, mut number) = (Seen::default(), Vec::new(), 0u64);
    let mut slots: Vec<Option<Connection>> = (0..at_once).map(|_| None).collect();
    // Slots that wait for their next connection.
    let mut free: Vec<usize> = (0..at_once).collect();
    let start = Instant::now();
    while start.elapsed() < time && !stop::asked() {
        let mut pause = false;
        while let Some(slot) = free.pop() {
            number += 1;
            match Connection::open(to, number, salt) {
                Ok(connection) => {
                    epoll.add(connection.socket.as_raw_fd(), slot as u64, true)?;
                    slots[slot] = Some(connection);
                }
                // No port is free, or no route yet: again in a moment, not at once and for ever.
                Err(e) => {
                    seen.fail(&e.kind());
                    free.push(slot);
                    pause = true;
                    break;
                }
            }
        }
        epoll.wait(&mut events, if pause { Duration::from_millis(1) } else { Duration::from_millis(10) })?;
        for event in &events {
            let slot = event.token as usize;
            // An event may be of the connection that was in this slot before.
            let Some(connection) = slots[slot].as_mut() else { continue };
            match connection.go_on(event.readable, event.writable) {
                None => continue,
                Some(Ok(took)) => {
                    seen.done += 1;
                    seen.latencies.record(took.as_nanos() as u64);
                }
                Some(Err(why)) => seen.fail(&why),
            }
            slots[slot] = None;
            free.push(slot);
        }
    }
    seen.seconds = start.elapsed().as_secs_f64();
    Ok(seen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::server::Server;
    use super::*;

    #[test]
    fn connections_are_counted_where_server_and_client_agree() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        let host = Namespace::new().unwrap();
        host.ip("link set lo up").unwrap();
        let core = cores::allowed().unwrap()[0];
        let ask = |time| connect(&host, Ipv4Addr::LOCALHOST, 8, time, 1, core).unwrap();
        let refused = ask(Duration::from_millis(20));
        assert!(refused.done == 0 && refused.failures() > 0, "{refused:?}");
        let server = Server::start(&host, core).unwrap();
        let seen = ask(Duration::from_millis(200));
        assert!(seen.done > 10 && seen.failures() == 0, "{:?}", seen.failed);
        // Those open at the end may have been answered.
        assert!((seen.done..=seen.done + 8).contains(&server.answered()), "{} {}", seen.done, server.answered());
        assert_eq!(seen.latencies.len(), seen.done);
    }

    #[test]
    fn a_wrong_answer_is_no_connection() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::io::{Read, Write};
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; REQUEST];
                stream.read_exact(&mut asked).unwrap();
                // Another's answer.
                stream.write_all(&answer(&request(77, 77)).unwrap()).unwrap();
                drop(stream);
                drop(listener.accept().unwrap());
            });
            let seen = run(to, 1, Duration::from_millis(300), 1).unwrap();
            assert_eq!(seen.done, 0);
            assert_eq!(seen.failed.get("another answer than the request's"), Some(&1), "{:?}", seen.failed);
        });
    }
}
