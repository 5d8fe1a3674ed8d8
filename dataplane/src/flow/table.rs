//! The worker's flow table: an index over a slab, both of fixed size.
//!
//! Every live flow hangs in one place: young ones in queues by age, the others on the timer wheel. Flows that nobody has proven
//! yet may take up a share of the table and no more; when that or the whole table is full, a new flow takes the place of the
//! oldest unproven one. A proven flow never makes way.

mod ageing;

use softdpu_ebpf_common::walk::{Fragment, Headers};

use super::entry::{Flow, FlowIdx, Tier, U24};
use super::fragments::{Early, Fragments};
use super::index::Index;
use super::key::{Direction, FlowKey, Net, Seed};
use super::marks::Marks;
use super::memory;
use super::tcp::{self, L4State, Segment, Standing};
use super::timers::{Tick, Timeouts, Wheel};
use super::young::{QUEUES, Young};

#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// Most flows at a time, 16 to 16,777,214. At most 128 bytes each.
    pub capacity: u32,
    pub timeouts: Timeouts,
    /// Most flows at a time that are unproven: opening, or one-sided. Percent of the capacity.
    pub unproven_percent: u8,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { capacity: 65_536, timeouts: Timeouts::default(), unproven_percent: 50 }
    }
}

/// A packet's key, hashed: made for a whole batch first, so that the memory is on its way when it is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    key: FlowKey,
    swapped: bool,
    early: Early,
    hash: u64,
    segment: Segment,
    /// Where the flow most likely is, as [`FlowTable::prefetch_flow`] saw it; else [`UNGUESSED`].
    guess: u32,
}

/// Beyond every slab.
const UNGUESSED: u32 = u32::MAX;

impl Default for Prepared {
    fn default() -> Self {
        let (key, segment, early) = (FlowKey::default(), Segment::default(), Early::default());
        Self { key, swapped: false, early, hash: 0, segment, guess: UNGUESSED }
    }
}

impl Prepared {
    /// What its TCP header says; nothing for what is not TCP.
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// What this first fragment's datagram had sent ahead of it.
    pub fn early(&self) -> Early {
        self.early
    }
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
    /// As many flows as the table holds, and none that would make way.
    #[error("flow table full")]
    TableFull,
    /// As many unproven flows as it may hold, and none that would make way.
    #[error("too many unproven flows")]
    TooManyUnproven,
    /// A later fragment whose first has not been seen, so that nothing says whose it is.
    #[error("fragment without its first")]
    OrphanFragment,
}

/// What the lack of room, and what was not believed, have led to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Flows that made way because the table was full.
    pub evicted_full: u64,
    /// Flows that made way because there were too many unproven ones.
    pub evicted_unproven: u64,
    /// Packets without a flow: [`Refusal::TableFull`].
    pub refused_full: u64,
    /// Packets without a flow: [`Refusal::TooManyUnproven`].
    pub refused_unproven: u64,
    /// RST and FIN segments that were too far from what their sender sends.
    pub unbelieved: u64,
}

/// How many proven flows an eviction passes on from the queues' heads to the wheel, at most.
const PASSED_ON: u32 = 16;

pub struct FlowTable {
    seed: Seed,
    timeouts: Timeouts,
    index: Index,
    slab: Box<[Flow]>,
    /// Entries that were used and are free again, by their links.
    free: Option<u32>,
    /// First entry that was never used.
    fresh: u32,
    live: u32,
    unproven: u32,
    most_unproven: u32,
    pressure: Pressure,
    young: Young,
    wheel: Wheel,
    marks: Marks,
    fragments: Fragments,
}

