//! What nodes work with besides the batch: the worker's tables and pools, and the plan of the moment.

use super::packet::{NO_FLOW, Packet};
use super::reason::DropReason;
use crate::flow::FlowTable;
use crate::host::fib::{Fib, PortId};
use crate::io::frame::Frame;
use crate::io::pool::FramePool;
use crate::l7::Inspector;
use crate::plan::Plan;
use crate::telemetry::counters::{RuleCounters, WorkerCounters};
use crate::telemetry::export::Sink;
use crate::tunnel::events::Events;
use crate::tunnel::keys::{Keys, Seal, Way};
use crate::watch::{End, Watch};
use crate::wire::ip::{V4_HEADER, V6_HEADER, V6_MIN_MTU};
use crate::worker::neighbours::Asks;
use softdpu_ebpf_common::walk::L3;

/// Most packets that wait for link addresses or sessions, per worker.
pub const MAX_HELD: usize = 256;

/// What the batch has in it, so that a node with nothing to do need not look at every packet to find that out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// ESP, ESP in UDP, or WireGuard.
    pub sealed: bool,
    /// Came out of a tunnel compressed.
    pub ipcomp: bool,
    /// To be sealed.
    pub to_seal: bool,
    /// May be compressed.
    pub to_compress: bool,
    /// To be cut into fragments.
    pub to_cut: bool,
    /// May have to be cut once it is sealed.
    pub to_cut_outer: bool,
    /// Fragments.
    pub fragments: bool,
}

/// Everything a node may touch. Lives for one batch; the parts are the worker's.
pub struct Cx<'a> {
    /// Monotonic nanoseconds, read once per batch.
    pub now: u64,
    pub plan: &'a Plan,
    pub fib: &'a Fib,
    pub pool: &'a mut FramePool,
    pub flows: &'a mut FlowTable,
    pub inspector: &'a mut Inspector,
    /// Where flows that end are told of.
    pub export: &'a mut Option<Sink>,
    /// Where flows are proposed that need no worker; `None`: nothing is offloaded.
    pub offload: Option<&'a crate::offload::Client>,
    /// How far meters and samples have come.
    pub treated: &'a mut crate::nodes::treat::Treated,
    /// Which flows count against the limits of applications.
    pub counted: &'a mut crate::nodes::connections::Counted,
    pub keys: &'a Keys,
    pub events: &'a Events,
    /// One list of frames per port, sent by the worker after the graph.
    pub tx: &'a mut [Vec<Frame>],
    pub held: &'a mut Vec<Packet>,
    pub neighbours: &'a mut Asks,
    pub icmp_budget: &'a mut Budget,
    /// Of handshake messages that go to the control side from elsewhere than a peer's endpoint.
    pub stranger_budget: &'a mut Budget,
    /// For packets in several frames: gathered here, worked on, scattered again. 64 KiB and room around them.
    pub scratch: &'a mut [u8],
    pub counters: &'a WorkerCounters,
    /// Those of the plan's rules.
    pub rules: &'a RuleCounters,
    /// Who looks at packets on their way; `None` most of the time.
    pub watch: Option<&'a mut Watch>,
    pub seen: Seen,
}

