//! `flow`: finds or opens the packet's flow and counts the packet into it. Hashes the whole batch first, so that the table's
//! memory is on its way when it is looked up.

use crate::flow::{Net, Prepared, Refusal, Tick};
use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, Node, Packet};
use crate::telemetry::export::EndReason;

/// How many packets ahead of the look-up a flow's own cache lines are asked for.
const AHEAD: usize = 4;
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
            *keyed = cx.flows.prepare_into(Net::OUTSIDE, &packet.headers, bytes, now, prepared).is_ok();
            if *keyed {
                cx.flows.prefetch(prepared);
            }
        }
        let len = batch.len().min(MOST);
        let (prepared, keyed) = (&self.prepared[..len], &self.keyed[..len]);
        for (prepared, _) in prepared.iter().zip(keyed).take(AHEAD).filter(|(_, keyed)| **keyed) {
            cx.flows.prefetch_flow(prepared);
        }
        for (at, packet) in batch.packets.iter_mut().enumerate().take(len) {
            if keyed.get(at + AHEAD) == Some(&true) {
                cx.flows.prefetch_flow(&prepared[at + AHEAD]);
            }
            if keyed[at] {
                find(cx, packet, &prepared[at], now);
            }
        }
    }
}

#[inline(always)]
fn find(cx: &mut Cx<'_>, packet: &mut Packet, prepared: &Prepared, now: Tick) {
    let (inspector, export) = (&mut *cx.inspector, &mut *cx.export);
    let end = |at, ended: &crate::flow::Flow| {
        if let Some(sink) = export {
            sink.ended(at, ended, inspector, now, EndReason::LackOfResources);
        }
        inspector.release(at, ended);
    };
    match cx.flows.lookup_or_insert(prepared, now, end) {
        Ok(hit) => {
            cx.flows.touch(hit, prepared, packet.frame.total_len() as u32, now);
            packet.meta.flow = hit.idx.0;
            packet.meta.direction = hit.dir;
        }
        // Without a flow the packet is judged by itself, each time: slower, and stricter where a rule waits for a class.
        Err(Refusal::TableFull | Refusal::TooManyUnproven) => cx.counters.flows_refused.inc(),
        Err(Refusal::OrphanFragment) => {}
    }
}
