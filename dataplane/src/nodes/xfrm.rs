//! `policy`, for tunnels of type xfrm: what the kernel's policies say of a packet.

use crate::flow::FlowIdx;
use crate::graph::packet::{NO_FLOW, NO_WAY};
use crate::graph::{Cx, DropReason, Packet};
use crate::plan::rules::Side;
use crate::tunnel::keys::Selector;
use crate::tunnel::xfrm::model::Direction;
use crate::tunnel::xfrm::selector::{XfrmSelector, flow_of};
use crate::tunnel::xfrm::spd::Out;
use softdpu_ebpf_common::walk::Headers;

fn selector<'a>(cx: &Cx<'a>) -> Option<(u16, u16, &'a XfrmSelector)> {
    let (tunnel, rule) = cx.plan.xfrm?;
    match &cx.keys.tunnel(tunnel)?.selector {
        Selector::Xfrm(selector) => Some((tunnel, rule, selector)),
        _ => None,
    }
}

/// The rule of the mirrored policies and the packet's side of it, where one of them is for it. Once per flow.
pub(super) fn side(cx: &Cx<'_>, packet: &Packet, headers: &Headers) -> Result<Option<(u16, Side)>, DropReason> {
    let Some((tunnel, rule, selector)) = selector(cx) else { return Ok(None) };
    let flow = flow_of(headers, packet.frame.bytes());
    if packet.meta.tunnel_in == tunnel {
        return Ok(Some((rule, Side::In)));
    }
    match selector.spd.out(&flow) {
        Out::Seal { .. } | Out::NoState(_) => return Ok(Some((rule, Side::Out))),
        Out::Block(_) => return Err(DropReason::PolicyDrop),
        Out::Kernel { .. } => return Err(DropReason::KernelOnly),
        Out::Clear(_) | Out::NoPolicy(_) => {}
    }
    // In clear, though a policy says that it comes sealed.
    let wanted = selector.spd.policy(Direction::Forward, &flow);
    let sealed = wanted.is_some_and(|policy| policy.templates.iter().any(|template| !template.optional));
    Ok(sealed.then_some((rule, Side::In)))
}

/// Whether the policies let in what this association opened (RFC 4301 §5.2). Remembered per flow and association.
#[inline]
pub(super) fn admit(cx: &mut Cx<'_>, packet: &Packet) -> Result<(), DropReason> {
    let (number, flow) = (packet.meta.esp_in, packet.meta.flow);
    let generation = cx.generation();
    if flow != NO_FLOW {
        let flow = cx.flows.get(FlowIdx(flow));
        if flow.plan_generation == generation && flow.esp_in == number && number != NO_WAY {
            return Ok(());
        }
    }
    check(cx, packet)?;
    if flow != NO_FLOW {
        let flow = cx.flows.get_mut(FlowIdx(flow));
        if flow.plan_generation == generation {
            flow.esp_in = number;
        }
    }
    Ok(())
}

#[cold]
fn check(cx: &Cx<'_>, packet: &Packet) -> Result<(), DropReason> {
    let (_, _, selector) = selector(cx).ok_or(DropReason::SelectorMismatch)?;
    let opened = cx.keys.inbound().get(packet.meta.esp_in as usize).and_then(|esp| esp.state.as_deref());
    let state = opened.ok_or(DropReason::SelectorMismatch)?;
    let flow = flow_of(&packet.headers, packet.frame.bytes());
    match selector.spd.check(Direction::Forward, &flow, &[state]) {
        Ok(_) => Ok(()),
        Err(_) => Err(DropReason::SelectorMismatch),
    }
}
