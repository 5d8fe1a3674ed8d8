//! `seal`: packets of protected flows go into their tunnel, in place.

use crate::crypto::OutboundSa;
use crate::crypto::esp::{Inner, LINK_LEN, NEXT_IPV4, NEXT_IPV6, SealError};
use crate::graph::packet::NONE;
use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};
use crate::tunnel::keys::Seal;
use crate::wire::ip::{V4_HEADER, V6_HEADER};
use softdpu_ebpf_common::walk::L3;

#[derive(Debug, Default)]
pub struct SealNode;

impl Node for SealNode {
    const NAME: &'static str = "seal";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if cx.seen.to_seal {
            each(cx, batch, seal);
        }
    }
}

#[inline]
fn seal(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    let tunnel = packet.meta.tunnel_out;
    if tunnel == NONE {
        return Ok(());
    }
    let Some(way) = cx.way(packet) else { return Err(DropReason::NotSealed) };
    let sa = match &way.seal {
        Seal::Esp(sa) => sa,
        Seal::Nothing => return Err(DropReason::NotSealed),
    };
    let len = packet.frame.total_len();
    let own = if packet.headers.l3 == L3::V6 { NEXT_IPV6 } else { NEXT_IPV4 };
    let next_header = if packet.meta.compress && packet.meta.next_header != 0 { packet.meta.next_header } else { own };
    let inner = Inner { place: 0..len, next_header, tos: packet.headers.tos };
    if packet.frame.is_chain() {
        seal_chain(cx, packet, &inner, sa)?;
    } else {
        sa.sealer_at(1, cx.now).seal(&mut packet.frame, &inner).map_err(reason)?;
        if !packet.frame.trim_front(LINK_LEN) {
            return Err(DropReason::NoRoom);
        }
    }
    packet.meta.sealed = true;
    cx.counters.tunnels[usize::from(tunnel)].sealed.add(1, len as u64);
    Ok(())
}

/// A packet in several frames is gathered, sealed, and scattered over fresh ones.
#[cold]
fn seal_chain(cx: &mut Cx<'_>, packet: &mut Packet, inner: &Inner, sa: &OutboundSa) -> Result<(), DropReason> {
    const FRONT: usize = LINK_LEN + V6_HEADER + 64;
    const _: () = assert!(V6_HEADER > V4_HEADER);
    let len = cx.pool.linearise(&packet.frame, &mut cx.scratch[FRONT..]).ok_or(DropReason::NoRoom)?;
    let inner = Inner { place: FRONT..FRONT + len, next_header: inner.next_header, tos: inner.tos };
    let sealed = sa.sealer_at(1, cx.now).seal_slice(cx.scratch, &inner).map_err(reason)?;
    let fresh = cx.pool.scatter(&cx.scratch[sealed.start + LINK_LEN..sealed.end]).ok_or(DropReason::NoRoom)?;
    cx.pool.free(std::mem::replace(&mut packet.frame, fresh));
    Ok(())
}

fn reason(error: SealError) -> DropReason {
    match error {
        SealError::SeqExhausted | SealError::Expired => DropReason::SequenceExhausted,
        SealError::TooLong => DropReason::TooLong,
        SealError::NoRoom | SealError::Chained | SealError::BadPlace => DropReason::NoRoom,
        SealError::Fragment | SealError::BadInner => DropReason::BadInner,
    }
}
