//! The worker's flow table: a bucketed hash index over a slab, both of fixed size.
//!
//! A key has two buckets of eight ways. Look-up compares eight 16-bit tags at once and nearly always ends in the first
//! bucket; insertion takes a free way in either, or moves a few neighbours to their other buckets. The index has a quarter
//! more ways than the slab has entries, so a key without a place is rarer than a full slab.

use softdpu_ebpf_common::walk::{Fragment, Headers};

use super::bucket::{Bucket, WAYS};
use super::entry::{Flow, FlowIdx, NONE};
use super::fragments::Fragments;
use super::key::{Direction, FlowKey, Seed};
use super::tcp::{self, L4State};
use super::timers::{FIRST_LOOK, Tick, Timeouts, Wheel};

#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// Most flows at a time. About 126 bytes each.
    pub capacity: u32,
    pub timeouts: Timeouts,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { capacity: 65_536, timeouts: Timeouts::default() }
    }
}

/// A packet's key, hashed: made for a whole batch first, so that the memory is on its way when it is looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prepared {
    key: FlowKey,
    hash: u64,
    swapped: bool,
    tcp_flags: u8,
}

/// A packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub idx: FlowIdx,
    pub dir: Direction,
    /// This packet made the flow.
    pub new: bool,
}

/// Why a packet has no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many flows as the table holds, and none of those looked at was unproven and idle.
    #[error("flow table full")]
    TableFull,
    /// A later fragment whose first has not been seen, so that nothing says whose it is.
    #[error("fragment without its first")]
    OrphanFragment,
}

/// How many entries an insertion into a full table looks at for one to evict.
const EVICT_LOOKS: u32 = 32;

/// How many flows an insertion moves at most besides the first.
const MOVES: u32 = 2;

pub struct FlowTable {
    seed: Seed,
    timeouts: Timeouts,
    buckets: Box<[Bucket]>,
    slab: Box<[Flow]>,
    /// Entries that were used and are free again, by `link`.
    free: u32,
    /// First entry that was never used.
    fresh: u32,
    live: u32,
    /// Where the next search for an entry to evict starts.
    hand: u32,
    evicted: u64,
    wheel: Wheel,
    fragments: Fragments,
}

impl FlowTable {
    /// All the memory the table will ever use. `now`: the worker's clock.
    pub fn new(config: &FlowConfig, seed: Seed, now: Tick) -> Self {
        let capacity = config.capacity.clamp(WAYS as u32, 1 << 28);
        // 6.4 of 8 ways in use when the slab is full.
        let buckets = (u64::from(capacity) * 10).div_ceil(64).max(2) as usize;
        Self {
            seed,
            timeouts: config.timeouts,
            buckets: vec![Bucket::empty(); buckets].into_boxed_slice(),
            slab: vec![Flow::vacant(); capacity as usize].into_boxed_slice(),
            free: NONE,
            fresh: 0,
            live: 0,
            hand: 0,
            evicted: 0,
            wheel: Wheel::new(now),
            fragments: Fragments::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.live as usize
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    pub fn capacity(&self) -> usize {
        self.slab.len()
    }

    /// Unproven flows that made way for new ones.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes of slab and index.
    pub fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.slab) + std::mem::size_of_val(&*self.buckets)
    }

    /// From now on; flows already there follow at their next look.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Key and hash of a packet outside an overlay. `frame`: the bytes that `h` was walked over; only fragments need it.
    ///
    /// # Errors
    /// [`Refusal::OrphanFragment`].
    #[inline(always)]
    pub fn prepare(&mut self, h: &Headers, frame: &[u8], now: Tick) -> Result<Prepared, Refusal> {
        self.prepare_in(0, h, frame, now)
    }

    /// The same inside the overlay network `vni`.
    ///
    /// # Errors
    /// [`Refusal::OrphanFragment`].
    #[inline(always)]
    pub fn prepare_in(&mut self, vni: u32, h: &Headers, frame: &[u8], now: Tick) -> Result<Prepared, Refusal> {
        let mut prepared = Prepared::default();
        self.prepare_into(vni, h, frame, now, &mut prepared)?;
        Ok(prepared)
    }

