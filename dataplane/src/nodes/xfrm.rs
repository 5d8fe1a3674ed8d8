//! `policy`, for tunnels of type xfrm: what the kernel's policies say of a packet.

use crate::flow::FlowIdx;
use crate::graph::packet::{NO_FLOW, NO_WAY};
use crate::graph::{Cx, DropReason, Packet};
use crate::plan::rules::Side;
use crate::tunnel::keys::Selector;
use crate::tunnel::xfrm::model::{Action, Direction, Flow};
use crate::tunnel::xfrm::selector::{XfrmSelector, flow_of};
use crate::tunnel::xfrm::spd::{Out, Refused};
use softdpu_ebpf_common::walk::{Fragment, Headers};

fn selector<'a>(cx: &Cx<'a>) -> Option<(u16, u16, &'a XfrmSelector)> {
    let (tunnel, rule) = cx.plan.xfrm?;
    match &cx.keys.tunnel(tunnel)?.selector {
        Selector::Xfrm(selector) => Some((tunnel, rule, selector)),
        _ => None,
    }
}

/// Whether there are policies of the kernel's to ask, and they are not known (yet): then nothing leaves in clear.
pub(super) fn unknown(cx: &Cx<'_>) -> bool {
    cx.plan.xfrm.is_some() && selector(cx).is_none()
}

/// Whether a policy asks for ports, which later fragments do not have.
pub(super) fn asks_ports(cx: &Cx<'_>) -> bool {
    selector(cx).is_some_and(|(_, _, selector)| selector.spd.asks_ports())
}

/// What the kernel's policies say of a packet.
pub(super) enum Verdict {
    /// One of them is for it: their rule, and the packet's side of that.
    Rule(u16, Side),
    /// It goes as it is. `both`: so do its answers, and the flow may remember it.
    Clear { both: bool },
}

/// The rule of the mirrored policies and the packet's side of it, where one of them is for it. Once per flow.
pub(super) fn side(cx: &Cx<'_>, packet: &Packet, headers: &Headers) -> Result<Verdict, DropReason> {
    let Some((tunnel, rule, selector)) = selector(cx) else { return Ok(Verdict::Clear { both: true }) };
    let flow = flow_of(headers, packet.frame.bytes());
    if packet.meta.tunnel_in == tunnel {
        return Ok(Verdict::Rule(rule, Side::In));
    }
    match selector.spd.out(&flow) {
        Out::Seal { .. } | Out::NoState(_) => return Ok(Verdict::Rule(rule, Side::Out)),
        Out::Block(_) | Out::NoPolicy(Action::Block) => return Err(DropReason::PolicyDrop),
        Out::Kernel { .. } => return Err(DropReason::KernelOnly),
        Out::Clear(_) | Out::NoPolicy(Action::Allow) => {}
    }
    match selector.spd.check(Direction::Forward, &flow, &[]) {
        Ok(_) => {}
        // In clear, though a policy says that it comes sealed.
        Err(Refused::Template | Refused::Selector) => return Ok(Verdict::Rule(rule, Side::In)),
        Err(Refused::Blocked | Refused::NoPolicy) => return Err(DropReason::PolicyDrop),
    }
    // Which policy is for it, its first fragment would say.
    if headers.fragment == Fragment::Later && selector.spd.asks_ports() {
        return Err(DropReason::NoSelector);
    }
    // Policies are one-way: that this packet goes in clear says nothing of the answers to it.
    let back = Flow::new(flow.dst, flow.src, flow.protocol, flow.dport, flow.sport);
    Ok(Verdict::Clear {
        both: goes_in_clear(selector, &back) && selector.spd.check(Direction::Forward, &back, &[]).is_ok(),
    })
}

fn goes_in_clear(selector: &XfrmSelector, flow: &Flow) -> bool {
    matches!(selector.spd.out(flow), Out::Clear(_) | Out::NoPolicy(Action::Allow))
}

/// Whether a packet that waited to go on in clear may do so still.
pub(super) fn still_clear(cx: &Cx<'_>, packet: &Packet) -> Result<(), DropReason> {
    if cx.plan.xfrm.is_none() {
        return Ok(());
    }
    let (_, _, selector) = selector(cx).ok_or(DropReason::NoSelector)?;
    let flow = flow_of(&packet.headers, packet.frame.bytes());
    if goes_in_clear(selector, &flow) { Ok(()) } else { Err(DropReason::KernelOnly) }
}

/// Whether the policies let in what this association opened (RFC 4301 §5.2). Remembered per flow and association, for the side
/// that comes in; what goes the other way is asked about each time.
#[inline]
pub(super) fn admit(cx: &mut Cx<'_>, packet: &Packet, side: Side) -> Result<(), DropReason> {
    let (number, flow) = (packet.meta.esp_in, if side == Side::In { packet.meta.flow } else { NO_FLOW });
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
    selector.spd.check(Direction::Forward, &flow, &[state]).map_err(|_| DropReason::SelectorMismatch)?;
    // The way on may be by another association (a hub between two of the kernel's peers). We do not do that; in clear it must not go.
    if goes_in_clear(selector, &flow) { Ok(()) } else { Err(DropReason::KernelOnly) }
}
