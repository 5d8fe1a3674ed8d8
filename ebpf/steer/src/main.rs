//! steer: which tier and which queue a packet goes to.
//!
//! A flow that is decided already is acted on here; else the headers are walked, and the first rule that matches says worker
//! (its queue's AF_XDP socket), pass (the kernel's stack) or drop. What is no IP, and neighbour discovery, is always the kernel's.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod flows;
mod frame;
mod maps;
mod rules;
mod watch;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::info;
use softdpu_ebpf_common::{
    maps::{ActiveFlags, MAX_QUEUES, MAX_RULES, OnLoss, Reason, RuleAction, UNKNOWN_SLOT, socket_key},
    walk::{Headers, L3, walk},
};

use crate::{
    frame::Frame,
    maps::{ACTIVE, REASON_COUNTERS, RULE_COUNTERS, SLOTS, SOCKETS, TABLES, count},
    watch::{Note, Unwatched},
};

/// 1: log every decision. The loader sets it before the verifier runs, which removes the branch where it is 0.
#[unsafe(no_mangle)]
static DEBUG: u8 = 0;

#[xdp(frags)]
pub fn softdpu_steer(ctx: XdpContext) -> u32 {
    steer(&ctx, &mut Unwatched).0
}

/// In the place of the program above while somebody watches.
#[xdp(frags)]
pub fn softdpu_watch(ctx: XdpContext) -> u32 {
    watch::watched(&ctx)
}

/// What to do with the packet, and why.
#[inline(always)]
fn steer(ctx: &XdpContext, note: &mut impl Note) -> (u32, Reason) {
    let frame = Frame::new(ctx);
    let flags = ACTIVE.get(0).copied().unwrap_or(0);
    if flags & ActiveFlags::FLOWS != 0
        && (flags & ActiveFlags::LEASE == 0 || SOCKETS.get(flags >> ActiveFlags::LEASE_SHIFT).is_some())
        && let Some((action, reason, bytes)) = flows::act(&frame, note)
    {
        count(&REASON_COUNTERS, reason as u32, bytes);
        return (action, reason);
    }
    let mut ip_end = 0;
    let (action, reason) = match walk(&frame) {
        Ok(h) => {
            ip_end = h.end as usize;
            let verdict = decide(ctx, &frame, flags, &h, note);
            // SAFETY: a plain read of a static that only the loader writes; volatile, so that its value is not taken from
            // this source.
            if unsafe { core::ptr::read_volatile(&raw const DEBUG) } != 0 {
                info!(
                    ctx,
                    "action {} reason {} l3 {} proto {} ports {} {}",
                    verdict.0,
                    verdict.1 as u32,
                    h.l3 as u8,
                    h.proto,
                    h.sport,
                    h.dport
                );
            }
            verdict
        }
        Err(error) => (if flags & ActiveFlags::DROP_MALFORMED != 0 { XDP_DROP } else { XDP_PASS }, Reason::of(error)),
    };
    count(&REASON_COUNTERS, reason as u32, frame.len(ip_end));
    (action, reason)
}

#[inline(always)]
fn decide(ctx: &XdpContext, frame: &Frame, flags: u32, h: &Headers, note: &mut impl Note) -> (u32, Reason) {
    if h.l3 as u8 == L3::Other as u8 {
        return (XDP_PASS, Reason::NotIp);
    }
    if h.is_neighbour_discovery(frame) {
        return (XDP_PASS, Reason::NeighbourDiscovery);
    }
    if flags & ActiveFlags::RULES == 0 {
        return (XDP_PASS, Reason::NoRule);
    }

    let generation = flags & ActiveFlags::GENERATION;
    let Some(tables) = TABLES.get(generation) else { return (XDP_DROP, Reason::Internal) };
    let ifindex = ctx.ingress_ifindex() as u32;
    // SAFETY: entries of this map are never removed or changed while a program uses it.
    let slot = unsafe { SLOTS.get(&ifindex) }.copied().unwrap_or(UNKNOWN_SLOT);
    let Some((index, rule)) = rules::find(tables, generation, slot, h) else { return (XDP_PASS, Reason::NoRule) };
    note.rule(generation, index);
    count(&RULE_COUNTERS, generation * MAX_RULES as u32 + index, frame.len(h.end as usize));
    if rule.action == RuleAction::Worker as u8 {
        to_worker(slot, ctx.rx_queue_index(), rule.on_loss)
    } else if rule.action == RuleAction::Drop as u8 {
        (XDP_DROP, Reason::RuleDrop)
    } else {
        (XDP_PASS, Reason::RulePass)
    }
}

/// The socket is looked up first: the redirect's own fallback would act the same, but nobody could count it.
#[inline(always)]
fn to_worker(slot: u32, queue: u32, on_loss: u8) -> (u32, Reason) {
    let drop = on_loss == OnLoss::Drop as u8;
    let fallback = if drop { XDP_DROP } else { XDP_PASS };
    if queue < MAX_QUEUES as u32 {
        let key = socket_key(slot, queue);
        if SOCKETS.get(key).is_some() {
            return match SOCKETS.redirect(key, fallback as u64) {
                Ok(action) | Err(action) => (action, Reason::Worker),
            };
        }
    }
    (fallback, if drop { Reason::NoSocketDrop } else { Reason::NoSocketPass })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The crate's MIT, in the form the kernel knows it. No helper in use asks for GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
