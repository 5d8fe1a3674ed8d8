//! `seal`: packets of protected flows go into their tunnel, in place. Packets in a row of one way are one run: their
//! sequence numbers are taken, and the association told, once for all of them.

use crate::crypto::esp::{Inner, LINK_LEN, NEXT_IPV4, NEXT_IPV6, SealError};
use crate::crypto::outbound;
use crate::crypto::outer::Outer;
use crate::crypto::wg::session;
use crate::graph::packet::NONE;
use crate::graph::{Batch, Cx, DropReason, Fate, Node, Packet, sweep};
use crate::tunnel::keys::Seal;
use crate::wire::ip::V6_HEADER;
use softdpu_ebpf_common::walk::L3;
use std::ops::Range;

/// How many packets ahead a key is asked for.
const AHEAD: usize = 4;

#[derive(Debug, Default)]
pub struct SealNode;

impl Node for SealNode {
    const NAME: &'static str = "seal";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.to_seal {
            return;
        }
        let many = cx.keys.many_ways();
        let mut refused = false;
        let mut at = 0;
        while let Some(first) = batch.packets.get(at) {
            let of = (first.meta.tunnel_out, first.meta.way);
            let rest = &batch.packets[at..];
            let same = rest.iter().take_while(|packet| (packet.meta.tunnel_out, packet.meta.way) == of).count();
            if many {
                // The first packets ask for their own too, late as it is: all of them at once.
                let ahead = if at == 0 { 0 } else { at + AHEAD };
                let keys = batch.packets.iter().take(at + same + AHEAD).skip(ahead);
                keys.filter_map(|packet| cx.way(packet)).for_each(|way| way.prefetch_keys(cx.now));
                let ahead = if at == 0 { 0 } else { at + 2 * AHEAD };
                let counters = batch.packets.iter().take(at + same + 2 * AHEAD).skip(ahead);
                counters.filter_map(|packet| cx.way(packet)).for_each(|way| way.prefetch_counter(cx.now));
            }
            if of.0 != NONE {
                refused |= seal_run(cx, &mut batch.packets[at..at + same]);
            }
            at += same;
        }
        if refused {
            sweep(cx, batch);
        }
    }
}

/// One run of a way's packets. Says whether any was refused.
fn seal_run(cx: &mut Cx<'_>, run: &mut [Packet]) -> bool {
    let count = run.len() as u64;
    let Some(way) = run.first().and_then(|packet| cx.way(packet)) else { return refuse(run, DropReason::NotSealed) };
    let mut sealer = match &way.seal {
        Seal::Nothing => return refuse(run, DropReason::NoSession),
        Seal::Esp(out) => Sealer::Esp(match &out.via {
            None => out.sa.sealer_at(count, cx.now),
            Some(outer) => out.sa.sealer_at(count, cx.now).via(outer),
        }),
        Seal::WireGuard(out) => match out.session(cx.now) {
            Some(session) => Sealer::WireGuard(session.sealer(count, cx.now), &out.outer),
            None => return refuse(run, DropReason::NoSession),
        },
    };
    let mut refused = false;
    let (mut packets, mut bytes) = (0, 0);
    for packet in run.iter_mut() {
        let len = packet.frame.total_len() as u64;
        match seal(cx, packet, &mut sealer) {
            Ok(()) => {
                packet.meta.sealed = true;
                packets += 1;
                bytes += len;
                if let Some(counters) = cx.rules.treated(packet.meta.rule) {
                    counters.sealed.add(1, len);
                }
            }
            Err(reason) => {
                packet.meta.fate = Fate::Drop(reason);
                refused = true;
            }
        }
    }
    if let Some(counters) = run.first().and_then(|first| cx.counters.tunnels.get(usize::from(first.meta.tunnel_out))) {
        counters.sealed.add(packets, bytes);
    }
    refused
}

fn refuse(run: &mut [Packet], reason: DropReason) -> bool {
    run.iter_mut().for_each(|packet| packet.meta.fate = Fate::Drop(reason));
    true
}

enum Sealer<'a> {
    Esp(outbound::Sealer<'a>),
    WireGuard(session::Sealer<'a>, &'a Outer),
}

#[inline]
fn seal(cx: &mut Cx<'_>, packet: &mut Packet, sealer: &mut Sealer<'_>) -> Result<(), DropReason> {
    if packet.frame.is_chain() {
        return seal_chain(cx, packet, sealer);
    }
    let place = 0..packet.frame.len();
    match sealer {
        Sealer::Esp(sealer) => {
            let inner = inner(packet, place);
            sealer.seal(&mut packet.frame, &inner).map_err(of_esp)?;
        }
        Sealer::WireGuard(sealer, outer) => {
            let plain = plain(cx, packet, place);
            sealer.seal(&mut packet.frame, &plain, outer).map_err(of_wireguard)?;
        }
    }
    if packet.frame.trim_front(LINK_LEN) { Ok(()) } else { Err(DropReason::NoRoom) }
}

/// A packet in several frames is gathered, sealed, and scattered over fresh ones.
#[cold]
fn seal_chain(cx: &mut Cx<'_>, packet: &mut Packet, sealer: &mut Sealer<'_>) -> Result<(), DropReason> {
    const FRONT: usize = LINK_LEN + V6_HEADER + 64;
    let len = cx.pool.linearise(&packet.frame, &mut cx.scratch[FRONT..]).ok_or(DropReason::NoRoom)?;
    let place = FRONT..FRONT + len;
    let sealed = match sealer {
        Sealer::Esp(sealer) => sealer.seal_slice(cx.scratch, &inner(packet, place)).map_err(of_esp)?,
        Sealer::WireGuard(sealer, outer) => {
            let plain = plain(cx, packet, place);
            sealer.seal_slice(cx.scratch, &plain, outer).map_err(of_wireguard)?
        }
    };
    let fresh = cx.pool.scatter(&cx.scratch[sealed.start + LINK_LEN..sealed.end]).ok_or(DropReason::NoRoom)?;
    cx.pool.free(std::mem::replace(&mut packet.frame, fresh));
    Ok(())
}

#[inline]
fn inner(packet: &Packet, place: Range<usize>) -> Inner {
    let own = if packet.headers.l3 == L3::V6 { NEXT_IPV6 } else { NEXT_IPV4 };
    let next_header = if packet.meta.compress && packet.meta.next_header != 0 { packet.meta.next_header } else { own };
    Inner { place, next_header, tos: packet.headers.tos }
}

#[inline]
fn plain(cx: &Cx<'_>, packet: &Packet, place: Range<usize>) -> session::Plain {
    session::Plain { place, tos: packet.headers.tos, mtu: cx.whole_mtu_of(packet) }
}

fn of_esp(error: SealError) -> DropReason {
    match error {
        SealError::SeqExhausted => DropReason::SequenceExhausted,
        SealError::Expired => DropReason::SaExpired,
        SealError::TooLong => DropReason::TooLong,
        SealError::Fragment => DropReason::TransportFragment,
        SealError::NoRoom | SealError::Chained | SealError::BadPlace | SealError::BadInner => DropReason::NoRoom,
    }
}

fn of_wireguard(error: session::SealError) -> DropReason {
    match error {
        session::SealError::CounterExhausted => DropReason::SequenceExhausted,
        session::SealError::Expired => DropReason::SaExpired,
        session::SealError::TooLong => DropReason::TooLong,
        session::SealError::NoRoom | session::SealError::Chained | session::SealError::BadPlace => DropReason::NoRoom,
    }
}
