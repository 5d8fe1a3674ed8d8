//! `offload`: proposes flows that need nothing more of a worker to be acted on in the driver. Looks at few packets of each: at
//! the first that may do, and then, where something stood against it, every few or every thousand.

use crate::flow::{Direction, Flow, FlowIdx, L4State, Tier};
use crate::graph::packet::NO_FLOW;
use crate::graph::{Batch, Cx, Node, Packet};
use crate::offload::candidate::consider;
use crate::offload::{Ask, Client, Reason};

#[derive(Debug, Default)]
pub struct Offload;

impl Node for Offload {
    const NAME: &'static str = "offload";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let Some(client) = cx.offload else { return };
        for packet in &batch.packets {
            if packet.meta.flow != NO_FLOW {
                look(cx, client, packet);
            }
        }
    }
}

#[inline]
fn look(cx: &mut Cx<'_>, client: &Client, packet: &Packet) {
    let flow = cx.flows.get(FlowIdx(packet.meta.flow));
    if flow.tier() != Tier::Worker {
        // SYN, FIN and RST were told of by the node `flow`; here is what the flow knew already.
        if flow.state().is_tcp() && flow.state() != L4State::TcpEstablished {
            client.ended(FlowIdx(packet.meta.flow), flow);
        }
        return;
    }
    if is_due(flow) {
        propose(cx, client, packet);
    }
}

/// Whether it is time to look at a flow of the worker's (again).
pub fn is_due(flow: &Flow) -> bool {
    let packets = flow.packets(Direction::FromInitiator).wrapping_add(flow.packets(Direction::FromResponder));
    match Reason::of(flow.offload_reason()) {
        None => true,
        Some(Reason::ByHand) => false,
        Some(Reason::Asked) => packets.is_multiple_of(256),
        Some(Reason::Idle | Reason::RouteChanged | Reason::KeysChanged | Reason::Changing) => packets.is_multiple_of(4),
        // Young flows change with every packet.
        Some(reason) if reason.passes() => packets < 64 || packets.is_multiple_of(16),
        Some(_) => packets.is_multiple_of(1024),
    }
}

#[cold]
fn propose(cx: &mut Cx<'_>, client: &Client, packet: &Packet) {
    let reason = match consider(cx, client, packet) {
        Ok(candidate) if client.lane.ask(Ask::Place(candidate)) => Reason::Asked,
        Ok(_) => Reason::Busy,
        Err(reason) => reason,
    };
    cx.flows.get_mut(FlowIdx(packet.meta.flow)).set_offload_reason(reason as u8);
}
