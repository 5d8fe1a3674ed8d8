//! `policy`: which rule a packet's flow falls under, and what that asks of this packet. Settled rules are cached in the flow.

use crate::flow::{Flow, FlowIdx};
use crate::graph::packet::{NO_FLOW, NONE};
use crate::graph::{Batch, Cx, Direction, DropReason, Node, Packet, each};
use crate::plan::Plan;
use crate::plan::rules::{self, Known, Match, Side};

/// In [`Flow::rule`]: the initiator's packets are on the rule's `In` side.
const INITIATOR_IN: u16 = 1 << 15;
/// No rule, in the 15 bits that [`Flow::rule`] has for it.
const NO_RULE: u16 = INITIATOR_IN - 1;
/// Most rules of a policy; config refuses more.
pub const MAX_RULES: usize = NO_RULE as usize;

#[derive(Debug, Default)]
pub struct Policy;

impl Node for Policy {
    const NAME: &'static str = "policy";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        each(cx, batch, decide);
    }
}

#[inline]
fn decide(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    let (rule, side) = match cached(cx, packet) {
        Some(found) => found,
        None => look_up(cx, packet),
    };
    packet.meta.rule = rule;
    let len = packet.frame.total_len() as u64;
    let Some(plan) = cx.plan.rules.get(usize::from(rule)) else {
        // No rule: plain forwarding, and nothing that a tunnel was made for.
        return if packet.meta.tunnel_in == NONE { Ok(()) } else { Err(DropReason::WrongTunnel) };
    };
    if let Some(counter) = cx.counters.rules.get(usize::from(rule)) {
        counter.add(1, len);
    }
    if plan.drop {
        return Err(DropReason::PolicyDrop);
    }
    let tunnel = plan.tunnel.unwrap_or(NONE);
    if tunnel == packet.meta.tunnel_in {
        return Ok(());
    }
    match side {
        Side::In if packet.meta.tunnel_in == NONE => Err(DropReason::ClearOnProtected),
        Side::In => Err(DropReason::WrongTunnel),
        Side::Out if tunnel == NONE => Err(DropReason::WrongTunnel),
        // From one tunnel into another is forwarding between two protected links.
        Side::Out => {
            packet.meta.tunnel_out = tunnel;
            packet.meta.compress = plan.compress;
            cx.seen.to_seal = true;
            cx.seen.to_compress |= plan.compress;
            Ok(())
        }
    }
}

#[inline]
fn cached(cx: &Cx<'_>, packet: &Packet) -> Option<(u16, Side)> {
    if packet.meta.flow == NO_FLOW {
        return None;
    }
    let flow = cx.flows.get(FlowIdx(packet.meta.flow));
    if flow.plan_generation != cx.plan.generation {
        return None;
    }
    let rule = flow.rule & !INITIATOR_IN;
    let initiator = if flow.rule & INITIATOR_IN != 0 { Side::In } else { Side::Out };
    let side = match (packet.meta.direction, initiator) {
        (Direction::FromInitiator, side) => side,
        (Direction::FromResponder, Side::Out) => Side::In,
        (Direction::FromResponder, Side::In) => Side::Out,
    };
    Some((if rule == NO_RULE { NONE } else { rule }, side))
}

#[cold]
fn look_up(cx: &mut Cx<'_>, packet: &Packet) -> (u16, Side) {
    let tunnel_in = (packet.meta.tunnel_in != NONE).then_some(packet.meta.tunnel_in);
    let Match { rule, side, provisional } = if packet.meta.flow == NO_FLOW {
        rules::look_up(&cx.plan.rules, &packet.headers, &Known::default(), tunnel_in)
    } else {
        let flow = cx.flows.get(FlowIdx(packet.meta.flow));
        let host = cx.inspector.host_of(flow);
        let known = Known { class: flow.is_decided().then_some(flow.class), host };
        rules::look_up(&cx.plan.rules, &packet.headers, &known, tunnel_in)
    };
    if !provisional && packet.meta.flow != NO_FLOW {
        remember(cx.flows.get_mut(FlowIdx(packet.meta.flow)), cx.plan.generation, rule, side, packet.meta.direction);
    }
    (rule, side)
}

/// The rule that a flow was settled under in this plan.
pub fn rule_of<'a>(flow: &Flow, plan: &'a Plan) -> Option<&'a rules::Rule> {
    let settled = flow.plan_generation == plan.generation;
    plan.rules.get(usize::from(flow.rule & !INITIATOR_IN)).filter(|_| settled)
}

fn remember(flow: &mut Flow, generation: u32, rule: u16, side: Side, direction: Direction) {
    let initiator_in = (side == Side::In) == (direction == Direction::FromInitiator);
    flow.plan_generation = generation;
    flow.rule = rule.min(NO_RULE) | if initiator_in { INITIATOR_IN } else { 0 };
}