    /// The same into the place where it will stay until it is looked up: a copy of what was just written in small pieces
    /// stalls.
    ///
    /// # Errors
    /// [`Refusal::OrphanFragment`]; `to` then holds nothing of use.
    #[inline(always)]
    pub fn prepare_into(
        &mut self,
        vni: u32,
        h: &Headers,
        frame: &[u8],
        now: Tick,
        to: &mut Prepared,
    ) -> Result<(), Refusal> {
        let ports = if h.fragment == Fragment::No {
            (h.sport, h.dport)
        } else {
            self.fragments.ports(h, frame, vni, &self.seed, now).ok_or(Refusal::OrphanFragment)?
        };
        let (key, swapped) = FlowKey::of(h, ports, vni);
        let tcp_flags = if h.proto == tcp::TCP { h.tcp_flags } else { 0 };
        *to = Prepared { key, hash: key.hash(&self.seed), swapped, tcp_flags };
        Ok(())
    }

    /// Asks for the bucket's cache line.
    #[inline]
    pub fn prefetch(&self, p: &Prepared) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch of an element of the slice; it reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const self.buckets[self.first_bucket(p.hash)]).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// Asks for the flow's cache lines, once its bucket's is there.
    #[inline]
    pub fn prefetch_flow(&self, p: &Prepared) {
        #[cfg(target_arch = "x86_64")]
        if let Some(place) = self.buckets[self.first_bucket(p.hash)].places(tag(p.hash)).next() {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let flow: *const u8 = (&raw const self.slab[place as usize]).cast();
            // SAFETY: prefetches within one element of the slice; they read nothing.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(flow.cast());
                _mm_prefetch::<_MM_HINT_T0>(flow.add(64).cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// The packet's flow, made where there is none. `ended` is called with each flow that has to end for that: an
    /// evicted one, or a closed connection whose ports a new SYN takes. A flow seen at this very `now` is never evicted,
    /// so the indices of one batch stay right as long as the batch has one `now`.
    ///
    /// # Errors
    /// [`Refusal::TableFull`].
    #[inline]
    pub fn lookup_or_insert(
        &mut self,
        p: &Prepared,
        now: Tick,
        mut ended: impl FnMut(FlowIdx, &Flow),
    ) -> Result<Hit, Refusal> {
        if let Some(place) = self.find(&p.key, p.hash) {
            let flow = &mut self.slab[place as usize];
            let new = flow.state == L4State::TcpClosed && tcp::opens(flow.key.proto(), p.tcp_flags);
            if new {
                ended(FlowIdx(place), flow);
                flow.restart(p.key, p.swapped, L4State::TcpOpening, now);
            }
            return Ok(Hit { idx: FlowIdx(place), dir: flow.direction(p.swapped), new });
        }
        self.insert(p, now, ended)
    }

    /// The flow of a packet, if there is one.
    #[inline]
    pub fn lookup(&self, p: &Prepared) -> Option<(FlowIdx, Direction)> {
        let place = self.find(&p.key, p.hash)?;
        Some((FlowIdx(place), self.slab[place as usize].direction(p.swapped)))
    }

    #[inline]
    pub fn get(&self, idx: FlowIdx) -> &Flow {
        &self.slab[idx.0 as usize]
    }

    #[inline]
    pub fn get_mut(&mut self, idx: FlowIdx) -> &mut Flow {
        &mut self.slab[idx.0 as usize]
    }

    /// Counts one packet into its flow and moves the L4 state. `bytes`: what the caller counts as the packet's length.
    #[inline]
    pub fn touch(&mut self, hit: Hit, p: &Prepared, bytes: u32, now: Tick) {
        let flow = &mut self.slab[hit.idx.0 as usize];
        flow.last_seen = now;
        flow.count(hit.dir, bytes);
        if !matches!(flow.state, L4State::Udp | L4State::Other) {
            if p.tcp_flags & tcp::FIN != 0 {
                flow.fins |= tcp::fin_bit(hit.dir);
            }
            flow.state = flow.state.next(p.tcp_flags, flow.packets(hit.dir.other()) != 0, flow.fins);
        }
    }

    /// Ends the flows that have been idle for their timeout. Looks at no more than `budget` flows; `ended` is called
    /// with each that ends. Gives how many were looked at. Invalidates every [`FlowIdx`].
    pub fn expire(&mut self, now: Tick, budget: usize, mut ended: impl FnMut(FlowIdx, &Flow)) -> usize {
        let mut looks = 0;
        while looks < budget {
            let slab = &self.slab;
            let Some(place) = self.wheel.next_due(now, |i| slab[i as usize].link) else { break };
            looks += 1;
            let flow = &mut self.slab[place as usize];
            if !flow.is_live() {
                flow.link = self.free;
                self.free = place;
                continue;
            }
            let idle = now.since(flow.last_seen);
            let timeout = self.timeouts.of(flow.state);
            if idle < timeout {
                let at = next_look(flow, timeout - idle, now);
                self.wheel.hang(place, &mut flow.link, at);
                continue;
            }
            ended(FlowIdx(place), flow);
            let key = flow.key;
            flow.retire();
            flow.link = self.free;
            self.free = place;
            self.live -= 1;
            self.unindex(place, &key);
        }
        looks
    }

    /// The live flows among `look` entries from `from` on: a listing in parts that do not hold up packets.
    pub fn scan(&self, from: usize, look: usize) -> impl Iterator<Item = &Flow> {
        let used = &self.slab[..self.fresh as usize];
        used.iter().skip(from).take(look).filter(|flow| flow.is_live())
    }

    /// The live flows among `look` entries from `from` on, with their places.
    pub fn entries(&self, from: usize, look: usize) -> impl Iterator<Item = (FlowIdx, &Flow)> {
        let used = &self.slab[..self.fresh as usize];
        let part = used.iter().enumerate().skip(from).take(look);
        part.filter(|(_, flow)| flow.is_live()).map(|(at, flow)| (FlowIdx(at as u32), flow))
    }

    /// When the packet that came last came, as far as live flows remember. For the end, when nobody has a clock any more.
    pub fn newest(&self) -> Tick {
        self.iter()
            .map(|(_, flow)| flow.last_seen)
            .reduce(|a, b| if b.since(a) > 0 { b } else { a })
            .unwrap_or_default()
    }

    /// Every live flow. Walks the whole slab: for reports, not for packets.
    pub fn iter(&self) -> impl Iterator<Item = (FlowIdx, &Flow)> {
        self.slab[..self.fresh as usize]
            .iter()
            .enumerate()
            .filter(|(_, f)| f.is_live())
            .map(|(i, f)| (FlowIdx(i as u32), f))
    }

    #[inline]
    fn first_bucket(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn second_bucket(&self, hash: u64) -> usize {
        self.first_bucket(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[inline]
    fn find(&self, key: &FlowKey, hash: u64) -> Option<u32> {
        let tag = tag(hash);
        let here = |b: usize| self.buckets[b].places(tag).find(|&p| self.slab[p as usize].key == *key);
        here(self.first_bucket(hash)).or_else(|| here(self.second_bucket(hash)))
    }

    #[cold]
    #[inline(never)]
    fn insert(&mut self, p: &Prepared, now: Tick, mut ended: impl FnMut(FlowIdx, &Flow)) -> Result<Hit, Refusal> {
        let (place, hung) = match self.take_entry() {
            Some(place) => (place, false),
            // An evicted entry keeps its place on the wheel.
            None => (self.evict(now, &mut ended).ok_or(Refusal::TableFull)?, true),
        };
        let from_initiator = tcp::sender_is_initiator(p.key.proto(), p.tcp_flags);
        let state = L4State::first(p.key.proto(), p.tcp_flags);
        let flow = &mut self.slab[place as usize];
        flow.restart(p.key, p.swapped == from_initiator, state, now);
        if !hung {
            let at = next_look(flow, self.timeouts.of(state), now);
            self.wheel.hang(place, &mut flow.link, at);
        }
        let dir = flow.direction(p.swapped);
        if !self.index(place, p.hash) {
            // No way to be had in hundreds of buckets. The entry stays on the wheel as a dead flow until its slot comes up.
            self.slab[place as usize].retire();
            return Err(Refusal::TableFull);
        }
        self.live += 1;
        Ok(Hit { idx: FlowIdx(place), dir, new: true })
    }

    fn take_entry(&mut self) -> Option<u32> {
        if self.free != NONE {
            let place = self.free;
            self.free = self.slab[place as usize].link;
            return Some(place);
        }
        if (self.fresh as usize) < self.slab.len() {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        None
    }

    /// Ends the first unproven flow that the hand comes to. The hand goes round in the order in which a flood fills the
    /// slab, so it meets the oldest first.
    fn evict(&mut self, now: Tick, ended: &mut impl FnMut(FlowIdx, &Flow)) -> Option<u32> {
        let n = self.slab.len() as u32;
        for _ in 0..EVICT_LOOKS.min(n) {
            let place = self.hand;
            self.hand = if place + 1 == n { 0 } else { place + 1 };
            let flow = &self.slab[place as usize];
            if flow.is_live() && !flow.is_proven() && now.since(flow.last_seen) > 0 {
                ended(FlowIdx(place), flow);
                let key = flow.key;
                self.unindex(place, &key);
                self.live -= 1;
                self.evicted += 1;
                return Some(place);
            }
        }
        None
    }

    fn index(&mut self, place: u32, hash: u64) -> bool {
        let homes = [self.first_bucket(hash), self.second_bucket(hash)];
        for b in homes {
            if let Some(way) = self.buckets[b].free_way() {
                self.buckets[b].set(way, tag(hash), place);
                return true;
            }
        }
        for depth in 0..=MOVES {
            for b in homes {
                if let Some(way) = self.make_room(b, depth) {
                    self.buckets[b].set(way, tag(hash), place);
                    return true;
                }
            }
        }
        false
    }

    /// Moves one of a full bucket's flows to its other bucket, and there, `depth` deep, another one first. Gives the way
    /// that is free now.
    fn make_room(&mut self, b: usize, depth: u32) -> Option<usize> {
        for way in 0..WAYS {
            let neighbour = self.buckets[b].place(way);
            let hash = self.slab[neighbour as usize].key.hash(&self.seed);
            let (first, second) = (self.first_bucket(hash), self.second_bucket(hash));
            let elsewhere = if first == b { second } else { first };
            if elsewhere == b {
                continue;
            }
            let free = match self.buckets[elsewhere].free_way() {
                None if depth > 0 => self.make_room(elsewhere, depth - 1),
                found => found,
            };
            // A deeper move may have come back here and taken the neighbour's way.
            if let Some(free) = free
                && self.buckets[b].place(way) == neighbour
            {
                self.buckets[elsewhere].set(free, tag(hash), neighbour);
                self.buckets[b].clear(way);
                return Some(way);
            }
        }
        None
    }

    fn unindex(&mut self, place: u32, key: &FlowKey) {
        let hash = key.hash(&self.seed);
        let (first, second) = (self.first_bucket(hash), self.second_bucket(hash));
        let found = self.buckets[first].remove(place) || self.buckets[second].remove(place);
        debug_assert!(found, "a live flow is in one of its two buckets");
    }
}

/// When to look at a flow again that has `left` ticks to live.
fn next_look(flow: &Flow, left: u32, now: Tick) -> Tick {
    now.plus(left.min(FIRST_LOOK.max(now.since(flow.created()))))
}

/// Never 0, which means free.
#[inline]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}
