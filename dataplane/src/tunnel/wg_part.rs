//! A WireGuard device as the workers' part of the keys.

use super::keys::{Listen, Seal, Selector, TunnelKeys, Way, WgIn, WgOut};
use super::publisher::Part;
use super::wireguard::device::Device;
use super::wireguard::peer::{Endpoint, PeerView};
use crate::crypto::outer::{Encapsulation, Outer};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Builds the parts of one tunnel's device, and remembers what stays the same from one to the next: of ten thousand peers a
/// rekeying changes one, and the others' ways stay the very same.
#[derive(Debug)]
pub struct WgParts {
    tunnel: u16,
    local: Option<IpAddr>,
    /// By slot, as last built.
    peers: Vec<Option<Built>>,
    listen_port: u16,
    /// Of the part before: another table or another set of peers is another selection.
    selector: Option<Selector>,
}

/// A peer, and its way.
#[derive(Debug)]
struct Built {
    of: Arc<PeerView>,
    way: Arc<Way>,
}

impl Built {
    /// Whether it still holds. What the routing table was asked for may have another answer now.
    fn is_of(&self, peer: &Arc<PeerView>, local: Option<IpAddr>) -> bool {
        let from = peer.endpoint.and_then(|endpoint| endpoint.from).or(local);
        Arc::ptr_eq(&self.of, peer) && (from.is_some() || peer.sessions.is_empty())
    }
}

impl WgParts {
    pub fn new(tunnel: u16, local: Option<IpAddr>) -> Self {
        Self { tunnel, local, peers: Vec::new(), listen_port: 0, selector: None }
    }

    /// The part, and whether flows may now belong to other peers.
    pub fn build(&mut self, device: &mut Device) -> (Part, bool) {
        let table = device.allowed();
        let slots = device.slots();
        let listen_port = device.listen_port();
        // It is in every packet.
        let same_port = std::mem::replace(&mut self.listen_port, listen_port) == listen_port;
        let same = matches!(&self.selector, Some(Selector::Allowed(old)) if Arc::ptr_eq(old, &table));
        let selection = !same || self.peers.len() != slots;
        let mut before = std::mem::take(&mut self.peers);
        self.peers.resize_with(slots, || None);
        let mut ways: Vec<Option<Arc<Way>>> = vec![None; slots];
        let mut sessions = Vec::with_capacity(2 * device.peer_count());
        for peer in device.peers() {
            let at = peer.slot as usize;
            sessions.extend(peer.sessions.all().map(|session| WgIn {
                session: session.clone(),
                tunnel: self.tunnel,
                way: peer.slot,
            }));
            let built = match before.get_mut(at).and_then(Option::take) {
                Some(built) if same_port && built.is_of(&peer, self.local) => built,
                old => {
                    let way = Arc::new(self.way(&peer, old.as_ref()));
                    Built { of: peer, way }
                }
            };
            if let (Some(way), Some(place)) = (ways.get_mut(at), self.peers.get_mut(at)) {
                *way = Some(built.way.clone());
                *place = Some(built);
            }
        }
        let selector = Selector::Allowed(table);
        self.selector = Some(selector.clone());
        let listen = Listen { port: listen_port, tunnel: self.tunnel, local: self.local };
        let part = Part {
            sessions,
            listen: (listen.port != 0).then_some(listen),
            keys: TunnelKeys { selector, ways },
            ..Part::default()
        };
        (part, selection)
    }

    /// The way of a peer that has changed. `old`: what was built for its slot before.
    fn way(&self, peer: &PeerView, old: Option<&Built>) -> Way {
        let nowhere = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        let remote = peer.endpoint.map_or(nowhere, |endpoint| endpoint.to);
        let old = old.filter(|old| old.of.public_key == peer.public_key && old.way.remote == remote);
        // What workers remember of the way holds while the peer stays where it is.
        let state = old.map_or_else(Arc::default, |old| old.way.state.clone());
        // Whoever waited has an answer now, or asks again.
        state.answer();
        // A peer without sessions is not worth asking the routing table for.
        let seal = match (!peer.sessions.is_empty()).then(|| self.outer(peer)).flatten() {
            Some(outer) => Seal::WireGuard(Box::new(WgOut {
                next: peer.sessions.next.clone(),
                current: peer.sessions.current.clone(),
                outer,
            })),
            None => Seal::Nothing,
        };
        Way { remote, seal, state }
    }

    fn outer(&self, peer: &PeerView) -> Option<Outer> {
        let Endpoint { to, from } = peer.endpoint?;
        let from = from.or(self.local).or_else(|| source_for(to))?;
        let udp = Encapsulation::Udp { source: self.listen_port, destination: to.port() };
        super::esp::endpoints(from, to.ip()).map(|endpoints| Outer::new(endpoints, udp))
    }
}

/// The address that the kernel would send from. `None`: it has no route. Nothing is sent.
fn source_for(remote: SocketAddr) -> Option<IpAddr> {
    if remote.ip().is_unspecified() {
        return None;
    }
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
