//! `open`, for WireGuard: transport messages come out of their session in place, handshakes go to the control side.

use super::open::{Openers, walk_inner};
use crate::crypto::esp::LINK_LEN;
use crate::crypto::wg::message::TRANSPORT_HEADER_LEN;
use crate::crypto::wg::session::{OpenError, Opened};
use crate::graph::{Cx, DropReason, Packet};
use crate::plan::rules::ip;
use crate::tunnel::events::{Event, MAX_HANDSHAKE, Message};
use crate::tunnel::keys::{Keys, Listen, Selector, WgIn};
use std::net::SocketAddr;
use std::ops::Range;

const TRANSPORT: u32 = 4;

/// The receiver index of a transport message.
#[inline]
pub(super) fn receiver(packet: &Packet) -> Option<u32> {
    let start = usize::from(packet.headers.payload_off);
    let (kind, rest) = packet.frame.bytes().get(start..start + 8)?.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*kind) == TRANSPORT { Some(u32::from_le_bytes(*rest.first_chunk()?)) } else { None }
}

/// A packet to a UDP port that a WireGuard tunnel listens on.
#[inline]
pub(super) fn open<'k>(
    cx: &mut Cx<'_>,
    packet: &mut Packet,
    listen: &Listen,
    run: &mut Openers<'k>,
    keys: &'k Keys,
) -> Result<(), DropReason> {
    let payload = usize::from(packet.headers.payload_off)..usize::from(packet.headers.end);
    let Some(receiver) = receiver(packet) else { return other(cx, packet, listen, payload) };
    // What a session knows is ours, and its authentication says so; only what none knows may be for another host.
    let Some(wg) = keys.session(receiver).filter(|wg| wg.tunnel == listen.tunnel) else {
        return if is_local(cx, packet, listen) { Err(DropReason::NoSa) } else { Ok(()) };
    };
    let from = SocketAddr::new(ip(packet.headers.l3, &packet.headers.src), packet.headers.sport);
    let local = ip(packet.headers.l3, &packet.headers.dst);
    let fresh = !wg.session.confirmed();
    let opened = transport(cx, packet, payload, wg, run);
    let counters = &cx.counters.tunnels[usize::from(wg.tunnel)];
    match opened {
        Ok(()) => counters.opened.add(1, packet.frame.total_len() as u64),
        Err(DropReason::Replay) => counters.replayed.inc(),
        Err(DropReason::BadIcv) => counters.forged.inc(),
        Err(_) => {}
    }
    if matches!(opened, Ok(()) | Err(DropReason::Keepalive)) {
        if fresh {
            run.flush();
            let _ = cx.events.push(Event::Confirmed { tunnel: wg.tunnel, index: receiver });
        }
        if keys.way(wg.tunnel, wg.way).is_some_and(|way| way.remote != from && way.state.tell_move(cx.now)) {
            let _ = cx.events.push(Event::Roamed { tunnel: wg.tunnel, index: receiver, from, local });
        }
    }
    opened?;
    packet.meta.tunnel_in = wg.tunnel;
    walk_inner(packet)?;
    let src = ip(packet.headers.l3, &packet.headers.src);
    match keys.tunnel(wg.tunnel).map(|tunnel| &tunnel.selector) {
        Some(Selector::Allowed(table)) if table.is_of(src, wg.way) => Ok(()),
        _ => Err(DropReason::NotAllowed),
    }
}

#[inline]
fn transport<'k>(
    cx: &mut Cx<'_>,
    packet: &mut Packet,
    message: Range<usize>,
    wg: &'k WgIn,
    run: &mut Openers<'k>,
) -> Result<(), DropReason> {
    packet.meta.outer_tos = packet.headers.tos;
    let opener = run.wireguard(wg, cx.now);
    if packet.frame.is_chain() {
        let len = cx.pool.linearise(&packet.frame, cx.scratch).ok_or(DropReason::NoRoom)?;
        let message = message.start..message.end.min(len);
        let place = match opener.open_slice(cx.scratch, message).map_err(reason)? {
            Opened::Packet { place, .. } => place,
            Opened::Keepalive => return Err(DropReason::Keepalive),
        };
        crate::crypto::ecn::decapsulate(&mut cx.scratch[place.clone()], packet.headers.tos)
            .map_err(|_| DropReason::EcnNotCapable)?;
        let fresh = cx.pool.scatter(&cx.scratch[place]).ok_or(DropReason::NoRoom)?;
        cx.pool.free(std::mem::replace(&mut packet.frame, fresh));
        return Ok(());
    }
    match opener.open(&mut packet.frame, message, packet.headers.tos).map_err(reason)? {
        Opened::Packet { .. } if packet.frame.trim_front(LINK_LEN) => Ok(()),
        Opened::Packet { .. } => Err(DropReason::BadInner),
        Opened::Keepalive => Err(DropReason::Keepalive),
    }
}

/// Handshakes, cookies, and what is none of WireGuard's.
#[cold]
fn other(cx: &mut Cx<'_>, packet: &Packet, listen: &Listen, payload: Range<usize>) -> Result<(), DropReason> {
    if !is_local(cx, packet, listen) {
        return Ok(());
    }
    let bytes = packet.frame.bytes().get(payload).filter(|_| !packet.frame.is_chain());
    let message = bytes.filter(|bytes| (TRANSPORT_HEADER_LEN + 1..=MAX_HANDSHAKE).contains(&bytes.len()));
    let Some(message) = message.filter(|bytes| matches!(bytes[0], 1..=3)) else { return Err(DropReason::NotWireGuard) };
    let headers = &packet.headers;
    let from = SocketAddr::new(ip(headers.l3, &headers.src), headers.sport);
    let local = ip(headers.l3, &headers.dst);
    // A flood must not cost the control side more than a share of its time. Peers at their endpoints are no part of it. What
    // is beyond it is not even copied.
    if !at_endpoint(cx.keys, listen.tunnel, from) && !cx.stranger_budget.take(cx.now) {
        return Err(DropReason::HandshakeFlood);
    }
    let Some(message) = Message::new(message) else { return Err(DropReason::NotWireGuard) };
    let event = Event::Handshake { tunnel: listen.tunnel, from, local, message };
    Err(if cx.events.push(event) { DropReason::Handshake } else { DropReason::HandshakeFlood })
}

/// Whether a peer of the tunnel is known to be there. Only looked for among few: with more, peers have to share the budget.
fn at_endpoint(keys: &Keys, tunnel: u16, from: SocketAddr) -> bool {
    const FEW: usize = 64;
    let ways = keys.tunnel(tunnel).map_or(&[][..], |tunnel| &tunnel.ways);
    ways.len() <= FEW && ways.iter().flatten().any(|way| way.remote == from)
}

fn is_local(cx: &Cx<'_>, packet: &Packet, listen: &Listen) -> bool {
    let to = ip(packet.headers.l3, &packet.headers.dst);
    listen.local.map_or_else(|| cx.fib.is_local(to), |local| local == to)
}

fn reason(error: OpenError) -> DropReason {
    match error {
        OpenError::Short | OpenError::NotTransport => DropReason::EspShort,
        OpenError::WrongIndex => DropReason::NoSa,
        OpenError::Expired | OpenError::CounterExhausted => DropReason::SaExpired,
        OpenError::Replay | OpenError::TooOld => DropReason::Replay,
        OpenError::BadTag => DropReason::BadIcv,
        OpenError::BadInner => DropReason::BadInner,
        OpenError::EcnNotCapable => DropReason::EcnNotCapable,
        OpenError::Chained => DropReason::NoRoom,
    }
}
