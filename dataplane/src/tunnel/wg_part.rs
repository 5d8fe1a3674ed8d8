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
    /// What its packets are sent from.
    from: Option<IpAddr>,
}

impl Built {
    /// Whether it still holds. What the routing table was asked for may have another answer now: it is asked again, and only
    /// another answer makes another way.
    fn is_of(&self, peer: &Arc<PeerView>, local: Option<IpAddr>) -> bool {
        if !Arc::ptr_eq(&self.of, peer) {
            return false;
        }
        let Some(Endpoint { to, from }) = peer.endpoint.filter(|_| !peer.sessions.is_empty()) else { return true };
        from.or(local).is_some() || source_for(to) == self.from
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
                    // A peer without sessions is not worth asking the routing table for.
                    let from = if peer.sessions.is_empty() { None } else { self.from(&peer) };
                    let way = Arc::new(self.way(&peer, from, old.as_ref()));
                    Built { of: peer, way, from }
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
    fn way(&self, peer: &PeerView, from: Option<IpAddr>, old: Option<&Built>) -> Way {
        let nowhere = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        let remote = peer.endpoint.map_or(nowhere, |endpoint| endpoint.to);
        let old = old.filter(|old| old.of.public_key == peer.public_key);
        // What workers remember of the way holds while the peer stays where it is.
        let state = match old {
            Some(old) if old.way.remote == remote => old.way.state.clone(),
            Some(old) => Arc::new(old.way.state.elsewhere()),
            None => Arc::default(),
        };
        // Whoever waited has an answer now, or asks again.
        state.answer();
        let seal = match from.and_then(|from| self.outer(peer, from)) {
            Some(outer) => Seal::WireGuard(Box::new(WgOut {
                next: peer.sessions.next.clone(),
                current: peer.sessions.current.clone(),
                outer,
            })),
            None => Seal::Nothing,
        };
        Way { remote, seal, state }
    }

    fn from(&self, peer: &PeerView) -> Option<IpAddr> {
        let Endpoint { to, from } = peer.endpoint?;
        from.or(self.local).or_else(|| source_for(to))
    }

    fn outer(&self, peer: &PeerView, from: IpAddr) -> Option<Outer> {
        let to = peer.endpoint?.to;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::crypto::wg::cookie::Jar;
    use crate::crypto::wg::{Identity, Initiator, PrivateKey, Psk, PublicKey, Remote, Tai64n};
    use crate::tunnel::wireguard::uapi::{SetDevice, SetPeer};
    use crate::tunnel::wireguard::{Limits, Now};
    use std::time::Duration;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn clock(now: u64) -> Now {
        Now { mono: now, wall: Duration::from_secs(1_700_000_000) + Duration::from_nanos(now) }
    }

    fn identity(n: u8) -> Identity {
        Identity::new(PrivateKey::from_bytes(&[n + 1; 32]))
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, n], 5000))
    }

    /// A device, its public key, and this many peers.
    fn device(peers: u8) -> (Device, PublicKey) {
        let mut device = Device::new(Limits::default(), clock(1)).unwrap();
        let own = identity(200);
        let peer = |n| SetPeer {
            public_key: *identity(n).public().as_bytes(),
            endpoint: Some(address(n)),
            ..SetPeer::default()
        };
        let set = SetDevice {
            private_key: Some(Secret::new(own.secret().expose())),
            listen_port: Some(51_820),
            peers: (0..peers).map(peer).collect(),
            ..SetDevice::default()
        };
        device.set(&set, clock(1), &mut Vec::new()).unwrap();
        (device, *own.public())
    }

    /// Peer `n` makes a new session.
    fn shake(device: &mut Device, gateway: PublicKey, n: u8, now: u64) {
        shake_at(device, gateway, n, now, Some(LOCAL));
    }

    /// Moves a peer by configuration.
    fn place(device: &mut Device, n: u8, to: SocketAddr) {
        let peer = SetPeer { public_key: *identity(n).public().as_bytes(), endpoint: Some(to), ..SetPeer::default() };
        device
            .set(&SetDevice { peers: vec![peer], ..SetDevice::default() }, clock(2_000_000_000), &mut Vec::new())
            .unwrap();
    }

    fn shake_at(device: &mut Device, gateway: PublicKey, n: u8, now: u64, local: Option<IpAddr>) {
        let own = identity(n);
        let remote = Remote::new(&own, gateway, Psk::default());
        let ephemeral = PrivateKey::generate().unwrap();
        let (_, message) = Initiator::start(&own, &remote, 1, ephemeral, Tai64n::since_1970(clock(now).wall)).unwrap();
        let mut bytes = message.to_bytes();
        Jar::default().stamp(&remote, &mut bytes, now);
        device.receive(clock(now), address(n), local, &mut bytes, &mut Vec::new()).unwrap();
    }

    fn changed(before: &Part, after: &Part) -> Vec<usize> {
        let pairs = before.keys.ways.iter().zip(&after.keys.ways);
        let same = |(a, b): (&Option<Arc<Way>>, &Option<Arc<Way>>)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() == b.is_none(),
        };
        pairs.enumerate().filter(|(_, pair)| !same(*pair)).map(|(at, _)| at).collect()
    }

    #[test]
    fn only_the_way_of_a_peer_that_changed_is_another() {
        let (mut device, key) = device(20);
        let mut parts = WgParts::new(0, Some(LOCAL));
        let (mut before, selection) = parts.build(&mut device);
        assert!(selection);
        for n in 0..20 {
            shake(&mut device, key, n, 1_000_000_000 + u64::from(n));
        }
        (before, _) = {
            let (after, selection) = parts.build(&mut device);
            assert_eq!((changed(&before, &after).len(), selection), (20, false));
            (after, ())
        };
        for n in [7, 19, 7] {
            let now = 3_000_000_000 + before.sessions.len() as u64 * 1_000_000_000;
            shake(&mut device, key, n, now);
            let (after, selection) = parts.build(&mut device);
            let slot = device.slot_of(identity(n).public()).unwrap() as usize;
            assert_eq!((changed(&before, &after), selection), (vec![slot], false));
            let state = |part: &Part| part.keys.ways[slot].as_ref().map(|way| way.state.clone()).unwrap();
            assert!(Arc::ptr_eq(&state(&before), &state(&after)), "what is known of the path is kept");
            assert_eq!(after.sessions.len(), before.sessions.len() + 1);
            before = after;
        }
        let (after, selection) = parts.build(&mut device);
        assert_eq!((changed(&before, &after), selection), (vec![], false));
    }

    #[test]
    fn without_an_address_of_its_own_a_peers_way_stays_as_long_as_the_route_does() {
        let (mut device, key) = device(3);
        (0..3).for_each(|n| shake_at(&mut device, key, n, 1_000_000_000 + u64::from(n), None));
        // Nobody listens there: the routing table alone is asked.
        (0..3).for_each(|n| place(&mut device, n, SocketAddr::from(([127, 0, 0, 9 + n], 9))));
        let mut parts = WgParts::new(0, None);
        let (before, _) = parts.build(&mut device);
        let Some(Seal::WireGuard(_)) = before.keys.ways[1].as_ref().map(|way| &way.seal) else { panic!() };
        let (after, selection) = parts.build(&mut device);
        assert_eq!((changed(&before, &after), selection), (vec![], false));
        // The kernel would send from elsewhere now.
        parts.peers[2].as_mut().unwrap().from = Some(LOCAL);
        let (after, _) = parts.build(&mut device);
        assert_eq!(changed(&before, &after), [2]);
    }

    #[test]
    fn another_port_is_in_every_way_and_a_slots_new_owner_inherits_nothing() {
        let (mut device, key) = device(3);
        (0..3).for_each(|n| shake(&mut device, key, n, 1_000_000_000 + u64::from(n)));
        let mut parts = WgParts::new(0, Some(LOCAL));
        let (before, _) = parts.build(&mut device);
        device.set_listen_port(4242);
        let (after, selection) = parts.build(&mut device);
        assert_eq!((changed(&before, &after), selection), (vec![0, 1, 2], false));
        let Some(Seal::WireGuard(out)) = after.keys.ways[1].as_ref().map(|way| &way.seal) else { panic!() };
        assert_eq!(out.outer.ports(), Some((4242, 5000)));

        let slot = device.slot_of(identity(1).public()).unwrap() as usize;
        let remove = SetPeer { public_key: *identity(1).public().as_bytes(), remove: true, ..SetPeer::default() };
        device.set(&SetDevice { peers: vec![remove], ..SetDevice::default() }, clock(9), &mut Vec::new()).unwrap();
        let (gone, _) = parts.build(&mut device);
        assert!(gone.keys.ways[slot].is_none());
        device.published();
        let add =
            SetPeer { public_key: *identity(50).public().as_bytes(), endpoint: Some(address(1)), ..SetPeer::default() };
        device.set(&SetDevice { peers: vec![add], ..SetDevice::default() }, clock(9), &mut Vec::new()).unwrap();
        assert_eq!(device.slot_of(identity(50).public()), Some(slot as u32));
        let (fresh, _) = parts.build(&mut device);
        let way = fresh.keys.ways[slot].as_ref().unwrap();
        assert!(matches!(way.seal, Seal::Nothing));
        assert!(!Arc::ptr_eq(&way.state, &after.keys.ways[slot].as_ref().unwrap().state));
    }
}
