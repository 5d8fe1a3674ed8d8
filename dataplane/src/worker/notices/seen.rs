//! One look at an instance against the one before: what is worth telling.

use crate::control::DropCount;
use crate::control::types::PeerStatus;
use crate::crypto::lifetime::Expiry;
use crate::telemetry::journal::{Journal, Kind, Note};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A WireGuard session is not used longer than this (its `REJECT_AFTER_TIME`), in seconds.
const EXPIRED: f64 = 180.0;
/// Looks between two notes about one worker's full table.
const FULL_AGAIN: u32 = 60;

/// All that is looked at, as it is now.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub drops: Vec<DropCount>,
    pub escaped_bytes: u64,
    pub workers: Vec<WorkerLook>,
    /// Tunnel and peer; `None`: not looked at this time.
    pub peers: Option<Vec<(String, PeerStatus)>>,
    /// Tunnel, direction, and which end of its keys' lifetime is reached.
    pub expired: Vec<(String, &'static str, Expiry)>,
    /// What there is to say of tunnels.
    pub notes: Vec<(String, Vec<String>)>,
    /// Port and state of its device.
    pub devices: Vec<(String, String)>,
}

/// A worker's part.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerLook {
    pub failed: bool,
    /// Packets that found no room for their flow, and flows that made way for others.
    pub refused: u64,
    pub evicted: u64,
}

/// What a peer was like.
#[derive(Clone, Debug)]
struct Peer {
    endpoint: Option<String>,
    /// Of its last handshake, in seconds before the look.
    handshake_s: Option<f64>,
    up: bool,
}

/// What was seen before.
#[derive(Debug, Default)]
pub struct Seen {
    /// Packets by node and reason. `None`: nothing was seen yet, so that nothing is news.
    drops: Option<HashMap<(String, String), u64>>,
    escaped_bytes: u64,
    workers: Vec<(WorkerLook, u32)>,
    peers: Option<BTreeMap<(String, String), Peer>>,
    expired: BTreeSet<(String, &'static str, bool)>,
    notes: Option<Vec<(String, Vec<String>)>>,
    devices: Option<Vec<(String, String)>>,
}

impl Seen {
    /// Tells what is new in `look`, and remembers it.
    pub fn tell(&mut self, journal: &Journal, look: Look) {
        self.drops(journal, &look);
        self.workers(journal, &look);
        if let Some(peers) = look.peers {
            self.peers(journal, peers);
        }
        for (tunnel, direction, reached) in look.expired {
            let (kind, text) = match reached {
                Expiry::Soft => (Kind::TunnelExpiring, "nine tenths of the keys' lifetime are over"),
                Expiry::Hard => (Kind::TunnelExpired, "the keys' lifetime is over: packets are dropped"),
            };
            if self.expired.insert((tunnel.clone(), direction, reached == Expiry::Hard)) {
                journal.tell(Note::new(kind, tunnel, format!("{direction}: {text}")).with("direction", direction));
            }
        }
        for ((tunnel, now), (_, before)) in look.notes.iter().zip(self.notes.iter().flatten()) {
            if now != before {
                let text = if now.is_empty() { "nothing to note any more".to_owned() } else { now.join("; ") };
                journal.tell(Note::new(Kind::TunnelChanged, tunnel, text));
            }
        }
        self.notes = Some(look.notes);
        for ((port, now), (_, before)) in look.devices.iter().zip(self.devices.iter().flatten()) {
            if now != before {
                let text = format!("its device was {before} and is {now}");
                journal.tell(
                    Note::new(Kind::PortChanged, port, text).with("from", before.as_str()).with("to", now.as_str()),
                );
            }
        }
        self.devices = Some(look.devices);
    }