impl<'a> Cx<'a> {
    /// What an answer that a flow remembers was found in: another number means that it may be another one now. Both parts only
    /// ever count up.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.plan.generation.wrapping_add(self.keys.selection)
    }

    /// The packet's way out of its tunnel. `None`: it goes into none, or the way is not there any more.
    #[inline]
    pub fn way(&self, packet: &Packet) -> Option<&'a Way> {
        self.keys.way(packet.meta.tunnel_out, packet.meta.way)
    }

    /// Counts the packet under `reason`, and to its rule if it has one yet, and frees its frame. One that was held while the
    /// plan changed counts to the rule that has the number now.
    pub fn drop_packet(&mut self, packet: Packet, reason: DropReason) {
        if self.watch.is_some() {
            self.watched_ends(&packet, End::Dropped(reason));
        }
        self.counters.drop_packet(reason as usize);
        if let Some(rule) = self.rules.treated(packet.meta.rule) {
            rule.dropped.inc();
        }
        self.pool.free(packet.frame);
    }

    /// Keeps the packet until the forwarding table or the keys change.
    pub fn hold(&mut self, mut packet: Packet) {
        if self.held.len() >= MAX_HELD {
            let for_session = self.way(&packet).is_some_and(|way| !way.can_seal(self.now));
            let reason = if for_session { DropReason::NoSession } else { DropReason::NeighbourQueueFull };
            return self.drop_packet(packet, reason);
        }
        if self.watch.is_some() {
            self.watched_ends(&packet, End::Held);
        }
        // The flow may be gone when the packet goes on.
        packet.meta.flow = NO_FLOW;
        self.held.push(packet);
    }

    #[cold]
    fn watched_ends(&mut self, packet: &Packet, end: End) {
        if let Some(watch) = self.watch.take() {
            watch.ends(self, packet, end);
            self.watch = Some(watch);
        }
    }

    /// Largest IP packet, in bytes, that can go the packet's way: the port's MTU, less what its tunnel puts around it.
    #[inline]
    pub fn mtu_of(&self, packet: &Packet) -> usize {
        let whole = self.whole_mtu_of(packet);
        match self.plan.tunnels.get(usize::from(packet.meta.tunnel_out)) {
            // In fragments of the outer packet, as many as it came in.
            Some(_) if packet.meta.joined => usize::from(u16::MAX),
            Some(tunnel) if tunnel.fragment_outer => whole.max(self.link_mtu(packet.meta.port_out, tunnel.mtu)),
            // RFC 2473 §7.1: an IPv6 link carries 1280 bytes, a tunnel that cannot fragments what it sends.
            Some(_) if packet.headers.l3 == L3::V6 => whole.max(V6_MIN_MTU),
            _ => whole,
        }
    }

    /// The same in one packet.
    #[inline]
    pub fn whole_mtu_of(&self, packet: &Packet) -> usize {
        let outer = self.outer_mtu_of(packet);
        self.way(packet).map_or(outer, |way| way.max_inner(outer))
    }

    /// Largest packet, in bytes, that leaves by the packet's way: of what is sealed, the outer one.
    #[inline]
    pub fn outer_mtu_of(&self, packet: &Packet) -> usize {
        let tunnel = self.plan.tunnels.get(usize::from(packet.meta.tunnel_out));
        let link = self.link_mtu(packet.meta.port_out, tunnel.and_then(|tunnel| tunnel.mtu));
        self.way(packet).map_or(link, |way| way.state.path_mtu.limit(link, self.now))
    }

    /// Largest inner packet that a packet's receiver can send back by the tunnel that it came by. `None`: it came by none.
    pub fn mtu_back(&self, packet: &Packet) -> Option<usize> {
        let tunnel = self.plan.tunnels.get(usize::from(packet.meta.tunnel_in))?;
        let link = self.link_mtu(packet.meta.port_in, tunnel.mtu);
        let ways = &self.keys.tunnel(packet.meta.tunnel_in)?.ways;
        // One without a session says nothing of how much its packets will grow; a few are enough to look at.
        let way = ways.iter().flatten().take(64).find(|way| !matches!(way.seal, Seal::Nothing))?;
        let inner = way.max_inner(way.state.path_mtu.limit(link, self.now));
        // With several peers it may be another one, whose outer header may be IPv6's.
        let other = ways.len() > 1 && way.remote.is_ipv4();
        Some(inner - if other { V6_HEADER - V4_HEADER } else { 0 }.min(inner))
    }

    #[inline]
    fn link_mtu(&self, port: PortId, tunnel: Option<usize>) -> usize {
        let link = usize::from(self.fib.links()[usize::from(port)].mtu);
        tunnel.map_or(link, |mtu| mtu.min(link))
    }

    /// Frees the further parts of a chain; the first stays.
    pub fn pool_drop_continuation(&mut self, frame: &mut Frame) {
        if let Some(rest) = self.pool.split_off(frame) {
            self.pool.free(rest);
        }
    }
}

/// A token bucket for packets that the dataplane itself makes (ICMP errors, RFC 1812 §4.3.2.8).
#[derive(Clone, Debug)]
pub struct Budget {
    tokens: u64,
    last: u64,
    burst: u64,
    per_token_ns: u64,
}

impl Budget {
    /// For ICMP errors.
    pub fn new() -> Self {
        Self::of(1000, 100)
    }

    /// For handshake messages of strangers: as many as the control side could deal with if all were real, at 0.2 ms each. 10,000
    /// peers that renew their keys every two minutes send 170 a second.
    pub fn of_strangers() -> Self {
        Self::of(5000, 1000)
    }

    /// So many a second, 1 to 10^9, and so many at once.
    fn of(per_second: u64, burst: u64) -> Self {
        Self { tokens: burst, last: 0, burst, per_token_ns: 1_000_000_000 / per_second }
    }

    /// `now` in nanoseconds.
    pub fn take(&mut self, now: u64) -> bool {
        let earned = now.saturating_sub(self.last) / self.per_token_ns;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(self.burst);
            self.last = now;
        }
        let any = self.tokens > 0;
        self.tokens -= u64::from(any);
        any
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_burst_and_then_a_rate() {
        let mut budget = Budget::new();
        let burst = (0..1000).filter(|_| budget.take(1)).count();
        assert_eq!(burst, 100);
        let later = (0..1000).filter(|_| budget.take(10_000_001)).count();
        assert_eq!(later, 10, "10 ms at 1000 per second");
    }
}
