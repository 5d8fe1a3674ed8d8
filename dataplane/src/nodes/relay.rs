//! `policy`, for what came out of a tunnel by its rule: whether it belongs into a tunnel again, and which.
//!
//! Allowed IPs and the `to` of rules are to this what routes into their tunnels would be: the longest prefix wins, and of a
//! tunnel's and a route's of one length the tunnel's. So it is where `wg-quick` has made a route of every allowed IP, and
//! lets all routes but the default one go before an allowed `0.0.0.0/0`.

use super::policy::{known_of, rule_number, with_ports};
use super::xfrm;
use crate::flow::{FlowIdx, Tick};
use crate::graph::packet::{NO_FLOW, NONE};
use crate::graph::{Batch, Cx, DropReason, Packet, each};
use crate::plan::rules::{self, Rule, ip};
use crate::tunnel::keys::Selector;
use softdpu_ebpf_common::walk::Headers;
use std::net::IpAddr;

/// Where a packet goes on to.
enum Onward {
    /// To where the forwarding table says, in clear.
    Here,
    /// Back into the tunnel that it came by, to another peer.
    Peer,
    /// Into the tunnel of this rule.
    Rule(u16),
}

/// Decides over a packet out of the tunnel of `rule`. `comes_in`: the rule lets it come by that tunnel; else it is one that
/// the rule wants there. Asked once per flow, direction, plan, keys and forwarding table: what stays here has a next hop in
/// the flow then.
#[inline]
pub(super) fn onward(cx: &mut Cx<'_>, packet: &mut Packet, rule: u16, comes_in: bool) -> Result<(), DropReason> {
    let flow = settled(cx, packet, rule);
    if let Some(flow) = flow {
        let (flow, direction, table) = (cx.flows.get(flow), packet.meta.direction, cx.fib.generation());
        if flow.is_relayed(direction, table) {
            return go(cx, packet, rule);
        }
        if flow.next_hop(direction, table).is_some() {
            return Ok(());
        }
    }
    match judge(cx, packet, rule, comes_in)? {
        Onward::Here => Ok(()),
        Onward::Peer => {
            if let Some(flow) = flow {
                cx.flows.get_mut(flow).set_relayed(packet.meta.direction, cx.fib.generation());
            }
            go(cx, packet, rule)
        }
        Onward::Rule(rule) => go(cx, packet, rule),
    }
}

/// Asks again about packets that waited to go on in clear: table, allowed IPs and policies may have changed meanwhile.
pub fn again(cx: &mut Cx<'_>, batch: &mut Batch) {
    each(cx, batch, |cx, packet| if packet.meta.tunnel_out == NONE { once_more(cx, packet) } else { Ok(()) });
}

#[cold]
fn once_more(cx: &mut Cx<'_>, packet: &mut Packet) -> Result<(), DropReason> {
    xfrm::still_clear(cx, packet)?;
    if packet.meta.tunnel_in == NONE {
        return Ok(());
    }
    let rule = packet.meta.rule;
    if cx.plan.rules.get(usize::from(rule)).is_none_or(|rule| rule.tunnel != Some(packet.meta.tunnel_in)) {
        return Err(DropReason::WrongTunnel);
    }
    // What is known of it, if its flow is still there.
    let bytes = packet.frame.bytes();
    if let Ok(prepared) = cx.flows.prepare(&packet.headers, bytes, Tick::from_nanos(cx.now))
        && let Some((flow, direction)) = cx.flows.lookup(&prepared)
    {
        (packet.meta.flow, packet.meta.direction) = (flow.0, direction);
    }
    onward(cx, packet, rule, true)
}

/// The packet's flow, where what it remembers is of this rule and still holds.
#[inline]
fn settled(cx: &Cx<'_>, packet: &Packet, rule: u16) -> Option<FlowIdx> {
    let at = (packet.meta.flow != NO_FLOW).then_some(FlowIdx(packet.meta.flow))?;
    let flow = cx.flows.get(at);
    (flow.plan_generation == cx.generation() && rule_number(flow) == rule).then_some(at)
}

/// Into the tunnel of `rule`.
fn go(cx: &mut Cx<'_>, packet: &mut Packet, rule: u16) -> Result<(), DropReason> {
    let found = &cx.plan.rules[usize::from(rule)];
    (packet.meta.rule, packet.meta.tunnel_out) = (rule, found.tunnel.unwrap_or(NONE));
    packet.meta.compress = found.compress;
    // The way that the flow remembers is that of its other direction.
    packet.meta.flow = NO_FLOW;
    cx.seen.to_seal = true;
    cx.seen.to_compress |= found.compress;
    Ok(())
}

