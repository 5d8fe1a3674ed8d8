//! The flows that are in the driver's table, and how they come and go. Shared by the thread and those who have to take flows
//! out at once: the publisher of keys, the control socket.

use super::candidate::Candidate;
use super::lane::{FlowRef, Lane, Note, What};
use super::nic::{Blocked, Nics};
use super::reason::Reason;
use crate::flow::Tick;
use crate::host::fib::{Adjacency, Fib, Hop, PortId};
use crate::host::xdp_features;
use crate::io::steer::{EntryId, FlowCount, FlowKey, FlowVerdict, Steer, SteerError};
use crate::plan::Plan;
use crate::tunnel::keys::Keys;
use crate::tunnel::steering::Steering;
use crate::worker::clock;
use crate::worker::idle::Waker;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rounds of counting without a packet after which a flow leaves.
const SILENT_ROUNDS: u8 = 5;

/// One flow with both its entries.
struct Record {
    worker: usize,
    flow: FlowRef,
    entries: [EntryId; 2],
    /// Not told yet, for want of room.
    pending: [FlowCount; 2],
    silent: u8,
    /// Destination, ports and way out of each direction: compared when routes change.
    ways: [(IpAddr, PortId, Adjacency, u16); 2],
}

pub(super) struct Table {
    records: HashMap<(usize, u32), Record>,
    /// Out of the driver, and not settled yet.
    leaving: Vec<(Record, Reason)>,
    /// While keys change: nothing gets in.
    closed: bool,
    fib_generation: u32,
    /// By port: whether it takes redirected frames, as of the last look.
    transmits: Vec<bool>,
    nics: Nics,
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
}

