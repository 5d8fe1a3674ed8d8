//! The forwarding table of the packet path: routes and neighbours in one immutable snapshot.
//!
//! The control thread builds a new one when the kernel reports a change; workers pick it up between two batches and look
//! up again what they had cached under an older generation.

use super::lpm::Lpm;
use crate::wire::ethernet::{Addresses, Mac};
use crate::wire::prefix::Prefix;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Index of a port in the plan.
pub type PortId = u8;

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To this adjacency (see [`Fib::adjacency`]).
    To(u32),
    /// Out of `port`, but the neighbour's address is not known yet: ask for [`Fib::next_address`].
    Unresolved {
        port: PortId,
    },
    /// The host's own address.
    Local,
    /// A route exists, over an interface that is not a port.
    Elsewhere,
    /// The route leads into the tap by which the kernel hands packets to us: nobody else is behind it.
    FromHost,
    /// A blackhole, unreachable or prohibit route.
    Refused,
    NoRoute,
}

/// A route as the kernel or the policy gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Port { port: PortId, gateway: Option<IpAddr> },
    Local,
    Elsewhere,
    Refused,
}

/// One neighbour behind one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    pub port: PortId,
    pub addresses: Addresses,
    /// The kernel has not heard from this neighbour for a while: whoever sends to it asks for it to be confirmed, as its
    /// packets bypass the kernel, which would otherwise never notice that the neighbour has moved.
    pub confirm: Option<IpAddr>,
}

/// What the packet path needs to know of a port's link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    pub v4: Option<std::net::Ipv4Addr>,
    pub v6: Option<std::net::Ipv6Addr>,
    pub up: bool,
    /// Pcap and loopback ports have no neighbours to resolve: frames leave to the broadcast address.
    pub neighbourless: bool,
}

impl Link {
    /// An address of this link in the family of `like`: what ICMP errors are sent from.
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fib {
    generation: u32,
    links: Vec<Link>,
    routes: Lpm<(Route, u32)>,
    locals: HashSet<IpAddr>,
    neighbours: HashMap<(PortId, IpAddr), u32>,
    adjacencies: Vec<Adjacency>,
    /// The tap to the host's own kernel, and the adjacency that the kernel is on it.
    host: Option<(PortId, u32)>,
    /// With two ports and no route, packets go out of the other port (a bump in the wire): for replays without a kernel.
    cross_connect: bool,
}

impl Fib {
    pub fn new(generation: u32, links: Vec<Link>) -> Self {
        Self { generation, links, ..Self::default() }
    }

    pub fn with_cross_connect(mut self) -> Self {
        self.cross_connect = self.links.len() == 2;
        self
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
    }

    pub fn links(&self) -> &[Link] {
        &self.links
    }

    pub fn set_link_mtu(&mut self, port: PortId, mtu: u16) {
        if let Some(link) = self.links.get_mut(usize::from(port)) {
            link.mtu = mtu;
        }
    }

    /// The first address of each family is what ICMP errors are sent from; a global IPv6 address beats a link-local one.
    pub fn set_link_address(&mut self, port: PortId, addr: IpAddr) {
        let Some(link) = self.links.get_mut(usize::from(port)) else { return };
        match addr {
            IpAddr::V4(a) => link.v4 = link.v4.or(Some(a)),
            IpAddr::V6(a) => {
                if link.v6.is_none_or(|known| known.is_unicast_link_local()) {
                    link.v6 = Some(a);
                }
            }
        }
    }

    /// Of two routes to one prefix the one with the lower metric stays.
    pub fn add_route(&mut self, prefix: Prefix, route: Route, metric: u32) {
        match self.routes.exact_mut(prefix) {
            Some(known) if known.1 <= metric => {}
            Some(known) => *known = (route, metric),
            None => {
                self.routes.insert(prefix, (route, metric));
            }
        }
    }

    pub fn add_local(&mut self, addr: IpAddr) {
        self.locals.insert(addr);
    }

    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.locals.contains(&addr)
    }

