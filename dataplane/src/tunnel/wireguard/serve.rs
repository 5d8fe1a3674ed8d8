//! A WireGuard interface at work: its [`Device`], the clock, the UDP sockets, the configuration socket, and what workers tell.
//!
//! One task owns the device. In each turn it takes a bounded number of things from each source, publishes once if anything
//! changed, and only then sends: whatever a peer may do after a message, workers can open already. In a storm of changes
//! several turns are published together (`Pace`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use crossbeam::queue::ArrayQueue;
use tokio::sync::{Notify, mpsc, oneshot};

use super::device::{Action, Device, Now};
use super::load::Limits;
use super::pace::Pace;
use super::peer::Endpoint;
use super::uapi::{Errno, SetDevice, State};
use super::uapi_server::{Ask, UapiServer};
use super::udp::Sockets;
use crate::crypto::wg::PublicKey;
use crate::crypto::wg::message::INITIATION_LEN;
use crate::tunnel::events::{Event, INITIATION};
use crate::worker::clock;

/// Handshake messages that wait. One takes about 0.2 ms at most.
const HANDSHAKES: usize = 1024;
/// Other things that workers told and that wait.
const TOLD: usize = 4096;
/// From each source in one turn.
const TURN: usize = 64;
/// The longest datagram; longer ones cannot be.
const DATAGRAM: usize = 65_536;

/// A handshake message (or cookie) that a worker met.
#[derive(Debug, Clone, Copy)]
pub struct Punt {
    pub from: SocketAddr,
    /// The address of ours that it was sent to.
    pub local: IpAddr,
    len: u8,
    bytes: [u8; INITIATION_LEN],
}

impl Punt {
    /// `None`: longer than any handshake message, so none.
    pub fn new(from: SocketAddr, local: IpAddr, message: &[u8]) -> Option<Self> {
        let mut bytes = [0; INITIATION_LEN];
        bytes.get_mut(..message.len())?.copy_from_slice(message);
        Some(Self { from, local, len: message.len() as u8, bytes })
    }
}

/// What else a worker tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A packet for the peer in this slot found no session to go by.
    Wanted(u32),
    /// The first packet of the session with this (our) index came in.
    Confirmed(u32),
    /// A packet of the session with this index authenticated, and came from elsewhere than the endpoint that was published.
    Moved(u32, Endpoint),
}

/// The way from workers to the device: bounded, without locks, never waiting. A flood of handshakes does not crowd out the
/// rest.
#[derive(Debug)]
pub struct Events {
    initiations: ArrayQueue<Punt>,
    /// To our own initiations.
    answers: ArrayQueue<Punt>,
    told: ArrayQueue<Told>,
    wake: Notify,
    lost: AtomicU64,
}

