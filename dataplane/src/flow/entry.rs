//! What is remembered of one flow.

use super::key::{Direction, Endpoint, FlowKey};
use super::tcp::{L4State, Segment, Sequences};
use super::timers::Tick;

/// Place of a flow in its worker's table. Valid until the next [`super::FlowTable::expire`], that is for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowIdx(pub u32);

/// No next hop cached, no way chosen.
pub const NONE: u32 = u32::MAX;
/// No next hop.
const NO_HOP: u16 = u16::MAX;
/// In place of a next hop: what comes this way out of its tunnel goes back into it, to another peer.
const RELAYED: u16 = u16::MAX - 1;
/// No reassembly buffer.
pub const NO_SLOT: u16 = u16::MAX;

/// In place of a number of packets: what the flow said first was not seen.
const HEADLESS: u8 = u8::MAX;
/// Place of the highest tier in [`Flow::offload`].
const HIGHEST: u8 = 1 << 6;

/// Who handles a flow's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tier {
    #[default]
    Worker = 0,
    Xdp = 1,
    Nic = 2,
    Kernel = 3,
}

impl Tier {
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Xdp => "xdp",
            Self::Nic => "nic",
            Self::Kernel => "kernel",
        }
    }
}

/// Three bytes: numbers below 2^24 - 1, and [`U24::NONE`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct U24([u8; 3]);

impl U24 {
    pub(super) const NONE: Self = Self([0xff; 3]);
    /// The largest number.
    pub(super) const MAX: u32 = 0xff_fffe;

    /// `n` modulo 2^24.
    #[inline]
    pub(super) fn new(n: u32) -> Self {
        let [a, b, c, _] = n.to_le_bytes();
        Self([a, b, c])
    }

    #[inline]
    pub(super) fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }
}

mod flag {
    pub const LIVE: u16 = 1;
    pub const INITIATOR_IS_HIGH: u16 = 1 << 1;
    pub const DECIDED: u16 = 1 << 2;
    pub const PROTECTED: u16 = 1 << 3;
    /// Two bits, by direction: nothing more can be recognised from that side's bytes.
    pub const SILENT: u16 = 1 << 4;
    /// Less of it was read than it said, for want of room.
    pub const CUT_SHORT: u16 = 1 << 6;
    /// Its packets may carry other flows.
    pub const CARRIES: u16 = 1 << 7;
    /// Two bits: [`super::Tier`].
    pub const TIER: u16 = 1 << 8;
    /// Two bits, by direction: `next_seq` is known.
    pub const SEQ: u16 = 1 << 10;
    /// The uppermost four bits: [`super::L4State`].
    pub const STATE: u16 = 1 << 12;
}

/// One flow. 120 bytes; what every packet reads or writes comes first. With its share of index and marks a flow costs less than
/// 128 bytes.
///
/// The public fields are the nodes' own memory of the flow; the table itself only resets them.
#[derive(Clone)]
#[repr(C)]
pub struct Flow {
    pub(super) key: FlowKey,
    pub(super) last_seen: Tick,
    packets_low: [u32; 2],
    bytes_low: [u32; 2],
    bytes_high: [u16; 2],
    bytes_top: [u8; 2],
    packets_high: [u8; 2],
    flags: u16,
    /// Upper halves of the sequence numbers that each side is to send next.
    next_seq: [u16; 2],
    /// `l7::Class` as a number, 0 unknown.
    pub class: u16,
    /// The plan that `rule` was matched in; another generation means: match again. 0: never matched.
    pub plan_generation: u32,
    /// Index of the matched rule.
    pub rule: u16,
    next_hop: [u16; 2],
    fib_generation: U24,
    /// ALPN in the low nibble, `l7::By` in the high one.
    pub(crate) l7_info: u8,
    /// Reassembly buffer, or [`NO_SLOT`].
    pub(crate) l7_slot: u16,
    /// Packets with payload that the recognisers have seen; of a decided flow [`HEADLESS`] where its first were not among them.
    pub(crate) l7_packets: u8,
    /// Compress governor: packets still to be left alone.
    pub compress_skip: u8,
    /// Compress governor: how long the next rest is, as a power of two.
    pub compress_backoff: u8,
    host: U24,
    /// Number of the operator's application, 0 none.
    pub app: u16,
    /// Way out of the tunnel that the flow's rule says, valid as long as `plan_generation` is; [`NONE`]: not chosen.
    pub way: u32,
    /// Number of the association whose packets of this flow the kernel's policies let in, valid likewise; or [`NONE`].
    pub esp_in: u32,
    pub(super) created: Tick,
    /// Why the flow is on no higher tier, and above that the highest it was on.
    offload: u8,
    /// Next in the same queue, timer slot or free list.
    link: U24,
}

