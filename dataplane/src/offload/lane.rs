//! The two bounded queues between a worker and the thread, and the worker's end of them.

use super::candidate::Candidate;
use super::reason::Reason;
use crate::flow::{Direction, Flow, FlowIdx, FlowKey, FlowTable, L4State, Tick, Tier};
use crate::io::steer::FlowCount;
use crate::l7::Class;
use crate::nodes::policy::last_rule;
use crate::telemetry::counters::{RuleCounters, WorkerCounters};
use crossbeam::queue::ArrayQueue;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// Proposals that may wait.
const ASKS: usize = 4096;
/// Notes that may wait: counts that do not fit are told the next time.
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
    /// FIN or RST, or the flow is not there any more.
    Leave(FlowRef),
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
    Refused(Reason),
    Counted([FlowCount; 2]),
    Left(Reason, [FlowCount; 2]),
}

/// The queues of one worker. The worker pushes asks and pops notes, the thread the other way round.
#[derive(Debug)]
pub struct Lane {
    pub asks: ArrayQueue<Ask>,
    pub notes: ArrayQueue<Note>,
    thread: Arc<OnceLock<Thread>>,
}

impl Lane {
    pub(super) fn new(thread: Arc<OnceLock<Thread>>) -> Arc<Self> {
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

    /// Takes the thread's notes over into the flows and counters. Between two batches.
    pub fn read_notes(&self, flows: &mut FlowTable, counters: &WorkerCounters, rules: &RuleCounters) {
        // No more than came until now: others may go on pushing.
        for _ in 0..self.lane.notes.len() {
            let Some(note) = self.lane.notes.pop() else { return };
            self.read(&note, flows, counters, rules);
        }
    }

    fn read(&self, note: &Note, flows: &mut FlowTable, counters: &WorkerCounters, rules: &RuleCounters) {
        let Some(flow) = flows.held(note.flow.idx, &note.flow.key, note.flow.created) else {
            if matches!(note.what, What::Placed | What::Counted(_)) {
                // Where it does not fit, the next note finds the same.
                self.lane.ask(Ask::Leave(note.flow));
            }
            return;
        };
        let counts = match note.what {
            What::Placed => {
                flow.set_tier(Tier::Xdp);
                flow.offload_reason = 0;
                // What passes below is not seen here, and numbers would be out of any window.
                flow.forget_sequences();
                // It may have ended while it was on its way down.
                if flow.state().is_tcp() && flow.state() != L4State::TcpEstablished {
                    self.lane.ask(Ask::Leave(note.flow));
                }
                return;
            }
            What::Refused(reason) => return flow.offload_reason = reason as u8,
            What::Counted(counts) => counts,
            What::Left(reason, counts) => {
                flow.set_tier(Tier::Worker);
                flow.offload_reason = reason as u8;
                flow.forget_sequences();
                counts
            }
        };
        let (rule, class) = (last_rule(flow), Class::place(flow.class));
        for (direction, count) in [Direction::FromInitiator, Direction::FromResponder].into_iter().zip(counts) {
            if count.packets == 0 {
                continue;
            }
            flow.fold(direction, count.packets, count.bytes, note.seen);
            if let Some(counter) = rule.and_then(|rule| rules.get(rule)) {
                counter.add(count.packets, count.bytes);
            }
            if let Some(class) = counters.classes.get(class) {
                class.packets.add(count.packets);
                class.bytes.add(count.bytes);
            }
        }
    }
}
