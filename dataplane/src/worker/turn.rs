//! One turn of the worker's loop: receive from each port, walk the graph, send, and the housekeeping between batches.

mod stages;

use super::clock;
use super::idle::Idler;
use super::neighbours::Asks;
use crate::flow::{FlowTable, Tick};
use crate::graph::context::{Budget, MAX_HELD};
use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, DropReason, Graph, Meta, Packet, Seen};
use crate::host::fib::{Fib, Hop, PortId};
use crate::io::frame::Frame;
use crate::io::pool::FramePool;
use crate::io::port::PortIo;
use crate::l7::Inspector;
use crate::nodes::connections::Counted;
use crate::nodes::treat::Treated;
use crate::offload::Client;
use crate::plan::Plan;
use crate::plan::rules::ip;
use crate::telemetry::counters::{RuleCounters, WorkerCounters};
use crate::telemetry::export::{EndReason, Sink};
use crate::tunnel::events::Events;
use crate::tunnel::keys::Keys;
use crate::watch::Watch;
use arc_swap::{ArcSwap, Cache};
use crossbeam::channel::Receiver;
use softdpu_ebpf_common::walk::Headers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Housekeeping happens this often (nanoseconds): flow timers tick in hundredths of a second.
const HOUSEKEEPING: u64 = 10_000_000;
/// Most flows that ageing looks at per turn: bounds what it may add to one batch's latency. Where millions are due at once, they
/// go over many turns.
pub const MOST_AGED: usize = 128;
/// A packet waits this long (nanoseconds) for its next hop's link address, or for a session with its peer.
const PATIENCE: u64 = 1_500_000_000;

/// What the control side gives all workers.
#[derive(Clone)]
pub struct Shared {
    pub plan: Arc<ArcSwap<Plan>>,
    pub keys: Arc<ArcSwap<Keys>>,
    pub fib: Arc<ArcSwap<Fib>>,
    pub stop: Arc<AtomicBool>,
}

/// A question to the worker, answered between two batches.
pub type Question = Box<dyn FnOnce(&mut Worker) + Send>;

/// One worker. Built by the control side, then moved to its thread.
pub struct Worker {
    pub pool: FramePool,
    pub ports: Vec<WorkerPort>,
    pub flows: FlowTable,
    pub inspector: Inspector,
    pub export: Option<Sink>,
    pub offload: Option<Client>,
    treated: Treated,
    counted: Counted,
    /// Who looks at packets on their way.
    pub watch: Option<Box<Watch>>,
    pub counters: Arc<WorkerCounters>,
    /// What rules and ways that flows remember were found in, as of the last batch.
    pub generation: u32,
    events: Arc<Events>,
    graph: Graph,
    batch: Batch,
    batch_size: usize,
    received: Vec<Frame>,
    tx: Vec<Vec<Frame>>,
    held: Vec<Packet>,
    held_since: u64,
    /// Forwarding table and keys that the held packets could not go on with.
    held_generation: (u32, u32),
    neighbours: Asks,
    icmp_budget: Budget,
    stranger_budget: Budget,
    scratch: Box<[u8]>,
    /// The newest plan, and the one that the worker is at.
    plans: Cache<Arc<ArcSwap<Plan>>, Arc<Plan>>,
    plan: Arc<Plan>,
    rules: Arc<RuleCounters>,
    keys: Cache<Arc<ArcSwap<Keys>>, Arc<Keys>>,
    fib: Cache<Arc<ArcSwap<Fib>>, Arc<Fib>>,
    stop: Arc<AtomicBool>,
    questions: Receiver<Question>,
    next_housekeeping: u64,
    /// Flows were left at the last look that may be due too.
    more_to_age: bool,
}

/// One queue of one port.
pub struct WorkerPort {
    /// Index of the port in the plan.
    pub id: PortId,
    pub io: PortIo,
}

/// What a worker is made of.
pub struct Parts {
    pub shared: Shared,
    pub pool: FramePool,
    pub ports: Vec<WorkerPort>,
    pub flows: FlowTable,
    pub inspector: Inspector,
    pub export: Option<Sink>,
    pub events: Arc<Events>,
    pub counters: Arc<WorkerCounters>,
    pub neighbours: Asks,
    pub questions: Receiver<Question>,
    pub batch_size: usize,
}

