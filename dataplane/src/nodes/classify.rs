//! `classify`: what the flow carries, from its first bytes; then counts every packet under its flow's class.

use super::application;
use crate::flow::{FlowIdx, Tick};
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

#[cold]
fn inspect(cx: &mut Cx<'_>, packet: &Packet, at: FlowIdx, now: Tick) {
    let flow = cx.flows.get_mut(at);
    let (before, settled) = (flow.class, flow.is_settled());
    cx.inspector.inspect(at, flow, packet.meta.direction, &packet.headers, packet.frame.bytes(), now);
    if flow.is_settled() && (!settled || flow.class != before) {
        // Rules over classes are asked again now that there is one.
        flow.plan_generation = 0;
        application::name(&cx.plan.applications, cx.counters, cx.inspector, at, flow);
    }
    if flow.class != before
        && let Some(counters) = cx.counters.classes.get(Class::place(flow.class))
    {
        counters.flows.inc();
    }
}
