//! `open`: what is sealed and for this host comes out of its tunnel, in place; everything else goes by.

use super::ahead::{AHEAD, Ahead};
use super::open_wg;
use crate::crypto::esp::{LINK_LEN, NEXT_IPCOMP, OpenError};
use crate::crypto::inbound;
use crate::crypto::wg::session;
use crate::graph::packet::NO_WAY;
use crate::graph::{Batch, Cx, DropReason, Fate, Node, Packet, each, sweep};
use crate::plan::rules::ip;
use crate::tunnel::events::Event;
use crate::tunnel::keys::{EspIn, Keys, WgIn};
use softdpu_ebpf_common::walk::{self, ESP_IN_UDP_PORT, Fragment, Headers, proto};
use std::net::SocketAddr;

#[derive(Debug, Default)]
pub struct Open;

impl Node for Open {
    const NAME: &'static str = "open";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.sealed {
            return;
        }
        let keys = cx.keys;
        let mut run = Openers::default();
        if !keys.many_inbound() {
            return each(cx, batch, |cx, packet| open(cx, packet, &mut run, keys));
        }
        let mut ahead = Ahead::default();
        (0..AHEAD).for_each(|t| ahead.step(keys, &batch.packets, t));
        let mut refused = false;
        for at in 0..batch.packets.len() {
            ahead.step(keys, &batch.packets, at + AHEAD);
            let packet = &mut batch.packets[at];
            if let Err(reason) = open(cx, packet, &mut run, keys) {
                packet.meta.fate = Fate::Drop(reason);
                refused = true;
            }
        }
        drop(run);
        if refused {
            sweep(cx, batch);
        }
    }
}

