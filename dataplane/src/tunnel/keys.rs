//! One snapshot of all that workers open and seal with: inbound associations by SPI, WireGuard sessions by receiver index,
//! and the ways out of each tunnel. Immutable; a rekey, a new peer or a moved endpoint is a new snapshot.

use crate::crypto::esp::{Mode, SaError};
use crate::crypto::outer::Outer;
use crate::crypto::sadb::SpiIndex;
use crate::crypto::wg::session::{self, Session};
use crate::crypto::{self, InboundSa, OutboundSa};
use crate::tunnel::wireguard::allowed::AllowedTable;
use crate::tunnel::xfrm::model::State;
use crate::tunnel::xfrm::selector::XfrmSelector;
use crate::wire::pmtu::PathMtu;
use softdpu_ebpf_common::walk::proto;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A way whose packets wait asks for a session once in this time (nanoseconds).
const ASK_AGAIN: u64 = 1_000_000_000;

/// With more associations, sessions or ways than this their memory does not stay in the cache, and is asked for ahead.
const FEW: usize = 64;

/// That a peer sends from elsewhere is told once in this time (nanoseconds): each telling makes a new snapshot, and a peer that
/// sends from two addresses in turns, or somebody on its path, would have one made for every packet.
const MOVE_AGAIN: u64 = 250_000_000;

/// Everything that workers need of the tunnels, at one time.
#[derive(Debug, Default)]
pub struct Keys {
    /// Counts snapshots: packets that wait for a session are tried again when it changes.
    pub generation: u32,
    /// Changes whenever a flow's way out may be another one. Rekeying does not change it.
    pub selection: u32,
    inbound: Vec<EspIn>,
    by_spi: SpiIndex,
    sessions: Vec<WgIn>,
    by_receiver: SpiIndex,
    listen: Vec<Listen>,
    tunnels: Vec<TunnelKeys>,
    /// Addresses that ESP is for us at, in order.
    locals: Vec<IpAddr>,
    many_inbound: bool,
    many_ways: bool,
}

/// An inbound association and what it belongs to.
#[derive(Clone, Debug)]
pub struct EspIn {
    pub sa: Arc<InboundSa>,
    pub tunnel: u16,
    /// The way out to the same peer, for moved endpoints.
    pub way: u32,
    pub local: IpAddr,
    /// Where it must come from, port 0 where it is not in UDP; `None`: from anywhere, as the kernel has it.
    pub remote: Option<SocketAddr>,
    /// Behind a NAT the peer's address may change, and does so with an authentic packet.
    pub may_move: bool,
    /// What the kernel's policies ask about a packet that it opened.
    pub state: Option<Arc<State>>,
}

/// A WireGuard session and what it belongs to.
#[derive(Clone, Debug)]
pub struct WgIn {
    pub session: Arc<Session>,
    pub tunnel: u16,
    /// The peer: its way out, and its number in the allowed IPs.
    pub way: u32,
}

/// Where a WireGuard tunnel's peers send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub port: u16,
    pub tunnel: u16,
    /// `None`: any address of this host.
    pub local: Option<IpAddr>,
}

/// One tunnel's ways out, and how one is chosen.
#[derive(Clone, Debug, Default)]
pub struct TunnelKeys {
    pub selector: Selector,
    pub ways: Vec<Option<Arc<Way>>>,
}

/// How the way out is chosen for an inner packet.
#[derive(Clone, Debug, Default)]
pub enum Selector {
    /// There is none.
    #[default]
    Nothing,
    /// There is only one.
    Only,
    /// The peer whose allowed IPs have the packet's destination.
    Allowed(Arc<AllowedTable>),
    /// The state that the kernel's policies name for it.
    Xfrm(Arc<XfrmSelector>),
}

/// A peer's way out: what seals for it, and where it is. One cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct Way {
    /// Outer destination.
    pub remote: SocketAddr,
    pub seal: Seal,
    pub state: Arc<WayState>,
}

const _: () = assert!(size_of::<Way>() == 64 && size_of::<WayState>() == 64);

