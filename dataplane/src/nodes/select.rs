//! `select`: which of its tunnel's ways out a packet takes. Asked once per flow and set of keys; a packet whose peer has no
//! session yet waits for it.

use crate::flow::FlowIdx;
use crate::graph::packet::{NO_FLOW, NO_WAY, NONE};
use crate::graph::{Batch, Cx, DropReason, Fate, Node, Packet, sweep};
use crate::plan::rules::ip;
use crate::tunnel::events::Event;
use crate::tunnel::keys::{Seal, Selector, Way};
use crate::tunnel::xfrm::selector::{NO_STATE, flow_of};

#[derive(Debug, Default)]
pub struct Select;

impl Node for Select {
    const NAME: &'static str = "select";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.to_seal {
            return;
        }
        if cx.keys.many_ways() {
            prefetch(cx, batch);
        }
        let mut stopped = false;
        for packet in &mut batch.packets {
            if packet.meta.tunnel_out != NONE {
                packet.meta.fate = select(cx, packet);
                stopped |= packet.meta.fate != Fate::Go;
            }
        }
        if stopped {
            sweep(cx, batch);
        }
    }
}

/// Asks for the ways of the whole batch, one step after the other: each step is over the batch before the next one needs it.
/// The nodes from here to `seal` find them in the cache.
#[inline(never)]
fn prefetch(cx: &Cx<'_>, batch: &Batch) {
    let ways = || batch.packets.iter().filter_map(|packet| cx.way(packet));
    ways().for_each(Way::prefetch_seal);
    ways().for_each(Way::prefetch_session);
}

/// Asks for a packet's way, while `policy` has other packets to judge: the batch's ways at once would have to wait for each other.
#[inline]
pub(super) fn prefetch_way(cx: &Cx<'_>, packet: &mut Packet) {
    if let Some(way) = cached(cx, packet) {
        packet.meta.way = way;
        if let Some(way) = cx.way(packet) {
            way.prefetch();
        }
    }
}

/// Finds the packet's way; also for packets made on the way (ICMP errors).
#[inline]
pub(super) fn select(cx: &mut Cx<'_>, packet: &mut Packet) -> Fate {
    packet.meta.way = match cached(cx, packet) {
        Some(way) => way,
        None => match look_up(cx, packet) {
            Ok(way) => way,
            Err(reason) => return Fate::Drop(reason),
        },
    };
    match cx.way(packet).map(|way| &way.seal) {
        Some(Seal::Nothing) => ask(cx, packet),
        Some(Seal::WireGuard(out)) if out.session(cx.now).is_none() => ask(cx, packet),
        Some(_) => Fate::Go,
        None => Fate::Drop(DropReason::NoSelector),
    }
}

#[inline]
fn cached(cx: &Cx<'_>, packet: &Packet) -> Option<u32> {
    if packet.meta.flow == NO_FLOW {
        return None;
    }
    let flow = cx.flows.get(FlowIdx(packet.meta.flow));
    (flow.way != NO_WAY && flow.plan_generation == cx.generation()).then_some(flow.way)
}

fn look_up(cx: &mut Cx<'_>, packet: &Packet) -> Result<u32, DropReason> {
    let number = packet.meta.tunnel_out;
    let tunnel = cx.keys.tunnel(number).ok_or(DropReason::NoSelector)?;
    let way = match &tunnel.selector {
        Selector::Nothing => None,
        Selector::Only => Some(0),
        Selector::Allowed(table) => table.look_up(ip(packet.headers.l3, &packet.headers.dst)),
        Selector::Xfrm(selector) => {
            let flow = flow_of(&packet.headers, packet.frame.bytes());
            let way = selector.way(&flow);
            if way == Some(NO_STATE) {
                // Not remembered: each packet asks, until a key daemon has heard one.
                let _ = cx.events.push(Event::Acquire { tunnel: number, flow });
                return Ok(NO_STATE);
            }
            way
        }
    }
    .ok_or(DropReason::NoSelector)?;
    if packet.meta.flow != NO_FLOW {
        let generation = cx.generation();
        let flow = cx.flows.get_mut(FlowIdx(packet.meta.flow));
        if flow.plan_generation == generation {
            flow.way = way;
        }
    }
    Ok(way)
}

/// The first packet asks, all wait.
#[cold]
fn ask(cx: &mut Cx<'_>, packet: &Packet) -> Fate {
    let (tunnel, way) = (packet.meta.tunnel_out, packet.meta.way);
    if let Some(found) = cx.way(packet)
        && found.state.want(cx.now)
        && !cx.events.push(Event::Wanted { tunnel, way })
    {
        found.state.answer();
    }
    Fate::Hold
}
