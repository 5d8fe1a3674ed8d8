//! `parse`: what the frame is. Cuts the link header off, so that every later node finds the IP header first.

use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};
use crate::wire::checksum;
use crate::wire::ethernet::Mac;
use crate::wire::ip::v4_header_len;
use softdpu_ebpf_common::walk::{self, Headers, L3, WalkError};

#[derive(Debug, Default)]
pub struct Parse;

impl Node for Parse {
    const NAME: &'static str = "parse";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        each(cx, batch, parse);
    }
}

fn parse(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    let bytes = packet.frame.bytes();
    let mut headers = walk::walk(&bytes).map_err(reason)?;
    if headers.l3 == L3::Other {
        return Err(DropReason::NotIp);
    }
    check_station(cx, packet, bytes)?;
    let l3_off = usize::from(headers.l3_off);
    if headers.l3 == L3::V4 && !checksum::ipv4_header_ok(&bytes[l3_off..l3_off + v4_header_len(&bytes[l3_off..])]) {
        return Err(DropReason::BadChecksum);
    }
    rebase(&mut headers);
    packet.headers = headers;
    if !packet.frame.trim_front(l3_off) {
        return Err(DropReason::Truncated);
    }
    if !packet.frame.is_chain() {
        // Ethernet pads short packets to 60 bytes; what is behind the IP packet is not part of it.
        if !packet.frame.truncate(usize::from(headers.end)) {
            return Err(DropReason::Truncated);
        }
        if cx.plan.ports[usize::from(packet.meta.port_in)].finish_checksums {
            checksum::finish_l4(packet.frame.bytes_mut(), &headers);
        }
    }
    Ok(())
}

/// A frame for another station is not ours to forward (RFC 1812 §5.2.3 asks the same of link broadcasts).
#[inline]
fn check_station(cx: &Cx<'_>, packet: &Packet, bytes: &[u8]) -> Result<(), DropReason> {
    let link = &cx.fib.links()[usize::from(packet.meta.port_in)];
    let to = Mac([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
    if to == link.mac || link.neighbourless {
        Ok(())
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