impl FlowTable {
    /// All the memory the table will ever use. `now`: the worker's clock.
    pub fn new(config: &FlowConfig, seed: Seed, now: Tick) -> Self {
        let capacity = config.capacity.clamp(16, U24::MAX);
        let share = u64::from(capacity) * u64::from(config.unproven_percent.clamp(1, 100)) / 100;
        Self {
            seed,
            timeouts: config.timeouts,
            index: Index::new(capacity),
            slab: memory::filled(capacity as usize, &Flow::vacant()),
            free: None,
            fresh: 0,
            live: 0,
            unproven: 0,
            most_unproven: (share as u32).max(1),
            pressure: Pressure::default(),
            young: Young::default(),
            wheel: Wheel::new(now),
            marks: Marks::new(capacity as usize),
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

    /// Flows that are opening or one-sided.
    pub fn unproven(&self) -> usize {
        self.unproven as usize
    }

    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// Bytes of all that the table has.
    pub fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.slab)
            + self.index.memory()
            + self.marks.memory()
            + self.fragments.memory()
            + std::mem::size_of::<Self>()
    }

    /// From now on; flows already there follow at their next look.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Key and hash of a packet outside an overlay. `frame`: the bytes that `h` was walked over; fragments and TCP need it.
    ///
    /// # Errors
    /// [`Refusal::OrphanFragment`].
    #[inline(always)]
    pub fn prepare(&mut self, h: &Headers, frame: &[u8], now: Tick) -> Result<Prepared, Refusal> {
        self.prepare_in(Net::OUTSIDE, h, frame, now)
    }

    /// The same inside an overlay network.
    ///
    /// # Errors
    /// [`Refusal::OrphanFragment`].
    #[inline(always)]
    pub fn prepare_in(&mut self, net: Net, h: &Headers, frame: &[u8], now: Tick) -> Result<Prepared, Refusal> {
        let mut prepared = Prepared::default();
        self.prepare_into(net, h, frame, now, &mut prepared)?;
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
        net: Net,
        h: &Headers,
        frame: &[u8],
        now: Tick,
        to: &mut Prepared,
    ) -> Result<(), Refusal> {
        let (ports, early) = if h.fragment == Fragment::No {
            ((h.sport, h.dport), Early::default())
        } else {
            self.fragments.ports(h, frame, net, &self.seed, now).ok_or(Refusal::OrphanFragment)?
        };
        let (key, swapped) = FlowKey::of(h, ports, net);
        let segment = segment(h, frame);
        *to = Prepared { key, hash: key.hash(&self.seed), swapped, segment, early, guess: UNGUESSED };
        Ok(())
    }

    /// Of a packet that is no fragment, and of the flow and side of the packet before it: no more than [`Self::touch`] needs.
    #[inline(always)]
    pub fn prepare_again(h: &Headers, frame: &[u8], to: &mut Prepared) {
        (to.segment, to.early) = (segment(h, frame), Early::default());
    }

    /// The flow that a packet quoted by an ICMP error is of, if there is one: `about` are the quoted headers turned round, as
    /// `wire::icmp::quoted_flow` gives them, `seq` the quoted TCP sequence number. One that its sender cannot have sent lately
    /// is of no flow (RFC 5927 §4). Makes none and changes none.
    pub fn quoted(&self, net: Net, about: &Headers, seq: Option<u32>) -> Option<(FlowIdx, Direction)> {
        if about.fragment != Fragment::No {
            return None;
        }
        let (key, swapped) = FlowKey::of(about, (about.sport, about.dport), net);
        let place = self.find_key(&key, key.hash(&self.seed))?;
        let flow = &self.slab[place as usize];
        let dir = flow.direction(swapped);
        let state = flow.state();
        if state.is_tcp() {
            let sent = flow.sequences().may_have_sent(dir.other().index(), seq?);
            return sent.then_some((FlowIdx(place), dir));
        }
        Some((FlowIdx(place), dir))
    }

    /// Counts a packet that is about a flow rather than of it: the flow grows no younger by it.
    pub fn count_about(&mut self, idx: FlowIdx, dir: Direction, bytes: u32) {
        self.slab[idx.0 as usize].count(dir, bytes);
    }

    /// Asks for the bucket's cache line.
    #[inline]
    pub fn prefetch(&self, p: &Prepared) {
        self.index.prefetch(p.hash);
    }