const _: () = assert!(std::mem::size_of::<Flow>() == 120);

impl Flow {
    /// An entry that belongs to nobody yet.
    pub(super) fn vacant() -> Self {
        Self {
            key: FlowKey::default(),
            last_seen: Tick(0),
            packets_low: [0; 2],
            bytes_low: [0; 2],
            bytes_high: [0; 2],
            bytes_top: [0; 2],
            packets_high: [0; 2],
            flags: 0,
            next_seq: [0; 2],
            class: 0,
            plan_generation: 0,
            rule: 0,
            next_hop: [NO_HOP; 2],
            fib_generation: U24::new(0),
            l7_info: 0,
            l7_slot: NO_SLOT,
            l7_packets: 0,
            compress_skip: 0,
            compress_backoff: 0,
            host: U24::NONE,
            way: NONE,
            esp_in: NONE,
            created: Tick(0),
            app: 0,
            offload: 0,
            link: U24::NONE,
        }
    }

    /// Makes the entry a new flow's. Keeps only where it hangs.
    pub(super) fn restart(&mut self, key: FlowKey, initiator_is_high: bool, state: L4State, now: Tick) {
        let link = self.link;
        *self = Self::vacant();
        self.link = link;
        self.key = key;
        self.flags = flag::LIVE | if initiator_is_high { flag::INITIATOR_IS_HIGH } else { 0 };
        self.set_state(state);
        self.last_seen = now;
        self.created = now;
    }

    pub(super) fn retire(&mut self) {
        self.flags = 0;
    }

    #[inline]
    fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    fn put(&mut self, flags: u16, on: bool) {
        self.flags = if on { self.flags | flags } else { self.flags & !flags };
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.has(flag::LIVE)
    }

    pub(super) fn link(&self) -> Option<u32> {
        (self.link != U24::NONE).then(|| self.link.get())
    }

    pub(super) fn set_link(&mut self, next: Option<u32>) {
        self.link = next.map_or(U24::NONE, U24::new);
    }

    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    #[inline]
    pub fn state(&self) -> L4State {
        L4State::of((self.flags >> 12) as u8)
    }

    #[inline]
    pub(super) fn set_state(&mut self, state: L4State) {
        self.flags = self.flags & (flag::STATE - 1) | (state as u16) << 12;
    }

    /// What is known of TCP's sequence numbers.
    #[inline]
    pub(super) fn sequences(&self) -> Sequences {
        let known = [self.has(flag::SEQ), self.has(flag::SEQ << 1)];
        Sequences { next: self.next_seq, known }
    }

    #[inline]
    pub(super) fn set_sequences(&mut self, s: &Sequences) {
        self.next_seq = s.next;
        self.put(flag::SEQ, s.known[0]);
        self.put(flag::SEQ << 1, s.known[1]);
    }

    /// Of an established TCP connection: the segment changes no state, and ends near what its sender was to send next.
    #[inline(always)]
    pub(super) fn is_in_step(&self, dir: Direction, segment: &Segment) -> bool {
        let i = dir.index();
        self.has(flag::SEQ << i) && segment.is_plain() && segment.upper_end() == self.next_seq[i]
    }

    /// How far TCP has come, by direction: upper half of what that side is to send next, where it is known.
    pub fn tcp_next(&self) -> [Option<u16>; 2] {
        let s = self.sequences();
        [s.known[0].then_some(s.next[0]), s.known[1].then_some(s.next[1])]
    }