    pub fn add_neighbour(&mut self, port: PortId, addr: IpAddr, mac: Mac) {
        self.add(port, addr, mac, None);
    }

    /// One that should be confirmed before long; it is used meanwhile, as the kernel does.
    pub fn add_stale_neighbour(&mut self, port: PortId, addr: IpAddr, mac: Mac) {
        self.add(port, addr, mac, Some(addr));
    }

    fn add(&mut self, port: PortId, addr: IpAddr, mac: Mac, confirm: Option<IpAddr>) {
        let Some(link) = self.links.get(usize::from(port)) else { return };
        let adjacency = self.adjacencies.len() as u32;
        self.adjacencies.push(Adjacency { port, addresses: Addresses::new(mac, link.mac), confirm });
        self.neighbours.insert((port, addr), adjacency);
    }

    /// Makes this port the way to the host's own kernel. Called once, after the links are known.
    pub fn set_host(&mut self, port: PortId) {
        let Some(link) = self.links.get(usize::from(port)) else { return };
        // Without ARP the kernel takes the link's own address for everybody's on it.
        let addresses = Addresses::new(link.mac, link.mac);
        self.host = Some((port, self.adjacencies.len() as u32));
        self.adjacencies.push(Adjacency { port, addresses, confirm: None });
    }

    /// The tap to the host's own kernel, if there is one, and the adjacency that the kernel is on it.
    #[inline]
    pub fn host(&self) -> Option<(PortId, u32)> {
        self.host
    }

    /// Whether this is the tap to the host's own kernel.
    #[inline]
    pub fn is_host(&self, port: PortId) -> bool {
        matches!(self.host, Some((host, _)) if host == port)
    }

    /// Every neighbour whose link address is known.
    pub fn neighbours(&self) -> impl Iterator<Item = ((PortId, IpAddr), Mac)> {
        let known = |(at, adjacency): (&(PortId, IpAddr), &u32)| {
            Some((*at, Mac(self.adjacency(*adjacency)?.addresses.macs().0)))
        };
        self.neighbours.iter().filter_map(known)
    }

    #[inline]
    pub fn adjacency(&self, index: u32) -> Option<&Adjacency> {
        self.adjacencies.get(index as usize)
    }

    /// Adds the broadcast adjacency of every port without neighbours; called once, after the links are known.
    pub fn add_neighbourless(&mut self) {
        for port in 0..self.links.len() as PortId {
            let link = &self.links[usize::from(port)];
            if link.neighbourless {
                let any = if link.v6.is_some() && link.v4.is_none() {
                    IpAddr::V6([0; 16].into())
                } else {
                    IpAddr::V4([0; 4].into())
                };
                self.add_neighbour(port, any, Mac::BROADCAST);
            }
        }
    }

    /// Where a packet to `dst` that came in by `from` goes.
    pub fn look_up(&self, dst: IpAddr, from: PortId) -> Hop {
        if self.locals.contains(&dst) {
            return Hop::Local;
        }
        match self.route(dst, from) {
            None => Hop::NoRoute,
            Some(Route::Local) => Hop::Local,
            Some(Route::Elsewhere) => Hop::Elsewhere,
            Some(Route::Refused) => Hop::Refused,
            Some(Route::Port { port, .. }) if self.is_host(port) => Hop::FromHost,
            Some(Route::Port { port, gateway }) => match self.neighbour(port, gateway.unwrap_or(dst)) {
                Some(adjacency) => Hop::To(adjacency),
                None => Hop::Unresolved { port },
            },
        }
    }

    /// Whose link address is missing when [`Self::look_up`] says [`Hop::Unresolved`].
    pub fn next_address(&self, dst: IpAddr, from: PortId) -> Option<IpAddr> {
        match self.route(dst, from)? {
            Route::Port { gateway, .. } => Some(gateway.unwrap_or(dst)),
            _ => None,
        }
    }

    /// Length of the prefix by which the route to `dst` was found: how exactly it is known where that is. `None`: there is no
    /// route. This host's own addresses are longer than any prefix.
    pub fn prefix_len(&self, dst: IpAddr) -> Option<u8> {
        if self.locals.contains(&dst) {
            return Some(u8::MAX);
        }
        self.routes.get_with_len(dst).map(|(_, len)| len)
    }