    /// Asks for the flow's cache lines, once its bucket's is there.
    #[inline]
    pub fn prefetch_flow(&self, p: &mut Prepared) {
        if let Some(place) = self.index.guess(p.hash)
            && let Some(flow) = self.slab.get(place as usize)
        {
            p.guess = place;
            ask_for(flow);
        }
    }

    /// The packet's flow, made where there is none. `ended` is called with each flow that has to end for that: an
    /// evicted one, or a closed connection whose ports a new SYN takes. A flow seen at this very `now` is never evicted,
    /// so the indices of one batch stay right as long as the batch has one `now`.
    ///
    /// # Errors
    /// [`Refusal::TableFull`], [`Refusal::TooManyUnproven`].
    #[inline(always)]
    pub fn lookup_or_insert(
        &mut self,
        p: &Prepared,
        now: Tick,
        ended: impl FnMut(FlowIdx, &Flow),
    ) -> Result<Hit, Refusal> {
        let Some(place) = self.find(p) else { return self.insert(p, now, ended) };
        if tcp::opens(p.key.proto(), p.segment.flags) && self.slab[place as usize].state().gives_way() {
            return Ok(self.open_again(place, p, now, ended));
        }
        Ok(Hit { idx: FlowIdx(place), dir: self.slab[place as usize].direction(p.swapped), new: false })
    }

    /// A new connection on the ports of one that is over.
    #[cold]
    #[inline(never)]
    fn open_again(&mut self, place: u32, p: &Prepared, now: Tick, mut ended: impl FnMut(FlowIdx, &Flow)) -> Hit {
        let flow = &mut self.slab[place as usize];
        ended(FlowIdx(place), flow);
        let before = flow.state().standing();
        flow.restart(p.key, p.swapped, L4State::TcpOpening, now);
        let dir = flow.direction(p.swapped);
        self.stands(place, before, Standing::Unproven);
        Hit { idx: FlowIdx(place), dir, new: true }
    }

