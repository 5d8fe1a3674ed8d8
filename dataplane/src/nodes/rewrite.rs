//! `rewrite`: the link header for the next hop, and the last look that nothing leaves in clear that must not.

use crate::graph::packet::NONE;
use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};
use crate::wire::ethernet;
use softdpu_ebpf_common::walk::L3;

#[derive(Debug, Default)]
pub struct Rewrite;

impl Node for Rewrite {
    const NAME: &'static str = "rewrite";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        each(cx, batch, rewrite);
    }
}

#[inline]
fn rewrite(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    if packet.meta.tunnel_out != NONE && !packet.meta.sealed {
        let held_back = packet.frame.total_len() as u64;
        cx.counters.escaped_bytes.add(held_back);
        if let Some(tunnel) = cx.counters.tunnels.get(usize::from(packet.meta.tunnel_out)) {
            tunnel.escaped_bytes.add(held_back);
        }
        return Err(DropReason::NotSealed);
    }
    // What leaves the protected side must not come back to it in clear when a route fails, and nobody out there may have
    // packets sealed.
    let crosses = (packet.meta.tunnel_in == NONE) != (packet.meta.tunnel_out == NONE);
    if crosses && packet.meta.port_in == packet.meta.port_out && cx.plan.ports.len() > 1 {
        return Err(DropReason::SamePort);
    }
    let adjacency = cx.fib.adjacency(packet.meta.adjacency).ok_or(DropReason::NeighbourUnresolved)?;
    if !packet.frame.grow_front(ethernet::HEADER) {
        return Err(DropReason::NoRoom);
    }
    let bytes = packet.frame.bytes_mut();
    // The first nibble, not `headers`: what goes out may be a tunnel's packet of the other family.
    let l3 = if bytes[ethernet::HEADER] >> 4 == 6 { L3::V6 } else { L3::V4 };
    adjacency.addresses.write(&mut bytes[..ethernet::HEADER], l3);
    Ok(())
}
