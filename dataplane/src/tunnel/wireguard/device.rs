//! A WireGuard interface without its sockets: messages, the passing of time and an operator's wishes go in, messages and
//! changes come out.
//!
//! Order within the output matters: where [`Action::Changed`] stands before an [`Action::Send`], workers must be able to
//! open with the new session before the message is sent, since it lets the peer use that session. That is make-before-break.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::allowed::{AllowedIps, AllowedTable};
use super::due::Attempt;
use super::load::{Limits, Load};
use super::peer::{Endpoint, Peer, PeerView};
use super::timers::{FORCED_NS, Schedule};
use crate::crypto::wg::cookie::Checker;
use crate::crypto::wg::keys::NoRandom;
use crate::crypto::wg::{Identity, PublicKey};

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
    pub(super) schedule: Schedule,
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
    pub(super) fn random(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.random.fill(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes) % limit.max(1),
            Err(_) => 0,
        }
    }
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
