//! A WireGuard device as the workers' part of the keys.

use super::keys::{Listen, Seal, Selector, TunnelKeys, Way, WayState, WgIn, WgOut};
use super::publisher::Part;
use super::wireguard::device::Device;
use super::wireguard::peer::PeerView;
use crate::crypto::outer::{Encapsulation, Outer};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Builds the parts of one tunnel's device, and remembers what stays the same from one to the next.
#[derive(Debug)]
pub struct WgParts {
    tunnel: u16,
    local: Option<IpAddr>,
    /// What workers remember of each peer's way, while the peer stays where it is.
    states: HashMap<u32, (SocketAddr, Arc<WayState>)>,
    /// Of the part before: another table or another set of peers is another selection.
    selector: Option<Selector>,
    slots: usize,
}

impl WgParts {
    pub fn new(tunnel: u16, local: Option<IpAddr>) -> Self {
        Self { tunnel, local, states: HashMap::new(), selector: None, slots: 0 }
    }

    /// The part, and whether flows may now belong to other peers.
    pub fn build(&mut self, device: &mut Device) -> (Part, bool) {
        let table = device.allowed();
        let peers: Vec<Arc<PeerView>> = device.peers().collect();
        let slots = device.slots();
        let mut ways: Vec<Option<Arc<Way>>> = vec![None; slots];
        let mut sessions = Vec::new();
        for peer in &peers {
            sessions.extend(peer.sessions.all().map(|session| WgIn {
                session: session.clone(),
                tunnel: self.tunnel,
                way: peer.slot,
            }));
            if let Some(place) = ways.get_mut(peer.slot as usize) {
                *place = Some(Arc::new(self.way(peer, device.listen_port())));
            }
        }
        self.states.retain(|slot, _| ways.get(*slot as usize).is_some_and(Option::is_some));
        let same = matches!(&self.selector, Some(Selector::Allowed(old)) if Arc::ptr_eq(old, &table));
        let selection = !same || self.slots != slots;
        self.slots = slots;
        let selector = Selector::Allowed(table);
        self.selector = Some(selector.clone());
        let listen = Listen { port: device.listen_port(), tunnel: self.tunnel, local: self.local };
        let part = Part {
            sessions,
            listen: (listen.port != 0).then_some(listen),
            keys: TunnelKeys { selector, ways },
            ..Part::default()
        };
        (part, selection)
    }

    fn way(&mut self, peer: &PeerView, listen_port: u16) -> Way {
        let nowhere = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        let remote = peer.endpoint.map_or(nowhere, |endpoint| endpoint.to);
        let state = match self.states.get(&peer.slot) {
            Some((at, state)) if *at == remote => state.clone(),
            Some((_, state)) => Arc::new(state.elsewhere()),
            None => Arc::default(),
        };
        self.states.insert(peer.slot, (remote, state.clone()));
        // Whoever waited has an answer now, or asks again.
        state.answer();
        let from = peer.endpoint.and_then(|endpoint| endpoint.from).or(self.local).or_else(|| source_for(remote));
        let outer = from.and_then(|from| super::esp::endpoints(from, remote.ip())).map(|endpoints| {
            Outer::new(endpoints, Encapsulation::Udp { source: listen_port, destination: remote.port() })
        });
        let seal = match outer {
            Some(outer) if peer.endpoint.is_some() && !peer.sessions.is_empty() => Seal::WireGuard(Box::new(WgOut {
                next: peer.sessions.next.clone(),
                current: peer.sessions.current.clone(),
                outer,
            })),
            _ => Seal::Nothing,
        };
        Way { remote, seal, state }
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
