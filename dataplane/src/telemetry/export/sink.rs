//! The worker's end: makes records of flows that end, and of those that last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{EndReason, FlowRecord, Queue, ShortName};
use crate::flow::{Direction, Flow, FlowIdx, FlowTable, Standing, Tick};
use crate::l7::{HostName, Inspector};
use crate::plan::applications::Applications;

/// Lasting flows whose last record is remembered. Others are told of when they end.
const LASTING: usize = 65_536;
/// Flows looked at in one sweep for those that last.
const SWEEP: usize = 1024;

/// What knows a flow's host name and facts, and what knows its application.
type Names<'a> = (&'a Inspector, &'a Applications);

/// What was told of a lasting flow so far.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    created: Tick,
    at: Tick,
    packets: [u64; 2],
    bytes: [u64; 2],
}

/// A worker's records. Takes its memory at the start.
#[derive(Debug)]
pub struct Sink {
    queue: Arc<Queue>,
    /// In ticks.
    active_timeout: u32,
    lasting: HashMap<u32, Told>,
    swept: usize,
}

impl Sink {
    pub fn new(queue: Arc<Queue>, active_timeout: Duration) -> Self {
        let active_timeout = Tick::from_duration(active_timeout).0.max(1);
        Self { queue, active_timeout, lasting: HashMap::with_capacity(LASTING * 2), swept: 0 }
    }

    /// Tells of a flow that the table ends. `why`: where the flow itself does not know better.
    pub fn ended(&mut self, at: FlowIdx, flow: &Flow, names: Names<'_>, now: Tick, why: EndReason) {
        let told = self.lasting.remove(&at.0).filter(|told| told.created == flow.created()).unwrap_or_default();
        let why = if flow.state().standing() == Standing::Over { EndReason::EndOfFlow } else { why };
        self.tell(at, flow, names, now, told, why);
    }

    /// Looks at the next part of the table for flows whose active timeout is over. Called every 10 ms.
    pub fn sweep(&mut self, flows: &FlowTable, names: Names<'_>, now: Tick) {
        for (at, flow) in flows.entries(self.swept, SWEEP) {
            if now.since(flow.created()) < self.active_timeout {
                continue;
            }
            let told = match self.lasting.get(&at.0) {
                Some(told) if told.created == flow.created() => *told,
                _ => Told { created: flow.created(), at: flow.created(), ..Told::default() },
            };
            let due = now.since(told.at) >= self.active_timeout && counts(flow) != (told.packets, told.bytes);
            let room = self.lasting.len() < LASTING || self.lasting.contains_key(&at.0);
            if due && room {
                self.tell(at, flow, names, now, told, EndReason::Active);
                let (packets, bytes) = counts(flow);
                self.lasting.insert(at.0, Told { created: told.created, at: now, packets, bytes });
            }
        }
        self.swept = if self.swept + SWEEP < flows.capacity() { self.swept + SWEEP } else { 0 };
    }

    /// Tells of every flow that is left.
    pub fn finish(&mut self, flows: &FlowTable, names: Names<'_>, now: Tick) {
        for (at, flow) in flows.iter() {
            self.ended(at, flow, names, now, EndReason::Forced);
        }
    }

    fn tell(&self, at: FlowIdx, flow: &Flow, names: Names<'_>, now: Tick, told: Told, reason: EndReason) {
        let (inspector, applications) = names;
        let (packets, bytes) = counts(flow);
        let less = |a: [u64; 2], b: [u64; 2]| [a[0].saturating_sub(b[0]), a[1].saturating_sub(b[1])];
        let packets = less(packets, told.packets);
        // All of it was told already.
        if packets == [0, 0] && reason != EndReason::EndOfFlow {
            return;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let time = |tick: Tick| wall.saturating_sub(u64::from(now.since(tick)) * 10);
        let mut host = HostName::default();
        host.push(inspector.host_of(flow).unwrap_or_default().as_bytes());
        self.queue.push(FlowRecord {
            start_ms: time(flow.created()),
            end_ms: time(flow.last_seen()),
            initiator: flow.initiator(),
            responder: flow.responder(),
            proto: flow.key().proto(),
            vlan: flow.key().vlan(),
            network: flow.key().net().id(),
            packets,
            bytes: less(bytes, told.bytes),
            application: ShortName::of(applications.of(at, flow, inspector).map_or("", |app| applications.name(app))),
            class: flow.class(),
            by: flow.by(),
            alpn: flow.alpn(),
            host,
            facts: inspector.facts_of(at, flow).cloned().unwrap_or_default(),
            tier: flow.highest_tier().name(),
            encrypted: flow.is_protected(),
            reason,
        });
    }
}

fn counts(flow: &Flow) -> ([u64; 2], [u64; 2]) {
    let both =
        |of: fn(&Flow, Direction) -> u64| [of(flow, Direction::FromInitiator), of(flow, Direction::FromResponder)];
    (both(Flow::packets), both(Flow::bytes))
}