    fn route(&self, dst: IpAddr, from: PortId) -> Option<Route> {
        match self.routes.get(dst) {
            Some((route, _)) => Some(*route),
            None if self.cross_connect => Some(Route::Port { port: 1 - from.min(1), gateway: None }),
            None => None,
        }
    }

    fn neighbour(&self, port: PortId, addr: IpAddr) -> Option<u32> {
        if self.links.get(usize::from(port))?.neighbourless {
            return self.neighbours.iter().find(|((p, _), _)| *p == port).map(|(_, adjacency)| *adjacency);
        }
        self.neighbours.get(&(port, addr)).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn fib() -> Fib {
        let link = |n| Link { mac: Mac([2, 0, 0, 0, 0, n]), mtu: 1500, up: true, ..Link::default() };
        let mut fib = Fib::new(1, vec![link(1), link(2)]);
        fib.add_route(prefix("10.1.0.0/24"), Route::Port { port: 0, gateway: None }, 0);
        fib.add_route(prefix("0.0.0.0/0"), Route::Port { port: 1, gateway: Some(ip("192.0.2.1")) }, 0);
        fib.add_route(prefix("10.9.0.0/16"), Route::Refused, 0);
        fib.add_local(ip("10.1.0.1"));
        fib
    }

    #[test]
    fn a_gateway_is_resolved_in_place_of_the_destination() {
        let mut fib = fib();
        assert_eq!(fib.look_up(ip("8.8.8.8"), 0), Hop::Unresolved { port: 1 });
        assert_eq!(fib.next_address(ip("8.8.8.8"), 0), Some(ip("192.0.2.1")));
        fib.add_neighbour(1, ip("192.0.2.1"), Mac([6; 6]));
        let Hop::To(adjacency) = fib.look_up(ip("8.8.8.8"), 0) else { panic!("not resolved") };
        let addresses = Addresses::new(Mac([6; 6]), Mac([2, 0, 0, 0, 0, 2]));
        assert_eq!(fib.adjacency(adjacency), Some(&Adjacency { port: 1, addresses, confirm: None }));
    }

    #[test]
    fn own_refused_and_unknown_destinations() {
        let fib = fib();
        assert_eq!(fib.look_up(ip("10.1.0.1"), 1), Hop::Local);
        assert_eq!(fib.look_up(ip("10.9.1.1"), 1), Hop::Refused);
        assert_eq!(fib.look_up(ip("2001:db8::1"), 1), Hop::NoRoute);
    }

    #[test]
    fn how_exactly_a_route_knows_its_destination() {
        let fib = fib();
        let lens = ["10.1.0.1", "10.1.0.2", "10.9.1.1", "8.8.8.8", "2001:db8::1"].map(|a| fib.prefix_len(ip(a)));
        assert_eq!(lens, [Some(u8::MAX), Some(24), Some(16), Some(0), None]);
    }

    #[test]
    fn the_lower_metric_wins_whatever_the_order() {
        for (first, second) in [(10, 20), (20, 10)] {
            let mut fib = fib();
            let port = |metric| if metric == 10 { 0 } else { 1 };
            for metric in [first, second] {
                fib.add_route(prefix("10.3.0.0/24"), Route::Port { port: port(metric), gateway: None }, metric);
            }
            assert_eq!(fib.look_up(ip("10.3.0.9"), 1), Hop::Unresolved { port: 0 });
        }
    }

    #[test]
    fn without_a_kernel_two_ports_are_a_wire() {
        let link = Link { neighbourless: true, ..Link::default() };
        let mut fib = Fib::new(1, vec![link.clone(), link]).with_cross_connect();
        fib.add_neighbourless();
        for from in [0, 1] {
            let Hop::To(adjacency) = fib.look_up(ip("10.3.0.9"), from) else { panic!("not resolved") };
            assert_eq!(fib.adjacency(adjacency).map(|a| a.port), Some(1 - from));
        }
    }
}
