//! A record of each packet for `softdpu trace`: what came, what was decided and by what, what left.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action::XDP_DROP, xdp_md},
    helpers::{bpf_ktime_get_ns, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use softdpu_ebpf_common::{
    flows::{FlowAction, Tail},
    maps::Reason,
    watch::{NO_DEVICE, NO_ENTRY, NO_RULE, SNAP, Seen, entry},
};

use crate::{
    frame::masked,
    maps::{REASON_COUNTERS, WATCH_LOST, WATCH_RECORD, WATCHED, count},
    steer,
};

/// Told what decides on a packet.
pub trait Note {
    /// A rule, by its place in its generation.
    fn rule(&mut self, generation: u32, rule: u32);
    /// The flow table has the packet's flow; whether it acts on the packet is not known yet.
    fn entry(&mut self, tail: &Tail);
}

/// Nobody wants to know: nothing is left of it in the program.
pub struct Unwatched;

impl Note for Unwatched {
    #[inline(always)]
    fn rule(&mut self, _: u32, _: u32) {}
    #[inline(always)]
    fn entry(&mut self, _: &Tail) {}
}

impl Note for Seen {
    #[inline(always)]
    fn rule(&mut self, generation: u32, rule: u32) {
        self.generation = generation;
        self.rule = rule;
    }

    #[inline(always)]
    fn entry(&mut self, tail: &Tail) {
        self.entry = entry(tail.action, tail.options);
        if tail.action == FlowAction::Forward as u8 {
            self.device = u32::from(tail.device);
        }
    }
}

/// Decides as the steer program does, and says so.
#[inline(always)]
pub fn watched(ctx: &XdpContext) -> u32 {
    let Some(record) = WATCH_RECORD.get_ptr_mut(0) else {
        count(&REASON_COUNTERS, Reason::Internal as u32, 0);
        return XDP_DROP;
    };
    // SAFETY: the map lives as long as the program, and the element is this CPU's: XDP runs with softirqs off.
    let record = unsafe { &mut *record };
    let context: *mut xdp_md = ctx.as_ptr().cast();
    // SAFETY: no more than a number is asked for, and `context` is the program's context.
    (record.time, record.len) = unsafe { (bpf_ktime_get_ns(), bpf_xdp_get_buff_len(context) as u32) };
    record.interface = ctx.ingress_ifindex() as u32;
    record.queue = ctx.rx_queue_index();
    (record.rule, record.generation, record.device, record.entry) = (NO_RULE, 0, NO_DEVICE, NO_ENTRY);
    record.kept = copy(context, record.len, &mut record.before);
    let (action, reason) = steer(ctx, record);
    (record.action, record.reason) = (action, reason as u32);
    copy(context, record.len, &mut record.after);
    if WATCHED.output::<Seen>(&*record, 0).is_err() {
        count(&WATCH_LOST, 0, 0);
    }
    action
}

/// The frame's first bytes, in however many buffers they are; how many.
#[inline(always)]
fn copy(context: *mut xdp_md, len: u32, to: &mut [u8; SNAP]) -> u32 {
    let len = len as usize;
    // The verifier wants the bound on the very register that is handed over.
    let kept = if len >= SNAP { SNAP } else { masked::<{ SNAP - 1 }>(len) };
    if kept == 0 {
        return 0;
    }
    // SAFETY: `kept` is at most `SNAP`, and `context` is the program's context.
    let failed = unsafe { bpf_xdp_load_bytes(context, 0, to.as_mut_ptr().cast(), kept as u32) };
    if failed == 0 { kept as u32 } else { 0 }
}