    fn drops(&mut self, journal: &Journal, look: &Look) {
        let mut rising = Map::new();
        let mut words = Vec::new();
        if let Some(before) = &self.drops {
            for drop in &look.drops {
                let known = before.get(&(drop.node.clone(), drop.reason.clone())).copied().unwrap_or(0);
                let more = drop.count.saturating_sub(known);
                if more > 0 {
                    words.push(format!("{more} {} ({})", drop.reason, drop.node));
                    rising.insert(drop.reason.clone(), Value::from(more));
                }
            }
        }
        if !rising.is_empty() {
            let mut note = Note::new(Kind::DropsRising, "", format!("dropped in a second: {}", words.join(", ")));
            for (reason, more) in rising {
                note = note.with(&reason, more);
            }
            journal.tell(note);
        }
        let counted = look.drops.iter().map(|drop| ((drop.node.clone(), drop.reason.clone()), drop.count));
        self.drops = Some(counted.collect());
        let escaped = look.escaped_bytes.saturating_sub(std::mem::replace(&mut self.escaped_bytes, look.escaped_bytes));
        if escaped > 0 {
            let text = format!("{escaped} bytes in clear were held back though a rule encrypts their flow");
            journal.tell(Note::new(Kind::BytesEscaped, "", text).with("bytes", escaped));
        }
    }

    fn workers(&mut self, journal: &Journal, look: &Look) {
        self.workers.resize(look.workers.len(), Default::default());
        for (at, ((before, rest), now)) in self.workers.iter_mut().zip(&look.workers).enumerate() {
            if now.failed && !before.failed {
                let text = format!("worker {at} has ended: its queues are not served; the log says why");
                journal.tell(Note::new(Kind::WorkerFailed, at.to_string(), text));
            }
            let refused = now.refused.saturating_sub(before.refused);
            let evicted = now.evicted.saturating_sub(before.evicted);
            *rest = rest.saturating_sub(1);
            before.failed = now.failed;
            if *rest == 0 {
                (before.refused, before.evicted) = (now.refused, now.evicted);
                if refused + evicted > 0 {
                    *rest = FULL_AGAIN;
                    let text = format!(
                        "the flow table of worker {at} is full: {refused} packets found no room, {evicted} flows made way"
                    );
                    let note = Note::new(Kind::WorkerFull, at.to_string(), text);
                    journal.tell(note.with("refused", refused).with("evicted", evicted));
                }
            }
        }
    }

