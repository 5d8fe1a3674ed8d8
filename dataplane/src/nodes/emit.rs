//! `emit`: hands the frames to the transmit lists of their ports. The worker sends each list with one kick.

use crate::graph::{Batch, Cx, Node};

#[derive(Debug, Default)]
pub struct Emit;

impl Node for Emit {
    const NAME: &'static str = "emit";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let Some(port) = batch.packets.first().map(|packet| packet.meta.port_out) else { return };
        // Nearly always all leave by one port: room is then looked for once.
        if batch.packets.iter().all(|packet| packet.meta.port_out == port) {
            return cx.tx[usize::from(port)].extend(batch.packets.drain(..).map(|packet| packet.frame));
        }
        for packet in batch.packets.drain(..) {
            cx.tx[usize::from(packet.meta.port_out)].push(packet.frame);
        }
    }
}
