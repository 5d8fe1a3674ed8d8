//! `route`: the next hop, of the packet or of the tunnel it goes into. Asked of the forwarding table once per flow (or
//! tunnel) and table generation.

use crate::flow::FlowIdx;
use crate::graph::packet::{NO_FLOW, NONE};
use crate::graph::{Batch, Cx, DropReason, Fate, Node, Packet, sweep};
use crate::host::fib::Hop;
use crate::plan::rules::ip;

#[derive(Debug, Default)]
pub struct Route;

impl Node for Route {
    const NAME: &'static str = "route";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let mut stopped = false;
        for packet in &mut batch.packets {
            packet.meta.fate = route(cx, packet);
            stopped |= packet.meta.fate != Fate::Go;
        }
        if stopped {
            sweep(cx, batch);
        }
    }
}

/// Finds the packet's adjacency; also for packets made on the way (ICMP errors).
#[inline]
pub(super) fn route(cx: &mut Cx<'_>, packet: &mut Packet) -> Fate {
    let adjacency = match cached(cx, packet) {
        Some(adjacency) => adjacency,
        None => match look_up(cx, packet) {
            Ok(adjacency) => adjacency,
            Err(fate) => return fate,
        },
    };
    match cx.fib.adjacency(adjacency) {
        Some(found) => {
            packet.meta.adjacency = adjacency;
            packet.meta.port_out = found.port;
            Fate::Go
        }
        None => Fate::Drop(DropReason::NeighbourUnresolved),
    }
}

#[inline]
fn cached(cx: &Cx<'_>, packet: &Packet) -> Option<u32> {
    if packet.meta.tunnel_out != NONE {
        return cx.way(packet)?.state.hop(cx.fib.generation());
    }
    if packet.meta.flow == NO_FLOW {
        return None;
    }
    let flow = cx.flows.get(FlowIdx(packet.meta.flow));
    flow.next_hop(packet.meta.direction, cx.fib.generation())
}

#[cold]
fn look_up(cx: &mut Cx<'_>, packet: &Packet) -> Result<u32, Fate> {
    let dst = cx.way(packet).map_or_else(|| ip(packet.headers.l3, &packet.headers.dst), |way| way.remote.ip());
    let adjacency = match cx.fib.look_up(dst, packet.meta.port_in) {
        Hop::To(adjacency) => adjacency,
        Hop::Unresolved { port } => {
            if let Some(address) = cx.fib.next_address(dst, packet.meta.port_in) {
                cx.neighbours.ask(port, address, cx.now);
            }
            return Err(Fate::Hold);
        }
        Hop::Local => return Err(Fate::Drop(DropReason::ForThisHost)),
        Hop::Elsewhere => return Err(Fate::Drop(DropReason::NoPort)),
        Hop::Refused => return Err(Fate::Drop(DropReason::Refused)),
        Hop::NoRoute => return Err(Fate::Drop(DropReason::NoRoute)),
    };
    if let Some(found) = cx.fib.adjacency(adjacency) {
        if !cx.fib.links()[usize::from(found.port)].up {
            return Err(Fate::Drop(DropReason::LinkDown));
        }
        if let Some(address) = found.confirm {
            cx.neighbours.ask(found.port, address, cx.now);
        }
    }
    remember(cx, packet, adjacency);
    Ok(adjacency)
}

fn remember(cx: &mut Cx<'_>, packet: &Packet, adjacency: u32) {
    let generation = cx.fib.generation();
    if packet.meta.tunnel_out != NONE {
        if let Some(way) = cx.way(packet) {
            way.state.set_hop(generation, adjacency);
        }
    } else if packet.meta.flow != NO_FLOW {
        let flow = cx.flows.get_mut(FlowIdx(packet.meta.flow));
        flow.set_next_hop(packet.meta.direction, generation, adjacency);
    }
}
