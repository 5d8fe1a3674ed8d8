//! `flow`: finds or opens the packet's flow and counts the packet into it. Hashes the whole batch first, so that the table's
//! memory is on its way when it is looked up.

use crate::flow::{Prepared, Refusal, Tick};
use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, Node};

/// How many packets ahead of the look-up a flow's own cache lines are asked for.
const AHEAD: usize = 4;

#[derive(Debug)]
pub struct Flow {
    prepared: Vec<Option<Prepared>>,
}

impl Default for Flow {
    fn default() -> Self {
        Self { prepared: Vec::with_capacity(2 * MAX_BATCH) }
    }
}

impl Node for Flow {
    const NAME: &'static str = "flow";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let now = Tick::from_nanos(cx.now);
        self.prepared.clear();
        for packet in &mut batch.packets {
            let prepared = cx.flows.prepare(&packet.headers, packet.frame.bytes(), now);
            match prepared {
                Ok(prepared) => {
                    cx.flows.prefetch(&prepared);
                    self.prepared.push(Some(prepared));
                }
                // A later fragment whose first was not seen: judged by itself, and rules over ports hold for it.
                Err(_) => self.prepared.push(None),
            }
        }
        for prepared in self.prepared.iter().take(AHEAD).flatten() {
            cx.flows.prefetch_flow(prepared);
        }
        for (at, packet) in batch.packets.iter_mut().enumerate() {
            if let Some(Some(later)) = self.prepared.get(at + AHEAD) {
                cx.flows.prefetch_flow(later);
            }
            let Some(Some(prepared)) = self.prepared.get(at) else { continue };
            let inspector = &mut *cx.inspector;
            match cx.flows.lookup_or_insert(prepared, now, |at, ended| inspector.release(at, ended)) {
                Ok(hit) => {
                    cx.flows.touch(hit, prepared, packet.frame.total_len() as u32, now);
                    packet.meta.flow = hit.idx.0;
                    packet.meta.direction = hit.dir;
                }
                // Without a flow the packet is judged by itself, each time: slower, and stricter where a rule waits for
                // a class.
                Err(Refusal::TableFull) => cx.counters.flows_refused.inc(),
                Err(Refusal::OrphanFragment) => {}
            }
        }
    }
}
