//! What a worker says of one packet at one place of its way.

use crate::flow::{FlowIdx, Tier};
use crate::graph::packet::{NO_FLOW, NONE};
use crate::graph::{Cx, DropReason, Meta, Packet};
use softdpu_ebpf_common::walk::Headers;
use std::net::SocketAddr;

/// Where `capture` may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// As received, with the link header.
    Rx,
    /// What came out of a tunnel, opened and expanded; from the IP header on.
    Open,
    /// What goes into a tunnel, before it is compressed and sealed; from the IP header on.
    Seal,
    /// As sent, with the link header.
    Tx,
}

impl Point {
    pub const ALL: [Self; 4] = [Self::Rx, Self::Open, Self::Seal, Self::Tx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Open => "open",
            Self::Seal => "seal",
            Self::Tx => "tx",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|point| point.name() == name)
    }

    /// Whether packets have their link header there.
    pub fn has_link(self) -> bool {
        matches!(self, Self::Rx | Self::Tx)
    }

    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What became of a packet, as far as is known when the record is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// On to the next node.
    #[default]
    Going,
    /// On the transmit list of its port.
    Sent,
    Dropped(DropReason),
    /// Waits for its next hop's address, or for a session with its peer.
    Held,
    /// A fragment that waits for the rest, or that became part of a whole.
    Gathered,
}

/// What is known of the packet, by number: names are looked up by whoever reads.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub meta: Meta,
    pub headers: Headers,
    /// Of its flow; `None`: it has none.
    pub class: Option<u16>,
    /// Of its flow, as [`crate::plan::applications::AppId::number`]; 0: none, or not known.
    pub app: u16,
    pub tier: Tier,
    /// Destination MAC of the next hop.
    pub hop: Option<[u8; 6]>,
    /// The tunnel's peer that it goes to.
    pub peer: Option<SocketAddr>,
    /// Of the plan.
    pub generation: u32,
}

impl Facts {
    pub fn of(cx: &Cx<'_>, packet: &Packet) -> Self {
        let meta = packet.meta;
        let flow = (meta.flow != NO_FLOW).then(|| cx.flows.get(FlowIdx(meta.flow)));
        Self {
            meta,
            headers: packet.headers,
            class: flow.map(|flow| flow.class),
            app: flow.and_then(|flow| cx.plan.applications.settled(flow)).unwrap_or(0),
            tier: flow.map_or(Tier::Worker, |flow| flow.tier()),
            hop: cx.fib.adjacency(meta.adjacency).map(|adjacency| adjacency.addresses.macs().0),
            peer: if meta.tunnel_out == NONE { None } else { cx.way(packet).map(|way| way.remote) },
            generation: cx.plan.generation,
        }
    }
}

/// One packet at one place. Its bytes are as many as the session keeps of each.
#[derive(Debug)]
pub struct Record {
    /// Number of the packet, per worker.
    pub packet: u32,
    pub worker: u16,
    /// The node that it has just been through; of [`Point::Rx`] none has looked at it yet.
    pub node: &'static str,
    /// Of captures.
    pub point: Point,
    /// Monotonic nanoseconds.
    pub time: u64,
    pub end: End,
    pub facts: Facts,
    /// Which frame it is in, and where in the frame's memory it begins: bytes that have not moved can be told from others.
    pub frame: u32,
    pub offset: u32,
    /// Length of the packet, of which `bytes` are the first.
    pub len: u32,
    pub bytes: Vec<u8>,
}

impl Record {
    /// One with room for `snap` bytes; what it says is to be written over.
    pub fn empty(snap: usize) -> Self {
        let facts = Facts {
            meta: Meta::new(0),
            headers: Headers::default(),
            class: None,
            app: 0,
            tier: Tier::Worker,
            hop: None,
            peer: None,
            generation: 0,
        };
        Self {
            packet: 0,
            worker: 0,
            node: "rx",
            point: Point::Rx,
            time: 0,
            end: End::Going,
            facts,
            frame: 0,
            offset: 0,
            len: 0,
            bytes: Vec::with_capacity(snap),
        }
    }

    /// Copies as much of the packet as there is room for, also of one in several frames.
    pub fn copy(&mut self, cx: &Cx<'_>, packet: &Packet, snap: usize) {
        self.frame = packet.frame.index();
        self.offset = packet.frame.offset() as u32;
        self.len = packet.frame.total_len() as u32;
        self.bytes.clear();
        let mut copy = |part: &[u8]| {
            let room = snap.min(self.bytes.capacity()) - self.bytes.len();
            self.bytes.extend_from_slice(&part[..part.len().min(room)]);
        };
        if packet.frame.is_chain() {
            cx.pool.parts(&packet.frame).for_each(copy);
        } else {
            copy(packet.frame.bytes());
        }
    }
}
