//! The server: takes connections, answers one request on each, and closes it. So it is the server that keeps connections in
//! TIME_WAIT, and clients can use their ports again.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::message::{REQUEST, answer};
use super::socket::{self, Epoll};
use crate::net::cores;
use crate::net::namespace::Namespace;

pub const PORT: u16 = 20_100;
const BACKLOG: i32 = 4096;
const LISTENER: u64 = u64::MAX;

/// Serves until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it inside `host`.
    ///
    /// # Errors
    /// Where the socket cannot be had.
    pub fn start(host: &Namespace, core: usize) -> Result<Self> {
        let listener = host.run(|| Ok(socket::listen(PORT, BACKLOG)?)).context("the server's socket")?;
        let epoll = Epoll::new()?;
        epoll.add(listener.as_raw_fd(), LISTENER, false)?;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_here, answered_here) = (stop.clone(), answered.clone());
        let thread = std::thread::Builder::new().name("server".into()).spawn(move || {
            // Best effort: anywhere else it answers, too.
            cores::pin(0, core).ok();
            cores::prefer(0);
            serve(&listener, &epoll, &stop_here, &answered_here);
        })?;
        Ok(Self { stop, answered, thread: Some(thread) })
    }

    /// Requests that were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Connection {
    socket: OwnedFd,
    request: [u8; REQUEST],
    got: usize,
}

impl Connection {
    /// Reads what is there. `None`: more is to come; else whether it was answered.
    fn go_on(&mut self) -> Option<bool> {
        loop {
            match socket::receive(&self.socket, &mut self.request[self.got..]) {
                Ok(0) => return Some(false),
                Ok(n) => self.got += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(false),
            }
            if self.got == REQUEST {
                // What is no request of ours is answered by the end of the connection.
                return Some(answer(&self.request).is_some_and(|a| socket::send(&self.socket, &a).is_ok()));
            }
        }
    }
}

fn serve(listener: &OwnedFd, epoll: &Epoll, stop: &AtomicBool, answered: &AtomicU64) {
    let mut open: HashMap<u64, Connection> = HashMap::new();
    let (mut next, mut events) = (0u64, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        if epoll.wait(&mut events, Duration::from_millis(20)).is_err() {
            return;
        }
        for event in &events {
            if event.token != LISTENER {
                if let Some(done) = open.get_mut(&event.token).and_then(Connection::go_on) {
                    answered.fetch_add(u64::from(done), Ordering::Relaxed);
                    open.remove(&event.token);
                }
                continue;
            }
            while let Ok(socket) = socket::accept(listener) {
                let mut connection = Connection { socket, request: [0; REQUEST], got: 0 };
                // Most have their request with them by now.
                match connection.go_on() {
                    Some(done) => _ = answered.fetch_add(u64::from(done), Ordering::Relaxed),
                    None if epoll.add(connection.socket.as_raw_fd(), next, false).is_ok() => {
                        open.insert(next, connection);
                        next += 1;
                    }
                    None => {}
                }
            }
        }
    }
}
