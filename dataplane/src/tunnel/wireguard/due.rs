//! What a [`Device`] does by itself, when it is due: attempts and their end, renewal, keepalives, forgetting.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::device::{Action, Device, Now, changed, set_endpoint};
use super::peer::{Endpoint, Peer, Sessions};
use super::timers::{FORGET_NS, JITTER_NS, KEEPALIVE_NS, REKEY_ATTEMPT_NS, REKEY_TIMEOUT_NS, SILENCE_NS, Times};
use crate::crypto::wg::message::TRANSPORT_HEADER_LEN;
use crate::crypto::wg::session::OVERHEAD;
use crate::crypto::wg::{Initiator, PrivateKey, Tai64n};

/// At most this many peers are looked after in one [`Device::tick`].
const PEERS_PER_TICK: usize = 256;
/// Two initiations within a step of their timestamps would be one to the peer.
const TIMESTAMP_STEP: Duration = Duration::from_nanos(1 << 24);

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

impl Device {
    /// Does what is due. A bounded number of peers is looked after; [`Device::next_deadline`] says whether there are more.
    pub fn tick(&mut self, now: Now, out: &mut Vec<Action>) {
        for _ in 0..PEERS_PER_TICK {
            let Some(slot) = self.schedule.due(now.mono) else { return };
            self.look_after(slot, now, out);
            self.reschedule(slot, now.mono);
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
        let index = self.new_index();
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if peer.endpoint.is_none() {
            peer.retry_at = 0;
            return;
        }
        if attempt == Attempt::Again {
            // Whatever fails below is tried again.
            peer.retry_at = now.mono.saturating_add(REKEY_TIMEOUT_NS + jitter);
        }
        let (Some(identity), Some(index)) = (&self.identity, index) else { return };
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
}

fn forget_source(peer: &mut Peer, out: &mut Vec<Action>) {
    if let Some(endpoint) = peer.endpoint {
        set_endpoint(peer, Endpoint { from: None, ..endpoint }, out);
    }
}