/// What seals the packets of a way.
#[derive(Clone, Debug)]
pub enum Seal {
    /// No session yet, or none any more: packets wait.
    Nothing,
    Esp(EspOut),
    WireGuard(Box<WgOut>),
}

/// An association to send with.
#[derive(Clone, Debug)]
pub struct EspOut {
    pub sa: Arc<OutboundSa>,
    /// In place of the association's own outer header: the peer has moved.
    pub via: Option<Box<Outer>>,
}

/// A WireGuard peer's sessions to send with. Over IPv4 all that is needed is in the first cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct WgOut {
    /// Made as responder: used as soon as the peer has.
    pub next: Option<Arc<Session>>,
    pub current: Option<Arc<Session>>,
    pub outer: Outer,
}

const _: () = assert!(std::mem::offset_of!(WgOut, outer) + Outer::V4_NEEDS <= 64);

impl WgOut {
    /// What to send with now. `now`: monotonic nanoseconds.
    #[inline]
    pub fn session(&self, now: u64) -> Option<&Session> {
        let session = match &self.next {
            Some(next) if next.confirmed() => next,
            _ => self.current.as_ref()?,
        };
        (!session.expired(now)).then_some(session)
    }
}

/// What workers remember of a way from one snapshot to the next.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WayState {
    /// FIB generation and adjacency of the next hop towards the peer; generation 0: not looked up.
    hop: AtomicU64,
    /// Largest outer packet that the path takes, where that is known to be less than the link's.
    pub path_mtu: PathMtu,
    /// When a packet last asked for a session and the control side was told, monotonic nanoseconds; 0: none did.
    wanted: AtomicU64,
    /// When the control side was last told that the peer has moved, likewise.
    moved: AtomicU64,
}

impl WayState {
    /// The adjacency found in this generation of the forwarding table.
    #[inline]
    pub fn hop(&self, generation: u32) -> Option<u32> {
        let hop = self.hop.load(Ordering::Relaxed);
        ((hop >> 32) as u32 == generation).then_some(hop as u32)
    }

    pub fn set_hop(&self, generation: u32, adjacency: u32) {
        self.hop.store(u64::from(generation) << 32 | u64::from(adjacency), Ordering::Relaxed);
    }

