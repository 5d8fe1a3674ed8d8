//! `icmp`: takes one from the TTL, holds the packet against the way's MTU, and turns those that cannot go on into the error
//! their sender gets, in their own frame.

use crate::graph::packet::{NO_FLOW, NONE};
use crate::graph::{Batch, Cx, DropReason, Fate, Node, Packet, sweep};
use crate::host::fib::{Hop, PortId};
use crate::nodes::route::route;
use crate::nodes::select::select;
use crate::plan::rules::ip;
use crate::wire::icmp::{Complaint, V4_OVERHEAD, V6_OVERHEAD, may_complain, quoted, write};
use crate::wire::ip::{decrement_ttl, dont_fragment};
use softdpu_ebpf_common::walk::{self, L3};
use std::net::IpAddr;

#[derive(Debug, Default)]
pub struct Icmp;

impl Node for Icmp {
    const NAME: &'static str = "icmp";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let mut ended = false;
        for packet in &mut batch.packets {
            if let Err(complaint) = check(cx, packet) {
                packet.meta.fate = complain(cx, packet, complaint);
                ended |= packet.meta.fate != Fate::Go;
            }
        }
        if ended {
            sweep(cx, batch);
        }
    }
}

/// TTL first, as a router does (RFC 1812 §5.3.1), then size. The kernel behind a tap is the same router, and takes one for both.
#[inline]
fn check(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), Complaint> {
    let l3 = packet.headers.l3;
    if !cx.fib.is_host(packet.meta.port_in) && !cx.fib.is_host(packet.meta.port_out) {
        decrement_ttl(packet.frame.bytes_mut(), l3).map_err(|_| Complaint::TimeExceeded)?;
    }
    let len = packet.frame.total_len();
    // What goes into no tunnel has its port's MTU, and nearly always no more needs to be asked.
    if packet.meta.tunnel_out == NONE && len <= usize::from(cx.fib.links()[usize::from(packet.meta.port_out)].mtu) {
        return Ok(());
    }
    if len <= cx.whole_mtu_of(packet) {
        return Ok(());
    }
    cx.seen.to_cut_outer |= packet.meta.tunnel_out != NONE;
    let mtu = cx.mtu_of(packet);
    if len <= mtu {
        return Ok(());
    }
    if dont_fragment(packet.frame.bytes(), l3) {
        return Err(Complaint::TooBig(mtu as u16));
    }
    packet.meta.fate = Fate::Fragment;
    cx.seen.to_cut = true;
    Ok(())
}

/// The error goes back the way the packet came: into the tunnel it came from, or in clear.
#[cold]
fn complain(cx: &mut Cx<'_>, packet: &mut Packet, complaint: Complaint) -> Fate {
    let reason = match complaint {
        Complaint::TooBig(_) => DropReason::TooBig,
        _ => DropReason::TtlExpired,
    };
    let from = source(cx, packet);
    let Some(from) = from.filter(|_| may_complain(packet.frame.bytes(), &packet.headers)) else {
        return Fate::Drop(reason);
    };
    if !cx.icmp_budget.take(cx.now) || !turn(packet, complaint, from) {
        return Fate::Drop(reason);
    }
    cx.pool_drop_continuation(&mut packet.frame);
    let sealed = packet.meta.tunnel_out != NONE;
    let (came_by, secret) = (packet.meta.port_in, sealed && packet.meta.tunnel_in == NONE);
    // Where two ports are simply each other's way out, the answer's way out is the port it came by.
    packet.meta.port_in = packet.meta.port_out;
    packet.meta.flow = NO_FLOW;
    packet.meta.compress = false;
    packet.meta.tunnel_out = packet.meta.tunnel_in;
    cx.seen.to_seal |= packet.meta.tunnel_out != NONE;
    // About what went from one tunnel to the next it crosses to no clear side, whatever the port.
    if !sealed {
        packet.meta.tunnel_in = NONE;
    }
    let way = if packet.meta.tunnel_out == NONE { Fate::Go } else { select(cx, packet) };
    let fate = if way == Fate::Go { route(cx, packet) } else { way };
    match fate {
        // It quotes what was to be sealed: in clear it may be seen only where that came from.
        Fate::Go if secret && packet.meta.port_out != came_by => Fate::Drop(reason),
        Fate::Hold if secret && !waits_at(cx, packet, came_by) => Fate::Drop(reason),
        fate => {
            cx.counters.icmp_sent.inc();
            fate
        }
    }
}

/// Whether the next hop that the packet waits for is behind `port`.
fn waits_at(cx: &Cx<'_>, packet: &Packet, port: PortId) -> bool {
    let dst = ip(packet.headers.l3, &packet.headers.dst);
    cx.fib.look_up(dst, packet.meta.port_in) == Hop::Unresolved { port }
}

/// An address of the side that the sender knows us by: the port it sent to or, for what came out of a tunnel, the port
/// that the packet was to leave by, which is on the protected side as the sender is. What goes on into a tunnel leaves by
/// neither: then one of a port that sealed packets neither came nor go by. The kernel refuses what comes by its tap from an
/// address of its own: its packets get their answer from where they were to go, which it routes by the tap.
fn source(cx: &Cx<'_>, packet: &Packet) -> Option<IpAddr> {
    let like = ip(packet.headers.l3, &packet.headers.src);
    let meta = &packet.meta;
    if meta.tunnel_in == NONE && cx.fib.is_host(meta.port_in) {
        return Some(ip(packet.headers.l3, &packet.headers.dst));
    }
    let links = cx.fib.links();
    let best = match (meta.tunnel_in, meta.tunnel_out) {
        (NONE, _) => links[usize::from(meta.port_in)].address(like),
        (_, NONE) => links[usize::from(meta.port_out)].address(like),
        _ => {
            let others =
                links.iter().enumerate().filter(|(at, _)| ![meta.port_in, meta.port_out].contains(&(*at as u8)));
            others.map(|(_, link)| link).find_map(|link| link.address(like))
        }
    };
    best.or_else(|| links.iter().find_map(|link| link.address(like)))
}

/// Makes the error around the start of the packet. `false`: no room for its headers.
fn turn(packet: &mut Packet, complaint: Complaint, from: IpAddr) -> bool {
    let l3 = packet.headers.l3;
    let overhead = if l3 == L3::V6 { V6_OVERHEAD } else { V4_OVERHEAD };
    let keep = quoted(l3, packet.frame.len());
    if !packet.frame.truncate(keep) || !packet.frame.grow_front(overhead) {
        return false;
    }
    let to = packet.headers.src;
    let from = match from {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            bytes
        }
        IpAddr::V6(a) => a.octets(),
    };
    write(packet.frame.bytes_mut(), l3, complaint, &from, &to);
    match walk::walk_ip(&packet.frame.bytes(), 0) {
        Ok(headers) => packet.headers = headers,
        Err(_) => return false,
    }
    true
}