impl Worker {
    pub fn new(parts: Parts) -> Self {
        let mut plans = Cache::new(parts.shared.plan);
        let plan = plans.load().clone();
        let ports = plan.ports.len();
        let rules = parts.counters.rules.begin(plan.rule_names.clone());
        parts.counters.set_queues(parts.ports.iter().map(|port| (port.id.into(), port.io.queue())));
        parts.counters.plan.set(plan.generation.into());
        let treated = Treated::new(&plan, parts.flows.capacity());
        let counted = Counted::new(&plan, parts.flows.capacity());
        let graph = Graph::new(parts.pool.total());
        Self {
            pool: parts.pool,
            ports: parts.ports,
            flows: parts.flows,
            inspector: parts.inspector,
            export: parts.export,
            offload: None,
            treated,
            counted,
            watch: None,
            counters: parts.counters,
            generation: 0,
            events: parts.events,
            graph,
            batch: Batch::new(),
            batch_size: parts.batch_size.clamp(1, MAX_BATCH),
            received: Vec::with_capacity(MAX_BATCH),
            tx: (0..ports).map(|_| Vec::with_capacity(4 * MAX_BATCH)).collect(),
            held: Vec::with_capacity(MAX_HELD),
            held_since: 0,
            held_generation: (0, 0),
            neighbours: parts.neighbours,
            icmp_budget: Budget::new(),
            stranger_budget: Budget::of_strangers(),
            scratch: vec![0; 66_560].into_boxed_slice(),
            plans,
            plan,
            rules,
            keys: Cache::new(parts.shared.keys),
            fib: Cache::new(parts.shared.fib),
            stop: parts.shared.stop,
            questions: parts.questions,
            next_housekeeping: 0,
            more_to_age: false,
        }
    }

    /// Runs until told to stop. Frames still held are freed and counted.
    pub fn run(&mut self, idler: &mut Idler) {
        let mut worked_since = None;
        while !self.stop.load(Ordering::Relaxed) {
            let now = clock::now();
            if let Some(since) = worked_since.take() {
                self.counters.work.busy.add(now - since);
            }
            let packets = self.turn(now);
            if packets == 0 {
                self.counters.work.idle.inc();
            } else {
                worked_since = Some(now);
            }
            // Millions of flows may have come of age; what they hold is given back before the worker rests.
            if idler.tired(packets + usize::from(self.more_to_age)) {
                // What the kernel does not take now (the link is down, its queue full) is tried again soon, not at once
                // and for ever.
                let longest = if self.sending() { 1 } else { i32::MAX };
                self.counters.work.polls.inc();
                self.publish();
                idler.sleep(longest.min(if self.held.is_empty() { i32::MAX } else { 50 }));
            }
        }
        self.finish();
    }

