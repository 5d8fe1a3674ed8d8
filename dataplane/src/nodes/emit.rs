//! `emit`: hands the frames to the transmit lists of their ports. The worker sends each list with one kick.

use crate::graph::{Batch, Cx, Node};

#[derive(Debug, Default)]
pub struct Emit;

impl Node for Emit {
    const NAME: &'static str = "emit";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        for packet in batch.packets.drain(..) {
            cx.tx[usize::from(packet.meta.port_out)].push(packet.frame);
        }
    }
}
