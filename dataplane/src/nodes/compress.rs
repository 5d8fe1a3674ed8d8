//! `compress`: packets whose rule allows it become smaller before they are sealed, where that is possible.

use crate::compress::{Compressor, Governor, Outcome};
use crate::crypto::esp::{NEXT_IPCOMP, NEXT_IPV4, NEXT_IPV6};
use crate::flow::FlowIdx;
use crate::graph::packet::NO_FLOW;
use crate::graph::{Batch, Cx, Node, Packet};
use softdpu_ebpf_common::walk::L3;

#[derive(Default)]
pub struct Compress {
    codec: Compressor,
}

impl std::fmt::Debug for Compress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compress")
    }
}

impl Node for Compress {
    const NAME: &'static str = "compress";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.to_compress {
            return;
        }
        for packet in &mut batch.packets {
            if packet.meta.compress {
                self.compress(cx, packet);
            }
        }
    }
}

impl Compress {
    fn compress(&mut self, cx: &mut Cx<'_>, packet: &mut Packet) {
        let before = packet.frame.total_len();
        let next_header = if packet.headers.l3 == L3::V6 { NEXT_IPV6 } else { NEXT_IPV4 };
        packet.meta.next_header = next_header;
        let mut governor = Governor::default();
        let flow = (packet.meta.flow != NO_FLOW).then_some(FlowIdx(packet.meta.flow));
        if let Some(flow) = flow {
            let flow = cx.flows.get(flow);
            governor = Governor::resume(flow.compress_skip, flow.compress_backoff);
        }
        let outcome = self.codec.compress(&mut packet.frame, 0..before, next_header, &mut governor);
        if let Some(flow) = flow {
            let flow = cx.flows.get_mut(flow);
            (flow.compress_skip, flow.compress_backoff) = governor.suspend();
        }
        let Some(counters) = cx.counters.tunnels.get(usize::from(packet.meta.tunnel_out)) else { return };
        counters.compress_in_bytes.add(before as u64);
        counters.compress_out_bytes.add(packet.frame.total_len() as u64);
        match outcome {
            Outcome::Compressed { .. } => {
                packet.meta.next_header = NEXT_IPCOMP;
                counters.compressed.inc();
            }
            Outcome::Left(_) => counters.left_alone.inc(),
        }
    }
}
