//! What workers tell the control side about tunnels. Bounded: what does not fit is lost, counted, and comes again with the
//! next packet.

use crossbeam::queue::ArrayQueue;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::Notify;

use super::xfrm::model::Flow;

/// Longest handshake message of WireGuard, the initiation.
pub const MAX_HANDSHAKE: usize = 148;
/// First byte of a handshake initiation.
pub const INITIATION: u8 = 1;
/// Events of a kind that may wait. Handshakes beyond it are a flood, of which the rest is not worth keeping.
const WAITING: usize = 1024;
/// Flows without an association that wait: each of their packets asks.
const ACQUIRES: usize = 64;

/// Something that only the control side can deal with.
#[derive(Clone, Debug)]
pub enum Event {
    /// A handshake message or cookie for a WireGuard tunnel.
    Handshake { tunnel: u16, from: SocketAddr, local: IpAddr, message: Message },
    /// A packet waits for a session or association.
    Wanted { tunnel: u16, way: u32 },
    /// An authentic ESP packet came from another address than the peer's last.
    Moved { tunnel: u16, way: u32, from: SocketAddr },
    /// An authentic WireGuard packet of the session `index` came from another address than the peer's last.
    Roamed { tunnel: u16, index: u32, from: SocketAddr, local: IpAddr },
    /// A packet of this flow met a policy of the kernel's, and no association.
    Acquire { tunnel: u16, flow: Flow },
    /// The first packet of a session that this host answered has come: it is the one to send with.
    Confirmed { tunnel: u16, index: u32 },
}

impl Event {
    /// Index of the tunnel that it is about.
    pub fn tunnel(&self) -> u16 {
        match self {
            Self::Handshake { tunnel, .. }
            | Self::Wanted { tunnel, .. }
            | Self::Moved { tunnel, .. }
            | Self::Roamed { tunnel, .. }
            | Self::Acquire { tunnel, .. }
            | Self::Confirmed { tunnel, .. } => *tunnel,
        }
    }
}

/// A handshake message, copied out of its frame.
#[derive(Clone, Debug)]
pub struct Message {
    len: u8,
    bytes: [u8; MAX_HANDSHAKE],
}

impl Message {
    /// `None`: longer than any.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut own = [0; MAX_HANDSHAKE];
        own.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { len: bytes.len() as u8, bytes: own })
    }

    /// Begins a handshake, rather than answering us.
    fn begins(&self) -> bool {
        self.bytes[0] == INITIATION
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// From all workers to the control side. What anybody out there can send (initiations) and what every packet of a flow may ask
/// for have queues of their own: a flood of either does not crowd out the answers to our own handshakes, nor the rest.
#[derive(Debug)]
pub struct Events {
    initiations: ArrayQueue<Event>,
    answers: ArrayQueue<Event>,
    acquires: ArrayQueue<Event>,
    rest: ArrayQueue<Event>,
    wake: Notify,
}

impl Events {
    pub fn new() -> Arc<Self> {
        let queue = || ArrayQueue::new(WAITING);
        Arc::new(Self {
            initiations: queue(),
            answers: queue(),
            acquires: ArrayQueue::new(ACQUIRES),
            rest: queue(),
            wake: Notify::new(),
        })
    }

    /// Never blocks, never allocates. `false`: the queue is full.
    pub fn push(&self, event: Event) -> bool {
        let queue = match &event {
            Event::Handshake { message, .. } if message.begins() => &self.initiations,
            Event::Handshake { .. } => &self.answers,
            Event::Acquire { .. } => &self.acquires,
            _ => &self.rest,
        };
        let fits = queue.push(event).is_ok();
        if fits {
            self.wake.notify_one();
        }
        fits
    }

    /// Strangers' initiations come last.
    pub fn pop(&self) -> Option<Event> {
        let first = self.rest.pop().or_else(|| self.answers.pop());
        first.or_else(|| self.acquires.pop()).or_else(|| self.initiations.pop())
    }

    /// Returns when there may be an event.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_do_not_crowd_out_the_rest() {
        let events = Events::new();
        let (from, local) = (SocketAddr::from(([192, 0, 2, 2], 1)), IpAddr::from([192, 0, 2, 1]));
        let handshake = |kind: u8| {
            let message = Message::new(&[kind; MAX_HANDSHAKE]).unwrap();
            Event::Handshake { tunnel: 0, from, local, message }
        };
        while events.push(handshake(INITIATION)) {}
        while events.push(handshake(2)) {}
        assert!(events.push(Event::Wanted { tunnel: 0, way: 7 }));
        assert!(matches!(events.pop(), Some(Event::Wanted { way: 7, .. })));
        let next =
            |kind: u8| matches!(events.pop(), Some(Event::Handshake { message, .. }) if message.bytes[0] == kind);
        assert!((0..WAITING).all(|_| next(2)) && next(INITIATION));
    }

    #[test]
    fn a_flood_is_bounded_and_longer_messages_than_any_are_refused() {
        let events = Events::new();
        let taken = (0..5000).filter(|way| events.push(Event::Wanted { tunnel: 0, way: *way })).count();
        assert_eq!(taken, WAITING);
        assert!(matches!(events.pop(), Some(Event::Wanted { way: 0, .. })));
        assert_eq!(Message::new(&[7; MAX_HANDSHAKE]).unwrap().as_slice(), [7; MAX_HANDSHAKE]);
        assert!(Message::new(&[7; MAX_HANDSHAKE + 1]).is_none());
    }

    #[test]
    fn a_flood_of_handshakes_leaves_room_for_what_peers_with_keys_do() {
        let events = Events::new();
        let from = "192.0.2.9:7".parse().unwrap();
        let message = Message::new(&[1; MAX_HANDSHAKE]).unwrap();
        let handshake = Event::Handshake { tunnel: 0, from, local: "192.0.2.1".parse().unwrap(), message };
        while events.push(handshake.clone()) {}
        assert!(events.push(Event::Confirmed { tunnel: 0, index: 7 }));
        assert!(matches!(events.pop(), Some(Event::Confirmed { index: 7, .. })), "and it goes first");
        assert!(matches!(events.pop(), Some(Event::Handshake { .. })));
    }
}
