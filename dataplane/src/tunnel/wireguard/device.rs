//! A WireGuard interface without its sockets: messages, the passing of time and an operator's wishes go in, messages and
//! changes come out.
//!
//! Order within the output matters: where [`Action::Changed`] stands before an [`Action::Send`], workers must be able to
//! open with the new session before the message is sent, since it lets the peer use that session. That is make-before-break.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::allowed::{AllowedIps, AllowedTable};
use super::load::{Limits, Load};
use super::peer::{Endpoint, Peer, PeerView, Sessions};
use super::timers::{
    FORCED_NS, FORGET_NS, JITTER_NS, KEEPALIVE_NS, REKEY_ATTEMPT_NS, REKEY_TIMEOUT_NS, SILENCE_NS, Schedule, Times,
};
use crate::crypto::wg::cookie::Checker;
use crate::crypto::wg::keys::NoRandom;
use crate::crypto::wg::message::TRANSPORT_HEADER_LEN;
use crate::crypto::wg::session::OVERHEAD;
use crate::crypto::wg::{Identity, Initiator, PrivateKey, PublicKey, Tai64n};

/// Both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic nanoseconds, never 0: the same clock that workers write into activities.
    pub mono: u64,
    /// Since 1970 UTC.
    pub wall: Duration,
}

/// What the owner of a device has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// What workers know is out of date: publish before doing what follows.
    Changed,
    /// A UDP datagram from the listen port.
    Send { to: SocketAddr, from: Option<IpAddr>, bytes: Vec<u8> },
}

/// At most this many peers are looked after in one [`Device::tick`].
const PEERS_PER_TICK: usize = 256;
/// Two initiations within a step of their timestamps would be one to the peer.
const TIMESTAMP_STEP: Duration = Duration::from_nanos(1 << 24);

/// A WireGuard interface: its key, its peers, their sessions and timers.
pub struct Device {
    pub(super) identity: Option<Identity>,
    pub(super) listen_port: u16,
    pub(super) fwmark: u32,
    /// By slot.
    pub(super) peers: Vec<Option<Box<Peer>>>,
    pub(super) by_key: HashMap<PublicKey, u32>,
    /// By the index that the peer addresses: initiations under way and sessions.
    pub(super) by_index: HashMap<u32, u32>,
    free: Vec<u32>,
    /// Slots of peers that are gone, but that workers may still know.
    leaving: Vec<u32>,
    pub(super) allowed: AllowedIps,
    pub(super) table: Option<Arc<AllowedTable>>,
    pub(super) limits: Limits,
    pub(super) load: Load,
    pub(super) checker: Checker,
    schedule: Schedule,
    random: SystemRandom,
}

