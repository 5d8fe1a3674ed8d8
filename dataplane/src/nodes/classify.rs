//! `classify`: what the flow carries, from its first bytes; then counts every packet under its flow's class.

use crate::flow::{FlowIdx, Tick};
use crate::graph::packet::NO_FLOW;
use crate::graph::{Batch, Cx, Node};
use crate::l7::Class;

#[derive(Debug, Default)]
pub struct Classify;

impl Node for Classify {
    const NAME: &'static str = "classify";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let now = Tick::from_nanos(cx.now);
        for packet in &mut batch.packets {
            if packet.meta.flow == NO_FLOW {
                continue;
            }
            let at = FlowIdx(packet.meta.flow);
            let flow = cx.flows.get_mut(at);
            if !flow.is_decided() {
                let bytes = packet.frame.bytes();
                let before = flow.class;
                cx.inspector.inspect(at, flow, packet.meta.direction, &packet.headers, bytes, now);
                if flow.is_decided() {
                    // Rules over classes are asked again now that there is one.
                    flow.plan_generation = 0;
                }
                if flow.class != before
                    && let Some(counters) = cx.counters.classes.get(Class::place(flow.class))
                {
                    counters.flows.inc();
                }
            }
            if let Some(counters) = cx.counters.classes.get(Class::place(flow.class)) {
                counters.packets.inc();
                counters.bytes.add(packet.frame.total_len() as u64);
            }
        }
    }
}