impl Gate {
    pub(super) fn new(
        steering: Arc<Steering>,
        (plan, keys, fib): Snapshots,
        interfaces: Arc<[u32]>,
        (lanes, wakers): (Vec<Arc<Lane>>, Vec<Waker>),
        nics: Nics,
    ) -> Self {
        let table = Table {
            records: HashMap::new(),
            leaving: Vec::new(),
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
        let mut table = self.table();
        table.closed = true;
        self.take_out(&mut table, Reason::KeysChanged, |_| true);
        drop(table);
        // With the grace period, and after one that somebody else waits for: no packet is under way any more that met an entry.
        self.settle();
    }

    /// After keys were published.
    pub fn open(&self) {
        self.table().closed = false;
    }

    /// Takes flows out by hand: one (worker and place), or all. Gives how many.
    pub fn demote(&self, which: Option<(usize, u32)>) -> usize {
        let mut table = self.table();
        self.take_out(&mut table, Reason::ByHand, |key| which.is_none_or(|which| which == *key))
    }

    /// Takes out the flows that `leaves` names. Their packets meet the rules from here on.
    fn take_out(&self, table: &mut Table, why: Reason, leaves: impl Fn(&(usize, u32)) -> bool) -> usize {
        let blocked = table.nics.take_out(why, &leaves, |worker, flow, what| self.tell(worker, flow, what));
        let gone: Vec<Record> = table.records.extract_if(|key, _| leaves(key)).map(|(_, record)| record).collect();
        self.remove(gone.iter().flat_map(|record| record.entries));
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
        let what = match self.try_place(&mut table, worker, candidate) {
            Ok(record) => {
                table.records.insert((worker, candidate.flow.idx.0), record);
                What::Placed
            }
            Err(reason) => What::Refused(reason),
        };
        // Without the note the flow counts on, and the next counts find it: only its tier is not shown.
        self.tell(worker, candidate.flow, what);
    }

    /// Has a device drop a proposed flow.
    pub(super) fn block(&self, worker: usize, blocked: &Blocked) {
        let mut table = self.table();
        // As for others below.
        let generation = self.plan.load().generation.wrapping_add(self.keys.load().selection);
        let placed = if table.closed || generation != blocked.generation {
            Err(Reason::Changing)
        } else {
            table.nics.place(worker, blocked)
        };
        self.tell(worker, blocked.flow, placed.map_or_else(What::Refused, |()| What::Blocked));
    }

    fn try_place(&self, table: &mut Table, worker: usize, candidate: &Candidate) -> Result<Record, Reason> {
        let fib = self.fib.load();
        // Compared under the lock: `close` comes before the new keys and `open` after them, so a verdict of the old ones
        // finds either the gate closed or the numbers changed.
        let generation = self.plan.load().generation.wrapping_add(self.keys.load().selection);
        if table.closed || generation != candidate.generation {
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
            if table.transmits.get(usize::from(to)) != Some(&true) {
                return Err(Reason::NoTransmit);
            }
            ways.push(way);
        }
        let [a, b] = candidate.ends;
        let ends = [(a, b), (b, a)];
        let insert = |steer: &mut Steer| -> Result<Vec<EntryId>, Reason> {
            let mut entries = Vec::with_capacity(2);
            for ((src, dst), (_, from, adjacency, mtu)) in ends.into_iter().zip(&ways) {
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
                match steer.flow_insert(&key, verdict) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => {
                        for entry in entries {
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
        let entries = self.steering.ask_mut(insert).ok_or(Reason::Stopping)??;
        let (Ok(entries), Ok(ways)) = (entries.try_into(), ways.try_into()) else { return Err(Reason::Driver) };
        Ok(Record { worker, flow: candidate.flow, entries, pending: Default::default(), silent: 0, ways })
    }

    /// The worker saw its end, or does not have it any more.
    pub(super) fn leave(&self, worker: usize, flow: &FlowRef) {
        let mut table = self.table();
        table.nics.leave(worker, flow, |worker, flow, what| self.tell(worker, flow, what));
        let key = (worker, flow.idx.0);
        if table.records.get(&key).is_none_or(|record| record.flow != *flow) {
            return;
        }
        if let Some(record) = table.records.remove(&key) {
            self.remove(record.entries.into_iter());
            table.leaving.push((record, Reason::Closing));
        }
    }

    /// Takes out those whose route or neighbour is another one now. The others stay.
    pub(super) fn follow_routes(&self) {
        let mut table = self.table();
        let fib = self.fib.load();
        if table.fib_generation == fib.generation() {
            return;
        }
        table.fib_generation = fib.generation();
        let same = |(dst, from, adjacency, mtu): &(IpAddr, PortId, Adjacency, u16)| {
            way(&fib, *dst, *from)
                .is_some_and(|now| (now.2.port, now.2.addresses, now.3) == (adjacency.port, adjacency.addresses, *mtu))
        };
        let moved: std::collections::HashSet<(usize, u32)> =
            table.records.iter().filter(|(_, record)| !record.ways.iter().all(same)).map(|(key, _)| *key).collect();
        if !moved.is_empty() {
            self.take_out(&mut table, Reason::RouteChanged, |key| moved.contains(key));
        }
    }

    /// Asks the kernel which ports take redirected frames, and takes out what leaves by one that does not any more.
    pub(super) fn look_at_ports(&self) {
        let transmits: Vec<bool> = self.interfaces.iter().map(|index| *index != 0 && transmits(*index)).collect();
        let mut table = self.table();
        let lost = |record: &Record| {
            let mut ways = record.ways.iter();
            ways.any(|(_, _, adjacency, _)| transmits.get(usize::from(adjacency.port)) != Some(&true))
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

    /// Reads all counters, tells the workers, and takes out what has been silent.
    pub(super) fn fold(&self) {
        let mut table = self.table();
        table.nics.fold(|worker, flow, what| self.tell(worker, flow, what));
        let mut silent = std::collections::HashSet::new();
        self.steering.ask_mut(|steer| {
            for (key, record) in &mut table.records {
                let counts = record.entries.map(|entry| steer.flows().count(entry));
                if counts.iter().all(|count| count.packets == 0) {
                    record.silent += 1;
                    if record.silent >= SILENT_ROUNDS {
                        silent.insert(*key);
                    }
                } else {
                    record.silent = 0;
                    add(&mut record.pending, counts);
                }
            }
        });
        for record in table.records.values_mut().filter(|record| record.pending.iter().any(|count| count.packets > 0)) {
            if self.tell(record.worker, record.flow, What::Counted(record.pending)) {
                record.pending = Default::default();
            }
        }
        if !silent.is_empty() {
            self.take_out(&mut table, Reason::Idle, |key| silent.contains(key));
        }
    }

    /// Tells the workers the last counts of what has left. Waits for a grace period where something has.
    pub(super) fn settle(&self) {
        let _one_at_a_time = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving = std::mem::take(&mut self.table().leaving);
        if leaving.is_empty() {
            return;
        }
        // Entries of a half-placed flow are settled too; nobody asks for their counts, which are the driver's few packets
        // of a moment and are lost to the flow: there are none where nothing was inserted.
        let mut last = HashMap::new();
        self.steering.ask_mut(|steer| {
            steer.flows().settle(|entry, count| {
                last.insert(entry, count);
            })
        });
        leaving.retain_mut(|(record, why)| {
            add(&mut record.pending, record.entries.map(|entry| last.remove(&entry).unwrap_or_default()));
            !self.tell(record.worker, record.flow, What::Left(*why, record.pending))
        });
        // What had no room is told the next time, with nothing more to come.
        self.table().leaving.append(&mut leaving);
    }

    /// Whether [`Self::settle`] has something to do.
    pub(super) fn unsettled(&self) -> bool {
        !self.table().leaving.is_empty()
    }

    /// Takes everything out for good, and tells the last counts.
    pub(super) fn finish(&self) {
        let mut table = self.table();
        table.closed = true;
        self.take_out(&mut table, Reason::Stopping, |_| true);
        drop(table);
        self.settle();
    }

    fn tell(&self, worker: usize, flow: FlowRef, what: What) -> bool {
        let note = Note { flow, what, seen: Tick::from_nanos(clock::now()) };
        self.lanes.get(worker).is_some_and(|lane| lane.notes.push(note).is_ok())
    }
}

fn add(sum: &mut [FlowCount; 2], more: [FlowCount; 2]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
}

/// Kernels before 6.3 do not say; there it is the operator's to know, as `checksum = "trust"` is.
fn transmits(ifindex: u32) -> bool {
    match xdp_features::of(ifindex) {
        Ok(features) => features.transmits(),
        Err(error) => error.raw_os_error() == Some(libc::ENOENT),
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
