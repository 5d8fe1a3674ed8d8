//! `flow`: finds or opens the packet's flow and counts the packet into it. Hashes the whole batch first, so that the table's
//! memory is on its way when it is looked up.

use super::application;
use crate::flow::tcp::{FIN, RST, SYN};
use crate::flow::{Hit, Net, Prepared, Refusal, Tick, Tier};
use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, Node, Packet};
use crate::l7::Class;
use crate::telemetry::export::EndReason;
use crate::wire::{icmp, overlay};
use softdpu_ebpf_common::walk::{Headers, proto};

/// How many packets ahead of the look-up a flow's own cache lines are asked for.
const AHEAD: usize = 16;
/// A full batch and all fragments that may come out of waiting with it.
const MOST: usize = 2 * MAX_BATCH;

#[derive(Debug)]
pub struct Flow {
    prepared: Box<[Prepared]>,
    /// Whether the packet at this place has a key.
    keyed: Box<[bool]>,
}

impl Default for Flow {
    fn default() -> Self {
        Self { prepared: vec![Prepared::default(); MOST].into(), keyed: vec![false; MOST].into() }
    }
}

impl Node for Flow {
    const NAME: &'static str = "flow";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let now = Tick::from_nanos(cx.now);
        for ((packet, prepared), keyed) in batch.packets.iter().zip(&mut self.prepared).zip(&mut self.keyed) {
            // A later fragment whose first was not seen has none: it is judged by itself, and rules over ports hold for it.
            let bytes = packet.frame.bytes();
            if matches!(packet.headers.proto, proto::ICMP | proto::ICMPV6) && icmp::is_error(bytes, &packet.headers) {
                *keyed = false;
                about(cx, Net::OUTSIDE, bytes, &packet.headers);
                continue;
            }
            *keyed = cx.flows.prepare_into(Net::OUTSIDE, &packet.headers, bytes, now, prepared).is_ok();
            if *keyed {
                cx.flows.prefetch(prepared);
            } else {
                cx.counters.fragments_orphaned.inc();
            }
        }
        let len = batch.len().min(MOST);
        let (prepared, keyed) = (&mut self.prepared[..len], &self.keyed[..len]);
        for (prepared, _) in prepared.iter_mut().zip(keyed).take(AHEAD).filter(|(_, keyed)| **keyed) {
            cx.flows.prefetch_flow(prepared);
        }
        for (at, packet) in batch.packets.iter_mut().enumerate().take(len) {
            if keyed.get(at + AHEAD) == Some(&true) {
                cx.flows.prefetch_flow(&mut prepared[at + AHEAD]);
            }
            if keyed[at] {
                find(cx, packet, &prepared[at], now);
            }
        }
    }
}

#[inline(always)]
fn find(cx: &mut Cx<'_>, packet: &mut Packet, prepared: &Prepared, now: Tick) {
    let Some(hit) = open(cx, prepared, now) else { return };
    cx.flows.touch(hit, prepared, packet.frame.total_len() as u32, now);
    packet.meta.flow = hit.idx.0;
    packet.meta.direction = hit.dir;
    let flow = cx.flows.get_mut(hit.idx);
    if hit.new {
        flow.set_carries(overlay::carries(&packet.headers));
    }
    let carries = flow.carries();
    if flow.tier() != Tier::Worker && prepared.segment().flags & (SYN | FIN | RST) != 0 {
        ends(cx, hit, prepared);
    }
    if carries {
        inside(cx, packet, now);
    }
}

/// What may end an offloaded connection is judged when the flow is back from the driver.
#[cold]
fn ends(cx: &mut Cx<'_>, hit: Hit, prepared: &Prepared) {
    let told =
        cx.offload.is_some_and(|client| client.ends(hit.idx, cx.flows.get(hit.idx), hit.dir, prepared.segment()));
    if !told {
        cx.flows.judge(hit.idx, hit.dir, &prepared.segment());
    }
}

#[inline(always)]
fn open(cx: &mut Cx<'_>, prepared: &Prepared, now: Tick) -> Option<Hit> {
    let (inspector, export, offload) = (&mut *cx.inspector, &mut *cx.export, cx.offload);
    let applications = &cx.plan.applications;
    let end = |at, ended: &crate::flow::Flow| {
        if let Some(client) = offload {
            client.ended(at, ended);
        }
        if let Some(sink) = export {
            sink.ended(at, ended, (inspector, applications), now, EndReason::LackOfResources);
        }
        inspector.release(at, ended);
    };
    match cx.flows.lookup_or_insert(prepared, now, end) {
        Ok(hit) => Some(hit),
        // Without a flow the packet is judged by itself, each time: slower, and stricter where a rule waits for a class.
        Err(Refusal::TableFull | Refusal::TooManyUnproven) => {
            cx.counters.flows_refused.inc();
            None
        }
        Err(Refusal::OrphanFragment) => None,
    }
}

/// The flows within: counted and classified like others. Where the packet goes is only the outer flow's matter.
#[cold]
fn inside(cx: &mut Cx<'_>, packet: &Packet, now: Tick) {
    let bytes = packet.frame.bytes();
    let mut outer = packet.headers;
    for _ in 0..overlay::DEPTH {
        let Some(found) = overlay::inner(bytes, &outer) else { return };
        let headers = found.headers;
        let net = Net::new(found.kind as u8, found.id);
        if icmp::is_error(bytes, &headers) {
            return about(cx, net, bytes, &headers);
        }
        let len = u32::from(headers.end - headers.l3_off);
        let Ok(prepared) = cx.flows.prepare_in(net, &headers, bytes, now) else {
            return cx.counters.fragments_orphaned.inc();
        };
        let Some(hit) = open(cx, &prepared, now) else { return };
        cx.flows.touch(hit, &prepared, len, now);
        let flow = cx.flows.get_mut(hit.idx);
        let (before, settled) = (flow.class, flow.is_settled());
        if !flow.is_decided() {
            cx.inspector.inspect(hit.idx, flow, hit.dir, &headers, bytes, now);
            if flow.is_settled() && (!settled || flow.class != before) {
                application::name(&cx.plan.applications, cx.counters, cx.inspector, hit.idx, flow);
            }
        }
        application::count(cx.counters, &cx.plan.applications, flow.app, (1, u64::from(len)));
        cx.counters.inner_packets.inc();
        if let Some(counters) = cx.counters.classes.get(Class::place(flow.class)) {
            counters.packets.inc();
            counters.bytes.add(u64::from(len));
            if flow.class != before {
                counters.flows.inc();
            }
        }
        outer = headers;
    }
}

/// An ICMP error is counted to the flow that it quotes, and opens none. What happens to it, `policy` says from what it quotes,
/// whether there is a flow or not.
#[cold]
fn about(cx: &mut Cx<'_>, net: Net, bytes: &[u8], headers: &Headers) {
    let Some(quoted) = icmp::quoted_flow(bytes, headers) else { return };
    let seq = icmp::quoted_seq(bytes, headers, &quoted);
    let Some((idx, dir)) = cx.flows.quoted(net, &quoted, seq) else { return };
    let len = headers.end - headers.l3_off;
    cx.flows.count_about(idx, dir, u32::from(len));
    cx.counters.icmp_matched.inc();
    let flow = cx.flows.get(idx);
    application::count(cx.counters, &cx.plan.applications, flow.app, (1, u64::from(len)));
    if let Some(counters) = cx.counters.classes.get(Class::place(flow.class)) {
        counters.packets.inc();
        counters.bytes.add(u64::from(len));
    }
}
