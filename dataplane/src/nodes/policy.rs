//! `policy`: which rule a packet's flow falls under, and what that asks of this packet. Settled rules are cached in the flow.

use super::application;
use super::relay;
use super::select;
use super::treat::treat;
use super::xfrm::{self, Verdict};
use crate::flow::{Flow, FlowIdx, Tick, prefetch};
use crate::graph::packet::{NO_FLOW, NO_WAY, NONE};
use crate::graph::{Batch, Cx, Direction, DropReason, Node, Packet, each};
use crate::l7::{By, Class};
use crate::offload::nic;
use crate::plan::Plan;
use crate::plan::rules::{self, Act, Known, Match, Side, Unread};
use crate::wire::{icmp, ip};
use softdpu_ebpf_common::walk::{Fragment, Headers, proto};

/// In [`Flow::rule`]: the initiator's packets are on the rule's `In` side.
const INITIATOR_IN: u16 = 1 << 15;
/// No rule, in the 15 bits that [`Flow::rule`] has for it.
const NO_RULE: u16 = INITIATOR_IN - 1;
const _: () = assert!(rules::MAX_RULES <= NO_RULE as usize);

#[derive(Debug, Default)]
pub struct Policy;

impl Node for Policy {
    const NAME: &'static str = "policy";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if cx.plan.rules.are_many() {
            ahead(cx, batch);
        }
        let mut run = Run { rule: NONE, packets: 0, bytes: 0 };
        each(cx, batch, |cx, packet| decide(cx, packet, &mut run));
        run.count(cx);
    }
}

/// Packets of one rule that follow each other: counted together.
struct Run {
    rule: u16,
    packets: u64,
    bytes: u64,
}

impl Run {
    #[inline]
    fn add(&mut self, cx: &Cx<'_>, rule: u16, bytes: u64) {
        if rule != self.rule {
            self.count(cx);
            *self = Self { rule, packets: 0, bytes: 0 };
        }
        self.packets += 1;
        self.bytes += bytes;
    }

    #[inline]
    fn count(&self, cx: &Cx<'_>) {
        if let Some(counter) = cx.rules.get(self.rule) {
            counter.add(self.packets, self.bytes);
        }
    }
}

/// Asks for the memory of the rules that the batch's flows remember.
fn ahead(cx: &Cx<'_>, batch: &Batch) {
    for packet in batch.packets.iter().filter(|packet| packet.meta.flow != NO_FLOW) {
        let rule = rule_number(cx.flows.get(FlowIdx(packet.meta.flow)));
        if let (Some(act), Some(counter)) = (cx.plan.rules.act(rule), cx.rules.get(rule)) {
            prefetch(act);
            prefetch(counter);
        }
    }
}

#[inline]
fn decide(cx: &mut Cx<'_>, packet: &mut Packet, run: &mut Run) -> Result<(), DropReason> {
    let (mut rule, mut side) = match cached(cx, packet) {
        Some(found) => found,
        None => look_up(cx, packet)?,
    };
    if matches!(packet.headers.proto, proto::ICMP | proto::ICMPV6) {
        (rule, side) = of_quoted(cx, packet, (rule, side));
    }
    packet.meta.rule = rule;
    let len = packet.frame.total_len() as u64;
    let (rules, Some(act)) = (&cx.plan.rules, cx.plan.rules.act(rule)) else {
        // No rule: plain forwarding, and nothing that a tunnel was made for.
        return if packet.meta.tunnel_in == NONE { Ok(()) } else { Err(DropReason::WrongTunnel) };
    };
    run.add(cx, rule, len);
    if act.drop {
        nic::look(cx, packet);
        return Err(DropReason::PolicyDrop);
    }
    service(cx, packet, rule, side, *act)?;
    // Of what may go on only: what is refused says nothing about the flow's rate.
    if act.treats { treat(cx, packet, rule, &rules[usize::from(rule)]) } else { Ok(()) }
}