#[cold]
fn judge(cx: &Cx<'_>, packet: &Packet, rule: u16, comes_in: bool) -> Result<Onward, DropReason> {
    let headers = with_ports(cx, packet);
    let dst = ip(headers.l3, &headers.dst);
    let own = &cx.plan.rules[usize::from(rule)];
    let tunnel = packet.meta.tunnel_in;
    if cx.plan.relays
        && let Some(rule) = one_way(cx, packet, &headers, tunnel)
    {
        return Ok(Onward::Rule(rule));
    }
    let route = cx.fib.prefix_len(dst);
    // A rule's `from` names what is on this side.
    let named = rules::longest(&own.from, dst);
    let beyond = |len: u8| named.is_none_or(|named| len >= named);
    let allowed = allowed(cx, tunnel, dst);
    if cx.plan.relays
        && let Some((other, len)) = both_ways(cx, packet, &headers, tunnel, dst)
        && beyond(len)
        && route.is_none_or(|route| len >= route)
        && allowed.is_none_or(|(_, allowed)| len > allowed)
    {
        return Ok(Onward::Rule(other));
    }
    match allowed {
        Some((way, len)) if Some(way) != way_of(cx, tunnel, ip(headers.l3, &headers.src)) => {
            if !comes_in || route.is_none_or(|route| len >= route) {
                return Ok(Onward::Peer);
            }
        }
        Some((_, len)) => {
            if !comes_in || (beyond(len) && route.is_some_and(|route| len >= route)) {
                return Err(DropReason::BackToPeer);
            }
        }
        // What the rule names as the far side's is there, though there is only one peer, or none that it belongs to.
        None => {
            if comes_in
                && let Some(len) = rules::longest(&own.to, dst)
                && beyond(len)
                && route.is_some_and(|route| len >= route)
            {
                let several = matches!(cx.keys.tunnel(tunnel).map(|keys| &keys.selector), Some(Selector::Allowed(_)));
                return Err(if several { DropReason::NoSelector } else { DropReason::BackToPeer });
            }
        }
    }
    if comes_in { Ok(Onward::Here) } else { Err(DropReason::WrongTunnel) }
}

/// The first rule that wants the packet in another tunnel, and has nothing to say of the other way.
fn one_way(cx: &Cx<'_>, packet: &Packet, headers: &Headers, tunnel_in: u16) -> Option<u16> {
    let known = known_of(cx, packet, flow(packet));
    let mut wanted = cx.plan.rules.onward(headers, &known, tunnel_in);
    wanted.find(|onward| !onward.both_ways).map(|onward| onward.rule)
}

/// Of rules that hold both ways for the packet, and so could mean that it comes out of theirs: the one whose tunnel has the
/// longest prefix for its destination, and that prefix's length.
fn both_ways(cx: &Cx<'_>, packet: &Packet, headers: &Headers, tunnel_in: u16, dst: IpAddr) -> Option<(u16, u8)> {
    let known = known_of(cx, packet, flow(packet));
    let len = |rule: &Rule| {
        let to = if rule.to.is_empty() { Some(0) } else { rules::longest(&rule.to, dst) };
        to.max(rule.tunnel.and_then(|tunnel| allowed(cx, tunnel, dst)).map(|(_, len)| len))
    };
    let wanted = cx.plan.rules.onward(headers, &known, tunnel_in).filter(|onward| onward.both_ways);
    let claims = wanted.filter_map(|onward| Some((onward.rule, len(&cx.plan.rules[usize::from(onward.rule)])?)));
    // The first of those of one length.
    claims.reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn flow(packet: &Packet) -> Option<FlowIdx> {
    (packet.meta.flow != NO_FLOW).then_some(FlowIdx(packet.meta.flow))
}

/// The peer of a WireGuard tunnel that an address belongs to, and the length of the allowed IP that says so.
fn allowed(cx: &Cx<'_>, tunnel: u16, address: IpAddr) -> Option<(u32, u8)> {
    match &cx.keys.tunnel(tunnel)?.selector {
        Selector::Allowed(table) => table.look_up_with_len(address),
        _ => None,
    }
}

fn way_of(cx: &Cx<'_>, tunnel: u16, address: IpAddr) -> Option<u32> {
    allowed(cx, tunnel, address).map(|(way, _)| way)
}