    /// The flow of a packet, if there is one.
    #[inline]
    pub fn lookup(&self, p: &Prepared) -> Option<(FlowIdx, Direction)> {
        let place = self.find(p)?;
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
    #[inline(always)]
    pub fn touch(&mut self, hit: Hit, p: &Prepared, bytes: u32, now: Tick) {
        let flow = &mut self.slab[hit.idx.0 as usize];
        flow.last_seen = now;
        flow.count(hit.dir, bytes);
        let state = flow.state();
        let nothing_new = match state {
            L4State::Udp | L4State::Other => true,
            L4State::UdpOneSided | L4State::OtherOneSided => hit.dir == Direction::FromInitiator,
            L4State::TcpEstablished => flow.is_in_step(hit.dir, &p.segment),
            _ => false,
        };
        if !nothing_new || p.early.packets != 0 {
            self.learn(hit, p, state, now);
        }
    }

    /// What a packet tells of its flow's state.
    #[inline(never)]
    fn learn(&mut self, hit: Hit, p: &Prepared, state: L4State, now: Tick) {
        let flow = &mut self.slab[hit.idx.0 as usize];
        if p.early != Early::default() {
            flow.fold(hit.dir, u64::from(p.early.packets), u64::from(p.early.bytes), now);
        }
        if state.is_tcp() {
            // A later fragment has no flags and no numbers.
            if p.segment == Segment::default() {
                return;
            }
            // While another tier has the flow, its numbers are old here: what would end it is judged when it is back.
            if p.segment.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 && flow.tier() == Tier::Xdp {
                return;
            }
            self.judge(hit.idx, hit.dir, &p.segment);
        } else if !state.is_proven()
            && flow.packets(Direction::FromInitiator) != 0
            && hit.dir == Direction::FromResponder
        {
            let next = if state == L4State::UdpOneSided { L4State::Udp } else { L4State::Other };
            self.moved(hit.idx.0, state, next);
        }
    }

    /// Moves a TCP flow's state by one segment.
    #[inline]
    pub fn judge(&mut self, idx: FlowIdx, dir: Direction, segment: &Segment) {
        let flow = &mut self.slab[idx.0 as usize];
        let (state, mut sequences) = (flow.state(), flow.sequences());
        let before = sequences;
        let (next, unbelieved) = tcp::next(state, &mut sequences, dir, segment);
        if sequences != before {
            flow.set_sequences(&sequences);
        }
        self.pressure.unbelieved += u64::from(unbelieved);
        if next != state {
            self.moved(idx.0, state, next);
        }
    }

    /// The flow in a place, if it is still this one.
    pub fn held(&mut self, idx: FlowIdx, key: &FlowKey, created: Tick) -> Option<&mut Flow> {
        let flow = self.slab.get_mut(idx.0 as usize)?;
        (flow.is_live() && flow.key == *key && flow.created == created).then_some(flow)
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

    /// The place of a packet's flow: nearly always where it was guessed to be.
    #[inline(always)]
    fn find(&self, p: &Prepared) -> Option<u32> {
        if let Some(flow) = self.slab.get(p.guess as usize)
            && flow.key == p.key
            && flow.is_live()
        {
            return Some(p.guess);
        }
        self.find_key(&p.key, p.hash)
    }

    fn find_key(&self, key: &FlowKey, hash: u64) -> Option<u32> {
        self.index.find(hash, |p| self.slab[p as usize].key == *key)
    }

    #[cold]
    fn moved(&mut self, place: u32, from: L4State, to: L4State) {
        self.slab[place as usize].set_state(to);
        self.stands(place, from.standing(), to.standing());
    }

    fn stands(&mut self, place: u32, from: Standing, to: Standing) {
        if from == to {
            return;
        }
        self.unproven -= u32::from(from == Standing::Unproven);
        self.unproven += u32::from(to == Standing::Unproven);
        self.marks.set(place, to != Standing::Proven);
    }

    #[cold]
    #[inline(never)]
    fn insert(&mut self, p: &Prepared, now: Tick, mut ended: impl FnMut(FlowIdx, &Flow)) -> Result<Hit, Refusal> {
        let (proto, flags) = (p.key.proto(), p.segment.flags);
        let state = L4State::first(proto, flags);
        let (place, hung) = self.make_place(state.standing(), now, &mut ended)?;
        let flow = &mut self.slab[place as usize];
        flow.restart(p.key, p.swapped == tcp::sender_is_initiator(proto, flags), state, now);
        let dir = flow.direction(p.swapped);
        if state.is_tcp() && p.segment != Segment::default() {
            let mut sequences = flow.sequences();
            sequences.begin(dir, &p.segment);
            flow.set_sequences(&sequences);
        }
        if !self.index.insert(place, p.hash) {
            // No way to be had in hundreds of buckets.
            self.slab[place as usize].retire();
            if !hung {
                self.give_back(place);
            }
            self.pressure.refused_full += 1;
            return Err(Refusal::TableFull);
        }
        if !hung {
            self.young.push(&mut self.slab, place);
        }
        self.live += 1;
        self.unproven += u32::from(state.standing() == Standing::Unproven);
        self.marks.set(place, true);
        Ok(Hit { idx: FlowIdx(place), dir, new: true })
    }

    /// An entry for a new flow, and whether it hangs somewhere already.
    fn make_place(
        &mut self,
        standing: Standing,
        now: Tick,
        ended: &mut impl FnMut(FlowIdx, &Flow),
    ) -> Result<(u32, bool), Refusal> {
        // Where they may fill the whole table, it is simply full.
        let limited = standing == Standing::Unproven && (self.most_unproven as usize) < self.slab.len();
        let too_many = limited && self.unproven >= self.most_unproven;
        if !too_many && let Some(place) = self.take_entry() {
            return Ok((place, false));
        }
        let found = self.evict(now, too_many, ended);
        match (found.is_some(), too_many) {
            (true, true) => self.pressure.evicted_unproven += 1,
            (true, false) => self.pressure.evicted_full += 1,
            (false, true) => self.pressure.refused_unproven += 1,
            (false, false) => self.pressure.refused_full += 1,
        }
        found.ok_or(if too_many { Refusal::TooManyUnproven } else { Refusal::TableFull })
    }

    fn take_entry(&mut self) -> Option<u32> {
        if let Some(place) = self.free {
            self.free = self.slab[place as usize].link();
            if let Some(next) = self.free {
                memory::prefetch(&self.slab[next as usize]);
            }
            return Some(place);
        }
        if (self.fresh as usize) < self.slab.len() {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        None
    }

    fn give_back(&mut self, place: u32) {
        self.slab[place as usize].set_link(self.free);
        self.free = Some(place);
    }

    /// Ends the oldest flow that may make way, and gives its place and whether that still hangs somewhere. `unproven`: one that
    /// is over will not do.
    fn evict(&mut self, now: Tick, unproven: bool, ended: &mut impl FnMut(FlowIdx, &Flow)) -> Option<(u32, bool)> {
        let mut oldest: Option<(usize, u32)> = None;
        let mut passed_on = 0;
        for queue in 0..QUEUES {
            while let Some(place) = self.young.head(queue) {
                let flow = &self.slab[place as usize];
                let age = now.since(flow.created);
                if flow.is_live() && makes_way(flow, unproven, now) && !is_kept_up(flow) {
                    if oldest.is_none_or(|(_, most)| age > most) {
                        oldest = Some((queue, age));
                    }
                    break;
                }
                // All behind it are as young, or others have been passed on enough for now.
                if age == 0 || passed_on == PASSED_ON {
                    break;
                }
                passed_on += 1;
                self.young.pop(&self.slab, queue);
                self.pass_on(place, now);
            }
        }
        if let Some((queue, _)) = oldest {
            let place = self.young.pop(&self.slab, queue)?;
            self.end(place, self.slab[place as usize].key.hash(&self.seed), ended);
            return Some((place, false));
        }
        let slab = &self.slab;
        let place = self.marks.next(|p| makes_way(&slab[p as usize], unproven, now))?;
        self.end(place, self.slab[place as usize].key.hash(&self.seed), ended);
        Some((place, true))
    }

    /// Ends a flow, of whose key this is the hash; its entry stays where it hangs.
    fn end(&mut self, place: u32, hash: u64, ended: &mut impl FnMut(FlowIdx, &Flow)) {
        let flow = &mut self.slab[place as usize];
        ended(FlowIdx(place), flow);
        let standing = flow.state().standing();
        flow.retire();
        self.live -= 1;
        self.unproven -= u32::from(standing == Standing::Unproven);
        self.marks.set(place, false);
        let found = self.index.remove(place, hash);
        debug_assert!(found, "a live flow is in one of its two buckets");
    }
}

/// What a packet's TCP header says; nothing for what has none.
#[inline(always)]
fn segment(h: &Headers, frame: &[u8]) -> Segment {
    if h.proto != tcp::TCP || h.fragment == Fragment::Later {
        return Segment::default();
    }
    let read = Segment::read(frame, usize::from(h.l4_off), usize::from(h.payload_off), usize::from(h.end));
    // Of a first fragment only what it has itself; what follows it moves the numbers on with the next segment.
    read.unwrap_or_default()
}

/// Asks for a flow's cache lines.
#[inline(always)]
fn ask_for(flow: &Flow) {
    memory::prefetch(flow);
    memory::prefetch_at(flow, 63);
    memory::prefetch_at(flow, std::mem::size_of::<Flow>() - 1);
}

/// Whether a flow may end for another's sake.
fn makes_way(flow: &Flow, unproven: bool, now: Tick) -> bool {
    let standing = flow.state().standing();
    let fits = if unproven { standing == Standing::Unproven } else { standing != Standing::Proven };
    // One that a rule drops elsewhere is told of from there.
    fits && now.since(flow.last_seen) > 0 && flow.tier() == Tier::Worker
}

/// One-sided, but somebody has gone on sending for a second: what floods do not do.
fn is_kept_up(flow: &Flow) -> bool {
    flow.last_seen.since(flow.created) >= Tick::PER_SECOND
}
