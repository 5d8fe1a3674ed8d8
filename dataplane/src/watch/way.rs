//! Records of a trace become packets' ways.

use super::names;
use super::record::{End, Record};
use super::steered::Steered;
use super::step::{Step, step};
use crate::plan::Plan;
use serde::{Deserialize, Serialize};

/// Most packets that are put together at a time; the oldest is told of as it is when there are more.
const MOST: usize = 1024;
/// Most steps of one.
const MOST_STEPS: usize = 256;
/// How many looks without anything new of a packet that has not come to its end, before it is told of all the same.
const PATIENCE: u32 = 200;

/// A packet's way through a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// From 1, in the order they were taken up.
    pub packet: u64,
    /// `None`: it came to no worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
    /// Nanoseconds since 1970, when it was received.
    pub time: u64,
    pub port: String,
    /// Length as received, in bytes.
    pub len: u32,
    /// The XDP program's part; `None`: the port has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<Steered>,
    pub steps: Vec<Step>,
    /// `sent`, `dropped`, `held`, `gathered` (a fragment that waits, or became part of a whole), `cut` (into fragments). Of what the XDP
    /// program kept for itself `forwarded`, `kernel` or `dropped`; `unseen`: it was given to a worker, and none took it up.
    pub end: String,
    /// Of what is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its first bytes as received and as last seen, in hexadecimal.
    pub first: String,
    pub last: String,
}

/// How it was, at the end of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Packets asked about.
    pub seen: u64,
    pub matched: u64,
    /// Records that there was no room for: of packets that nothing, or not all, is told of.
    pub lost: u64,
}

/// A line of `POST /v1/trace`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The last one.
    Ended {
        ended: Ended,
    },
    Way(Box<Way>),
}

/// Ways that are not told yet.
#[derive(Debug, Default)]
pub struct Ways {
    open: Vec<Open>,
    told: Vec<Way>,
    /// Packets so far.
    packets: u64,
}

#[derive(Debug)]
struct Open {
    key: (u16, u32),
    way: Way,
    /// The newest record of each frame the packet is, or was, in.
    last: Vec<Record>,
    /// Looks since the last record.
    quiet: u32,
    tier: &'static str,
}

impl Ways {
    /// Takes a record up. `offset`: from its time to that of 1970. `xdp`: what the XDP program said, asked of received frames.
    pub fn take(&mut self, record: &Record, offset: i64, plan: &Plan, xdp: impl FnOnce() -> Option<Steered>) {
        let key = (record.worker, record.packet);
        let at = self.open.iter().position(|open| open.key == key).unwrap_or_else(|| {
            self.packets += 1;
            let way = Way {
                packet: self.packets,
                worker: Some(record.worker),
                time: record.time.wrapping_add_signed(offset),
                port: names::port(plan, record.facts.meta.port_in),
                len: record.len,
                xdp: if record.node == "rx" { xdp() } else { None },
                first: hex(&record.bytes),
                ..Way::default()
            };
            self.open.push(Open { key, way, last: Vec::new(), quiet: 0, tier: "worker" });
            self.open.len() - 1
        });
        let open = &mut self.open[at];
        open.quiet = 0;
        open.tier = record.facts.tier.name();
        let before = open.last.iter().rposition(|last| last.frame == record.frame);
        let before = before.or_else(|| open.last.len().checked_sub(1));
        if open.way.steps.len() < MOST_STEPS {
            open.way.steps.push(step(before.map(|at| &open.last[at]), record, plan));
        }
        let (end, reason) = match record.end {
            End::Sent => ("sent", None),
            End::Dropped(reason) => ("dropped", Some(reason.code().to_owned())),
            End::Held => ("held", None),
            End::Gathered => ("gathered", None),
            End::Going => ("", None),
        };
        (open.way.end, open.way.reason) = (end.to_owned(), reason);
        open.last.retain(|last| last.frame != record.frame);
        if open.last.len() < 64 {
            open.last.push(copy(record));
        }
    }

    /// One that came to no worker: told at the next look.
    pub fn add(&mut self, mut way: Way) {
        self.packets += 1;
        way.packet = self.packets;
        self.told.push(way);
    }

    /// A look is over: the ways that have come to their end.
    pub fn done(&mut self, all: bool) -> Vec<Way> {
        let mut done = std::mem::take(&mut self.told);
        for open in &mut self.open {
            open.quiet += 1;
        }
        let excess = self.open.len().saturating_sub(MOST);
        let mut at = 0;
        self.open.retain_mut(|open| {
            at += 1;
            // What is cut in pieces has several ends, which come one right after the other.
            let patience = if matches!(open.way.end.as_str(), "sent" | "dropped") { 1 } else { PATIENCE };
            let over = all || at <= excess || open.quiet > patience;
            if over {
                done.push(open.close());
            }
            !over
        });
        done
    }
}

impl Open {
    fn close(&mut self) -> Way {
        let mut way = std::mem::take(&mut self.way);
        if way.end.is_empty() {
            way.end = match way.steps.last().map(|step| step.node.as_str()) {
                Some("icmp") => "cut",
                _ => "gathered",
            }
            .to_owned();
        }
        if let Some(xdp) = way.xdp.as_mut().filter(|xdp| xdp.recomputed) {
            xdp.flow_table = match self.tier {
                // Of captures that are replayed.
                _ if xdp.verdict != "worker" => "not asked: this packet would not come to a worker",
                "xdp" | "nic" => "has the flow, and left this packet to the worker",
                _ => "no entry, or it would not have come to the worker",
            }
            .to_owned();
        }
        way.last = self.last.last().map(|record| hex(&record.bytes)).unwrap_or_default();
        way
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record goes back to the worker, what was in it stays here.
fn copy(record: &Record) -> Record {
    Record { bytes: record.bytes.clone(), ..*record }
}
