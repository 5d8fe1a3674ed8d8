//! `open`: what is sealed and for this host comes out of its tunnel, in place; everything else goes by.

use crate::crypto::esp::{LINK_LEN, NEXT_IPCOMP, OpenError};
use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};
use crate::plan::rules::ip;
use crate::tunnel::keys::EspIn;
use softdpu_ebpf_common::walk::{self, ESP_IN_UDP_PORT, Headers, proto};

#[derive(Debug, Default)]
pub struct Open;

impl Node for Open {
    const NAME: &'static str = "open";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if cx.seen.sealed {
            each(cx, batch, open);
        }
    }
}

/// ESP, bare or in UDP, and what else comes to its UDP port.
#[inline]
pub(super) fn concerns(headers: &Headers) -> bool {
    headers.spi != 0 || headers.proto == proto::ESP || (headers.dport == ESP_IN_UDP_PORT && headers.proto == proto::UDP)
}

#[inline]
fn open(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    if concerns(&packet.headers) { open_esp(cx, packet) } else { Ok(()) }
}

fn open_esp(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    use softdpu_ebpf_common::walk::Fragment;
    let headers = &packet.headers;
    let keys = cx.keys;
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
    if esp.remote != ip(headers.l3, &headers.src) {
        return Err(DropReason::WrongPeer);
    }
    packet.meta.outer_tos = headers.tos;
    let opened = if packet.frame.is_chain() { open_chain(cx, packet, esp) } else { open_frame(cx.now, packet, esp) };
    let counters = &cx.counters.tunnels[usize::from(esp.tunnel)];
    match opened {
        Ok(_) => counters.opened.add(1, packet.frame.total_len() as u64),
        Err(DropReason::Replay) => counters.replayed.inc(),
        Err(DropReason::BadIcv | DropReason::BadIv) => counters.forged.inc(),
        Err(_) => {}
    }
    packet.meta.next_header = opened?;
    packet.meta.tunnel_in = esp.tunnel;
    if packet.meta.next_header == NEXT_IPCOMP {
        cx.seen.ipcomp = true;
        return Ok(());
    }
    walk_inner(packet)
}

#[inline]
fn open_frame(now: u64, packet: &mut Packet, esp: &EspIn) -> Result<u8, DropReason> {
    let opened = esp.sa.opener_at(now).open(&mut packet.frame, &packet.headers).map_err(reason)?;
    if packet.frame.trim_front(LINK_LEN) { Ok(opened.next_header) } else { Err(DropReason::BadInner) }
}

/// A packet in several frames is gathered, opened, and scattered over fresh ones.
#[cold]
fn open_chain(cx: &mut Cx<'_>, packet: &mut Packet, esp: &EspIn) -> Result<u8, DropReason> {
    let headers = &packet.headers;
    let len = cx.pool.linearise(&packet.frame, cx.scratch).ok_or(DropReason::NoRoom)?;
    let opened = esp.sa.opener_at(cx.now).open_packet(&mut cx.scratch[..len], headers).map_err(reason)?;
    let fresh = cx.pool.scatter(&cx.scratch[opened.place]).ok_or(DropReason::NoRoom)?;
    cx.pool.free(std::mem::replace(&mut packet.frame, fresh));
    Ok(opened.next_header)
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
pub(super) struct Part<'a> {
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
        OpenError::NoSa | OpenError::Expired => DropReason::NoSa,
        OpenError::Replay | OpenError::TooOld => DropReason::Replay,
        OpenError::BadIv => DropReason::BadIv,
        OpenError::BadIcv => DropReason::BadIcv,
        OpenError::BadPadding => DropReason::BadPadding,
        OpenError::Dummy => DropReason::Dummy,
        OpenError::BadNextHeader | OpenError::BadInner => DropReason::BadInner,
        OpenError::EcnNotCapable => DropReason::EcnNotCapable,
    }
}