    fn peers(&mut self, journal: &Journal, peers: Vec<(String, PeerStatus)>) {
        let news = self.peers.is_some();
        let mut before = self.peers.take().unwrap_or_default();
        let mut now = BTreeMap::new();
        for (tunnel, peer) in peers {
            let about = format!("{tunnel}/{}", peer.name);
            let up = peer.last_handshake_s.is_some_and(|seconds| seconds < EXPIRED);
            let is = Peer { endpoint: peer.endpoint, handshake_s: peer.last_handshake_s, up };
            let was = before.remove(&(tunnel.clone(), peer.public_key.clone()));
            tell_of_peer(journal, &about, was.as_ref(), &is, news);
            now.insert((tunnel, peer.public_key), is);
        }
        for ((tunnel, key), peer) in before {
            if peer.up {
                let about = format!("{tunnel}/{}", key.chars().take(8).collect::<String>());
                journal.tell(Note::new(Kind::PeerDown, about, "the peer was removed"));
            }
        }
        self.peers = Some(now);
    }
}

/// `news`: it is not the first look, at which whoever is up may have been for long.
fn tell_of_peer(journal: &Journal, about: &str, was: Option<&Peer>, is: &Peer, news: bool) {
    let endpoint = || is.endpoint.clone().unwrap_or_default();
    let was_up = was.is_some_and(|was| was.up);
    match (was_up, is.up) {
        (false, true) => {
            let text = format!("has keys, and is at {}", endpoint());
            journal.tell(Note::new(Kind::PeerUp, about, text).with("endpoint", endpoint()));
        }
        (true, false) => {
            let note = Note::new(Kind::PeerDown, about, "its keys have expired: no handshake for 180 s");
            journal.tell(note.with("handshake_s", is.handshake_s));
        }
        (true, true) if is.handshake_s < was.and_then(|was| was.handshake_s) => {
            journal.tell(Note::new(Kind::PeerRekeyed, about, "has new keys"));
        }
        _ => {}
    }
    if let (Some(from), Some(to), true) = (was.and_then(|was| was.endpoint.as_ref()), &is.endpoint, news)
        && from != to
    {
        let note = Note::new(Kind::PeerMoved, about, format!("moved from {from} to {to}"));
        journal.tell(note.with("from", from.as_str()).with("to", to.as_str()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::journal::{Reader, Wanted};
    use std::sync::Arc;

    struct World {
        journal: Arc<Journal>,
        reader: Reader,
        seen: Seen,
    }

    impl World {
        fn new() -> Self {
            let journal = Journal::new();
            let reader = journal.reader(Wanted::default(), None).unwrap();
            Self { journal, reader, seen: Seen::default() }
        }

        /// What is told of a look, as "kind about".
        fn look(&mut self, look: Look) -> Vec<String> {
            self.seen.tell(&self.journal, look);
            let events = self.reader.read().unwrap();
            events.iter().map(|event| format!("{} {}", event.kind, event.about)).collect()
        }
    }

    fn drops(count: u64) -> Look {
        let drop = DropCount { reason: "no_route".into(), node: "route".into(), count, help: String::new() };
        Look { drops: vec![drop], ..Look::default() }
    }

    #[test]
    fn drops_are_told_when_they_rise() {
        let mut world = World::new();
        assert!(world.look(drops(7)).is_empty(), "how many there were before is no news");
        assert!(world.look(drops(7)).is_empty());
        world.seen.tell(&world.journal, drops(10));
        let event = world.reader.read().unwrap()[0].clone();
        assert_eq!((event.kind, &event.facts["no_route"]), (Kind::DropsRising, &Value::from(3)));
        assert!(event.text.contains("3 no_route (route)"), "{}", event.text);
        let look = Look { escaped_bytes: 60, ..drops(10) };
        assert_eq!(world.look(look), ["bytes_escaped "]);
    }

    fn peer(handshake: Option<f64>, endpoint: &str) -> Look {
        let peer = PeerStatus {
            name: "branch".into(),
            public_key: "key".into(),
            endpoint: Some(endpoint.into()),
            last_handshake_s: handshake,
            ..PeerStatus::default()
        };
        Look { peers: Some(vec![("wg0".into(), peer)]), ..Look::default() }
    }

    #[test]
    fn peers_come_rekey_move_and_go() {
        let mut world = World::new();
        assert!(world.look(peer(None, "192.0.2.1:1")).is_empty());
        assert_eq!(world.look(peer(Some(0.5), "192.0.2.1:1")), ["peer_up wg0/branch"]);
        assert!(world.look(peer(Some(1.5), "192.0.2.1:1")).is_empty());
        assert!(world.look(Look::default()).is_empty(), "not looked at this time");
        assert_eq!(world.look(peer(Some(0.2), "192.0.2.1:1")), ["peer_rekeyed wg0/branch"]);
        assert_eq!(world.look(peer(Some(1.2), "192.0.2.9:1")), ["peer_moved wg0/branch"]);
        assert_eq!(world.look(peer(Some(180.1), "192.0.2.9:1")), ["peer_down wg0/branch"]);
        assert_eq!(world.look(peer(Some(0.1), "192.0.2.9:1")), ["peer_up wg0/branch"]);
        assert_eq!(world.look(Look { peers: Some(Vec::new()), ..Look::default() }), ["peer_down wg0/key"]);
    }

    #[test]
    fn trouble_is_told_once() {
        let mut world = World::new();
        let worker =
            |failed, refused| Look { workers: vec![WorkerLook { failed, refused, evicted: 0 }], ..Look::default() };
        assert!(world.look(worker(false, 0)).is_empty());
        assert_eq!(world.look(worker(true, 5)), ["worker_failed 0", "worker_full 0"]);
        assert!(world.look(worker(true, 9)).is_empty(), "within the minute");
        for _ in 0..FULL_AGAIN - 2 {
            assert!(world.look(worker(true, 9)).is_empty());
        }
        assert_eq!(world.look(worker(true, 9)), ["worker_full 0"], "what came meanwhile");
        let expired = |reached| Look { expired: vec![("to-b".into(), "out", reached)], ..Look::default() };
        assert_eq!(world.look(expired(Expiry::Soft)), ["tunnel_expiring to-b"]);
        assert!(world.look(expired(Expiry::Soft)).is_empty());
        assert_eq!(world.look(expired(Expiry::Hard)), ["tunnel_expired to-b"]);
        let state = |state: &str| Look { devices: vec![("uplink".into(), state.into())], ..Look::default() };
        assert!(world.look(state("loaded")).is_empty());
        assert_eq!(world.look(state("lost")), ["port_changed uplink"]);
    }
}
