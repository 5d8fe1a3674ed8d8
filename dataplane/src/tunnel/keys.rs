//! One snapshot of all that workers open and seal with: inbound associations by SPI, WireGuard sessions by receiver index,
//! and the ways out of each tunnel. Immutable; a rekey, a new peer or a moved endpoint is a new snapshot.

use crate::crypto::esp::SaError;
use crate::crypto::sadb::SpiIndex;
use crate::crypto::{InboundSa, OutboundSa};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Everything that workers need of the tunnels, at one time.
#[derive(Debug, Default)]
pub struct Keys {
    /// Counts snapshots: packets that wait for a session are tried again when it changes.
    pub generation: u32,
    /// Changes whenever a flow's way out may be another one. Rekeying does not change it.
    pub selection: u32,
    inbound: Vec<EspIn>,
    by_spi: SpiIndex,
    tunnels: Vec<TunnelKeys>,
    /// Addresses that ESP is for us at, in order.
    locals: Vec<IpAddr>,
}

/// An inbound association and what it belongs to.
#[derive(Clone, Debug)]
pub struct EspIn {
    pub sa: Arc<InboundSa>,
    pub tunnel: u16,
    /// The way out to the same peer, for moved endpoints.
    pub way: u32,
    pub local: IpAddr,
    /// Where it must come from.
    pub remote: IpAddr,
    /// Behind a NAT the peer's address may change, and does so with an authentic packet.
    pub may_move: bool,
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
}

/// A peer's way out: what seals for it, and where it is.
#[derive(Debug)]
pub struct Way {
    /// Outer destination.
    pub remote: SocketAddr,
    pub seal: Seal,
    pub state: Arc<WayState>,
}

/// What seals the packets of a way.
#[derive(Clone, Debug)]
pub enum Seal {
    /// No session yet, or none any more: packets wait.
    Nothing,
    Esp(Arc<OutboundSa>),
}

/// What workers remember of a way from one snapshot to the next.
#[derive(Debug, Default)]
pub struct WayState {
    /// FIB generation and adjacency of the next hop towards the peer; generation 0: not looked up.
    hop: AtomicU64,
    /// Largest outer packet that the path takes, in bytes; 0: not known to be less than the link's.
    path_mtu: AtomicU32,
    /// A packet has asked for a session, and the control side was told.
    wanted: AtomicBool,
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

    /// The link's MTU, or what the path was found to take.
    #[inline]
    pub fn path_mtu(&self, link: usize) -> usize {
        match self.path_mtu.load(Ordering::Relaxed) {
            0 => link,
            mtu => link.min(mtu as usize),
        }
    }

    /// `None`: nothing is known any more.
    pub fn set_path_mtu(&self, mtu: Option<u32>) {
        self.path_mtu.store(mtu.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether this is the first packet to ask since [`Self::answer`].
    pub fn want(&self) -> bool {
        !self.wanted.swap(true, Ordering::Relaxed)
    }

    pub fn answer(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

impl Way {
    /// Longest inner packet, in bytes, whose sealed packet is within `mtu` (of the link, IP header included).
    #[inline]
    pub fn max_inner(&self, mtu: usize) -> usize {
        let mtu = self.state.path_mtu(mtu);
        match &self.seal {
            Seal::Nothing => mtu,
            Seal::Esp(sa) => sa.max_inner(mtu),
        }
    }
}

impl Keys {
    /// # Errors
    /// [`SaError::DuplicateSpi`].
    pub fn new(
        (generation, selection): (u32, u32),
        inbound: Vec<EspIn>,
        tunnels: Vec<TunnelKeys>,
    ) -> Result<Self, SaError> {
        let spis: Vec<u32> = inbound.iter().map(|esp| esp.sa.spi()).collect();
        let mut locals: Vec<IpAddr> = inbound.iter().map(|esp| esp.local).collect();
        locals.sort_unstable();
        locals.dedup();
        Ok(Self { generation, selection, by_spi: SpiIndex::new(&spis)?, inbound, tunnels, locals })
    }

    /// The association that a packet with this SPI belongs to.
    #[inline]
    pub fn esp(&self, spi: u32) -> Option<&EspIn> {
        self.inbound.get(self.by_spi.find(spi)?)
    }

    /// Whether ESP to this address is for us.
    #[inline]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.locals.binary_search(&address).is_ok()
    }

    #[inline]
    pub fn tunnel(&self, tunnel: u16) -> Option<&TunnelKeys> {
        self.tunnels.get(usize::from(tunnel))
    }

    #[inline]
    pub fn way(&self, tunnel: u16, way: u32) -> Option<&Way> {
        self.tunnel(tunnel)?.ways.get(way as usize)?.as_deref()
    }

    pub fn inbound(&self) -> &[EspIn] {
        &self.inbound
    }
}
