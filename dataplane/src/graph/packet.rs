//! A packet on its way through the graph: its frame, its headers, and what the nodes have decided so far.

use super::reason::DropReason;
use crate::flow::Direction;
use crate::host::fib::PortId;
use crate::io::frame::Frame;
use softdpu_ebpf_common::walk::Headers;

/// Most packets that walk the graph together.
pub const MAX_BATCH: usize = 256;

/// No rule, tunnel or flow.
pub const NONE: u16 = u16::MAX;
pub const NO_FLOW: u32 = u32::MAX;
pub const NO_WAY: u32 = u32::MAX;

/// From `parse` on the frame's first byte is the IP header's: the link header is cut off, and `headers`' offsets count from
/// there. `rewrite` puts a new link header on.
#[derive(Debug)]
pub struct Packet {
    pub frame: Frame,
    pub headers: Headers,
    pub meta: Meta,
}

/// What the nodes have found out and decided.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub port_in: PortId,
    pub port_out: PortId,
    pub direction: Direction,
    /// What happens to the packet at the end of the node that is running.
    pub fate: Fate,
    /// LZ4 is allowed by the rule.
    pub compress: bool,
    /// What ESP's next header says (opened), or will say (to be sealed); 0: the packet's own family.
    pub next_header: u8,
    /// Put together from fragments, to be sealed: it was cut for the path, and is cut again behind `seal`.
    pub joined: bool,
    /// Went through `seal`.
    pub sealed: bool,
    /// DSCP and ECN byte of the outer header it came in.
    pub outer_tos: u8,
    pub tunnel_in: u16,
    pub tunnel_out: u16,
    pub rule: u16,
    /// Way out of `tunnel_out`, once `select` has chosen it.
    pub way: u32,
    /// Number of the association that opened it, where the kernel's policies ask which; or [`NO_WAY`].
    pub esp_in: u32,
    pub flow: u32,
    pub adjacency: u32,
    /// Its number for whoever watches it on its way, see [`crate::watch::worker`]; 0: nobody does.
    pub watch: u32,
}

// Two cache lines; a batch is an array of these.
const _: () = assert!(size_of::<Packet>() == 128);

impl Meta {
    pub fn new(port_in: PortId) -> Self {
        Self {
            port_in,
            port_out: 0,
            direction: Direction::FromInitiator,
            fate: Fate::Go,
            compress: false,
            next_header: 0,
            joined: false,
            sealed: false,
            outer_tos: 0,
            tunnel_in: NONE,
            tunnel_out: NONE,
            rule: NONE,
            way: NO_WAY,
            esp_in: NO_WAY,
            flow: NO_FLOW,
            adjacency: 0,
            watch: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// On to the next node.
    Go,
    /// Counted under the reason, its frame freed.
    Drop(DropReason),
    /// Waits for its next hop's link address, or for a session with its peer.
    Hold,
    /// Cut into fragments, which follow at the end of the batch.
    Fragment,
}

/// Packets that walk the graph together, in the order they came.
#[derive(Debug, Default)]
pub struct Batch {
    pub packets: Vec<Packet>,
}

impl Batch {
    /// Room for a full batch of which every packet is cut in four; nothing is allocated later.
    pub fn new() -> Self {
        Self { packets: Vec::with_capacity(4 * MAX_BATCH) }
    }

    pub fn len(&self) -> usize {
        self.packets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
