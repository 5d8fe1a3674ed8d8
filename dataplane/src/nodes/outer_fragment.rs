//! `outer_fragment`: cuts sealed packets that are larger than the path to their peer takes, where the tunnel allows that
//! (`fragment_outer`), and IPv6 packets of up to 1280 bytes in any tunnel, which must be carried (RFC 2473 §7.1). All others
//! were made to fit before.

use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, DropReason, Node, Packet};
use crate::io::frame::HEADROOM;
use crate::nodes::fragment::copy_out;
use crate::wire::fragment::Piece;
use crate::wire::outer_fragment::Cut;

#[derive(Debug)]
pub struct OuterFragment {
    /// Packets that are being cut.
    large: Vec<Packet>,
}

impl Default for OuterFragment {
    /// Room for a whole batch; nothing is allocated later.
    fn default() -> Self {
        Self { large: Vec::with_capacity(2 * MAX_BATCH) }
    }
}

impl Node for OuterFragment {
    const NAME: &'static str = "outer_fragment";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.to_cut_outer {
            return;
        }
        let large = |packet: &mut Packet| packet.meta.sealed && packet.frame.total_len() > cx.outer_mtu_of(packet);
        self.large.extend(batch.packets.extract_if(.., large));
        for packet in self.large.drain(..) {
            if cut(cx, batch, &packet) {
                cx.counters.outer_fragmented.inc();
                cx.pool.free(packet.frame);
            } else {
                cx.drop_packet(packet, DropReason::FragmentRoom);
            }
        }
    }
}

/// Appends the fragments to the batch; the packet's own frame stays with the caller. All or nothing.
#[cold]
fn cut(cx: &mut Cx<'_>, batch: &mut Batch, packet: &Packet) -> bool {
    let before = batch.packets.len();
    let Some(cut) = Cut::new(packet.frame.bytes(), packet.frame.total_len()) else { return false };
    let Some(pieces) = cut.pieces(cx.outer_mtu_of(packet)) else { return false };
    for piece in pieces {
        let made = if batch.packets.len() < batch.packets.capacity() { copy(cx, packet, &cut, piece) } else { None };
        let Some(fragment) = made else {
            for fragment in batch.packets.drain(before..) {
                cx.pool.free(fragment.frame);
            }
            return false;
        };
        batch.packets.push(fragment);
    }
    true
}

fn copy(cx: &mut Cx<'_>, packet: &Packet, cut: &Cut, piece: Piece) -> Option<Packet> {
    let mut frame = cx.pool.alloc()?;
    if !frame.set_place(HEADROOM..HEADROOM + cut.front() + piece.len) {
        cx.pool.free(frame);
        return None;
    }
    let bytes = frame.bytes_mut();
    bytes[..cut.head].copy_from_slice(&packet.frame.bytes()[..cut.head]);
    copy_out(cx, packet, cut.head + piece.start, &mut bytes[cut.front()..]);
    cut.write(bytes, piece);
    Some(Packet { frame, headers: packet.headers, meta: packet.meta })
}
