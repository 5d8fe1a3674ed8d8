//! Flow export: what became of each flow, to a collector (IPFIX) and into a file (one JSON object a line).
//!
//! ```text
//!  worker: Sink ── FlowRecord, bounded queue ──► exporter thread ──► UDP collector
//!                                                              └──► file
//! ```
//!
//! A flow is told of when it ends, and while it lasts once per active timeout; each record counts what came since the one
//! before, as collectors add them up. A full queue loses the record and counts it: packets do not wait for collectors.

mod exporter;
mod ipfix;
mod lines;
mod ndjson;
mod sink;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::flow::key::Endpoint;
use crate::l7::{Alpn, By, Class, Facts, HostName};

pub use exporter::{Exporter, Running};
pub use sink::Sink;

/// Records that wait for the exporter, all workers together: 3 MiB.
const QUEUE: usize = 4096;

/// Why a record was made (RFC 5102 §5.11.3, `flowEndReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// Silent for its timeout.
    Idle = 1,
    /// Goes on; the active timeout was over.
    Active = 2,
    /// FIN or RST.
    EndOfFlow = 3,
    /// softdpu stopped.
    Forced = 4,
    /// Made room for another flow.
    LackOfResources = 5,
}

impl EndReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::EndOfFlow => "end_of_flow",
            Self::Forced => "forced",
            Self::LackOfResources => "lack_of_resources",
        }
    }
}

/// What is told of a flow. Counts are of the time since the flow's record before, by direction: from the initiator, from
/// the responder.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// Milliseconds since 1970: the flow's first packet, and its last.
    pub start_ms: u64,
    pub end_ms: u64,
    pub initiator: Endpoint,
    pub responder: Endpoint,
    pub proto: u8,
    /// Outer and inner VID, 0 where there is none.
    pub vlan: [u16; 2],
    /// Of the overlay that carries it: VNI, key or TEID; 0 outside one.
    pub network: u32,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    /// The operator's name for it; empty: none.
    pub application: ShortName,
    pub class: Class,
    pub by: By,
    pub alpn: Alpn,
    pub host: HostName,
    pub facts: Facts,
    /// Name of the highest tier that had the flow.
    pub tier: &'static str,
    /// Its rule sends it through a tunnel.
    pub encrypted: bool,
    pub reason: EndReason,
}

/// A name of the policy, at most 32 bytes, without memory of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortName {
    bytes: [u8; 32],
    len: u8,
}

impl ShortName {
    /// What is longer is cut.
    pub fn of(name: &str) -> Self {
        let mut short = Self::default();
        let len = (0..=short.bytes.len().min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        short.bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        short.len = len as u8;
        short
    }

    /// `None`: it is empty.
    pub fn get(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).ok().filter(|name| !name.is_empty())
    }
}

/// What was exported and what was not. Written by several threads, rarely.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records made.
    pub records: AtomicU64,
    /// Records lost because the exporter was behind.
    pub lost: AtomicU64,
    /// IPFIX messages sent.
    pub messages: AtomicU64,
    /// Messages that the host could not send, with the records in them.
    pub unsent: AtomicU64,
    /// Lines that could not be written.
    pub unwritten: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Between workers and exporter.
#[derive(Debug)]
pub struct Queue {
    records: ArrayQueue<FlowRecord>,
    pub counts: Counts,
}

impl Queue {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { records: ArrayQueue::new(QUEUE), counts: Counts::default() })
    }

    fn push(&self, record: FlowRecord) {
        Counts::add(&self.counts.records, 1);
        if self.records.push(record).is_err() {
            Counts::add(&self.counts.lost, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub fn record(initiator: &str, responder: &str, host: &str) -> FlowRecord {
        let mut name = HostName::default();
        name.push(host.as_bytes());
        FlowRecord {
            start_ms: 1_700_000_000_000,
            end_ms: 1_700_000_001_500,
            initiator: Endpoint { addr: initiator.parse().unwrap(), port: 40_000 },
            responder: Endpoint { addr: responder.parse().unwrap(), port: 443 },
            proto: 6,
            vlan: [0, 0],
            network: 0,
            packets: [3, 2],
            bytes: [700, 900],
            application: ShortName::default(),
            class: Class::Tls,
            by: By::Handshake,
            alpn: Alpn::H2,
            host: name,
            facts: Facts::default(),
            tier: "worker",
            encrypted: false,
            reason: EndReason::Idle,
        }
    }

    #[test]
    fn a_full_queue_counts_what_it_loses() {
        let queue = Queue::new();
        for _ in 0..QUEUE + 5 {
            queue.push(record("192.0.2.1", "192.0.2.2", ""));
        }
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        assert_eq!((get(&queue.counts.records), get(&queue.counts.lost)), (QUEUE as u64 + 5, 5));
    }
}
