//! One peer: its keys, its sessions in their order, and when it must be looked at again. What is done then is
//! [`device`](super::device)'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::timers::{
    AGED_LOOK_NS, FORGET_NS, KEEPALIVE_NS, LAST_MINUTE_NS, REKEY_AFTER_NS, SILENCE_NS, Times, UNCONFIRMED_LOOK_NS,
};
use crate::crypto::wg::cookie::Jar;
use crate::crypto::wg::{
    Identity, Initiator, Psk, PublicKey, REJECT_AFTER_MESSAGES, Remote, Tai64n, activity::Activity, session::Session,
};

/// Where a peer is, and which of our addresses it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub to: SocketAddr,
    /// `None`: the routing table decides.
    pub from: Option<IpAddr>,
}

/// The sessions of a peer (the paper §5.4.5, and as the Linux kernel keeps them). All of them receive.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    /// Made as responder; not sent with before the initiator has used it.
    pub next: Option<Arc<Session>>,
    /// Sent with.
    pub current: Option<Arc<Session>>,
    /// For packets that were under way.
    pub previous: Option<Arc<Session>>,
    /// Pushed out a moment ago, the newest last. Where handshakes cross or follow each other closely, the peer may still send
    /// with one of these, and the three above (all that the kernel keeps) would lose it.
    pub older: Vec<Arc<Session>>,
}

/// Most sessions in [`Sessions::older`].
const OLDER: usize = 3;

impl Sessions {
    /// All that receive.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        [&self.next, &self.current, &self.previous].into_iter().flatten().chain(&self.older)
    }

    /// What to send with: `next` from its first packet on, without waiting for anybody to move it to `current`.
    #[inline]
    pub fn sending(&self) -> Option<&Arc<Session>> {
        match &self.next {
            Some(next) if next.confirmed() => Some(next),
            _ => self.current.as_ref(),
        }
    }

    /// A handshake that this side began is done.
    pub fn add_as_initiator(&mut self, session: Arc<Session>) {
        let current = self.current.replace(session);
        if let Some(next) = self.next.take() {
            // The peer began one at the same time and may already send with it.
            self.push_out(current);
            let previous = self.previous.replace(next);
            self.push_out(previous);
        } else {
            let previous = std::mem::replace(&mut self.previous, current);
            self.push_out(previous);
        }
    }

    /// A handshake that the peer began is answered.
    pub fn add_as_responder(&mut self, session: Arc<Session>) {
        let next = self.next.replace(session);
        self.push_out(next);
    }

    /// The initiator uses `next`.
    pub fn promote(&mut self) {
        if let Some(next) = self.next.take() {
            let current = self.current.replace(next);
            let previous = std::mem::replace(&mut self.previous, current);
            self.push_out(previous);
        }
    }

    fn push_out(&mut self, session: Option<Arc<Session>>) {
        if self.older.len() == OLDER && session.is_some() {
            self.older.remove(0);
        }
        self.older.extend(session);
    }

    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

/// A peer as workers need it: immutable, made anew when something of it changes.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Stable while the peer exists; given to another peer only after a publication without this one.
    pub slot: u32,
    pub public_key: PublicKey,
    pub endpoint: Option<Endpoint>,
    pub sessions: Sessions,
    pub activity: Arc<Activity>,
}

/// The control side's state of a peer. Times are monotonic nanoseconds, 0 = never.
pub struct Peer {
    pub slot: u32,
    pub public: PublicKey,
    pub psk: Psk,
    /// Made at the first handshake: it costs a curve operation, and 10,000 peers may come at once.
    pub remote: Option<Remote>,
    pub endpoint: Option<Endpoint>,
    /// Seconds, 0: off.
    pub persistent_keepalive: u16,
    pub activity: Arc<Activity>,
    pub sessions: Sessions,
    pub jar: Jar,
    /// Our initiation that has no response yet.
    pub initiator: Option<Initiator>,
    /// When the last handshake message was sent, be it an initiation or a response.
    pub shook: u64,
    /// First initiation of this row of attempts.
    pub first_attempt: u64,
    /// When to try again.
    pub retry_at: u64,
    /// When to begin one that an operator asked for and that would have come too soon.
    pub forced_at: u64,
    /// When to forget all keys.
    pub forget_at: u64,
    /// When to forget the sessions that were pushed out.
    pub older_until: u64,
    /// The present session's last-minute attempt has been made.
    pub last_minute: bool,
    /// Persistent keepalives count from here where nothing was sent or received since.
    pub persistent_from: u64,
    pub last_timestamp_in: Option<Tai64n>,
    pub last_initiation_in: u64,
    /// Wall clock of the last initiation sent.
    pub last_wall_out: Duration,
    /// Wall clock of the last handshake done.
    pub last_handshake: Duration,
    /// In the schedule; `u64::MAX`: not in it.
    pub deadline: u64,
    /// What was published; `None` once it is out of date.
    pub view: Option<Arc<PeerView>>,
}