/// What the rule asks for, or why it does not let the packet go on.
#[inline]
fn service(cx: &mut Cx<'_>, packet: &mut Packet, rule: u16, side: Side, act: Act) -> Result<(), DropReason> {
    let tunnel = act.tunnel;
    if tunnel == packet.meta.tunnel_in {
        if tunnel == NONE {
            return Ok(());
        }
        if let Some(counters) = cx.rules.treated(rule) {
            counters.opened.add(1, packet.frame.total_len() as u64);
        }
        let comes_in = side == Side::In || cx.plan.rules[usize::from(rule)].lets_in(&with_ports(cx, packet));
        if comes_in && packet.meta.esp_in != NO_WAY {
            xfrm::admit(cx, packet, side)?;
        }
        return relay::onward(cx, packet, rule, comes_in);
    }
    match side {
        Side::In if packet.meta.tunnel_in == NONE => Err(DropReason::ClearOnProtected),
        Side::In => Err(DropReason::WrongTunnel),
        Side::Out if tunnel == NONE => Err(DropReason::WrongTunnel),
        // From one tunnel into another is forwarding between two protected links.
        Side::Out => {
            packet.meta.tunnel_out = tunnel;
            packet.meta.compress = act.compress;
            cx.seen.to_seal = true;
            cx.seen.to_compress |= act.compress;
            if cx.keys.many_ways() {
                select::prefetch_way(cx, packet);
            }
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
    if flow.plan_generation != cx.generation() {
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

/// Once per flow, so this is also where addresses are refused that are not to be forwarded.
#[cold]
fn look_up(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(u16, Side), DropReason> {
    let headers = with_ports(cx, packet);
    let martian = ip::is_martian(headers.l3, &headers.src) || ip::is_martian(headers.l3, &headers.dst);
    // A port without neighbours is a wire, and forwards what it is given.
    if martian && !cx.fib.links()[usize::from(packet.meta.port_in)].neighbourless {
        return Err(DropReason::Martian);
    }
    let flow = (packet.meta.flow != NO_FLOW).then_some(FlowIdx(packet.meta.flow));
    if let Some(flow) = flow {
        name_again(cx, flow);
    }
    let Match { rule, side, provisional } = match xfrm::side(cx, packet, &headers)? {
        Verdict::Rule(rule, side) => Match { rule, side, provisional: false },
        Verdict::Clear { both } => {
            let found = cx.plan.rules.look_up(&headers, &known_of(cx, packet, flow), tunnel_in(packet));
            let sealed = cx.plan.rules.get(usize::from(found.rule)).is_some_and(|rule| rule.tunnel.is_some());
            if !sealed && xfrm::unknown(cx) {
                return Err(DropReason::NoSelector);
            }
            Match { provisional: found.provisional || !both, ..found }
        }
    };
    if let Some(flow) = flow.filter(|_| !provisional) {
        let generation = cx.generation();
        // Not remembered: the next packet asks again, and gets in once there is room.
        if !let_in(cx, flow, rule) {
            packet.meta.rule = rule;
            return Err(DropReason::ConnectionLimit);
        }
        remember(cx.flows.get_mut(flow), generation, rule, side, packet.meta.direction);
    }
    Ok((rule, side))
}

/// Whether the flow is among those that its application may have at once. What was let in by a plan before stays.
fn let_in(cx: &mut Cx<'_>, at: FlowIdx, rule: u16) -> bool {
    let flow = cx.flows.get(at);
    let (old, over) = (flow.plan_generation != 0, flow.state().is_over());
    let limit = cx.plan.rules.get(usize::from(rule)).and_then(|rule| rule.limit).filter(|_| !over);
    cx.counted.admit(at, limit, &cx.plan.limits, old)
}

/// Under another plan a flow that is known already gets its application anew.
fn name_again(cx: &mut Cx<'_>, at: FlowIdx) {
    let flow = cx.flows.get_mut(at);
    if flow.is_settled() && cx.plan.applications.settled(flow).is_none() {
        application::name(&cx.plan.applications, cx.counters, cx.inspector, at, flow);
    }
}

/// The packet's headers; of a later fragment with the ports that its flow knows and itself does not have.
#[inline]
pub(super) fn with_ports(cx: &Cx<'_>, packet: &Packet) -> Headers {
    let mut headers = packet.headers;
    if headers.fragment == Fragment::Later && packet.meta.flow != NO_FLOW {
        let flow = cx.flows.get(FlowIdx(packet.meta.flow));
        let (src, dst) = match packet.meta.direction {
            Direction::FromInitiator => (flow.initiator(), flow.responder()),
            Direction::FromResponder => (flow.responder(), flow.initiator()),
        };
        (headers.sport, headers.dport, headers.fragment) = (src.port, dst.port, Fragment::First);
    }
    headers
}

fn tunnel_in(packet: &Packet) -> Option<u16> {
    (packet.meta.tunnel_in != NONE).then_some(packet.meta.tunnel_in)
}

pub(super) fn known<'a>(cx: &'a Cx<'_>, flow: Option<FlowIdx>) -> Known<'a> {
    let Some(flow) = flow else { return Known::default() };
    let flow = cx.flows.get(flow);
    // A name that only a DNS answer gave is for people to read: whoever owns some name can point it at any server's address.
    let host = cx.inspector.host_of(flow).filter(|_| flow.host_by() != By::Dns);
    let unread = if flow.is_cut_short() && flow.is_settled() {
        Unread::CutShort
    } else if flow.is_headless() {
        Unread::Headless
    } else {
        Unread::No
    };
    // A name that was never read might have been another application's.
    let tells = flow.is_settled() && flow.known_class().is_some() && (unread == Unread::No || host.is_some());
    let application = cx.plan.applications.settled(flow).filter(|_| tells);
    Known { class: flow.known_class(), host, application, unread }
}

/// The same for a packet. An ICMP error has no flow of its own, and what it is can be told without one.
pub(super) fn known_of<'a>(cx: &'a Cx<'_>, packet: &Packet, flow: Option<FlowIdx>) -> Known<'a> {
    let headers = &packet.headers;
    if flow.is_none()
        && matches!(headers.proto, proto::ICMP | proto::ICMPV6)
        && icmp::is_error(packet.frame.bytes(), headers)
    {
        let class = Class::of_ip_protocol(headers.proto).map(|class| class as u16);
        let ends = [&headers.src, &headers.dst].map(|address| (rules::ip(headers.l3, address), 0));
        let application = Some(cx.plan.applications.of_bare(ends, headers.proto, class));
        return Known { class, application, ..Known::default() };
    }
    known(cx, flow)
}

/// An ICMP error quotes packets of another flow: where that one is protected, so is the error (RFC 4301 §6.2), whatever
/// rule its own addresses and protocol fall under.
#[cold]
fn of_quoted(cx: &mut Cx<'_>, packet: &Packet, own: (u16, Side)) -> (u16, Side) {
    if cx.plan.rules.get(usize::from(own.0)).is_some_and(|rule| rule.tunnel.is_some() || rule.drop) {
        return own;
    }
    let Some(about) = icmp::quoted_flow(packet.frame.bytes(), &packet.headers) else { return own };
    let flow = match about.fragment {
        Fragment::No => cx.flows.prepare(&about, &[], Tick::from_nanos(cx.now)).ok(),
        Fragment::First | Fragment::Later => None,
    };
    let flow = flow.and_then(|flow| Some(cx.flows.lookup(&flow)?.0));
    let found = cx.plan.rules.look_up(&about, &known(cx, flow), tunnel_in(packet));
    match cx.plan.rules.get(usize::from(found.rule)) {
        Some(rule) if rule.tunnel.is_some() => (found.rule, found.side),
        _ => own,
    }
}

/// Whether a rule, or that there is none, is settled for both directions of a flow.
pub fn is_settled(flow: &Flow, generation: u32) -> bool {
    flow.plan_generation == generation
}

/// The rule that a flow was settled under last, whenever that was.
pub fn last_rule(flow: &Flow) -> Option<u16> {
    Some(rule_number(flow)).filter(|rule| *rule != NO_RULE)
}

/// The number of the rule that a flow was settled under.
#[inline]
pub(super) fn rule_number(flow: &Flow) -> u16 {
    flow.rule & !INITIATOR_IN
}

/// The rule that a flow was settled under. `generation`: of the worker that has the flow.
pub fn rule_of<'a>(flow: &Flow, plan: &'a Plan, generation: u32) -> Option<&'a rules::Rule> {
    let settled = flow.plan_generation == generation;
    plan.rules.get(usize::from(rule_number(flow))).filter(|_| settled)
}

fn remember(flow: &mut Flow, generation: u32, rule: u16, side: Side, direction: Direction) {
    let initiator_in = (side == Side::In) == (direction == Direction::FromInitiator);
    flow.plan_generation = generation;
    flow.way = NO_WAY;
    flow.esp_in = NO_WAY;
    flow.forget_hops();
    flow.rule = rule.min(NO_RULE) | if initiator_in { INITIATOR_IN } else { 0 };
}
