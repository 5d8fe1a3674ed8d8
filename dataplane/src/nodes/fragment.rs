//! `fragment`: cuts IPv4 packets without DF that exceed the way's MTU (RFC 791 §2.3), before they are sealed: the pieces
//! are whole packets to the tunnel, and the far end need not reassemble ESP.

use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, DropReason, Fate, Node, Packet};
use crate::wire::fragment::{Piece, pieces, place, write_header};
use crate::wire::ip::v4_header_len;
use softdpu_ebpf_common::walk::Fragment as Position;

#[derive(Debug)]
pub struct Fragment {
    /// Packets that are being cut.
    large: Vec<Packet>,
}

impl Default for Fragment {
    /// Room for a whole batch; nothing is allocated later.
    fn default() -> Self {
        Self { large: Vec::with_capacity(2 * MAX_BATCH) }
    }
}

impl Node for Fragment {
    const NAME: &'static str = "fragment";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if cx.seen.to_cut {
            self.large.extend(batch.packets.extract_if(.., |packet| packet.meta.fate == Fate::Fragment));
            for packet in self.large.drain(..) {
                if !cut(cx, batch, &packet) {
                    cx.drop_packet(packet, DropReason::FragmentRoom);
                } else {
                    cx.pool.free(packet.frame);
                }
            }
        }
    }
}

/// Appends the fragments of `packet` to the batch; its own frame stays with the caller. All or nothing.
#[cold]
fn cut(cx: &mut Cx<'_>, batch: &mut Batch, packet: &Packet) -> bool {
    let before = batch.packets.len();
    let bytes = packet.frame.bytes();
    let header = v4_header_len(bytes);
    let mtu = cx.whole_mtu_of(packet);
    let (offset, more) = place(bytes);
    // By its own length: what is behind the end of a packet in several frames would become part of its payload.
    let Some(payload) = usize::from(packet.headers.end).checked_sub(header) else { return false };
    let Some(pieces) = pieces(header, payload, mtu) else { return false };
    for piece in pieces {
        let made = if batch.packets.len() < batch.packets.capacity() { copy(cx, packet, header, piece) } else { None };
        let Some(mut fragment) = made else {
            for fragment in batch.packets.drain(before..) {
                cx.pool.free(fragment.frame);
            }
            return false;
        };
        write_header(fragment.frame.bytes_mut(), offset, more, piece);
        batch.packets.push(fragment);
    }
    true
}

fn copy(cx: &mut Cx<'_>, packet: &Packet, header: usize, piece: Piece) -> Option<Packet> {
    let mut frame = cx.pool.alloc()?;
    let start = crate::io::frame::HEADROOM;
    if !frame.set_place(start..start + header + piece.len) {
        cx.pool.free(frame);
        return None;
    }
    let (head, body) = frame.bytes_mut().split_at_mut(header);
    head.copy_from_slice(&packet.frame.bytes()[..header]);
    copy_out(cx, packet, header + piece.start, body);
    let mut headers = packet.headers;
    headers.end = (header + piece.len) as u16;
    headers.fragment =
        if piece.start == 0 && headers.fragment != Position::Later { Position::First } else { Position::Later };
    let mut meta = packet.meta;
    meta.fate = Fate::Go;
    Some(Packet { frame, headers, meta })
}

/// Copies `to.len()` bytes of the packet from `from` on, across the parts of a chain.
pub(super) fn copy_out(cx: &Cx<'_>, packet: &Packet, mut from: usize, mut to: &mut [u8]) {
    for part in cx.pool.parts(&packet.frame) {
        let Some(part) = part.get(from..) else {
            from -= part.len();
            continue;
        };
        from = 0;
        let len = part.len().min(to.len());
        let (now, later) = to.split_at_mut(len);
        now.copy_from_slice(&part[..len]);
        to = later;
    }
}
