//! The wiring: which nodes there are, in which order a batch meets them, and what becomes of packets that do not get through.

pub mod context;
pub mod packet;
pub mod reason;
mod reason_docs;
pub mod walk;

pub use crate::flow::Direction;
pub use context::{Cx, Seen};
pub use packet::{Batch, Fate, Meta, Packet};
pub use reason::DropReason;
pub use walk::{Graph, Look};

/// One step of the worker's graph. A node looks at every packet of the batch that is its business and leaves the others.
pub trait Node {
    /// As in traces, counters and `docs/drops.md`.
    const NAME: &'static str;

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch);
}

/// Runs `work` over the packets and takes those out that it refuses.
#[inline]
pub fn each(
    cx: &mut Cx<'_>,
    batch: &mut Batch,
    mut work: impl FnMut(&mut Cx<'_>, &mut Packet) -> Result<(), DropReason>,
) {
    let mut refused = false;
    for packet in &mut batch.packets {
        if let Err(reason) = work(cx, packet) {
            packet.meta.fate = Fate::Drop(reason);
            refused = true;
        }
    }
    if refused {
        sweep(cx, batch);
    }
}

/// Takes packets that are not to go on out of the batch; the others keep their order. Those to be fragmented stay.
#[cold]
pub fn sweep(cx: &mut Cx<'_>, batch: &mut Batch) {
    for packet in batch.packets.extract_if(.., |packet| matches!(packet.meta.fate, Fate::Drop(_) | Fate::Hold)) {
        match packet.meta.fate {
            Fate::Drop(reason) => cx.drop_packet(packet, reason),
            _ => cx.hold(packet),
        }
    }
}
