//! `rewrite`: the link header for the next hop.

use crate::graph::{Batch, Cx, DropReason, Node, Packet, each};
use crate::wire::ethernet;

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
    let adjacency = cx.fib.adjacency(packet.meta.adjacency).ok_or(DropReason::NeighbourUnresolved)?;
    if !packet.frame.grow_front(ethernet::HEADER) {
        return Err(DropReason::NoRoom);
    }
    let l3 = packet.headers.l3;
    ethernet::write(&mut packet.frame.bytes_mut()[..ethernet::HEADER], adjacency, l3);
    Ok(())
}
