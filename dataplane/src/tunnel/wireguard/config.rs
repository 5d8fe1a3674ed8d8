//! What an operator changes and asks ([`uapi`](super::uapi)), on the device.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::device::{Action, Device, Now, changed};
use super::peer::{Endpoint, Peer};
use super::uapi::{Errno, PeerState, SetDevice, SetPeer, State};
use crate::crypto::secret::Secret;
use crate::crypto::wg::activity::Activity;
use crate::crypto::wg::{Identity, PrivateKey, Psk, PublicKey};

fn is_zero(key: &Secret<32>) -> bool {
    *key == Secret::zeroed()
}

impl Device {
    /// The whole state, with secrets.
    pub fn get(&self) -> State {
        let peers = self.peers.iter().flatten().map(|peer| PeerState {
            public_key: *peer.public.as_bytes(),
            preshared_key: Some(Secret::new(peer.psk.expose())),
            endpoint: peer.endpoint.map(|endpoint| endpoint.to),
            last_handshake: peer.last_handshake,
            tx_bytes: peer.activity.tx_bytes.load(Relaxed),
            rx_bytes: peer.activity.rx_bytes.load(Relaxed),
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: self.allowed.of(peer.slot).collect(),
        });
        State {
            private_key: self.identity.as_ref().map(|identity| Secret::new(identity.secret().expose())),
            listen_port: self.listen_port(),
            fwmark: self.fwmark(),
            peers: peers.collect(),
        }
    }

    /// Whether [`Device::set`] will take `set`. Nothing is changed.
    ///
    /// # Errors
    /// More peers or allowed IPs than the [limits](super::load::Limits) have.
    pub fn check(&self, set: &SetDevice) -> Result<(), Errno> {
        // Counted as if nothing were removed and nothing given twice, unless that is too much: then exactly.
        let mut keys: HashSet<[u8; 32]> = HashSet::new();
        if !set.replace_peers {
            keys.extend(self.by_key.keys().map(|key| *key.as_bytes()));
        }
        for peer in &set.peers {
            if peer.remove {
                keys.remove(&peer.public_key);
            } else if !peer.update_only {
                keys.insert(peer.public_key);
            }
            if keys.len() > self.limits.peers {
                return Err(Errno::TooLarge);
            }
        }
        let given: usize = set.peers.iter().map(|peer| peer.allowed_ips.iter().filter(|ip| !ip.remove).count()).sum();
        let there = if set.replace_peers { 0 } else { self.allowed.len() };
        if given + there > self.limits.allowed_ips {
            return Err(Errno::TooLarge);
        }
        Ok(())
    }

    /// Changes everything that `set` says, or nothing. The sockets are the caller's: it binds the port before, and marks them
    /// after.
    ///
    /// # Errors
    /// See [`Device::check`].
    pub fn set(&mut self, set: &SetDevice, now: Now, out: &mut Vec<Action>) -> Result<(), Errno> {
        self.check(set)?;
        if let Some(key) = &set.private_key {
            self.set_private_key(key, out);
        }
        if let Some(port) = set.listen_port {
            self.listen_port = port;
            changed(out);
        }
        if let Some(fwmark) = set.fwmark {
            self.fwmark = fwmark;
            changed(out);
        }
        if set.replace_peers {
            for slot in 0..self.peers.len() as u32 {
                self.remove(slot, out);
            }
        }
        for peer in &set.peers {
            self.set_peer(peer, now, out);
        }
        Ok(())
    }

    fn set_private_key(&mut self, key: &Secret<32>, out: &mut Vec<Action>) {
        let key = (!is_zero(key)).then(|| PrivateKey::from_bytes(key.expose()));
        if self.identity.as_ref().map(Identity::secret) == key.as_ref() {
            // `wg syncconf` says it each time: sessions stay.
            return;
        }
        self.identity = key.map(Identity::new);
        for slot in 0..self.peers.len() as u32 {
            // What was agreed upon with the old key ends with it.
            self.forget_keys(slot, out);
            if let Some(peer) = self.peer_mut(slot) {
                peer.remote = None;
            }
        }
        // Nobody is a peer of itself.
        if let Some(slot) = self.public_key().and_then(|own| self.by_key.get(own).copied()) {
            self.remove(slot, out);
        }
        changed(out);
    }

    fn set_peer(&mut self, set: &SetPeer, now: Now, out: &mut Vec<Action>) {
        let key = PublicKey::from_bytes(set.public_key);
        let slot = match self.slot_of(&key) {
            Some(slot) if set.remove => return self.remove(slot, out),
            Some(slot) => slot,
            None if set.remove || set.update_only || self.public_key() == Some(&key) => return,
            None => self.add(key, out),
        };
        let Some(peer) = self.peer_mut(slot) else { return };
        if let Some(psk) = &set.preshared_key {
            peer.psk = Psk::from_bytes(psk.expose());
            if let Some(remote) = &mut peer.remote {
                remote.set_psk(peer.psk.clone());
            }
        }
        if let Some(to) = set.endpoint {
            super::device::set_endpoint(peer, Endpoint { to, from: None }, out);
        }
        let mut begin = false;
        if let Some(interval) = set.persistent_keepalive {
            begin = interval != 0 && peer.persistent_keepalive == 0;
            peer.persistent_keepalive = interval;
        }
        self.set_allowed(slot, set, out);
        if begin {
            if let Some(peer) = self.peer_mut(slot) {
                peer.persistent_from = now.mono;
            }
            self.keepalive(slot, now, out);
        }
        self.reschedule(slot, now.mono);
    }

    fn set_allowed(&mut self, slot: u32, set: &SetPeer, out: &mut Vec<Action>) {
        let mut different = set.replace_allowed_ips && self.allowed.remove_all(slot);
        for ip in &set.allowed_ips {
            different |= match ip.remove {
                true => self.allowed.remove(ip.prefix, slot),
                false => self.allowed.insert(ip.prefix, slot),
            };
        }
        if different {
            self.table = None;
            changed(out);
        }
    }

    fn add(&mut self, key: PublicKey, out: &mut Vec<Action>) -> u32 {
        let slot = self.take_slot();
        self.by_key.insert(key, slot);
        self.peers[slot as usize] = Some(Box::new(Peer::new(slot, key, Arc::new(Activity::default()))));
        changed(out);
        slot
    }
}
