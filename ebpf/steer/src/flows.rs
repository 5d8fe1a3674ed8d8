//! The flow table: flows somebody has decided on already, acted on in the driver.

use aya_ebpf::bindings::xdp_action;
use softdpu_ebpf_common::{
    maps::{FlowAction, FlowKey, FlowValue, Reason},
    walk::{Bytes as _, Fragment, Headers, L3},
};

use crate::{
    frame::Frame,
    maps::{DEVICES, FLOWS},
};

/// The action and why, or `None` where the rules have to decide.
#[inline(always)]
pub fn act(frame: &Frame, h: &Headers) -> Option<(u32, Reason)> {
    if !h.has_ports() || h.fragment as u8 != Fragment::No as u8 {
        return None;
    }
    let key = FlowKey {
        src: h.src,
        dst: h.dst,
        sport: h.sport,
        dport: h.dport,
        protocol: h.proto,
        version: h.l3 as u8,
        vlan: h.vlan[0],
    };
    let flow = FLOWS.get_ptr_mut(&key)?;
    // SAFETY: an element stays where it is until a grace period after its removal. Its fields are plain integers, written
    // whole by user space and, the counters, by the CPU of the flow's queue.
    let flow = unsafe { &mut *flow };

    let verdict = if flow.action == FlowAction::Forward as u8 {
        let size = h.end - h.l3_off;
        // The worker or the kernel answers these with an ICMP error.
        if h.ttl <= 1 || size > flow.mtu {
            return None;
        }
        forward(frame, h, flow)?
    } else if flow.action == FlowAction::Drop as u8 {
        (xdp_action::XDP_DROP, Reason::FlowDrop)
    } else {
        (xdp_action::XDP_PASS, Reason::FlowPass)
    };
    flow.packets += 1;
    flow.bytes += frame.len(h.end as usize);
    Some(verdict)
}

#[inline(always)]
fn forward(frame: &Frame, h: &Headers, flow: &FlowValue) -> Option<(u32, Reason)> {
    if DEVICES.get_ifindex(flow.device).is_none() {
        return Some((xdp_action::XDP_DROP, Reason::FlowNoDevice));
    }
    let l3 = h.l3_off as usize;
    let macs = frame.pointer::<12>(0)?;
    // SAFETY (both): inside the frame, checked by `pointer`; nothing else holds a reference into it.
    if h.l3 as u8 == L3::V4 as u8 {
        let check = frame.be16(l3 + 10)?;
        let ip = frame.pointer::<12>(l3)?;
        let [high, low] = decremented(check).to_be_bytes();
        unsafe {
            (*ip)[8] = h.ttl - 1;
            (*ip)[10] = high;
            (*ip)[11] = low;
        }
    } else {
        let ip = frame.pointer::<8>(l3)?;
        unsafe { (*ip)[7] = h.ttl - 1 };
    }
    unsafe {
        let [a, b, c, d, e, f] = flow.dst_mac;
        let [g, i, j, k, l, m] = flow.src_mac;
        *macs = [a, b, c, d, e, f, g, i, j, k, l, m];
    }
    let action = match DEVICES.redirect(flow.device, xdp_action::XDP_DROP as u64) {
        Ok(action) | Err(action) => action,
    };
    Some((action, Reason::FlowForward))
}

/// IPv4 header checksum after the TTL went down by one (RFC 1624, eqn. 3, with the carry that never leaves 0xffff).
#[inline(always)]
fn decremented(check: u16) -> u16 {
    let sum = u32::from(check) + 0x0100;
    (sum + u32::from(sum >= 0xffff)) as u16
}
