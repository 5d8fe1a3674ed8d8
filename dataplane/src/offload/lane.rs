//! The two bounded queues between a worker and the thread, and the worker's end of them.

use super::candidate::Candidate;
use super::nic::Blocked;
use super::reason::Reason;
use crate::flow::tcp::Segment;
use crate::flow::{Direction, Flow, FlowIdx, FlowKey, FlowTable, L4State, Tick, Tier};
use crate::io::steer::{FlowCount, Progress};
use crate::l7::Class;
use crate::nodes::application;
use crate::nodes::connections::Counted;
use crate::nodes::policy::last_rule;
use crate::nodes::treat::Treated;
use crate::plan::applications::Applications;
use crate::telemetry::counters::{RuleCounters, WorkerCounters};
use crate::worker::clock;
use crossbeam::queue::ArrayQueue;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// Proposals that may wait.
const ASKS: usize = 4096;
/// Notes that may wait: what does not fit waits with the thread, in order.
const NOTES: usize = 16_384;

/// A flow, so that it is told from a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRef {
    pub idx: FlowIdx,
    pub key: FlowKey,
    pub created: Tick,
}

/// From a worker.
#[derive(Clone, Debug)]
pub enum Ask {
    Place(Candidate),
    /// A rule drops it: for the device, else for the driver.
    Block(Blocked),
    /// The flow is not there any more, or is over.
    Leave(FlowRef),
    /// SYN, FIN or RST: the end of the entry. What it means for the connection the flow can only judge when it is back, with the
    /// numbers that the driver saw.
    Ends(FlowRef, Direction, Segment),
}

/// To a worker. Counts are by direction, initiator first.
#[derive(Clone, Debug)]
pub struct Note {
    pub flow: FlowRef,
    pub what: What,
    /// When the counts were read.
    pub seen: Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Placed,
    /// Into the device, which drops it.
    Blocked,
    /// Into the driver, which drops it; and why not into the device.
    Dropped(Reason),
    Refused(Reason),
    Counted(Counts),
    Left(Reason, Counts, Back),
    /// Told of by [`Ask::Ends`], now that the flow is back.
    Judge(Direction, Segment),
}

/// What the driver has counted since it was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub traffic: [FlowCount; 2],
    /// Packets that the driver dropped because a rule says so; they are in `traffic` too.
    pub dropped: u64,
    /// Packets that the meter dropped; they are in `traffic` too.
    pub metered: u64,
    /// Packets sampled; they are not in `traffic`.
    pub sampled: u64,
}

impl Counts {
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What a flow takes along from the driver, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Back {
    /// Of TCP: upper half of what is to be sent next. `None` where the flow was not forwarded.
    pub next: Option<[u16; 2]>,
    pub progress: [Progress; 2],
}

/// The queues of one worker. The worker pushes asks and pops notes, the thread the other way round.
#[derive(Debug)]
pub struct Lane {
    pub asks: ArrayQueue<Ask>,
    pub notes: ArrayQueue<Note>,
    thread: Arc<OnceLock<Thread>>,
}

impl Lane {
    pub fn new(thread: Arc<OnceLock<Thread>>) -> Arc<Self> {
        Arc::new(Self { asks: ArrayQueue::new(ASKS), notes: ArrayQueue::new(NOTES), thread })
    }

    /// `false` where there is no room. Neither blocks nor allocates.
    pub fn ask(&self, ask: Ask) -> bool {
        let taken = self.asks.push(ask).is_ok();
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        taken
    }
}

/// What a worker has of all this.
#[derive(Clone, Debug)]
pub struct Client {
    pub lane: Arc<Lane>,
    /// Interface index per port, 0 for ports that are not of kind xdp.
    pub interfaces: Arc<[u32]>,
    /// Whether a port's device takes flows.
    pub devices: Arc<[bool]>,
    pub min_packets: u64,
    pub wait_for_class: bool,
}

impl Client {
    /// A flow ends in the worker's table: it must not go on in the driver. Where there is no room for the question, the next
    /// note about the flow finds that it is gone, and asks again.
    pub fn ended(&self, idx: FlowIdx, flow: &Flow) {
        if flow.tier() != Tier::Worker {
            self.lane.ask(Ask::Leave(FlowRef { idx, key: *flow.key(), created: flow.created() }));
        }
    }

    /// A packet of an offloaded flow that ends its entry. `false` where there is no room: then it is to be judged as it is.
    #[cold]
    pub fn ends(&self, idx: FlowIdx, flow: &Flow, dir: Direction, segment: Segment) -> bool {
        self.lane.ask(Ask::Ends(FlowRef { idx, key: *flow.key(), created: flow.created() }, dir, segment))
    }

