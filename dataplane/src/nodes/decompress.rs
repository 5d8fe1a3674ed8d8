//! `decompress`: what came out of a tunnel compressed becomes the packet it was.

use super::open::walk_inner;
use crate::compress::{DecompressError, Decompressor};
use crate::crypto::ecn;
use crate::crypto::esp::{LINK_LEN, NEXT_IPCOMP};
use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};

pub struct Decompress {
    codec: Decompressor,
}

impl Default for Decompress {
    fn default() -> Self {
        Self { codec: Decompressor::new(usize::from(u16::MAX)) }
    }
}

impl std::fmt::Debug for Decompress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompress")
    }
}

impl Node for Decompress {
    const NAME: &'static str = "decompress";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if cx.seen.ipcomp {
            each(cx, batch, |cx, packet| match packet.meta.next_header {
                NEXT_IPCOMP => self.decompress(cx, packet),
                _ => Ok(()),
            });
        }
    }
}

impl Decompress {
    fn decompress(&mut self, cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
        let before = packet.frame.len();
        let restored = self.codec.decompress(&mut packet.frame, 0..before).map_err(reason)?;
        if !packet.frame.trim_front(LINK_LEN) {
            return Err(DropReason::BadCompression);
        }
        packet.meta.next_header = restored.next_header;
        cx.counters.tunnels[usize::from(packet.meta.tunnel_in)].expanded.inc();
        ecn::decapsulate(packet.frame.bytes_mut(), packet.meta.outer_tos).map_err(|_| DropReason::EcnNotCapable)?;
        walk_inner(packet)
    }
}

fn reason(error: DecompressError) -> DropReason {
    match error {
        DecompressError::UnknownCpi => DropReason::UnknownCpi,
        DecompressError::Expansion | DecompressError::Unfit => DropReason::Expansion,
        DecompressError::Short | DecompressError::Malformed | DecompressError::BadNextHeader => {
            DropReason::BadCompression
        }
    }
}
