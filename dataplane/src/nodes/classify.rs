//! `classify`: what the flow carries, from its first bytes; then counts every packet under its flow's class.

use super::application;
use crate::flow::{Flow, FlowIdx, Tick};
use crate::graph::packet::NO_FLOW;
use crate::graph::{Batch, Cx, Node, Packet};
use crate::l7::Class;

#[derive(Debug, Default)]
pub struct Classify;

impl Node for Classify {
    const NAME: &'static str = "classify";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let now = Tick::from_nanos(cx.now);
        let mut run = Run::default();
        for packet in &mut batch.packets {
            if packet.meta.flow == NO_FLOW {
                continue;
            }
            let at = FlowIdx(packet.meta.flow);
            let flow = cx.flows.get_mut(at);
            if !flow.is_decided() {
                inspect(cx, packet, at, now);
            }
            let flow = cx.flows.get(at);
            let (place, app) = (Class::place(flow.class), flow.app);
            if (place, app) != (run.place, run.app) {
                run.count(cx);
                run = Run { place, app, ..Run::default() };
            }
            run.packets += 1;
            run.bytes += packet.frame.total_len() as u64;
        }
        run.count(cx);
    }
}

/// Packets of one class and application that follow each other: counted together.
#[derive(Default)]
struct Run {
    place: usize,
    app: u16,
    packets: u64,
    bytes: u64,
}

impl Run {
    #[inline]
    fn count(&self, cx: &Cx<'_>) {
        if let Some(counters) = cx.counters.classes.get(self.place) {
            counters.packets.add(self.packets);
            counters.bytes.add(self.bytes);
        }
        if self.app != 0 {
            application::count(cx.counters, &cx.plan.applications, self.app, (self.packets, self.bytes));
        }
    }
}

/// All that rules may go by: whether it stands, class, host, and whether anything of it will stay open.
fn for_rules(flow: &Flow) -> (bool, u16, Option<u32>, bool) {
    let settled = flow.is_settled();
    (settled, flow.class, flow.host(), settled && (flow.is_cut_short() || flow.is_headless()))
}

#[cold]
fn inspect(cx: &mut Cx<'_>, packet: &Packet, at: FlowIdx, now: Tick) {
    let flow = cx.flows.get_mut(at);
    let (before, known) = (flow.class, for_rules(flow));
    cx.inspector.inspect(at, flow, packet.meta.direction, &packet.headers, packet.frame.bytes(), now);
    if flow.is_settled() && for_rules(flow) != known {
        // Rules over classes and hosts are asked again now that there is more to go by.
        flow.plan_generation = 0;
        if for_rules(flow).3 && !known.3 {
            cx.counters.flows_unread.inc();
        }
        application::name(&cx.plan.applications, cx.counters, cx.inspector, at, flow);
    }
    if flow.class != before
        && let Some(counters) = cx.counters.classes.get(Class::place(flow.class))
    {
        counters.flows.inc();
    }
}
