//! `parse`: what the frame is. Cuts the link header off, so that every later node finds the IP header first.

use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};
use crate::host::fib::PortId;
use crate::nodes::open::{self, Part};
use crate::wire::checksum::{self, L4Sum};
use crate::wire::ethernet::Mac;
use crate::wire::ip::v4_header_len;
use crate::wire::plain;
use softdpu_ebpf_common::walk::{self, ETHERNET_LEN, Fragment, Headers, L3, WalkError, proto};

#[derive(Debug, Default)]
pub struct Parse;

impl Node for Parse {
    const NAME: &'static str = "parse";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        each(cx, batch, parse);
    }
}

#[inline(always)]
fn parse(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    if is_plain(cx, packet) { Ok(()) } else { walked(cx, packet) }
}

/// Whether the packet is one of those that need no walk, for this station, and if so all that is to be done.
#[inline(always)]
fn is_plain(cx: &mut Cx<'_>, packet: &mut Packet) -> bool {
    let (frame, headers, port) = (&mut packet.frame, &mut packet.headers, packet.meta.port_in);
    let Some(sum) = plain::read(frame.bytes(), headers) else { return false };
    if frame.is_chain() || check_station(cx, port, headers, frame.bytes()).is_err() {
        return false;
    }
    // What else `open` asks about, plain packets do not have.
    cx.seen.sealed |= headers.proto == proto::UDP && cx.keys.listen(headers.dport).is_some();
    let start = frame.offset() + ETHERNET_LEN;
    if !frame.set_place(start..start + usize::from(headers.end)) {
        return false;
    }
    if cx.plan.ports[usize::from(port)].finish_checksums && sum.may_be_undone(headers) {
        checksum::finish_l4(frame.bytes_mut(), headers);
    }
    true
}

#[inline(never)]
fn walked(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    let bytes = packet.frame.bytes();
    let headers = &mut packet.headers;
    walk::walk_into(&Part { bytes, total: packet.frame.total_len() }, headers).map_err(reason)?;
    let l3_off = usize::from(headers.l3_off);
    match headers.l3 {
        L3::V4 => {
            // A packet in several frames may have a first one that ends within the options.
            let header = bytes.get(l3_off..l3_off + v4_header_len(&bytes[l3_off..])).ok_or(DropReason::Truncated)?;
            if !checksum::ipv4_header_ok(header) {
                return Err(DropReason::BadChecksum);
            }
        }
        L3::V6 => {}
        L3::Other => return Err(DropReason::NotIp),
    }
    check_station(cx, packet.meta.port_in, headers, bytes)?;
    rebase(headers);
    cx.seen.sealed |= open::concerns(headers, cx.keys);
    cx.seen.fragments |= headers.fragment != Fragment::No;
    let end = usize::from(headers.end);
    if !packet.frame.trim_front(l3_off) {
        return Err(DropReason::Truncated);
    }
    let finish = cx.plan.ports[usize::from(packet.meta.port_in)].finish_checksums;
    if packet.frame.is_chain() {
        return if finish { finish_chain(cx, packet) } else { Ok(()) };
    }
    // Ethernet pads short packets to 60 bytes; what is behind the IP packet is not part of it.
    if !packet.frame.truncate(end) {
        return Err(DropReason::Truncated);
    }
    if finish {
        checksum::finish_l4(packet.frame.bytes_mut(), &packet.headers);
    }
    Ok(())
}

/// The sum runs over all parts, the field is in the first: gathered, finished, and the transport header copied back.
#[cold]
fn finish_chain(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    let len = cx.pool.linearise(&packet.frame, cx.scratch).ok_or(DropReason::NoRoom)?;
    if checksum::finish_l4(&mut cx.scratch[..len], &packet.headers) == L4Sum::Finished {
        let first = packet.frame.bytes_mut();
        let headers = usize::from(packet.headers.payload_off).min(first.len());
        first[..headers].copy_from_slice(&cx.scratch[..headers]);
    }
    Ok(())
}

/// A frame for another station is not ours to forward (RFC 1812 §5.2.3 asks the same of link broadcasts).
#[inline(always)]
fn check_station(cx: &Cx<'_>, port: PortId, headers: &Headers, bytes: &[u8]) -> Result<(), DropReason> {
    let link = &cx.fib.links()[usize::from(port)];
    let to = Mac([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
    if link.neighbourless {
        Ok(())
    } else if to == link.mac {
        // VID 0 is a priority tag: the frame is in no VLAN (IEEE 802.1Q §6.9).
        if headers.vlan == [0, 0] { Ok(()) } else { Err(DropReason::Tagged) }
    } else if to.is_group() {
        Err(DropReason::Multicast)
    } else {
        Err(DropReason::WrongMac)
    }
}

/// Makes the offsets count from the IP header.
#[inline]
pub(super) fn rebase(headers: &mut Headers) {
    let l3_off = headers.l3_off;
    headers.l4_off -= l3_off;
    headers.payload_off -= l3_off;
    headers.end -= l3_off;
    headers.l3_off = 0;
}

pub(super) fn reason(error: WalkError) -> DropReason {
    match error {
        WalkError::Truncated => DropReason::Truncated,
        WalkError::BadIpHeader => DropReason::BadIpHeader,
        WalkError::TooManyExtensions => DropReason::TooManyExtensions,
        WalkError::BadTransport => DropReason::BadTransport,
        WalkError::TooManyTags => DropReason::TooManyTags,
    }
}
