//! What is remembered of one flow.

use super::key::{Direction, Endpoint, FlowKey};
use super::tcp::L4State;
use super::timers::Tick;

/// Place of a flow in its worker's table. Valid until the next [`super::FlowTable::expire`], that is for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowIdx(pub u32);

/// No next hop cached, no link, no reassembly buffer.
pub const NONE: u32 = u32::MAX;
/// In place of a next hop: what comes this way out of its tunnel goes back into it, to another peer.
pub const RELAYED: u32 = u32::MAX - 1;
/// No reassembly buffer.
pub const NO_SLOT: u16 = u16::MAX;

mod flag {
    pub const LIVE: u8 = 1;
    pub const INITIATOR_IS_HIGH: u8 = 2;
    pub const DECIDED: u8 = 4;
    pub const PROTECTED: u8 = 8;
    /// Two bits, by direction: nothing more can be recognised from that side's bytes.
    pub const SILENT: u8 = 16;
    pub const HAS_HOST: u8 = 64;
}

/// One flow. 124 bytes; what every packet reads or writes comes first.
///
/// The public fields are the nodes' own memory of the flow; the table itself only resets them.
#[derive(Clone)]
#[repr(C)]
pub struct Flow {
    pub(super) key: FlowKey,
    pub(super) last_seen: Tick,
    packets_low: [u32; 2],
    flags: u8,
    pub(super) state: L4State,
    /// `l7::Class` as a number, 0 unknown.
    pub class: u16,
    bytes_low: [u32; 2],
    bytes_high: [u32; 2],
    /// The plan that `rule` was matched in; another generation means: match again. 0: never matched.
    pub plan_generation: u32,
    /// Index of the matched rule.
    pub rule: u16,
    packets_high: [u8; 2],
    /// Index of the next hop by direction of travel ([`Direction::index`]), [`NONE`] where not resolved, or [`RELAYED`].
    next_hop: [u32; 2],
    /// The FIB state that `next_hop` was looked up in.
    fib_generation: u32,
    /// Compress governor: packets still to be left alone.
    pub compress_skip: u16,
    /// Compress governor: how long the next rest is, as a power of two.
    pub compress_backoff: u8,
    /// ALPN in the low nibble, `l7::By` in the high one.
    pub(crate) l7_info: u8,
    /// Packets with payload that the recognisers have seen.
    pub(crate) l7_packets: u8,
    /// `tcp::fin_bit` of each side that has sent FIN.
    pub(super) fins: u8,
    /// Reassembly buffer, or [`NO_SLOT`].
    pub(crate) l7_slot: u16,
    host: u32,
    /// Way out of the tunnel that the flow's rule says, valid as long as `plan_generation` is; [`NONE`]: not chosen.
    pub way: u32,
    /// Number of the association whose packets of this flow the kernel's policies let in, valid likewise; or [`NONE`].
    pub esp_in: u32,
    pub(super) created: Tick,
    /// Next in the same timer slot or in the free list.
    pub(super) link: u32,
}

const _: () = assert!(std::mem::size_of::<Flow>() == 124);

impl Flow {
    /// An entry that belongs to nobody yet.
    pub(super) fn vacant() -> Self {
        Self {
            key: FlowKey::default(),
            last_seen: Tick(0),
            packets_low: [0; 2],
            flags: 0,
            state: L4State::Other,
            class: 0,
            bytes_low: [0; 2],
            bytes_high: [0; 2],
            plan_generation: 0,
            rule: 0,
            packets_high: [0; 2],
            next_hop: [NONE; 2],
            fib_generation: 0,
            compress_skip: 0,
            compress_backoff: 0,
            l7_info: 0,
            l7_packets: 0,
            fins: 0,
            l7_slot: NO_SLOT,
            host: 0,
            way: NONE,
            esp_in: NONE,
            created: Tick(0),
            link: NONE,
        }
    }

    /// Makes the entry a new flow's. Keeps only the timer link.
    pub(super) fn restart(&mut self, key: FlowKey, initiator_is_high: bool, state: L4State, now: Tick) {
        let link = self.link;
        *self = Self::vacant();
        self.link = link;
        self.key = key;
        self.flags = flag::LIVE | if initiator_is_high { flag::INITIATOR_IS_HIGH } else { 0 };
        self.state = state;
        self.last_seen = now;
        self.created = now;
    }

    pub(super) fn retire(&mut self) {
        self.flags = 0;
    }

    pub(super) fn is_live(&self) -> bool {
        self.flags & flag::LIVE != 0
    }

    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    pub fn state(&self) -> L4State {
        self.state
    }

    pub fn last_seen(&self) -> Tick {
        self.last_seen
    }

    pub fn created(&self) -> Tick {
        self.created
    }