    /// The same from whoever saw the flow's packets meanwhile.
    pub fn set_tcp_next(&mut self, next: [u16; 2]) {
        self.set_sequences(&Sequences { next, known: [true; 2] });
    }

    /// To be called when packets of the flow have gone elsewhere than through this table: what it knows of TCP's sequence
    /// numbers is old, and is learnt anew from the next packets.
    pub fn forget_sequences(&mut self) {
        self.flags &= !(3 * flag::SEQ);
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
        if swapped == self.has(flag::INITIATOR_IS_HIGH) { Direction::FromInitiator } else { Direction::FromResponder }
    }

    /// Whether the initiator is the key's `high` end.
    pub fn initiator_is_high(&self) -> bool {
        self.has(flag::INITIATOR_IS_HIGH)
    }

    /// The side that opened the flow.
    pub fn initiator(&self) -> Endpoint {
        self.end(self.has(flag::INITIATOR_IS_HIGH))
    }

    pub fn responder(&self) -> Endpoint {
        self.end(!self.has(flag::INITIATOR_IS_HIGH))
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

    /// Bytes seen from one side, as the caller of `touch` counts them. Counts to 2^56.
    pub fn bytes(&self, dir: Direction) -> u64 {
        let i = dir.index();
        u64::from(self.bytes_top[i]) << 48 | u64::from(self.bytes_high[i]) << 32 | u64::from(self.bytes_low[i])
    }

    #[inline]
    pub(super) fn count(&mut self, dir: Direction, bytes: u32) {
        let i = dir.index();
        let (packets, more_packets) = self.packets_low[i].overflowing_add(1);
        let (low, more_bytes) = self.bytes_low[i].overflowing_add(bytes);
        (self.packets_low[i], self.bytes_low[i]) = (packets, low);
        if more_packets | more_bytes {
            self.carry(i, more_packets, more_bytes);
        }
    }

    #[cold]
    fn carry(&mut self, i: usize, packets: bool, bytes: bool) {
        self.packets_high[i] = self.packets_high[i].wrapping_add(u8::from(packets));
        let (high, top) = self.bytes_high[i].overflowing_add(u16::from(bytes));
        self.bytes_high[i] = high;
        self.bytes_top[i] = self.bytes_top[i].wrapping_add(u8::from(top));
    }

    /// Adds what another tier has counted for the flow, and the time it was last seen there.
    pub fn fold(&mut self, dir: Direction, packets: u64, bytes: u64, seen: Tick) {
        let i = dir.index();
        let (p, b) = (self.packets(dir).wrapping_add(packets), self.bytes(dir).wrapping_add(bytes));
        (self.packets_low[i], self.packets_high[i]) = (p as u32, (p >> 32) as u8);
        (self.bytes_low[i], self.bytes_high[i], self.bytes_top[i]) = (b as u32, (b >> 32) as u16, (b >> 48) as u8);
        if seen.since(self.last_seen) > 0 {
            self.last_seen = seen;
        }
    }

    /// Both sides have spoken, and TCP's handshake is over: nobody with a forged source gets here.
    pub fn is_proven(&self) -> bool {
        self.state().is_proven()
    }

    /// Nothing more is to be learnt about what the flow carries.
    pub fn is_decided(&self) -> bool {
        self.has(flag::DECIDED)
    }

    pub(crate) fn set_decided(&mut self) {
        self.put(flag::DECIDED, true);
    }

    /// Less was read of it than would have told class and host, for want of room: what they do not say is open for good.
    pub fn is_cut_short(&self) -> bool {
        self.has(flag::CUT_SHORT)
    }

    pub(crate) fn set_cut_short(&mut self) {
        self.put(flag::CUT_SHORT, true);
    }

    /// Undecided to the end because its first bytes were never seen: it is older than its entry.
    pub fn is_headless(&self) -> bool {
        self.is_decided() && self.l7_packets == HEADLESS
    }

    /// Of a flow that is decided, as what it stays.
    pub(crate) fn set_headless(&mut self) {
        self.l7_packets = HEADLESS;
    }

    /// Its packets must not leave in clear.
    pub fn is_protected(&self) -> bool {
        self.has(flag::PROTECTED)
    }

    pub fn set_protected(&mut self, on: bool) {
        self.put(flag::PROTECTED, on);
    }

    /// It is of a kind whose packets carry other flows (`wire::overlay`).
    #[inline]
    pub fn carries(&self) -> bool {
        self.has(flag::CARRIES)
    }

    pub fn set_carries(&mut self, on: bool) {
        self.put(flag::CARRIES, on);
    }

    pub fn tier(&self) -> Tier {
        match (self.flags / flag::TIER) & 3 {
            0 => Tier::Worker,
            1 => Tier::Xdp,
            2 => Tier::Nic,
            _ => Tier::Kernel,
        }
    }

    pub fn set_tier(&mut self, tier: Tier) {
        self.flags = (self.flags & !(3 * flag::TIER)) | (tier as u16 * flag::TIER);
        if matches!(tier, Tier::Xdp | Tier::Nic) && tier as u8 > self.offload / HIGHEST {
            self.offload = (self.offload & (HIGHEST - 1)) | (tier as u8 * HIGHEST);
        }
    }

    /// The highest tier that the flow was on.
    pub fn highest_tier(&self) -> Tier {
        match self.offload / HIGHEST {
            0 => self.tier(),
            1 => Tier::Xdp,
            _ => Tier::Nic,
        }
    }

    /// Why the flow is on no higher tier; 0: nothing tried. Codes are those of who offloads.
    pub fn offload_reason(&self) -> u8 {
        self.offload & (HIGHEST - 1)
    }

    /// `reason`: below 64.
    pub fn set_offload_reason(&mut self, reason: u8) {
        self.offload = (self.offload & !(HIGHEST - 1)) | (reason & (HIGHEST - 1));
    }

    pub(crate) fn is_silent(&self, dir: Direction) -> bool {
        self.has(flag::SILENT << dir.index())
    }

    pub(crate) fn set_silent(&mut self, dir: Direction) {
        self.put(flag::SILENT << dir.index(), true);
    }

    /// Number of the interned host name (`l7::hosts`), below 2^24 - 1.
    pub fn host(&self) -> Option<u32> {
        (self.host != U24::NONE).then(|| self.host.get())
    }

    /// A number that is too large is as none.
    pub(crate) fn set_host(&mut self, host: Option<u32>) {
        self.host = host.filter(|n| *n <= U24::MAX).map_or(U24::NONE, U24::new);
    }

    /// The remembered next hop (index of an adjacency) in a direction of travel, if it was looked up in this FIB state.
    #[inline]
    pub fn next_hop(&self, dir: Direction, fib_generation: u32) -> Option<u32> {
        let hop = self.next_hop[dir.index()];
        (hop < RELAYED && self.fib_generation == U24::new(fib_generation)).then_some(u32::from(hop))
    }

    /// Whether [`Self::set_relayed`] was said of this direction in this FIB state.
    #[inline]
    pub fn is_relayed(&self, dir: Direction, fib_generation: u32) -> bool {
        self.next_hop[dir.index()] == RELAYED && self.fib_generation == U24::new(fib_generation)
    }

    /// Remembers a next hop, and forgets the other direction's if that is of another FIB state. One beyond 65,533 is not
    /// remembered but looked up each time. Of the generation 24 bits are kept: no flow is silent for 16 million of them.
    pub fn set_next_hop(&mut self, dir: Direction, fib_generation: u32, hop: u32) {
        let hop = u16::try_from(hop).ok().filter(|hop| *hop < RELAYED);
        self.remember_hop(dir, fib_generation, hop.unwrap_or(NO_HOP));
    }

    /// What travels this way comes out of a tunnel and goes back into it, to another peer: it has no next hop of its own.
    pub fn set_relayed(&mut self, dir: Direction, fib_generation: u32) {
        self.remember_hop(dir, fib_generation, RELAYED);
    }

    fn remember_hop(&mut self, dir: Direction, fib_generation: u32, hop: u16) {
        let generation = U24::new(fib_generation);
        if self.fib_generation != generation {
            self.fib_generation = generation;
            self.forget_hops();
        }
        self.next_hop[dir.index()] = hop;
    }

    /// Both directions are asked about anew.
    pub fn forget_hops(&mut self) {
        self.next_hop = [NO_HOP; 2];
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
        f.bytes_high[1] = u16::MAX;
        f.count(Direction::FromResponder, 1500);
        assert_eq!(f.packets(Direction::FromResponder), 1 << 32);
        assert_eq!(f.bytes(Direction::FromResponder), (1 << 48) - 10 + 1500);
        assert_eq!((f.packets(Direction::FromInitiator), f.bytes(Direction::FromInitiator)), (0, 0));
        f.fold(Direction::FromResponder, (1 << 33) - 1, 1 << 50, Tick(9));
        assert_eq!(f.packets(Direction::FromResponder), (3 << 32) - 1);
        assert_eq!(f.bytes(Direction::FromResponder), (1 << 50) + (1 << 48) - 10 + 1500);
        assert_eq!(f.last_seen(), Tick(9));
    }

    #[test]
    fn flags_do_not_touch_each_other() {
        let mut f = Flow::vacant();
        f.restart(FlowKey::default(), true, L4State::TcpTimeWait, Tick(3));
        f.set_tier(Tier::Kernel);
        f.set_sequences(&Sequences { next: [7, 8], known: [false, true] });
        f.set_silent(Direction::FromResponder);
        f.set_cut_short();
        assert_eq!((f.state(), f.tier(), f.is_live()), (L4State::TcpTimeWait, Tier::Kernel, true));
        f.set_tier(Tier::Xdp);
        f.set_state(L4State::Udp);
        assert_eq!((f.state(), f.tier(), f.sequences().known), (L4State::Udp, Tier::Xdp, [false, true]));
        f.set_offload_reason(63);
        f.set_tier(Tier::Worker);
        assert_eq!((f.offload_reason(), f.tier(), f.highest_tier()), (63, Tier::Worker, Tier::Xdp));
        f.set_tier(Tier::Nic);
        f.set_offload_reason(0);
        f.set_tier(Tier::Xdp);
        assert_eq!((f.offload_reason(), f.tier(), f.highest_tier()), (0, Tier::Xdp, Tier::Nic));
        assert!(f.is_cut_short() && !f.carries() && !f.is_decided() && !f.is_silent(Direction::FromInitiator));
        f.forget_sequences();
        assert_eq!((f.sequences().known, f.tier()), ([false; 2], Tier::Xdp));
        assert_eq!(f.initiator(), Endpoint::new([0; 16], 0, false));
    }

    #[test]
    fn numbers_that_do_not_fit_are_not_remembered() {
        let mut f = Flow::vacant();
        f.set_next_hop(Direction::FromInitiator, 5, 7);
        f.set_next_hop(Direction::FromResponder, 5, 65_535);
        assert_eq!(f.next_hop(Direction::FromInitiator, 5), Some(7));
        assert_eq!(f.next_hop(Direction::FromResponder, 5), None);
        assert_eq!(f.next_hop(Direction::FromInitiator, 6), None);
        f.set_relayed(Direction::FromResponder, 5);
        assert!(f.is_relayed(Direction::FromResponder, 5) && f.next_hop(Direction::FromResponder, 5).is_none());
        f.set_next_hop(Direction::FromResponder, 5, 65_534);
        assert!(!f.is_relayed(Direction::FromResponder, 5), "an adjacency of that number is none");
        f.set_next_hop(Direction::FromResponder, 6, 8);
        assert_eq!(f.next_hop(Direction::FromInitiator, 6), None);
        for (host, kept) in
            [(Some(0), Some(0)), (Some(0xff_fffe), Some(0xff_fffe)), (Some(0xff_ffff), None), (None, None)]
        {
            f.set_host(host);
            assert_eq!(f.host(), kept);
        }
    }
}