/// What the batch's packets are opened with: packets in a row of one association or session are one run of it.
#[derive(Default)]
pub(super) struct Openers<'k> {
    esp: Option<(u32, inbound::Opener<'k>)>,
    wireguard: Option<(u32, session::Opener<'k>)>,
}

impl<'k> Openers<'k> {
    #[inline]
    fn esp(&mut self, esp: &'k EspIn, now: u64) -> &mut inbound::Opener<'k> {
        let spi = esp.sa.spi();
        if self.esp.as_ref().is_some_and(|(of, _)| *of != spi) {
            self.esp = None;
        }
        &mut self.esp.get_or_insert_with(|| (spi, esp.sa.opener_at(now))).1
    }

    #[inline]
    pub(super) fn wireguard(&mut self, wg: &'k WgIn, now: u64) -> &mut session::Opener<'k> {
        let index = wg.session.local_index();
        if self.wireguard.as_ref().is_some_and(|(of, _)| *of != index) {
            self.wireguard = None;
        }
        &mut self.wireguard.get_or_insert_with(|| (index, wg.session.opener(now))).1
    }

    /// Ends the WireGuard run, so that all of it is known.
    pub(super) fn flush(&mut self) {
        self.wireguard = None;
    }
}

/// ESP, bare or in UDP, what else comes to its UDP port, and what comes to a WireGuard tunnel's.
#[inline]
pub(super) fn concerns(headers: &Headers, keys: &Keys) -> bool {
    is_esp(headers) || (headers.proto == proto::UDP && keys.listen(headers.dport).is_some())
}

#[inline]
fn is_esp(headers: &Headers) -> bool {
    headers.spi != 0 || headers.proto == proto::ESP || (headers.dport == ESP_IN_UDP_PORT && headers.proto == proto::UDP)
}

#[inline]
fn open<'k>(cx: &mut Cx<'_>, packet: &mut Packet, run: &mut Openers<'k>, keys: &'k Keys) -> Result<(), DropReason> {
    let headers = &packet.headers;
    // First: a WireGuard peer may send from port 4500, which alone would make it ESP in UDP.
    if headers.proto == proto::UDP
        && headers.dport != ESP_IN_UDP_PORT
        && headers.fragment == Fragment::No
        && let Some(listen) = keys.listen(headers.dport)
    {
        return open_wg::open(cx, packet, listen, run, keys);
    }
    if is_esp(headers) { open_esp(cx, packet, run, keys) } else { Ok(()) }
}

#[inline]
fn open_esp<'k>(cx: &mut Cx<'_>, packet: &mut Packet, run: &mut Openers<'k>, keys: &'k Keys) -> Result<(), DropReason> {
    let headers = &packet.headers;
    let local = ip(headers.l3, &headers.dst);
    if !keys.is_local(local) {
        return Ok(()); // somebody else's ESP, to be forwarded
    }
    if headers.spi == 0 && headers.proto == proto::UDP {
        let payload = packet.frame.bytes().get(headers.payload_off.into()..headers.end.into());
        return if payload == Some(&[0xff]) { Err(DropReason::Keepalive) } else { Ok(()) };
    }
    if headers.fragment != Fragment::No {
        return Err(DropReason::OuterFragment);
    }
    let esp = keys.esp(headers.spi).filter(|esp| esp.local == local).ok_or(DropReason::NoSa)?;
    let from =
        SocketAddr::new(ip(headers.l3, &headers.src), if headers.proto == proto::UDP { headers.sport } else { 0 });
    let moved = esp.remote.is_some_and(|remote| remote != from);
    if moved && !esp.may_move {
        return Err(DropReason::WrongPeer);
    }
    let spi = headers.spi;
    packet.meta.outer_tos = headers.tos;
    let opener = run.esp(esp, cx.now);
    let opened = if packet.frame.is_chain() { open_chain(cx, packet, opener) } else { open_frame(packet, opener) };
    let counters = &cx.counters.tunnels[usize::from(esp.tunnel)];
    match opened {
        Ok(_) => counters.opened.add(1, packet.frame.total_len() as u64),
        Err(DropReason::Replay) => counters.replayed.inc(),
        Err(DropReason::BadIcv | DropReason::BadIv) => counters.forged.inc(),
        Err(_) => {}
    }
    let (next_header, seq) = opened?;
    packet.meta.next_header = next_header;
    packet.meta.tunnel_in = esp.tunnel;
    if esp.state.is_some() {
        packet.meta.esp_in = keys.esp_number(spi).unwrap_or(NO_WAY);
    }
    // Only with the newest packet: one that was late, or held back by somebody, says where the peer was (RFC 7296 §2.23).
    if moved
        && seq >= esp.sa.window().top()
        && keys.way(esp.tunnel, esp.way).is_none_or(|way| way.state.tell_move(cx.now))
    {
        let _ = cx.events.push(Event::Moved { tunnel: esp.tunnel, way: esp.way, from });
    }
    if packet.meta.next_header == NEXT_IPCOMP {
        cx.seen.ipcomp = true;
        return Ok(());
    }
    walk_inner(packet)
}

#[inline]
fn open_frame(packet: &mut Packet, opener: &mut inbound::Opener<'_>) -> Result<(u8, u64), DropReason> {
    let opened = opener.open(&mut packet.frame, &packet.headers).map_err(reason)?;
    if packet.frame.trim_front(LINK_LEN) { Ok((opened.next_header, opened.seq)) } else { Err(DropReason::BadInner) }
}

/// A packet in several frames is gathered, opened, and scattered over fresh ones.
#[cold]
fn open_chain(cx: &mut Cx<'_>, packet: &mut Packet, opener: &mut inbound::Opener<'_>) -> Result<(u8, u64), DropReason> {
    let len = cx.pool.linearise(&packet.frame, cx.scratch).ok_or(DropReason::NoRoom)?;
    let opened = opener.open_packet(&mut cx.scratch[..len], &packet.headers).map_err(reason)?;
    let fresh = cx.pool.scatter(&cx.scratch[opened.place]).ok_or(DropReason::NoRoom)?;
    cx.pool.free(std::mem::replace(&mut packet.frame, fresh));
    Ok((opened.next_header, opened.seq))
}

/// Reads the headers of what came out of the tunnel.
#[inline]
pub(super) fn walk_inner(packet: &mut Packet) -> Result<(), DropReason> {
    let total = packet.frame.total_len();
    let inner = Part { bytes: packet.frame.bytes(), total };
    walk::walk_ip_into(&inner, 0, &mut packet.headers).map_err(|_| DropReason::BadInner)?;
    // Bytes behind the inner packet are traffic-flow-confidentiality padding (RFC 4303 §2.7).
    if !packet.frame.is_chain() && !packet.frame.truncate(usize::from(packet.headers.end)) {
        return Err(DropReason::BadInner);
    }
    Ok(())
}

/// The first part of a packet that may have more.
pub(crate) struct Part<'a> {
    pub bytes: &'a [u8],
    pub total: usize,
}

impl walk::Bytes for Part<'_> {
    #[inline(always)]
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        walk::Bytes::array(self.bytes, off)
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        len <= self.total
    }
}

fn reason(error: OpenError) -> DropReason {
    match error {
        OpenError::Fragment => DropReason::OuterFragment,
        OpenError::Chained => DropReason::NoRoom,
        OpenError::NotEsp | OpenError::Short => DropReason::EspShort,
        OpenError::Keepalive => DropReason::Keepalive,
        OpenError::NoSa => DropReason::NoSa,
        OpenError::Expired => DropReason::SaExpired,
        OpenError::Replay | OpenError::TooOld => DropReason::Replay,
        OpenError::BadIv => DropReason::BadIv,
        OpenError::BadIcv => DropReason::BadIcv,
        OpenError::BadPadding => DropReason::BadPadding,
        OpenError::Dummy => DropReason::Dummy,
        OpenError::BadNextHeader | OpenError::BadInner => DropReason::BadInner,
        OpenError::EcnNotCapable => DropReason::EcnNotCapable,
    }
}