impl Events {
    fn new() -> Self {
        Self {
            initiations: ArrayQueue::new(HANDSHAKES),
            answers: ArrayQueue::new(HANDSHAKES),
            told: ArrayQueue::new(TOLD),
            wake: Notify::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// False where the queue is full: the message is lost, and counted.
    pub fn punt(&self, punt: Punt) -> bool {
        let queue = if punt.bytes[0] == INITIATION { &self.initiations } else { &self.answers };
        let taken = queue.push(punt).is_ok();
        self.after(taken)
    }

    /// False where the queue is full; the next packet may tell it again.
    pub fn tell(&self, told: Told) -> bool {
        let taken = self.told.push(told).is_ok();
        self.after(taken)
    }

    /// An event of all tunnels, for this one. False where its queue is full, or it is not about WireGuard.
    pub fn pass(&self, event: &Event) -> bool {
        match *event {
            Event::Handshake { from, local, ref message, .. } => {
                Punt::new(from, local, message.as_slice()).is_some_and(|punt| self.punt(punt))
            }
            Event::Wanted { way, .. } => self.tell(Told::Wanted(way)),
            Event::Confirmed { index, .. } => self.tell(Told::Confirmed(index)),
            Event::Roamed { index, from, local, .. } => {
                self.tell(Told::Moved(index, Endpoint { to: from, from: Some(local) }))
            }
            Event::Moved { .. } | Event::Acquire { .. } => false,
        }
    }

    fn after(&self, taken: bool) -> bool {
        if taken {
            self.wake.notify_one();
        } else {
            self.lost.fetch_add(1, Relaxed);
        }
        taken
    }

    /// What found its queue full, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// What became of messages, by reason. For handshake messages and what else came by the socket.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    fn add(&self, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    pub fn read(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What an interface begins with.
#[derive(Debug)]
pub struct Options {
    pub name: String,
    /// Of the configuration socket: [`uapi_server::FOLDER`](super::uapi_server::FOLDER). `None`: no socket.
    pub folder: Option<PathBuf>,
    pub limits: Limits,
    pub set: SetDevice,
}

/// What others hold of a running interface. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub events: Arc<Events>,
    pub counts: Arc<Counts>,
    asks: mpsc::Sender<Ask>,
}

/// The interface has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the WireGuard interface has ended")]
pub struct Ended;

impl Handle {
    /// The whole state, with secrets.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn get(&self) -> Result<State, Ended> {
        let (to, answer) = oneshot::channel();
        self.asks.send(Ask::Get(to)).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Changes all that `set` says, or nothing.
    ///
    /// # Errors
    /// [`Ended`], and within what [`Device::set`] and the system say.
    pub async fn set(&self, set: SetDevice) -> Result<Result<(), Errno>, Ended> {
        let (to, answer) = oneshot::channel();
        self.asks.send(Ask::Set(Box::new(set), to)).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Begins a handshake. False where there is no such peer, or no way to it.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn rekey(&self, peer: PublicKey) -> Result<bool, Ended> {
        let (to, answer) = oneshot::channel();
        self.asks.send(Ask::Rekey(peer, to)).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }
}

/// An interface that is bound and ready to run.
pub struct Service {
    device: Device,
    sockets: Sockets,
    uapi: Option<UapiServer>,
    asks: mpsc::Receiver<Ask>,
    handle: Handle,
    /// What is to be done, in order. From a change on that is not published yet, all waits.
    out: Vec<Action>,
    pace: Pace,
}

impl Service {
    /// Takes the port and the configuration socket, and applies `options.set`. Needs a tokio runtime.
    ///
    /// # Errors
    /// What cannot be had, and why.
    pub fn new(options: Options) -> Result<Self> {
        let mut device = Device::new(options.limits, now())?;
        let mut out = Vec::new();
        device.set(&options.set, now(), &mut out).context("the WireGuard configuration")?;
        let port = device.listen_port();
        let sockets = Sockets::bind(port, device.fwmark())
            .with_context(|| format!("cannot bind UDP port {port} for WireGuard interface `{}`", options.name))?;
        device.set_listen_port(sockets.port());
        let uapi = options.folder.map(|folder| UapiServer::bind(&folder, &options.name)).transpose()?;
        let (to, asks) = mpsc::channel(16);
        let handle = Handle { events: Arc::new(Events::new()), counts: Arc::new(Counts::default()), asks: to };
        Ok(Self { device, sockets, uapi, asks, handle, out, pace: Pace::default() })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub fn listen_port(&self) -> u16 {
        self.sockets.port()
    }

    /// Runs until it is dropped. `publish` is called at the start and whenever workers are to know something new; when it
    /// returns, what it published must be what a worker picks up next.
    pub async fn run(mut self, mut publish: impl FnMut(&mut Device)) {
        let asks = self.handle.asks.clone();
        let _uapi = self.uapi.take().map(|uapi| AbortOnDrop(tokio::spawn(uapi.run(asks))));
        let events = self.handle.events.clone();
        let mut buffer = vec![0; DATAGRAM];
        self.out.push(Action::Changed);
        loop {
            self.finish_turn(&mut publish);
            let deadline = self.deadline();
            let ask = tokio::select! {
                // In any order: nothing of this can keep the rest from its turn.
                ask = self.asks.recv() => ask,
                () = events.wake.notified() => None,
                ready = self.sockets.readable() => {
                    if let Err(error) = ready {
                        tracing::warn!(%error, "the WireGuard socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    None
                }
                () = sleep_until(deadline) => None,
            };
            if let Some(ask) = ask {
                self.answer(ask);
            }
            self.take_told(&events);
            self.take_handshakes(&events);
            self.take_datagrams(&mut buffer);
            self.device.tick(now(), &mut self.out);
        }
    }

    /// Publishes and sends, as far as it may be now.
    fn finish_turn(&mut self, publish: &mut impl FnMut(&mut Device)) {
        let mut ready = self.out.len();
        if let Some(changed) = self.out.iter().position(|action| *action == Action::Changed) {
            let begin = clock::now();
            if self.pace.allows(begin) {
                publish(&mut self.device);
                self.device.published();
                self.pace.published(begin, clock::now());
            } else {
                ready = changed;
            }
        }
        for action in self.out.drain(..ready) {
            if let Action::Send { to, from, bytes } = action
                && let Err(error) = self.sockets.send(to, from, &bytes)
            {
                self.handle.counts.add("send_failed");
                tracing::debug!(%error, %to, "a WireGuard message could not be sent");
            }
        }
    }

    /// When to look again even if nothing comes in.
    fn deadline(&self) -> Option<u64> {
        let waits = (!self.out.is_empty()).then(|| self.pace.not_before());
        self.device.next_deadline().into_iter().chain(waits).min()
    }

    fn take_told(&mut self, events: &Events) {
        for _ in 0..TURN {
            let Some(told) = events.told.pop() else { return };
            match told {
                Told::Wanted(slot) => self.device.wanted(slot, now(), &mut self.out),
                Told::Confirmed(index) => self.device.confirmed(index, now(), &mut self.out),
                Told::Moved(index, endpoint) => self.device.moved(index, endpoint, &mut self.out),
            }
        }
        if !events.told.is_empty() {
            events.wake.notify_one();
        }
    }

    fn take_handshakes(&mut self, events: &Events) {
        if events.initiations.len().max(events.answers.len()) > HANDSHAKES / 8 {
            self.device.pressure(now());
        }
        for _ in 0..TURN {
            let Some(mut punt) = events.answers.pop().or_else(|| events.initiations.pop()) else { return };
            let message = &mut punt.bytes[..usize::from(punt.len)];
            self.take_message(punt.from, Some(punt.local), message);
        }
        if !events.answers.is_empty() || !events.initiations.is_empty() {
            events.wake.notify_one();
        }
    }

    fn take_datagrams(&mut self, buffer: &mut [u8]) {
        for _ in 0..TURN {
            match self.sockets.try_receive(buffer) {
                Ok((len, from, local)) => self.take_message(from, local, &mut buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Of an earlier datagram (ICMP); the socket goes on.
                Err(_) => self.handle.counts.add("receive_failed"),
            }
        }
    }

    fn take_message(&mut self, from: SocketAddr, local: Option<IpAddr>, message: &mut [u8]) {
        let reason = match self.device.receive(now(), from, local, message, &mut self.out) {
            Ok(received) => received.name(),
            Err(refused) => refused.reason(),
        };
        self.handle.counts.add(reason);
    }

    fn answer(&mut self, ask: Ask) {
        // Who asked may be gone: then nobody wants the answer.
        match ask {
            Ask::Get(to) => {
                let _ = to.send(self.device.get());
            }
            Ask::Set(set, to) => {
                let _ = to.send(self.set(&set));
            }
            Ask::Rekey(peer, to) => {
                let _ = to.send(self.device.rekey(&peer, now(), &mut self.out));
            }
        }
    }

    /// All or nothing: what the system may refuse is done first, and undone by forgetting it.
    fn set(&mut self, set: &SetDevice) -> Result<(), Errno> {
        let system = |error: io::Error| Errno::System(error.raw_os_error().unwrap_or(libc::EIO));
        self.device.check(set)?;
        let fwmark = set.fwmark.unwrap_or(self.device.fwmark());
        let moved = set.listen_port.filter(|port| *port != self.sockets.port());
        match moved {
            Some(port) => self.sockets = Sockets::bind(port, fwmark).map_err(system)?,
            None if fwmark != self.device.fwmark() => self.sockets.mark(fwmark).map_err(system)?,
            None => {}
        }
        let done = self.device.set(set, now(), &mut self.out);
        self.device.set_listen_port(self.sockets.port());
        done
    }
}

/// Both clocks.
pub fn now() -> Now {
    Now { mono: clock::now(), wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
}

async fn sleep_until(deadline: Option<u64>) {
    match deadline {
        // The runtime's timers are milliseconds, rounded up.
        Some(at) => tokio::time::sleep(Duration::from_nanos(at.saturating_sub(clock::now()))).await,
        None => std::future::pending().await,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
