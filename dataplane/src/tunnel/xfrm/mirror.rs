//! Keeps [`Tables`] true: dumps the kernel's states and policies, follows its notifications, and hands each settled view on.
//!
//! Dump and notifications come on one socket, so they are read in the order in which they happened. `XFRMNLGRP_AEVENTS` is
//! not joined: softdpu itself is who changes sequence numbers and usage, and a listener there makes the kernel tell of
//! every step of its own. `XFRMNLGRP_ACQUIRE` is not joined either: it is a question to the key daemon.

use super::message::{Message, Received};
use super::request;
use super::socket::{Socket, group};
use super::tables::{Effect, Snapshot, Tables};
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Changes come in bursts (a connection is three policies and two states): one view for all that come within this time.
const SETTLE: Duration = Duration::from_millis(3);
/// A burst that does not end is published all the same.
const LONGEST_BURST: Duration = Duration::from_millis(50);
/// After a dump that failed, or a socket that was lost.
const AGAIN: Duration = Duration::from_secs(1);
/// The kernel answers at once; an answer that takes longer was lost.
const ANSWER: Duration = Duration::from_secs(5);
/// Holds notifications of some 10,000 new states.
const RECEIVE_BUFFER: usize = 16 << 20;
const GROUPS: [u32; 4] = [group::EXPIRE, group::SA, group::POLICY, group::MIGRATE];
/// Datagrams read before other tasks of the thread run.
const TURN: usize = 64;

/// What a dump that meets changes costs: it is made again at most so often in a row.
const DUMPS: usize = 5;

/// Called with each new view, on the mirror's task. It should be quick: notifications wait in the socket meanwhile.
pub type Publish = Box<dyn Fn(Snapshot) + Send + Sync>;

/// The mirror of the network namespace of the thread that starts it.
pub struct Mirror {
    publish: Publish,
    tables: Tables,
}

impl Mirror {
    /// Reads the kernel's tables, publishes them, and returns the task that follows them until it is aborted.
    ///
    /// # Errors
    /// Where there is no such socket (no XFRM in the kernel, no `CAP_NET_ADMIN`) or the first dump fails.
    pub async fn start(publish: Publish) -> io::Result<JoinHandle<()>> {
        let mut mirror = Self { publish, tables: Tables::default() };
        let mut kernel = Kernel::open()?;
        mirror.read_all(&mut kernel).await?;
        Ok(tokio::spawn(mirror.run(Some(kernel))))
    }