    /// One turn: every port once. Returns how many packets came in.
    pub fn turn(&mut self, now: u64) -> usize {
        let mut packets = 0;
        self.follow_plan();
        for at in 0..self.ports.len() {
            self.ports[at].io.reap(&mut self.pool);
            let max = self.batch_size;
            let got = self.ports[at].io.rx_burst(&mut self.pool, &mut self.received, max);
            if got > 0 {
                packets += got;
                self.walk(at, now);
                self.send();
            }
        }
        self.read_notes();
        while let Ok(question) = self.questions.try_recv() {
            question(self);
        }
        self.age(now);
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.housekeeping(now);
        }
        packets
    }

    /// Goes on to the newest plan, between two turns: all packets of a turn meet the same.
    #[inline]
    fn follow_plan(&mut self) {
        let newest: &Arc<Plan> = self.plans.load();
        if newest.generation != self.plan.generation {
            let newest = newest.clone();
            self.begin_plan(newest);
        }
    }

    #[cold]
    fn begin_plan(&mut self, newest: Arc<Plan>) {
        // What was said of the old plan's rules is counted to them.
        self.read_notes();
        self.rules = self.counters.rules.begin(newest.rule_names.clone());
        self.treated.follow(&newest, self.flows.capacity());
        self.counted.follow(&newest, self.flows.capacity());
        self.plan = newest;
        self.counters.plan.set(self.plan.generation.into());
    }

    /// What the offload thread has to say.
    fn read_notes(&mut self) {
        if let Some(client) = &self.offload
            && !client.lane.notes.is_empty()
        {
            let applications = &self.plan.applications;
            let kept = (&mut self.treated, &mut self.counted);
            client.read_notes(&mut self.flows, kept, &self.counters, &self.rules, applications);
        }
    }

    fn walk(&mut self, at: usize, now: u64) {
        let port = self.ports[at].id;
        // The first touch of a packet is a miss to memory that another core wrote; asked for together, they overlap.
        self.received.iter().for_each(Frame::prefetch);
        let packet = |frame| Packet { frame, headers: Headers::default(), meta: Meta::new(port) };
        self.batch.packets.extend(self.received.drain(..).map(packet));
        self.counters.work.batches.inc();
        self.counters.work.packets.add(self.batch.len() as u64);
        self.on_graph(now, |graph, cx, batch| graph.run(cx, batch));
    }

    fn on_graph(&mut self, now: u64, walk: impl FnOnce(&mut Graph, &mut Cx<'_>, &mut Batch)) {
        let mut cx = Cx {
            now,
            plan: &self.plan,
            fib: self.fib.load(),
            pool: &mut self.pool,
            flows: &mut self.flows,
            inspector: &mut self.inspector,
            export: &mut self.export,
            offload: self.offload.as_ref(),
            treated: &mut self.treated,
            counted: &mut self.counted,
            keys: self.keys.load(),
            events: &self.events,
            tx: &mut self.tx,
            held: &mut self.held,
            neighbours: &mut self.neighbours,
            icmp_budget: &mut self.icmp_budget,
            stranger_budget: &mut self.stranger_budget,
            scratch: &mut self.scratch,
            counters: &self.counters,
            rules: &self.rules,
            watch: self.watch.as_deref_mut().filter(|watch| !watch.is_over()),
            seen: Seen::default(),
        };
        self.generation = cx.generation();
        // Of what was walked with: newer ones may have what they wait for.
        let generation = (cx.fib.generation(), cx.keys.generation);
        walk(&mut self.graph, &mut cx, &mut self.batch);
        if self.held_since == 0 && !self.held.is_empty() {
            self.held_since = now;
            self.held_generation = generation;
        }
    }

    /// Hands each port its frames, with one kick for all of them. What a full ring does not take is dropped: the link is
    /// slower than its senders, and waiting would only move the loss into the receive ring.
    fn send(&mut self) {
        for port in &mut self.ports {
            let lost = port.io.send(&mut self.pool, &mut self.tx[usize::from(port.id)]);
            for _ in 0..lost {
                self.counters.drop_packet(DropReason::TxFull as usize);
            }
        }
        // A port of which this worker has no queue (fewer queues than workers) cannot be sent from.
        for frames in &mut self.tx {
            for frame in frames.drain(..) {
                self.counters.drop_packet(DropReason::NoPort as usize);
                self.pool.free(frame);
            }
        }
    }

    fn sending(&mut self) -> bool {
        let mut sending = false;
        for port in &mut self.ports {
            port.io.flush(&mut self.pool);
            sending |= port.io.unsent();
        }
        sending
    }

    /// Ends flows that were silent for their timeout.
    fn age(&mut self, now: u64) {
        let (inspector, export, tick) = (&mut self.inspector, &mut self.export, Tick::from_nanos(now));
        let (offload, counted) = (self.offload.as_ref(), &mut self.counted);
        let plan = &self.plan;
        let looks = self.flows.expire(tick, MOST_AGED, |at, ended| {
            if let Some(client) = offload {
                client.ended(at, ended);
            }
            if let Some(sink) = export {
                sink.ended(at, ended, (inspector, &plan.applications), tick, EndReason::Idle);
            }
            inspector.release(at, ended);
            counted.leave(at);
        });
        self.more_to_age = looks >= MOST_AGED / 2;
    }

    fn housekeeping(&mut self, now: u64) {
        for waiting in self.graph.waiting() {
            waiting.expire(now, |packet, reason| {
                self.counters.drop_packet(reason as usize);
                self.pool.free(packet.frame);
            });
        }
        if let Some(sink) = &mut self.export {
            sink.sweep(&self.flows, (&self.inspector, &self.plan.applications), Tick::from_nanos(now));
        }
        if !self.held.is_empty() {
            self.retry_held(now);
        }
        self.publish();
    }

    /// Copies the ports' and the pool's own counts to where other threads may read them.
    pub fn publish(&mut self) {
        self.counters.flows.set(self.flows.len() as u64);
        let (pressure, counters) = (self.flows.pressure(), &self.counters);
        counters.flows_unproven.set(self.flows.unproven() as u64);
        counters.flows_evicted_full.set(pressure.evicted_full);
        counters.flows_evicted_unproven.set(pressure.evicted_unproven);
        counters.flows_refused_full.set(pressure.refused_full);
        counters.flows_refused_unproven.set(pressure.refused_unproven);
        counters.tcp_unbelieved.set(pressure.unbelieved);
        counters.l7.take(&self.inspector);
        let held = self.graph.waiting().map(|waiting| waiting.occupancy());
        self.counters.datagrams_held.set(held.iter().map(|(datagrams, _)| *datagrams as u64).sum());
        self.counters.fragments_held.set(held.iter().map(|(_, fragments)| *fragments as u64).sum());
        for (at, counters) in self.counters.ports.iter().enumerate() {
            let stats = || self.ports.iter().filter(|port| usize::from(port.id) == at).map(|port| port.io.stats());
            counters.rx.packets.set(stats().map(|s| s.rx_packets).sum());
            counters.rx.bytes.set(stats().map(|s| s.rx_bytes).sum());
            counters.tx.packets.set(stats().map(|s| s.tx_packets).sum());
            counters.tx.bytes.set(stats().map(|s| s.tx_bytes).sum());
        }
        self.publish_io_drops();
        let frames = &self.counters.frames;
        let (fill, tx) = self.pool.lent();
        frames.total.set(u64::from(self.pool.total()));
        frames.free.set(self.pool.available() as u64);
        frames.fill.set(u64::from(fill));
        frames.tx.set(u64::from(tx));
        frames.graph.set(u64::from(self.pool.out()));
    }

    /// What the kernel and the rings lost has a name too.
    fn publish_io_drops(&self) {
        let mut lost = [0; 6];
        for (at, port) in self.ports.iter().enumerate() {
            let (kernel, own) = (port.io.kernel_stats(), port.io.stats());
            if let Some(queue) = self.counters.queues().get(at) {
                queue.rx.packets.set(own.rx_packets);
                queue.rx.bytes.set(own.rx_bytes);
                queue.tx.packets.set(own.tx_packets);
                queue.tx.bytes.set(own.tx_bytes);
                queue.rx_ring_full.set(kernel.rx_ring_full);
                queue.tx_ring_full.set(own.tx_full);
            }
            let counts = [
                kernel.rx_ring_full,
                kernel.rx_dropped,
                own.rx_truncated,
                own.rx_bad + kernel.rx_invalid,
                own.tx_bad,
                own.tx_refused,
            ];
            lost.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let reasons = [
            DropReason::RxRingFull,
            DropReason::RxNoFrame,
            DropReason::RxParts,
            DropReason::RxBad,
            DropReason::TxBad,
            DropReason::TxRefused,
        ];
        for (reason, lost) in reasons.into_iter().zip(lost) {
            self.counters.drops[reason as usize].set(lost);
        }
    }

    /// Packets that wait for a link address go on when the forwarding table has changed, or are given up.
    fn retry_held(&mut self, now: u64) {
        let changed = (self.fib.load().generation(), self.keys.load().generation) != self.held_generation;
        let too_late = now > self.held_since + PATIENCE;
        if too_late {
            self.batch.packets.append(&mut self.held);
            self.on_graph(now, |_, cx, batch| {
                for packet in batch.packets.drain(..) {
                    let reason = Self::waits_for(cx.keys, &packet, now);
                    cx.drop_packet(packet, reason);
                }
            });
            self.held_since = 0;
        } else if changed {
            let since = std::mem::take(&mut self.held_since);
            self.batch.packets.append(&mut self.held);
            self.on_graph(now, |graph, cx, batch| graph.resume(cx, batch));
            self.send();
            if !self.held.is_empty() {
                self.held_since = since;
            }
        } else {
            self.ask_again(now);
        }
    }

    /// What a packet waits for, as the reason that it gets when that does not come.
    fn waits_for(keys: &Keys, packet: &Packet, now: u64) -> DropReason {
        match keys.way(packet.meta.tunnel_out, packet.meta.way) {
            Some(way) if !way.can_seal(now) => DropReason::NoSession,
            _ => DropReason::NeighbourUnresolved,
        }
    }

    fn ask_again(&mut self, now: u64) {
        let keys: &Arc<Keys> = self.keys.load();
        let fib: &Arc<Fib> = self.fib.load();
        for packet in &self.held {
            let dst = match keys.way(packet.meta.tunnel_out, packet.meta.way) {
                Some(way) => way.remote.ip(),
                None => ip(packet.headers.l3, &packet.headers.dst),
            };
            if let (Hop::Unresolved { port }, Some(address)) =
                (fib.look_up(dst, packet.meta.port_in), fib.next_address(dst, packet.meta.port_in))
            {
                self.neighbours.ask(port, address, now);
            }
        }
    }

    /// Gives back every frame the worker itself still has (after a panic, those of the batch too); the ports keep theirs
    /// until they are closed. Flows are told of for the last time.
    pub fn finish(&mut self) {
        self.read_notes();
        if let Some(mut sink) = self.export.take() {
            sink.finish(&self.flows, (&self.inspector, &self.plan.applications), self.flows.newest());
        }
        for waiting in self.graph.waiting() {
            waiting.drain(|packet| {
                self.counters.drop_packet(DropReason::Shutdown as usize);
                self.pool.free(packet.frame);
            });
        }
        let walking = self.held.drain(..).chain(self.batch.packets.drain(..)).map(|packet| packet.frame);
        let lists = self.received.drain(..).chain(self.tx.iter_mut().flat_map(|frames| frames.drain(..)));
        for frame in walking.chain(lists) {
            self.counters.drop_packet(DropReason::Shutdown as usize);
            self.pool.free(frame);
        }
    }
}