    /// Takes the thread's notes over into the flows and counters. Between two batches.
    pub fn read_notes(
        &self,
        flows: &mut FlowTable,
        (treated, counted): (&mut Treated, &mut Counted),
        counters: &WorkerCounters,
        rules: &RuleCounters,
        applications: &Applications,
    ) {
        // No more than came until now: others may go on pushing.
        for _ in 0..self.lane.notes.len() {
            let Some(note) = self.lane.notes.pop() else { return };
            self.read(&note, flows, (treated, counted), (counters, rules, applications));
        }
    }

    fn read(
        &self,
        note: &Note,
        flows: &mut FlowTable,
        (treated, counted): (&mut Treated, &mut Counted),
        (counters, rules, applications): (&WorkerCounters, &RuleCounters, &Applications),
    ) {
        let Some(flow) = flows.held(note.flow.idx, &note.flow.key, note.flow.created) else {
            if matches!(note.what, What::Placed | What::Blocked | What::Dropped(_) | What::Counted(_)) {
                // Where it does not fit, the next note finds the same.
                self.lane.ask(Ask::Leave(note.flow));
            }
            return;
        };
        // Only what its rule drops is in a device.
        let dropped_there = flow.tier() == Tier::Nic;
        let counts = match note.what {
            What::Placed => {
                flow.set_tier(Tier::Xdp);
                flow.set_offload_reason(0);
                // It may have ended while it was on its way down.
                if flow.state().is_tcp() && flow.state() != L4State::TcpEstablished {
                    self.lane.ask(Ask::Leave(note.flow));
                }
                return;
            }
            What::Blocked => {
                flow.set_tier(Tier::Nic);
                flow.set_offload_reason(0);
                return;
            }
            What::Dropped(nic) => {
                flow.set_tier(Tier::Xdp);
                flow.set_offload_reason(nic as u8);
                return;
            }
            What::Refused(reason) => return flow.set_offload_reason(reason as u8),
            What::Judge(dir, segment) => {
                flows.judge(note.flow.idx, dir, &segment);
                if flows.get(note.flow.idx).state().is_over() {
                    counted.leave(note.flow.idx);
                }
                return;
            }
            What::Counted(counts) => counts,
            What::Left(reason, counts, back) => {
                // Refused half-way, or dropped, it was not forwarded by the driver.
                if let Some(next) = back.next.filter(|_| flow.tier() == Tier::Xdp) {
                    if flow.state().is_tcp() {
                        flow.set_tcp_next(next);
                    }
                    treated.resume(note.flow.idx, flow.created(), back.progress, clock::now());
                }
                flow.set_tier(Tier::Worker);
                flow.set_offload_reason(reason as u8);
                counts
            }
        };
        let (rule, class) = (last_rule(flow), Class::place(flow.class));
        if let Some(counter) = rule.and_then(|rule| rules.treated(rule)) {
            let dropped: u64 = counts.traffic.iter().map(|count| count.packets).sum();
            counter.dropped.add(if dropped_there { dropped } else { counts.dropped + counts.metered });
            counter.metered.add(counts.metered);
            counter.sampled.add(counts.sampled);
        }
        let sides = [Direction::FromInitiator, Direction::FromResponder];
        for (direction, count) in sides.into_iter().zip(counts.traffic) {
            if count.packets == 0 {
                continue;
            }
            flow.fold(direction, count.packets, count.bytes, note.seen);
            if let Some(counter) = rule.and_then(|rule| rules.get(rule)) {
                counter.add(count.packets, count.bytes);
            }
            application::count(counters, applications, flow.app, (count.packets, count.bytes));
            if let Some(class) = counters.classes.get(class) {
                class.packets.add(count.packets);
                class.bytes.add(count.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::tcp::{ACK, FIN, RST, SYN};
    use crate::flow::{FlowConfig, Net, Prepared, Seed};
    use softdpu_ebpf_common::walk::{Headers, L3};

    const A: u32 = 0x1000_0000;
    const B: u32 = 0x9000_0000;

    struct World {
        client: Client,
        flows: FlowTable,
        treated: Treated,
        counters: WorkerCounters,
    }

    impl World {
        fn new() -> Self {
            let client = Client {
                devices: Arc::new([]),
                lane: Lane::new(Arc::default()),
                interfaces: Arc::from([]),
                min_packets: 2,
                wait_for_class: false,
            };
            let flows = FlowTable::new(&FlowConfig { capacity: 64, ..FlowConfig::default() }, Seed::random(), Tick(0));
            Self { client, flows, treated: Treated::default(), counters: WorkerCounters::new(Arc::default()) }
        }

        /// A TCP segment without payload, as the node `flow` takes it.
        fn packet(&mut self, there: bool, flags: u8, seq: u32, ack: u32) -> (FlowIdx, Direction, Prepared) {
            let mut frame = [0; 20];
            frame[4..8].copy_from_slice(&seq.to_be_bytes());
            frame[8..12].copy_from_slice(&ack.to_be_bytes());
            (frame[12], frame[13]) = (5 << 4, flags);
            let (src, dst, sport, dport) = if there { (1, 2, 999, 80) } else { (2, 1, 80, 999) };
            let mut headers = Headers { l3: L3::V4, proto: 6, sport, dport, tcp_flags: flags, ..Headers::default() };
            (headers.src[0], headers.dst[0], headers.payload_off, headers.end) = (src, dst, 20, 20);
            let now = Tick(100);
            let prepared = self.flows.prepare_in(Net::OUTSIDE, &headers, &frame, now).unwrap();
            let hit = self.flows.lookup_or_insert(&prepared, now, |_, _| panic!("nothing ends")).unwrap();
            self.flows.touch(hit, &prepared, 40, now);
            (hit.idx, hit.dir, prepared)
        }

        fn offloaded() -> (Self, FlowRef) {
            let mut world = Self::new();
            world.packet(true, SYN, A, 0);
            world.packet(false, SYN | ACK, B, A + 1);
            let (idx, ..) = world.packet(true, ACK, A + 1, B + 1);
            let flow = world.flows.get(idx);
            assert_eq!(flow.state(), L4State::TcpEstablished);
            let flow = FlowRef { idx, key: *flow.key(), created: flow.created() };
            world.note(flow, What::Placed);
            (world, flow)
        }

        fn note(&mut self, flow: FlowRef, what: What) {
            self.client.lane.notes.push(Note { flow, what, seen: Tick(100) }).unwrap();
            let rules = self.counters.rules.begin(["all".into()].into());
            self.client.read_notes(
                &mut self.flows,
                (&mut self.treated, &mut Counted::default()),
                &self.counters,
                &rules,
                &Applications::default(),
            );
        }

        /// What the thread says of a flow that came as far as `next`.
        fn left(&mut self, flow: FlowRef, next: [u32; 2]) {
            let traffic = [FlowCount { packets: 7, bytes: 7000 }, FlowCount { packets: 5, bytes: 200 }];
            let back = Back { next: Some(next.map(|next| (next >> 16) as u16)), ..Back::default() };
            self.note(flow, What::Left(Reason::Asked, Counts { traffic, ..Counts::default() }, back));
        }
    }

    #[test]
    fn the_end_of_an_offloaded_connection_is_judged_by_what_the_driver_saw() {
        // A gigabyte went by in the driver; then one end resets or closes, and somebody else tries to.
        let far = A + 0x4000_0000;
        for (flags, seq, after) in [
            (RST, far + 5, L4State::TcpClosed),
            (RST, A + 1, L4State::TcpEstablished),
            (FIN | ACK, far + 5, L4State::TcpInitiatorDone),
            (FIN | ACK, A + 0x2000_0000, L4State::TcpEstablished),
        ] {
            let (mut world, flow) = World::offloaded();
            let (idx, dir, prepared) = world.packet(true, flags, seq, B + 1);
            assert_eq!(world.flows.get(idx).state(), L4State::TcpEstablished, "not before its numbers are back");
            assert!(world.client.ends(idx, world.flows.get(idx), dir, prepared.segment()));
            assert!(
                matches!(world.client.lane.asks.pop(), Some(Ask::Ends(of, Direction::FromInitiator, _)) if of == flow)
            );
            world.left(flow, [far, B + 1]);
            world.note(flow, What::Judge(dir, prepared.segment()));
            let flow = world.flows.get(idx);
            assert_eq!((flow.state(), flow.tier()), (after, Tier::Worker), "{flags} {seq:#x}");
            // What is told of the flow at its end has all that the driver counted.
            assert_eq!(flow.packets(Direction::FromInitiator), 3 + 7);
            assert_eq!(flow.bytes(Direction::FromInitiator), 3 * 40 + 7000);
        }
    }

    #[test]
    fn a_flow_is_never_without_its_driver_s_counts_when_its_ports_are_used_again() {
        let (mut world, flow) = World::offloaded();
        world.packet(false, RST, B + 1, 0);
        // The next connection comes before the thread has answered: it ends nothing (`packet` would panic).
        world.packet(true, SYN, A + 0x0100_0000, 0);
        world.left(flow, [A + 1, B + 1]);
        assert_eq!(world.flows.get(flow.idx).packets(Direction::FromInitiator), 2 + 1 + 7);
    }
}
