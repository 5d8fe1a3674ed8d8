//! The flows that are in the driver's table, and how they come and go. Shared by the thread and those who have to take flows
//! out at once: the publisher of keys, the control socket.

mod drops;

use super::candidate::Candidate;
use super::lane::{Back, Counts, FlowRef, Lane, Note, What};
use super::nic::Nics;
use super::reason::Reason;
use super::told;
use crate::flow::tcp::Segment;
use crate::flow::{Direction, Tick};
use crate::host::fib::{Adjacency, Fib, Hop, PortId};
use crate::host::xdp_features;
use crate::io::steer::{EntryId, FlowCount, FlowKey, FlowRule, FlowVerdict, Last, Progress, Steer, SteerError};
use crate::plan::Plan;
use crate::telemetry::journal::Journal;
use crate::tunnel::keys::Keys;
use crate::tunnel::steering::Steering;
use crate::worker::clock;
use crate::worker::idle::Waker;
use arc_swap::ArcSwap;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rounds of counting without a packet after which a flow leaves.
const SILENT_ROUNDS: u8 = 5;
/// At the end workers have so long to read the last counts.
const PATIENCE: Duration = Duration::from_secs(1);

/// One flow with its entries: both directions of one that is forwarded, one of one that is dropped.
struct Record {
    worker: usize,
    flow: FlowRef,
    entries: [Option<EntryId>; 2],
    /// Not told yet, for want of room.
    pending: Counts,
    /// How the worker is told that the flow is here, and whether it was.
    arrival: What,
    placed: bool,
    /// In the queue of those whose worker is to be told something.
    queued: bool,
    /// Packets of which one is sampled, 0: none. Of each entry the packets met and dropped by the meter, as of the last look.
    every: u32,
    met: [(u64, u64); 2],
    metered: bool,
    back: Back,
    silent: u8,
    /// Destination, ports and way out of each direction: compared when routes change.
    ways: Vec<(IpAddr, PortId, Adjacency, u16)>,
}

pub(super) struct Table {
    records: HashMap<(usize, u32), Record>,
    /// Out of the driver, and not settled yet.
    leaving: Vec<(Record, Reason)>,
    /// First halves of flows whose second half had no room: theirs is what the driver did in that moment.
    halves: Vec<Half>,
    /// What workers are to judge once the flow is back.
    judge: Vec<(usize, FlowRef, Direction, Segment)>,
    /// By worker: flows of which there is something to tell, the longest waiting first.
    waiting: Vec<VecDeque<u32>>,
    /// While keys change: nothing gets in.
    closed: bool,
    fib_generation: u32,
    /// By port: whether it takes redirected frames, and those of several buffers, as of the last look.
    transmits: Vec<(bool, bool)>,
    nics: Nics,
}

struct Half {
    worker: usize,
    flow: FlowRef,
    entry: EntryId,
    why: Reason,
}

/// What verdicts and routes are found in.
pub(super) type Snapshots = (Arc<ArcSwap<Plan>>, Arc<ArcSwap<Keys>>, Arc<ArcSwap<Fib>>);

/// What the thread and the others work with.
pub struct Gate {
    table: Mutex<Table>,
    /// Held for as long as entries that have left may still be acted on.
    settling: Mutex<()>,
    steering: Arc<Steering>,
    plan: Arc<ArcSwap<Plan>>,
    keys: Arc<ArcSwap<Keys>>,
    fib: Arc<ArcSwap<Fib>>,
    interfaces: Arc<[u32]>,
    pub(super) lanes: Vec<Arc<Lane>>,
    pub(super) wakers: Vec<Waker>,
    journal: Arc<Journal>,
}

