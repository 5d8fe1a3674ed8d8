//! Stages of the walk by themselves: for benches.

use super::Worker;
use crate::graph::{Look, Meta, Packet};
use crate::io::frame::Frame;
use softdpu_ebpf_common::walk::Headers;

impl Worker {
    /// Takes frames as if they had come in by the first port, and walks them through `parse`.
    pub fn parse(&mut self, frames: &mut Vec<Frame>, now: u64) {
        let port = self.ports[0].id;
        frames.iter().for_each(Frame::prefetch);
        let packet = |frame| Packet { frame, headers: Headers::default(), meta: Meta::new(port) };
        self.batch.packets.extend(frames.drain(..).map(packet));
        self.on_graph(now, |graph, cx, batch| graph.parse(cx, batch));
    }

    /// Finds out whose packets they are and what those carry: `flow` and `classify`.
    #[inline(never)]
    pub fn understand(&mut self, now: u64) {
        self.on_graph(now, |graph, cx, batch| graph.understand(cx, batch));
    }

    /// A turn of the port at `at` without housekeeping, its nodes run by way of `look`. Returns how many packets came in.
    pub fn turn_with<L: Look>(&mut self, at: usize, now: u64, look: &mut L) -> usize {
        self.follow_plan();
        let port = &mut self.ports[at];
        port.io.reap(&mut self.pool);
        let got = port.io.rx_burst(&mut self.pool, &mut self.received, self.batch_size);
        let packet = |frame| Packet { frame, headers: Headers::default(), meta: Meta::new(port.id) };
        self.batch.packets.extend(self.received.drain(..).map(packet));
        if got > 0 {
            self.on_graph(now, |graph, cx, batch| graph.run_with(cx, batch, look));
            self.send();
        }
        got
    }

    /// Ends the walk: the frames that are left.
    pub fn give_back(&mut self, frames: &mut Vec<Frame>) {
        frames.extend(self.batch.packets.drain(..).map(|packet| packet.frame));
    }
}