    /// Direction of a packet whose source is the key's high end (`swapped` of [`FlowKey::of`]).
    #[inline]
    pub(super) fn direction(&self, swapped: bool) -> Direction {
        if swapped == (self.flags & flag::INITIATOR_IS_HIGH != 0) {
            Direction::FromInitiator
        } else {
            Direction::FromResponder
        }
    }

    /// The side that opened the flow.
    pub fn initiator(&self) -> Endpoint {
        self.end(self.flags & flag::INITIATOR_IS_HIGH != 0)
    }

    pub fn responder(&self) -> Endpoint {
        self.end(self.flags & flag::INITIATOR_IS_HIGH == 0)
    }

    fn end(&self, high: bool) -> Endpoint {
        let (addr, port) = if high { self.key.high() } else { self.key.low() };
        Endpoint::new(addr, port, self.key.is_v6())
    }

    /// Packets seen from one side. Counts to 2^40.
    pub fn packets(&self, dir: Direction) -> u64 {
        let i = dir.index();
        u64::from(self.packets_high[i]) << 32 | u64::from(self.packets_low[i])
    }

    /// Bytes seen from one side, as the caller of `touch` counts them.
    pub fn bytes(&self, dir: Direction) -> u64 {
        let i = dir.index();
        u64::from(self.bytes_high[i]) << 32 | u64::from(self.bytes_low[i])
    }

    #[inline]
    pub(super) fn count(&mut self, dir: Direction, bytes: u32) {
        let i = dir.index();
        let (packets, carry) = self.packets_low[i].overflowing_add(1);
        self.packets_low[i] = packets;
        self.packets_high[i] = self.packets_high[i].wrapping_add(u8::from(carry));
        let total = self.bytes(dir).wrapping_add(u64::from(bytes));
        self.bytes_low[i] = total as u32;
        self.bytes_high[i] = (total >> 32) as u32;
    }

    /// Next hop of what travels this way, as remembered in this state of the FIB: an adjacency, [`RELAYED`], or [`NONE`].
    #[inline]
    pub fn hop(&self, dir: Direction, fib_generation: u32) -> u32 {
        if self.fib_generation == fib_generation { self.next_hop[dir.index()] } else { NONE }
    }

    pub fn set_hop(&mut self, dir: Direction, fib_generation: u32, hop: u32) {
        if self.fib_generation != fib_generation {
            self.fib_generation = fib_generation;
            self.forget_hops();
        }
        self.next_hop[dir.index()] = hop;
    }

    pub fn forget_hops(&mut self) {
        self.next_hop = [NONE; 2];
    }

    /// Both sides have spoken, and TCP's handshake is over: nobody with a forged source gets here.
    pub fn is_proven(&self) -> bool {
        match self.state {
            L4State::TcpEstablished | L4State::TcpHalfClosed => true,
            L4State::TcpOpening | L4State::TcpClosed => false,
            L4State::Udp | L4State::Other => self.packets_low[0] != 0 && self.packets_low[1] != 0,
        }
    }

    /// Nothing more is to be learnt about what the flow carries.
    pub fn is_decided(&self) -> bool {
        self.flags & flag::DECIDED != 0
    }

    pub(crate) fn set_decided(&mut self) {
        self.flags |= flag::DECIDED;
    }

    /// Its packets must not leave in clear.
    pub fn is_protected(&self) -> bool {
        self.flags & flag::PROTECTED != 0
    }

    pub fn set_protected(&mut self, on: bool) {
        self.flags = if on { self.flags | flag::PROTECTED } else { self.flags & !flag::PROTECTED };
    }

    pub(crate) fn is_silent(&self, dir: Direction) -> bool {
        self.flags & flag::SILENT << dir.index() != 0
    }

    pub(crate) fn set_silent(&mut self, dir: Direction) {
        self.flags |= flag::SILENT << dir.index();
    }

    /// Number of the interned host name (`l7::hosts`).
    pub fn host(&self) -> Option<u32> {
        (self.flags & flag::HAS_HOST != 0).then_some(self.host)
    }

    pub(crate) fn set_host(&mut self, host: Option<u32>) {
        self.host = host.unwrap_or(0);
        self.flags = if host.is_some() { self.flags | flag::HAS_HOST } else { self.flags & !flag::HAS_HOST };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_carry_past_32_bits() {
        let mut f = Flow::vacant();
        f.packets_low[1] = u32::MAX;
        f.bytes_low[1] = u32::MAX - 9;
        f.count(Direction::FromResponder, 1500);
        assert_eq!(f.packets(Direction::FromResponder), 1 << 32);
        assert_eq!(f.bytes(Direction::FromResponder), (1 << 32) - 10 + 1500);
        assert_eq!((f.packets(Direction::FromInitiator), f.bytes(Direction::FromInitiator)), (0, 0));
    }
}