impl Device {
    /// A device without key and peers.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn new(limits: Limits, now: Now) -> Result<Self, NoRandom> {
        Ok(Self {
            identity: None,
            listen_port: 0,
            fwmark: 0,
            peers: Vec::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            free: Vec::new(),
            leaving: Vec::new(),
            allowed: AllowedIps::default(),
            table: None,
            limits,
            load: Load::new(limits),
            checker: Checker::new(now.mono)?,
            schedule: Schedule::default(),
            random: SystemRandom::new(),
        })
    }

    pub fn public_key(&self) -> Option<&PublicKey> {
        self.identity.as_ref().map(Identity::public)
    }

    /// 0: any.
    pub fn listen_port(&self) -> u16 {
        self.listen_port
    }

    /// What the socket was given where any would do; [`Device::get`] shows it.
    pub fn set_listen_port(&mut self, port: u16) {
        self.listen_port = port;
    }

    /// 0: none.
    pub fn fwmark(&self) -> u32 {
        self.fwmark
    }

    /// The slot of a peer.
    pub fn slot_of(&self, key: &PublicKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// The peer that receives what is addressed to `index`.
    pub fn slot_of_index(&self, index: u32) -> Option<u32> {
        self.by_index.get(&index).copied()
    }

    pub fn peer_count(&self) -> usize {
        self.by_key.len()
    }

    /// All peers, for publishing; only what changed is made anew.
    pub fn peers(&mut self) -> impl Iterator<Item = Arc<PeerView>> + '_ {
        self.peers.iter_mut().flatten().map(|peer| view(peer))
    }

    /// One peer, for publishing.
    pub fn peer(&mut self, slot: u32) -> Option<Arc<PeerView>> {
        self.peers.get_mut(slot as usize)?.as_mut().map(|peer| view(peer))
    }

    /// One more than the highest slot in use or about to be: the length of a table by slot.
    pub fn slots(&self) -> usize {
        self.peers.len()
    }

    /// Which addresses belong to which slot; the same one until something changes.
    pub fn allowed(&mut self) -> Arc<AllowedTable> {
        self.table.get_or_insert_with(|| Arc::new(self.allowed.table())).clone()
    }

    /// Workers no longer know of peers that were gone when [`Device::peers`] was asked: their slots may have new owners.
    pub fn published(&mut self) {
        self.free.append(&mut self.leaving);
    }

    /// When [`Device::tick`] is due, in monotonic nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.schedule.next()
    }

    /// The queue of handshake messages runs full: until a second later, senders must prove their address.
    pub fn pressure(&mut self, now: Now) {
        self.load.pressure(now.mono);
    }

    pub fn is_under_load(&self, now: Now) -> bool {
        self.load.is_high(now.mono)
    }

    /// Does what is due. A bounded number of peers is looked after; [`Device::next_deadline`] says whether there are more.
    pub fn tick(&mut self, now: Now, out: &mut Vec<Action>) {
        for _ in 0..PEERS_PER_TICK {
            let Some(slot) = self.schedule.due(now.mono) else { return };
            self.look_after(slot, now, out);
            self.reschedule(slot, now.mono);
        }
    }

    /// A packet waits for a session with this peer, or was sent with one that is due for renewal.
    pub fn wanted(&mut self, slot: u32, now: Now, out: &mut Vec<Action>) {
        let Some(peer) = self.peer_ref(slot) else { return };
        let renew = match peer.usable(now.mono) {
            Some(session) => session.stale_for_sending(now.mono),
            None => true,
        };
        if renew && peer.initiator.is_none() {
            self.initiate(slot, now, Attempt::First, out);
            self.reschedule(slot, now.mono);
        }
    }

    /// The first packet of the session `index` came in: it is the one to send with. (Found out without being told, but later.)
    pub fn confirmed(&mut self, index: u32, now: Now, out: &mut Vec<Action>) {
        if let Some(slot) = self.slot_of_index(index) {
            self.promote(slot, now, out);
            self.reschedule(slot, now.mono);
        }
    }

    /// A packet of the session `index` authenticated that came from elsewhere than the last one.
    pub fn moved(&mut self, index: u32, endpoint: Endpoint, out: &mut Vec<Action>) {
        if let Some(peer) = self.slot_of_index(index).and_then(|slot| self.peer_mut(slot))
            && peer.sessions.all().any(|session| session.local_index() == index)
        {
            set_endpoint(peer, endpoint, out);
        }
    }

    /// Begins a handshake now, or as soon as the peer would take one. False where there is no such peer, or it has no endpoint.
    pub fn rekey(&mut self, key: &PublicKey, now: Now, out: &mut Vec<Action>) -> bool {
        let Some(slot) = self.slot_of(key) else { return false };
        let has_key = self.identity.is_some();
        let Some(peer) = self.peer_mut(slot) else { return false };
        if peer.endpoint.is_none() || !has_key {
            return false;
        }
        if peer.initiator.is_none() {
            let may = if peer.shook == 0 { 0 } else { peer.shook.saturating_add(FORCED_NS) };
            if now.mono < may {
                peer.forced_at = may;
            } else {
                self.initiate(slot, now, Attempt::Forced, out);
            }
            self.reschedule(slot, now.mono);
        }
        true
    }

    pub(super) fn peer_ref(&self, slot: u32) -> Option<&Peer> {
        self.peers.get(slot as usize)?.as_deref()
    }

    pub(super) fn peer_mut(&mut self, slot: u32) -> Option<&mut Peer> {
        self.peers.get_mut(slot as usize)?.as_deref_mut()
    }

    /// A slot that no worker knows, for a peer to be.
    pub(super) fn take_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            (self.peers.len() - 1) as u32
        })
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, slot: u32, out: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::take) else { return };
        self.schedule.change(slot, peer.deadline, u64::MAX);
        self.by_key.remove(&peer.public);
        for session in peer.sessions.all() {
            self.by_index.remove(&session.local_index());
        }
        if let Some(initiator) = &peer.initiator {
            self.by_index.remove(&initiator.index());
        }
        if self.allowed.remove_all(slot) {
            self.table = None;
        }
        self.leaving.push(slot);
        changed(out);
    }

    pub(super) fn reschedule(&mut self, slot: u32, now: u64) {
        if let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) {
            let at = peer.next_look(now);
            self.schedule.change(slot, peer.deadline, at);
            peer.deadline = at;
        }
    }

    fn look_after(&mut self, slot: u32, now: Now, out: &mut Vec<Action>) {
        let mono = now.mono;
        let due = |at: u64| at != 0 && mono >= at;
        let over = |since: u64, limit: u64| since != 0 && mono >= since.saturating_add(limit);
        let Some(peer) = self.peer_mut(slot) else { return };
        if due(peer.forget_at) {
            peer.forget_at = 0;
            self.forget_keys(slot, out);
        }
        self.promote(slot, now, out);
        let Some(peer) = self.peer_mut(slot) else { return };
        if due(peer.older_until) {
            let before = peer.sessions.clone();
            peer.sessions.older.clear();
            peer.sessions_changed(mono);
            changed(out);
            self.forget_indices(slot, &before);
        }
        let Some(peer) = self.peer_mut(slot) else { return };
        if due(peer.retry_at) {
            if over(peer.first_attempt, REKEY_ATTEMPT_NS) {
                // Nobody is there. The next packet, or persistent keepalive, begins anew.
                (peer.retry_at, peer.first_attempt) = (0, 0);
                if peer.forget_at == 0 {
                    peer.forget_at = mono.saturating_add(FORGET_NS);
                }
                self.drop_initiator(slot);
            } else {
                self.initiate(slot, now, Attempt::Again, out);
            }
        }
        let Some(peer) = self.peer_mut(slot) else { return };
        if due(peer.forced_at) {
            peer.forced_at = 0;
            self.initiate(slot, now, Attempt::Forced, out);
        }
        let Some(peer) = self.peer_mut(slot) else { return };
        let times = Times::of(&peer.activity);
        if over(times.unanswered_since, SILENCE_NS) {
            peer.activity.unanswered_since.store(0, Relaxed);
            // Our address may be the reason.
            forget_source(peer, out);
            self.initiate(slot, now, Attempt::First, out);
        }
        if over(times.unacked_since, KEEPALIVE_NS) {
            self.keepalive(slot, now, out);
        }
        let Some(peer) = self.peer_mut(slot) else { return };
        if peer.persistent_at(Times::of(&peer.activity)).is_some_and(|at| mono >= at) {
            peer.persistent_from = mono;
            self.keepalive(slot, now, out);
        }
        self.renew(slot, now, out);
    }

    /// Begins a handshake where the session that is used is old enough.
    fn renew(&mut self, slot: u32, now: Now, out: &mut Vec<Action>) {
        let Some(peer) = self.peer_mut(slot) else { return };
        let Some(session) = peer.usable(now.mono) else { return };
        let times = Times::of(&peer.activity);
        let received_when_old = !peer.last_minute && session.stale_for_receiving(times.received);
        if session.stale_for_sending(times.sent) || received_when_old {
            peer.last_minute |= received_when_old;
            if peer.initiator.is_none() {
                self.initiate(slot, now, Attempt::First, out);
            }
        }
    }

    /// Makes `next` the current session once the initiator has used it.
    pub(super) fn promote(&mut self, slot: u32, now: Now, out: &mut Vec<Action>) {
        let Some(peer) = self.peer_mut(slot) else { return };
        if !peer.sessions.next.as_ref().is_some_and(|next| next.confirmed()) {
            return;
        }
        let before = peer.sessions.clone();
        peer.sessions.promote();
        peer.sessions_changed(now.mono);
        peer.handshake_done(now.wall);
        changed(out);
        // The peer began one itself: ours is not needed any more.
        self.drop_initiator(slot);
        self.forget_indices(slot, &before);
    }

    /// Takes those of `before` that are no longer sessions of the peer out of the index.
    pub(super) fn forget_indices(&mut self, slot: u32, before: &Sessions) {
        let Some(peer) = self.peers.get(slot as usize).and_then(Option::as_ref) else { return };
        for old in before.all() {
            if !peer.sessions.all().any(|session| session.local_index() == old.local_index()) {
                self.by_index.remove(&old.local_index());
            }
        }
    }

    fn drop_initiator(&mut self, slot: u32) {
        if let Some(initiator) = self.peer_mut(slot).and_then(|peer| peer.initiator.take()) {
            self.by_index.remove(&initiator.index());
        }
    }

    /// Forgets sessions and handshakes of a peer.
    pub(super) fn forget_keys(&mut self, slot: u32, out: &mut Vec<Action>) {
        self.drop_initiator(slot);
        let Some(peer) = self.peer_mut(slot) else { return };
        peer.view = None;
        (peer.retry_at, peer.first_attempt, peer.forced_at, peer.older_until) = (0, 0, 0, 0);
        let before = std::mem::take(&mut peer.sessions);
        if before.all().next().is_some() {
            changed(out);
        }
        self.forget_indices(slot, &before);
    }

    /// Sends an empty packet, or begins the handshake that it takes.
    pub(super) fn keepalive(&mut self, slot: u32, now: Now, out: &mut Vec<Action>) {
        let Some(peer) = self.peer_mut(slot) else { return };
        let sealed = peer.usable(now.mono).and_then(|session| {
            let mut bytes = vec![0; OVERHEAD];
            let text = TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN;
            session.sealer(1, now.mono).seal_message(&mut bytes, text, 0).ok()?;
            Some(bytes)
        });
        match (sealed, peer.endpoint) {
            (Some(bytes), Some(endpoint)) => out.push(Action::Send { to: endpoint.to, from: endpoint.from, bytes }),
            _ => {
                // Not asked for again before the next packet.
                peer.activity.unacked_since.store(0, Relaxed);
                if peer.initiator.is_none() {
                    self.initiate(slot, now, Attempt::First, out);
                }
            }
        }
    }

    /// Sends an initiation.
    pub(super) fn initiate(&mut self, slot: u32, now: Now, attempt: Attempt, out: &mut Vec<Action>) {
        let jitter = self.random(JITTER_NS);
        let Some(index) = self.new_index() else { return };
        let Some(identity) = &self.identity else { return };
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if peer.endpoint.is_none() {
            peer.retry_at = 0;
            return;
        }
        match attempt {
            Attempt::First => {
                if peer.shook != 0 && now.mono < peer.shook.saturating_add(REKEY_TIMEOUT_NS) {
                    return;
                }
                peer.first_attempt = now.mono;
            }
            Attempt::Forced => peer.first_attempt = now.mono,
            Attempt::Again => forget_source(peer, out),
        }
        let wall = now.wall.max(peer.last_wall_out.saturating_add(TIMESTAMP_STEP));
        peer.remote(identity);
        let (Some(remote), Some(endpoint)) = (&peer.remote, peer.endpoint) else { return };
        let Ok(ephemeral) = PrivateKey::generate() else { return };
        let Ok((initiator, message)) = Initiator::start(identity, remote, index, ephemeral, Tai64n::since_1970(wall))
        else {
            // A public key that nobody can have.
            peer.retry_at = 0;
            return;
        };
        let mut bytes = message.to_bytes().to_vec();
        peer.jar.stamp(remote, &mut bytes, now.mono);
        peer.last_wall_out = wall;
        peer.shook = now.mono;
        peer.retry_at = now.mono.saturating_add(REKEY_TIMEOUT_NS + jitter);
        peer.activity.sent(now.mono, bytes.len() as u64, false);
        let before = peer.initiator.replace(initiator);
        if let Some(before) = before {
            self.by_index.remove(&before.index());
        }
        self.by_index.insert(index, slot);
        out.push(Action::Send { to: endpoint.to, from: endpoint.from, bytes });
    }

    /// An index that is not in use. `None` where the system has no random numbers.
    pub(super) fn new_index(&self) -> Option<u32> {
        loop {
            let mut bytes = [0; 4];
            self.random.fill(&mut bytes).ok()?;
            let index = u32::from_le_bytes(bytes);
            // At most a few per peer are in use of 2^32: it does not take long.
            if !self.by_index.contains_key(&index) {
                return Some(index);
            }
        }
    }

    /// Below `limit`; 0 where the system has no random numbers.
    fn random(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.random.fill(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes) % limit.max(1),
            Err(_) => 0,
        }
    }
}

/// Why an initiation is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Unless one was sent a moment ago.
    First,
    /// The last one was not answered.
    Again,
    /// Whenever the last one was.
    Forced,
}

/// Once is enough, but it must stand before what is sent next.
pub(super) fn changed(out: &mut Vec<Action>) {
    if out.last() != Some(&Action::Changed) {
        out.push(Action::Changed);
    }
}

pub(super) fn set_endpoint(peer: &mut Peer, endpoint: Endpoint, out: &mut Vec<Action>) {
    if peer.endpoint != Some(endpoint) {
        peer.endpoint = Some(endpoint);
        peer.view = None;
        changed(out);
    }
}

fn forget_source(peer: &mut Peer, out: &mut Vec<Action>) {
    if let Some(endpoint) = peer.endpoint {
        set_endpoint(peer, Endpoint { from: None, ..endpoint }, out);
    }
}

fn view(peer: &mut Peer) -> Arc<PeerView> {
    if let Some(view) = &peer.view {
        return view.clone();
    }
    let view = Arc::new(PeerView {
        slot: peer.slot,
        public_key: peer.public,
        endpoint: peer.endpoint,
        sessions: peer.sessions.clone(),
        activity: peer.activity.clone(),
    });
    peer.view = Some(view.clone());
    view
}