    /// Whether this packet is the one to ask: the first since [`Self::answer`], or the first in [`ASK_AGAIN`]. An attempt may
    /// end without anything new to publish, and an event may be lost: neither may silence the way for ever.
    pub fn want(&self, now: u64) -> bool {
        let before = self.wanted.load(Ordering::Relaxed);
        let due = before == 0 || now.saturating_sub(before) >= ASK_AGAIN;
        due && self.wanted.compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub fn answer(&self) {
        self.wanted.store(0, Ordering::Relaxed);
    }

    /// Whether a packet from elsewhere is the one to tell of it: the first in [`MOVE_AGAIN`]. The next ones come again.
    pub fn tell_move(&self, now: u64) -> bool {
        let before = self.moved.load(Ordering::Relaxed);
        let due = before == 0 || now.saturating_sub(before) >= MOVE_AGAIN;
        due && self.moved.compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Of the same peer at another place: of what is known only when it moved.
    pub fn elsewhere(&self) -> Self {
        Self { moved: AtomicU64::new(self.moved.load(Ordering::Relaxed)), ..Self::default() }
    }
}

impl Way {
    /// Asks for its own cache lines.
    #[inline]
    pub fn prefetch(&self) {
        crypto::prefetch_line(self);
    }

    /// Asks for what it points at. Once [`Self::prefetch`] has had its time.
    #[inline]
    pub fn prefetch_seal(&self) {
        crypto::prefetch_line(&*self.state);
        match &self.seal {
            Seal::Nothing => {}
            Seal::Esp(out) => out.sa.prefetch(),
            Seal::WireGuard(out) => {
                crypto::prefetch_line(&**out);
                if self.remote.is_ipv6() {
                    crypto::prefetch_line(out.outer.end());
                }
            }
        }
    }

    /// Asks for the session, where there is one. Once [`Self::prefetch_seal`] has had its time.
    #[inline]
    pub fn prefetch_session(&self) {
        if let Seal::WireGuard(out) = &self.seal {
            [&out.next, &out.current].into_iter().flatten().for_each(|session| session.prefetch_sealing());
        }
    }

    /// Asks for the line that is written when the next packet is sealed.
    #[inline]
    pub fn prefetch_counter(&self, now: u64) {
        if let Seal::WireGuard(out) = &self.seal
            && let Some(session) = out.session(now)
        {
            session.prefetch_counter();
        }
    }

    /// Asks for the keys. Once all of the above have had their time.
    #[inline]
    pub fn prefetch_keys(&self, now: u64) {
        match &self.seal {
            Seal::Nothing => {}
            Seal::Esp(out) => out.sa.prefetch_deep(),
            Seal::WireGuard(out) => {
                if let Some(session) = out.session(now) {
                    session.prefetch_sealing_deep();
                }
            }
        }
    }

    /// Seals what packets carry, behind their own headers: a fragment cannot be sealed so (RFC 4303 §3.1.1).
    #[inline]
    pub fn is_transport(&self) -> bool {
        matches!(&self.seal, Seal::Esp(out) if out.sa.mode() == Mode::Transport)
    }

    /// Whether packets can be sealed at `now`, rather than wait for a session.
    pub fn can_seal(&self, now: u64) -> bool {
        match &self.seal {
            Seal::Nothing => false,
            Seal::Esp(_) => true,
            Seal::WireGuard(out) => out.session(now).is_some(),
        }
    }

    /// Longest inner packet, in bytes, whose sealed packet is within `mtu` (of the path, IP header included).
    #[inline]
    pub fn max_inner(&self, mtu: usize) -> usize {
        match &self.seal {
            Seal::Nothing => mtu,
            Seal::Esp(out) => match &out.via {
                None => out.sa.max_inner(mtu),
                Some(outer) => out.sa.max_inner_via(outer, mtu),
            },
            Seal::WireGuard(out) => session::max_inner(&out.outer, mtu),
        }
    }
}

impl Keys {
    /// # Errors
    /// [`SaError::DuplicateSpi`].
    pub fn new(
        (generation, selection): (u32, u32),
        inbound: Vec<EspIn>,
        sessions: Vec<WgIn>,
        listen: Vec<Listen>,
        tunnels: Vec<TunnelKeys>,
    ) -> Result<Self, SaError> {
        let receivers: Vec<u32> = sessions.iter().map(|wg| wg.session.local_index()).collect();
        let spis: Vec<u32> = inbound.iter().map(|esp| esp.sa.spi()).collect();
        let mut locals: Vec<IpAddr> = inbound.iter().map(|esp| esp.local).collect();
        locals.sort_unstable();
        locals.dedup();
        Ok(Self {
            generation,
            selection,
            many_inbound: inbound.len() + sessions.len() > FEW,
            many_ways: tunnels.iter().map(|tunnel| tunnel.ways.len()).sum::<usize>() > FEW,
            by_spi: SpiIndex::new(&spis)?,
            inbound,
            by_receiver: SpiIndex::new(&receivers)?,
            sessions,
            listen,
            tunnels,
            locals,
        })
    }

    /// The association that a packet with this SPI belongs to.
    #[inline]
    pub fn esp(&self, spi: u32) -> Option<&EspIn> {
        self.inbound.get(self.by_spi.find(spi)?)
    }

    /// The number of the association with this SPI, in [`Self::inbound`].
    pub fn esp_number(&self, spi: u32) -> Option<u32> {
        self.by_spi.find(spi).map(|at| at as u32)
    }

    /// The WireGuard session that a packet with this receiver index belongs to.
    #[inline]
    pub fn session(&self, receiver: u32) -> Option<&WgIn> {
        self.sessions.get(self.by_receiver.find(receiver)?)
    }

    /// The WireGuard tunnel that listens on a UDP port.
    #[inline]
    pub fn listen(&self, port: u16) -> Option<&Listen> {
        self.listen.iter().find(|listen| listen.port == port)
    }

    /// Whether ESP to this address is for us.
    #[inline]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.locals.binary_search(&address).is_ok()
    }

    /// Whether a fragment, which may show no port, may be of a packet that is sealed and for us. `host`: whether `to` is one
    /// of this host's addresses.
    pub fn may_be_sealed(&self, proto: u8, to: IpAddr, host: impl Fn() -> bool) -> bool {
        let listens = || self.listen.iter().any(|listen| listen.local.map_or_else(&host, |local| local == to));
        match proto {
            proto::ESP => self.is_local(to),
            proto::UDP => self.is_local(to) || listens(),
            _ => false,
        }
    }

    #[inline]
    pub fn tunnel(&self, tunnel: u16) -> Option<&TunnelKeys> {
        self.tunnels.get(usize::from(tunnel))
    }

    #[inline]
    pub fn way(&self, tunnel: u16, way: u32) -> Option<&Way> {
        self.tunnel(tunnel)?.ways.get(way as usize)?.as_deref()
    }

    /// All ways out, each with its tunnel and its number.
    pub fn ways(&self) -> impl Iterator<Item = (u16, u32, &Way)> {
        self.tunnels.iter().enumerate().flat_map(|(tunnel, keys)| {
            let ways = keys.ways.iter().enumerate();
            ways.filter_map(move |(at, way)| Some((tunnel as u16, at as u32, way.as_deref()?)))
        })
    }

    /// Whether what opens is so much that it is worth while to ask for it ahead.
    #[inline]
    pub fn many_inbound(&self) -> bool {
        self.many_inbound
    }

    /// The same of what seals.
    #[inline]
    pub fn many_ways(&self) -> bool {
        self.many_ways
    }

    /// Asks for what [`Self::esp`] looks at first.
    #[inline]
    pub fn prefetch_esp(&self, spi: u32) {
        self.by_spi.prefetch(spi);
    }

    /// Asks for what [`Self::session`] looks at first.
    #[inline]
    pub fn prefetch_session(&self, receiver: u32) {
        self.by_receiver.prefetch(receiver);
    }

    /// Asks for what [`Self::way`] looks at first.
    #[inline]
    pub fn prefetch_way(&self, tunnel: u16, way: u32) {
        if let Some(way) = self.tunnel(tunnel).and_then(|tunnel| tunnel.ways.get(way as usize)) {
            crypto::prefetch_line(way);
        }
    }

    /// Asks for what a packet's source is held against once `wg` has opened it. After [`Self::prefetch_way`] has had its time.
    #[inline]
    pub fn prefetch_source(&self, wg: &WgIn) {
        let Some(tunnel) = self.tunnel(wg.tunnel) else { return };
        if let Some(Some(way)) = tunnel.ways.get(wg.way as usize) {
            crypto::prefetch_line(&way.remote);
        }
        if let Selector::Allowed(table) = &tunnel.selector {
            table.prefetch(wg.way);
        }
    }

    pub fn inbound(&self) -> &[EspIn] {
        &self.inbound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_asks_once_a_second_for_as_long_as_nobody_answers() {
        let way = WayState::default();
        assert!(way.want(5));
        assert!(!way.want(6) && !way.want(5 + ASK_AGAIN - 1));
        assert!(way.want(5 + ASK_AGAIN), "an attempt that came to nothing is not the last");
        way.answer();
        assert!(way.want(6 + ASK_AGAIN));
    }

    #[test]
    fn a_peer_that_moves_all_the_time_is_told_of_now_and_then() {
        let way = WayState::default();
        assert!(way.tell_move(5), "the first at once");
        assert!(!way.tell_move(6));
        let way = way.elsewhere();
        assert!(!way.tell_move(4 + MOVE_AGAIN), "wherever it is now");
        assert!(way.tell_move(5 + MOVE_AGAIN));
        assert!(way.want(6) && way.hop(1).is_none());
    }
}