    async fn run(mut self, mut kernel: Option<Kernel>) {
        loop {
            let error = match kernel.take() {
                Some(mut live) => match self.follow(&mut live).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                None => match Kernel::open() {
                    Ok(mut new) => match self.read_all(&mut new).await {
                        Ok(()) => {
                            kernel = Some(new);
                            continue;
                        }
                        Err(error) => error,
                    },
                    Err(error) => error,
                },
            };
            // A socket that overflowed is replaced at once: its dump is half read.
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                tracing::warn!("the kernel's IPsec tables cannot be followed, trying again: {error}");
                sleep(AGAIN).await;
            }
        }
    }

    /// Dumps everything and publishes it.
    async fn read_all(&mut self, kernel: &mut Kernel) -> io::Result<()> {
        for _ in 0..DUMPS {
            self.tables.begin_dump();
            let mut again = self.defaults(kernel).await?;
            for dump in [request::dump_policies, request::dump_states] {
                again |= self.dump(kernel, dump).await?;
            }
            if !again {
                self.tables.end_dump();
                (self.publish)(self.tables.snapshot());
                return Ok(());
            }
        }
        Err(io::Error::other("the tables change faster than they can be read"))
    }

    /// Asks for the default actions. Kernels before 5.15 have none.
    async fn defaults(&mut self, kernel: &mut Kernel) -> io::Result<bool> {
        let sequence = kernel.ask(request::get_defaults).await?;
        let mut again = false;
        self.until(kernel, |tables, received| {
            let end = received.sequence == sequence && matches!(received.message, Message::Answer(_));
            again |= tables.apply(received, false) == Effect::ReadAgain;
            Ok(end)
        })
        .await?;
        Ok(again)
    }

    /// One dump to its end. True where it has to be made again.
    async fn dump(&mut self, kernel: &mut Kernel, request: fn(u32) -> request::Request) -> io::Result<bool> {
        let (port, sequence) = (kernel.port(), kernel.ask(request).await?);
        let mut again = false;
        self.until(kernel, |tables, received| {
            let ours = received.sequence == sequence && received.port == port;
            again |= ours && received.interrupted;
            match received.message {
                Message::Done if ours => return Ok(true),
                Message::Answer(code) if ours && code != 0 => return Err(io::Error::from_raw_os_error(-code)),
                _ => {}
            }
            again |= tables.apply(received, ours) == Effect::ReadAgain;
            Ok(false)
        })
        .await?;
        Ok(again)
    }

    /// Reads until `end` says so.
    async fn until(
        &mut self,
        kernel: &mut Kernel,
        mut end: impl FnMut(&mut Tables, Received) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut result = Ok(false);
        while !result? {
            result = Ok(false);
            let tables = &mut self.tables;
            let read = kernel.receive(|received| {
                if let Ok(ended) = &result {
                    let ended = *ended;
                    result = end(tables, received).map(|now| ended || now);
                }
            });
            timeout(ANSWER, read).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))??;
        }
        Ok(())
    }

    /// Applies notifications and publishes, until the socket fails.
    async fn follow(&mut self, kernel: &mut Kernel) -> io::Result<std::convert::Infallible> {
        let mut pending: Option<(Instant, Instant)> = None;
        loop {
            let mut effect = Effect::Nothing;
            let tables = &mut self.tables;
            let read = kernel.receive(|received| effect = effect.max(tables.apply(received, false)));
            let read = match pending {
                None => Some(read.await),
                Some((settled, latest)) => timeout_at(settled.min(latest), read).await.ok(),
            };
            match read {
                None => {}
                Some(Ok(())) => {}
                // The kernel had more to say than the socket holds: what was lost is in its tables.
                Some(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => effect = Effect::ReadAgain,
                Some(Err(error)) => return Err(error),
            }
            let now = Instant::now();
            match effect {
                Effect::ReadAgain => {
                    pending = None;
                    self.read_all(kernel).await?;
                    continue;
                }
                Effect::Urgent => pending = Some((now, now)),
                Effect::Changed => {
                    let latest = pending.map_or(now + LONGEST_BURST, |(_, latest)| latest);
                    pending = Some((now + SETTLE, latest));
                }
                Effect::Nothing => {}
            }
            if pending.is_some_and(|(settled, latest)| settled.min(latest) <= now) {
                pending = None;
                (self.publish)(self.tables.snapshot());
            }
        }
    }
}

/// The socket in tokio's hands.
struct Kernel(AsyncFd<Socket>);

impl Kernel {
    fn open() -> io::Result<Self> {
        Self::with_buffer(RECEIVE_BUFFER)
    }

    fn with_buffer(bytes: usize) -> io::Result<Self> {
        let socket = Socket::open(&GROUPS, bytes)?;
        // SAFETY: the socket owns its descriptor, gives out the same one always, and is moved in.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    fn port(&self) -> u32 {
        self.0.get_ref().port()
    }

    /// Sends what is made of the next sequence number, and returns that.
    async fn ask(&mut self, request: impl Fn(u32) -> request::Request) -> io::Result<u32> {
        let sequence = self.0.get_mut().next_sequence();
        let request = request(sequence);
        let limit = Instant::now() + ANSWER;
        loop {
            // EBUSY: an earlier dump of ours is still being read; EAGAIN: memory is short.
            match self.0.get_ref().send(&request) {
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) && Instant::now() < limit =>
                {
                    sleep(Duration::from_millis(5)).await;
                }
                other => return other.map(|()| sequence),
            }
        }
    }

    /// Waits for at least one datagram, then reads what is there, within a turn.
    async fn receive(&mut self, mut each: impl FnMut(Received)) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        for turn in 0..TURN {
            match ready.try_io(|socket| socket.get_mut().receive(&mut each)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) if turn == 0 => return Ok(()),
                Err(_) => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
