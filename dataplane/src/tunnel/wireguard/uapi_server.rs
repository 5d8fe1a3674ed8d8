//! The Unix socket that `wg` and others speak the [configuration protocol](super::uapi) on: `/var/run/wireguard/NAME.sock`,
//! for root alone.
//!
//! Connections only read and write text. What they ask goes to the task that owns the device, one request at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::uapi::{self, Errno, MAX_LINE, Parser, Request, SetDevice, State};
use crate::control::socket::{self, Bound};
use crate::crypto::wg::PublicKey;

/// Where clients look for the sockets.
pub const FOLDER: &str = "/var/run/wireguard";
/// More connections than this wait to be accepted.
const MAX_CONNECTIONS: usize = 32;
/// Most bytes of one request.
const MAX_REQUEST: usize = 64 << 20;
/// A client that is silent for so long within a request, or does not take its answer, is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection may be kept for this long between requests.
const IDLE: Duration = Duration::from_secs(300);

/// A request, and where the answer goes. Dropping the answer's sender tells the client that the device is gone.
#[derive(Debug)]
pub enum Ask {
    Get(oneshot::Sender<State>),
    Set(Box<SetDevice>, oneshot::Sender<Result<(), Errno>>),
    /// Not of this protocol: an operator's wish. The answer: whether there is such a peer, and a way to it.
    Rekey(PublicKey, oneshot::Sender<bool>),
}

/// A bound socket. Dropping it removes it from the file system.
#[derive(Debug)]
pub struct UapiServer {
    listener: UnixListener,
    bound: Bound,
}

impl UapiServer {
    /// The socket of interface `name` in `folder` ([`FOLDER`] outside of tests). Needs a tokio runtime.
    ///
    /// # Errors
    /// The name is none that an interface can have, another instance has it, or what the file system says.
    pub fn bind(folder: &Path, name: &str) -> Result<Self> {
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || matches!(name, "." | "..")
            || name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
        {
            bail!("`{name}` is no interface name: 1 to 15 characters, no slash, no white space");
        }
        let path: PathBuf = folder.join(format!("{name}.sock"));
        let (listener, bound) = socket::bind(&path, 0o600, None)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener).with_context(|| format!("cannot serve {}", path.display()))?;
        Ok(Self { listener, bound })
    }

    pub fn path(&self) -> &Path {
        self.bound.path()
    }

    /// Serves until the receiver of `asks` is gone, or until it is dropped.
    pub async fn run(self, asks: mpsc::Sender<Ask>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = asks.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let asks = asks.clone();
                    connections.spawn(async move {
                        let _place = place;
                        connection(stream, asks).await;
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others may be closed meanwhile.
                    tracing::warn!(%error, path = %self.bound.path().display(), "cannot accept on the WireGuard socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

/// Answers what comes in on one connection, until the client closes it or breaks a bound.
async fn connection(mut stream: UnixStream, asks: mpsc::Sender<Ask>) {
    let mut input = Input { bytes: Zeroizing::new([0; INPUT]), start: 0, end: 0 };
    loop {
        let Some(request) = next_request(&mut stream, &mut input).await else { return };
        let answer = match request {
            Ok(request) => match answer(request, &asks).await {
                Some(answer) => answer,
                None => return,
            },
            Err(errno) => Zeroizing::new(Errno::answer(Err(errno))),
        };
        if !matches!(timeout(PATIENCE, write(&mut stream, answer.as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn answer(request: Request, asks: &mpsc::Sender<Ask>) -> Option<Zeroizing<String>> {
    match request {
        Request::Get => {
            let (to, answer) = oneshot::channel();
            asks.send(Ask::Get(to)).await.ok()?;
            Some(uapi::show(&answer.await.ok()?))
        }
        Request::Set(set) => {
            let (to, answer) = oneshot::channel();
            asks.send(Ask::Set(set, to)).await.ok()?;
            Some(Zeroizing::new(Errno::answer(answer.await.ok()?)))
        }
    }
}

/// Reads up to the end of the next request. `None`: the connection is to be closed.
async fn next_request(stream: &mut UnixStream, input: &mut Input) -> Option<Result<Request, Errno>> {
    let mut parser = Parser::default();
    let mut wrong = None;
    let mut size = 0;
    let mut patience = IDLE;
    loop {
        let line = match timeout(patience, input.line(stream)).await {
            Ok(Some(line)) => line,
            Ok(None) | Err(_) => return None,
        };
        patience = PATIENCE;
        size += line.len() + 1;
        if size > MAX_REQUEST {
            return None;
        }
        match wrong {
            // To the end of it, so that what follows is read as the next request.
            Some(errno) if line.is_empty() => return Some(Err(errno)),
            Some(_) => {}
            None => match parser.line(line) {
                Ok(None) => {}
                Ok(Some(request)) => return Some(Ok(request)),
                // The empty line was the mistake.
                Err(errno) if line.is_empty() => return Some(Err(errno)),
                Err(errno) => {
                    wrong = Some(errno);
                    // What was read so far is not needed, and holds keys.
                    parser = Parser::default();
                }
            },
        }
    }
}

const INPUT: usize = 16 << 10;

/// What has been read and not used. Holds keys.
struct Input {
    bytes: Zeroizing<[u8; INPUT]>,
    start: usize,
    end: usize,
}

impl Input {
    /// The next line, without its line feed; of one that is too long, a piece that is. `None` at the end of the stream.
    async fn line(&mut self, stream: &mut UnixStream) -> Option<&[u8]> {
        let mut looked_at = self.start;
        loop {
            if let Some(at) = self.bytes[looked_at..self.end].iter().position(|b| *b == b'\n') {
                let line = self.start..looked_at + at;
                self.start = line.end + 1;
                return Some(&self.bytes[line]);
            }
            if self.end - self.start > MAX_LINE {
                let piece = self.start..self.end;
                self.start = self.end;
                return Some(&self.bytes[piece]);
            }
            if self.end == INPUT {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            looked_at = self.end;
            match stream.read(&mut self.bytes[self.end..]).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.end += read,
            }
        }
    }
}