impl Peer {
    pub fn new(slot: u32, public: PublicKey, activity: Arc<Activity>) -> Self {
        Self {
            slot,
            public,
            psk: Psk::default(),
            remote: None,
            endpoint: None,
            persistent_keepalive: 0,
            activity,
            sessions: Sessions::default(),
            jar: Jar::default(),
            initiator: None,
            shook: 0,
            first_attempt: 0,
            retry_at: 0,
            forced_at: 0,
            forget_at: 0,
            older_until: 0,
            last_minute: false,
            persistent_from: 0,
            last_timestamp_in: None,
            last_initiation_in: 0,
            last_wall_out: Duration::ZERO,
            last_handshake: Duration::ZERO,
            deadline: u64::MAX,
            view: None,
        }
    }

    /// What handshakes with this peer need.
    pub fn remote(&mut self, identity: &Identity) -> &Remote {
        self.remote.get_or_insert_with(|| Remote::new(identity, self.public, self.psk.clone()))
    }

    /// What to send with now, if anything.
    pub fn usable(&self, now: u64) -> Option<&Arc<Session>> {
        self.sessions.sending().filter(|session| !session.expired(now) && session.messages() < REJECT_AFTER_MESSAGES)
    }

    /// When the next persistent keepalive is due.
    pub fn persistent_at(&self, times: Times) -> Option<u64> {
        let interval = u64::from(self.persistent_keepalive) * 1_000_000_000;
        (interval != 0 && self.endpoint.is_some())
            .then(|| times.sent.max(times.received).max(self.persistent_from).saturating_add(interval))
    }

    /// The earliest time at which something can be due, given what is known `now`.
    pub fn next_look(&self, now: u64) -> u64 {
        let times = Times::of(&self.activity);
        let mut at = u64::MAX;
        let mut timer = |time: u64| {
            if time != 0 {
                at = at.min(time);
            }
        };
        timer(self.retry_at);
        timer(self.forced_at);
        timer(self.forget_at);
        timer(self.older_until);
        timer(self.persistent_at(times).unwrap_or(0));
        if let Some(next) = &self.sessions.next
            && !next.expired(now)
        {
            timer(now + UNCONFIRMED_LOOK_NS);
        }
        // Without a session that seals or opens, no packet starts a timer.
        let alive = self.sessions.all().any(|session| !session.expired(now));
        if alive || times.unacked_since != 0 || times.unanswered_since != 0 {
            let running = |since: u64| if since == 0 { now } else { since };
            timer(running(times.unacked_since).saturating_add(KEEPALIVE_NS));
            timer(running(times.unanswered_since).saturating_add(SILENCE_NS));
        }
        let renewable = |session: &&Arc<Session>| session.initiator() && !session.expired(now);
        if let Some(session) = self.sessions.sending().filter(renewable)
            && self.initiator.is_none()
        {
            let aged = session.created().saturating_add(REKEY_AFTER_NS);
            timer(if now < aged { aged } else { now + AGED_LOOK_NS });
            let last_minute = session.created().saturating_add(LAST_MINUTE_NS);
            if now < last_minute {
                timer(last_minute);
            }
        }
        at
    }

    /// A session was made: keys are to be forgotten at other times.
    pub fn session_made(&mut self, now: u64) {
        self.forget_at = now.saturating_add(FORGET_NS);
        self.sessions_changed(now);
    }

    /// The order of the sessions is another one.
    pub fn sessions_changed(&mut self, now: u64) {
        self.older_until = if self.sessions.older.is_empty() { 0 } else { now.saturating_add(SILENCE_NS) };
        self.view = None;
    }

    /// A handshake is done, in both directions.
    pub fn handshake_done(&mut self, wall: Duration) {
        (self.retry_at, self.first_attempt, self.forced_at) = (0, 0, 0);
        self.last_minute = false;
        self.last_handshake = wall;
    }
}