impl Gate {
    pub(super) fn new(
        steering: Arc<Steering>,
        (plan, keys, fib): Snapshots,
        interfaces: Arc<[u32]>,
        (lanes, wakers): (Vec<Arc<Lane>>, Vec<Waker>),
        nics: Nics,
        journal: Arc<Journal>,
    ) -> Self {
        let table = Table {
            records: HashMap::new(),
            leaving: Vec::new(),
            halves: Vec::new(),
            judge: Vec::new(),
            waiting: lanes.iter().map(|_| VecDeque::new()).collect(),
            closed: false,
            fib_generation: fib.load().generation(),
            transmits: Vec::new(),
            nics,
        };
        Self {
            table: Mutex::new(table),
            settling: Mutex::new(()),
            steering,
            plan,
            keys,
            fib,
            interfaces,
            lanes,
            wakers,
            journal,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flows in the driver and in devices.
    pub fn len(&self) -> usize {
        let table = self.table();
        table.records.len() + table.nics.len()
    }

    /// Flows in the driver, and in devices.
    pub fn below(&self) -> (u64, u64) {
        let table = self.table();
        (table.records.len() as u64, table.nics.len() as u64)
    }

    /// Flows that a port's device has, and `None` where it has none or is gone.
    pub fn in_device(&self, port: usize) -> Option<u32> {
        self.table().nics.flows(port)
    }

    /// All that devices dropped: packets, and bytes without link headers.
    pub fn dropped_by_devices(&self) -> FlowCount {
        self.table().nics.dropped()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all flows out and lets none in: before keys (or a plan) are published that may protect other flows. When it
    /// returns, no packet is acted on by the driver.
    pub fn close(&self) {
        let asked = Instant::now();
        let mut table = self.table();
        table.closed = true;
        let count = self.take_out(&mut table, Reason::KeysChanged, |_| true);
        drop(table);
        // With the grace period, and after one that somebody else waits for: no packet is under way any more that met an entry.
        self.settle();
        report(count, Reason::KeysChanged, asked);
    }

    /// After keys were published.
    pub fn open(&self) {
        self.table().closed = false;
    }

    /// Takes flows out by hand: one (worker and place), or all. Gives how many.
    pub fn demote(&self, which: Option<(usize, u32)>) -> usize {
        let asked = Instant::now();
        let mut table = self.table();
        let count = self.take_out(&mut table, Reason::ByHand, |key| which.is_none_or(|which| which == *key));
        drop(table);
        report(count, Reason::ByHand, asked);
        count
    }

    /// Takes out the flows that `leaves` names. Their packets meet the rules from here on.
    fn take_out(&self, table: &mut Table, why: Reason, leaves: impl Fn(&(usize, u32)) -> bool) -> usize {
        let blocked = table.nics.take_out(why, &leaves, |worker, flow, what| self.tell(worker, flow, what));
        let gone: Vec<Record> = table.records.extract_if(|key, _| leaves(key)).map(|(_, record)| record).collect();
        self.remove(gone.iter().flat_map(|record| record.entries).flatten());
        let count = gone.len();
        table.leaving.extend(gone.into_iter().map(|record| (record, why)));
        count + blocked
    }

    fn remove(&self, entries: impl Iterator<Item = EntryId>) {
        self.steering.ask_mut(|steer| {
            for entry in entries {
                if let Err(error) = steer.flow_remove(entry) {
                    tracing::warn!("the driver's flow table: {error}");
                }
            }
        });
    }

    /// Puts a proposed flow in.
    pub(super) fn place(&self, worker: usize, candidate: &Candidate) {
        let mut table = self.table();
        if table.records.contains_key(&(worker, candidate.flow.idx.0)) {
            return;
        }
        match self.try_place(&mut table, worker, candidate) {
            Ok(record) => self.keep(&mut table, record),
            // Its note comes with what the driver did meanwhile.
            Err(_) if table.halves.last().is_some_and(|half| half.flow == candidate.flow) => {}
            // Without the note the flow is proposed again.
            Err(reason) => {
                self.tell(worker, candidate.flow, What::Refused(reason));
            }
        }
    }

    /// Remembers a flow that is in, and tells its worker, now or later.
    fn keep(&self, table: &mut Table, mut record: Record) {
        let (worker, place) = (record.worker, record.flow.idx.0);
        record.placed = self.tell(worker, record.flow, record.arrival);
        record.queued = !record.placed;
        if record.queued {
            table.waiting[worker].push_back(place);
        }
        table.records.insert((worker, place), record);
    }

    /// Whether a verdict still holds. Asked under the lock: `close` comes before new keys and `open` after them, so one of the old
    /// ones finds either the gate closed or the numbers changed.
    fn is_current(&self, table: &Table, generation: u32) -> bool {
        !table.closed && generation == self.plan.load().generation.wrapping_add(self.keys.load().selection)
    }

    fn try_place(&self, table: &mut Table, worker: usize, candidate: &Candidate) -> Result<Record, Reason> {
        let fib = self.fib.load();
        if !self.is_current(table, candidate.generation) {
            return Err(Reason::Changing);
        }
        let v6 = candidate.flow.key.is_v6();
        let mut ways = Vec::with_capacity(2);
        for ((from, to), dst) in candidate.ports.into_iter().zip([candidate.ends[1].0, candidate.ends[0].0]) {
            let dst = address(dst, v6);
            let way = way(&fib, dst, from).ok_or(Reason::Changing)?;
            if way.2.port != to {
                return Err(Reason::Changing);
            }
            if table.transmits.get(usize::from(to)).is_none_or(|device| !device.0) {
                return Err(Reason::NoTransmit);
            }
            ways.push(way);
        }
        let [a, b] = candidate.ends;
        let ends = [(a, b), (b, a)];
        let treatment = &candidate.treatment;
        let mut half = None;
        let transmits = &table.transmits;
        let insert = |steer: &mut Steer| -> Result<Vec<EntryId>, Reason> {
            let mut entries = Vec::with_capacity(2);
            for (i, ((src, dst), (_, from, adjacency, mtu))) in ends.into_iter().zip(&ways).enumerate() {
                let key = FlowKey {
                    src: src.0,
                    dst: dst.0,
                    sport: src.1,
                    dport: dst.1,
                    protocol: candidate.flow.key.proto(),
                    version: if v6 { 6 } else { 4 },
                    station: fib.links()[usize::from(*from)].mac.0,
                };
                let (dst_mac, src_mac) = adjacency.addresses.macs();
                let ifindex = self.interfaces.get(usize::from(adjacency.port)).copied().unwrap_or(0);
                let verdict = FlowVerdict::Forward { ifindex, mtu: *mtu, dst_mac, src_mac };
                let rule = FlowRule {
                    meter: treatment.meter,
                    dscp: treatment.dscp,
                    sample: treatment.sample,
                    progress: treatment.progress[i],
                    linear: transmits.get(usize::from(adjacency.port)).is_none_or(|device| !device.1),
                    numbers: candidate.numbers[i],
                    ..FlowRule::from(verdict)
                };
                match steer.flow_insert(&key, rule) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => {
                        half = entries.pop();
                        if let Some(entry) = half {
                            let _ = steer.flow_remove(entry);
                        }
                        return Err(match error {
                            SteerError::Flow(_) => Reason::TableFull,
                            error => {
                                tracing::warn!("the driver's flow table: {error}");
                                Reason::Driver
                            }
                        });
                    }
                }
            }
            Ok(entries)
        };
        let entries = self.steering.ask_mut(insert).ok_or(Reason::Stopping)?;
        if let (Some(entry), Err(why)) = (half, &entries) {
            table.halves.push(Half { worker, flow: candidate.flow, entry, why: *why });
        }
        let entries = entries?;
        let Ok(entries) = <[EntryId; 2]>::try_from(entries) else { return Err(Reason::Driver) };
        Ok(Record {
            worker,
            flow: candidate.flow,
            entries: entries.map(Some),
            pending: Counts::default(),
            arrival: What::Placed,
            placed: false,
            queued: false,
            every: treatment.sample,
            met: treatment.progress.map(|progress| (progress.met, 0)),
            metered: treatment.meter.is_some(),
            back: Back::default(),
            silent: 0,
            ways,
        })
    }

    /// The worker saw its end, or does not have it any more. `judge`: what it saw, to be judged once the flow is back.
    pub(super) fn leave(&self, worker: usize, flow: &FlowRef, judge: Option<(Direction, Segment)>) {
        let mut table = self.table();
        table.nics.leave(worker, flow, |worker, flow, what| self.tell(worker, flow, what));
        let key = (worker, flow.idx.0);
        // Also where the entry is gone already: the worker did not know that yet, and left it to us.
        table.judge.extend(judge.map(|(dir, segment)| (worker, *flow, dir, segment)));
        if table.records.get(&key).is_none_or(|record| record.flow != *flow) {
            return;
        }
        if let Some(record) = table.records.remove(&key) {
            self.remove(record.entries.into_iter().flatten());
            // Should the worker not believe it, the flow goes down again.
            let why = if judge.is_some() { Reason::Asked } else { Reason::Closing };
            table.leaving.push((record, why));
        }
    }

    /// Takes out those whose route or neighbour is another one now. The others stay.
    pub(super) fn follow_routes(&self) {
        let mut table = self.table();
        let fib = self.fib.load();
        if table.fib_generation == fib.generation() {
            return;
        }
        let asked = Instant::now();
        table.fib_generation = fib.generation();
        let same = |(dst, from, adjacency, mtu): &(IpAddr, PortId, Adjacency, u16)| {
            way(&fib, *dst, *from)
                .is_some_and(|now| (now.2.port, now.2.addresses, now.3) == (adjacency.port, adjacency.addresses, *mtu))
        };
        let moved: std::collections::HashSet<(usize, u32)> =
            table.records.iter().filter(|(_, record)| !record.ways.iter().all(same)).map(|(key, _)| *key).collect();
        if !moved.is_empty() {
            let count = self.take_out(&mut table, Reason::RouteChanged, |key| moved.contains(key));
            report(count, Reason::RouteChanged, asked);
        }
    }

    /// Asks the kernel which ports take redirected frames, and takes out what leaves by one that does not any more.
    pub(super) fn look_at_ports(&self) {
        let look = |index: &u32| if *index == 0 { (false, false) } else { transmits(*index) };
        let transmits: Vec<(bool, bool)> = self.interfaces.iter().map(look).collect();
        let mut table = self.table();
        let lost = |record: &Record| {
            let mut ways = record.ways.iter().map(|(_, _, adjacency, _)| usize::from(adjacency.port));
            ways.any(|port| {
                let fragments = |of: &[(bool, bool)]| of.get(port).is_some_and(|device| device.1);
                transmits.get(port).is_none_or(|device| !device.0)
                    || fragments(&table.transmits) && !fragments(&transmits)
            })
        };
        let stuck: std::collections::HashSet<(usize, u32)> =
            table.records.iter().filter(|(_, record)| lost(record)).map(|(key, _)| *key).collect();
        if !stuck.is_empty() {
            self.take_out(&mut table, Reason::NoTransmit, |key| stuck.contains(key));
        }
        table.transmits = transmits;
    }

    /// Neighbours whose addresses the kernel wants confirmed: nothing else would ask, as their packets pass it by.
    pub(super) fn to_confirm(&self) -> Vec<(PortId, IpAddr)> {
        let (table, fib) = (self.table(), self.fib.load());
        let ways = table.records.values().flat_map(|record| &record.ways);
        let mut asked: Vec<_> = ways
            .filter_map(|(dst, from, ..)| way(&fib, *dst, *from))
            .filter_map(|(_, _, adjacency, _)| Some((adjacency.port, adjacency.confirm?)))
            .collect();
        asked.sort_unstable();
        asked.dedup();
        asked
    }

    /// Reads all counters, and takes out what has been silent. [`Self::tell_waiting`] tells the workers.
    pub(super) fn fold(&self) {
        let mut table = self.table();
        table.nics.fold(|worker, flow, what| self.tell(worker, flow, what));
        let mut silent = std::collections::HashSet::new();
        let Table { records, waiting, .. } = &mut *table;
        self.steering.ask_mut(|steer| {
            for (key, record) in records {
                let counts =
                    record.entries.map(|entry| entry.map_or_else(Default::default, |entry| steer.flows().count(entry)));
                if record.every > 0 || record.metered {
                    record.treated(
                        record
                            .entries
                            .map(|entry| entry.map_or_else(Default::default, |entry| steer.flows().progress(entry))),
                    );
                }
                if counts.iter().all(|count| count.packets == 0) {
                    record.silent += 1;
                    if record.silent >= SILENT_ROUNDS {
                        silent.insert(*key);
                    }
                } else {
                    record.silent = 0;
                    record.add(counts);
                }
                if !record.queued && !record.pending.is_zero() {
                    record.queued = true;
                    waiting[record.worker].push_back(key.1);
                }
            }
        });
        if !silent.is_empty() {
            self.take_out(&mut table, Reason::Idle, |key| silent.contains(key));
        }
    }

    /// Tells the workers what there is to tell, who has waited longest first, as far as there is room. Whether that was all.
    pub(super) fn tell_waiting(&self) -> bool {
        let mut table = self.table();
        let Table { records, waiting, .. } = &mut *table;
        for (worker, queue) in waiting.iter_mut().enumerate() {
            while let Some(place) = queue.front() {
                // One that has left is told of by `settle`.
                if let Some(record) = records.get_mut(&(worker, *place)).filter(|record| record.queued) {
                    record.placed = record.placed || self.tell(worker, record.flow, record.arrival);
                    if !record.placed
                        || !record.pending.is_zero() && !self.tell(worker, record.flow, What::Counted(record.pending))
                    {
                        break;
                    }
                    record.pending = Counts::default();
                    record.queued = false;
                }
                queue.pop_front();
            }
        }
        waiting.iter().all(VecDeque::is_empty)
    }

    /// Tells the workers the last counts of what has left. Waits for a grace period where something has.
    pub(super) fn settle(&self) {
        let _one_at_a_time = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.table();
        let mut leaving = std::mem::take(&mut table.leaving);
        let mut halves = std::mem::take(&mut table.halves);
        let mut judge = std::mem::take(&mut table.judge);
        drop(table);
        if !leaving.is_empty() || !halves.is_empty() {
            let mut last: HashMap<EntryId, Last> = HashMap::new();
            self.steering.ask_mut(|steer| {
                steer.flows().settle(|entry, what| {
                    last.insert(entry, what);
                })
            });
            leaving.retain_mut(|(record, why)| {
                // Told the next time for want of room: then it was all read already.
                let none = Some(Last::default());
                let of = record.entries.map(|entry| entry.map_or(none, |entry| last.remove(&entry)));
                if let [Some(a), Some(b)] = of {
                    record.ends([a, b]);
                }
                // The worker has to know that it was there to take anything back.
                record.placed = record.placed || self.tell(record.worker, record.flow, record.arrival);
                !(record.placed && self.tell(record.worker, record.flow, What::Left(*why, record.pending, record.back)))
            });
            halves.retain(|half| {
                let first = last.get(&half.entry).map(|last| last.count).unwrap_or_default();
                let counts = Counts { traffic: [first, FlowCount::default()], ..Counts::default() };
                !self.tell(half.worker, half.flow, What::Left(half.why, counts, Back::default()))
            });
        }
        // Behind what has left: the worker reads in order.
        let away = |flow: &FlowRef| leaving.iter().any(|(record, _)| record.flow == *flow);
        judge.retain(|(worker, flow, dir, segment)| {
            away(flow) || !self.tell(*worker, *flow, What::Judge(*dir, *segment))
        });
        let mut table = self.table();
        table.leaving.append(&mut leaving);
        table.halves.append(&mut halves);
        table.judge.append(&mut judge);
    }

    /// Whether [`Self::settle`] has something to do.
    pub(super) fn unsettled(&self) -> bool {
        let table = self.table();
        !(table.leaving.is_empty() && table.halves.is_empty() && table.judge.is_empty())
    }

    /// Takes everything out for good, and tells the last counts.
    pub(super) fn finish(&self) {
        let mut table = self.table();
        table.closed = true;
        self.take_out(&mut table, Reason::Stopping, |_| true);
        drop(table);
        self.settle();
        // The workers still read: what a full queue did not take goes on as they do, but nobody is waited for for ever.
        let until = Instant::now() + PATIENCE;
        while self.unsettled() && Instant::now() < until {
            self.wakers.iter().for_each(Waker::wake);
            std::thread::sleep(Duration::from_millis(1));
            self.settle();
        }
    }

    fn tell(&self, worker: usize, flow: FlowRef, what: What) -> bool {
        let note = Note { flow, what, seen: Tick::from_nanos(clock::now()) };
        let told = self.lanes.get(worker).is_some_and(|lane| lane.notes.push(note).is_ok());
        if told && self.journal.is_wished() {
            told::tell(&self.journal, worker, &flow, &what);
        }
        told
    }
}

impl Record {
    /// Forwarded flows have both directions in the table.
    fn forwards(&self) -> bool {
        self.entries.iter().all(Option::is_some)
    }

    fn add(&mut self, counts: [FlowCount; 2]) {
        add(&mut self.pending.traffic, counts);
        if !self.forwards() {
            self.pending.dropped += counts[0].packets + counts[1].packets;
        }
    }

    /// Takes over how far meters and samples have come.
    fn treated(&mut self, now: [(Progress, u64); 2]) {
        for ((met, dropped), (progress, over)) in self.met.iter_mut().zip(now) {
            if let Some(every) = std::num::NonZeroU64::new(u64::from(self.every)) {
                self.pending.sampled += (progress.met / every).saturating_sub(*met / every);
            }
            self.pending.metered += over.saturating_sub(*dropped);
            (*met, *dropped) = (progress.met, over);
        }
    }

    /// Takes over what both entries leave.
    fn ends(&mut self, last: [Last; 2]) {
        self.add(last.map(|last| last.count));
        if self.every > 0 || self.metered {
            self.treated(last.map(|last| (last.progress, last.over)));
        }
        if self.forwards() {
            let next = Some(last.map(|last| last.numbers as u16));
            self.back = Back { next, progress: last.map(|last| last.progress) };
        }
    }
}

/// For who wants to know how long taking back takes.
fn report(count: usize, why: Reason, asked: Instant) {
    if count > 0 {
        let micros = asked.elapsed().as_micros() as u64;
        tracing::info!(flows = count, why = why.code(), micros, "flows taken back from the driver");
    }
}

fn add(sum: &mut [FlowCount; 2], more: [FlowCount; 2]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
}

/// Whether a device takes redirected frames, and those of several buffers. Kernels before 6.3 do not say; there it is the
/// operator's to know, as `checksum = "trust"` is, and frames of several buffers stay with the worker.
fn transmits(ifindex: u32) -> (bool, bool) {
    match xdp_features::of(ifindex) {
        Ok(features) => (features.transmits(), features.transmits_fragments()),
        Err(error) => (error.raw_os_error() == Some(libc::ENOENT), false),
    }
}

fn address(bytes: [u8; 16], v6: bool) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    if v6 { IpAddr::from(bytes) } else { IpAddr::from([a, b, c, d]) }
}

/// The way of packets to `dst` that come in by `from`, where it is clear and its link is up.
fn way(fib: &Fib, dst: IpAddr, from: PortId) -> Option<(IpAddr, PortId, Adjacency, u16)> {
    let Hop::To(adjacency) = fib.look_up(dst, from) else { return None };
    let adjacency = *fib.adjacency(adjacency)?;
    let link = fib.links().get(usize::from(adjacency.port)).filter(|link| link.up && !link.neighbourless)?;
    Some((dst, from, adjacency, link.mtu))
}
