//! The worker's part of a watch: called between nodes of the graph, and by whatever ends a packet, while one is armed.
//!
//! A packet gets a number when it comes in (`Meta::watch`), which goes with it wherever it goes: into the fragments it is cut
//! in, the error it is turned into, the places where packets wait. Whether it matches may be known only once it is opened, so
//! what was copied before then waits here; and of captures everything does, until it is known what became of the packet.

use super::record::{End, Facts, Point, Record};
use super::session::{NUMBERS, Session, What};
use crate::graph::packet::{MAX_BATCH, NONE};
use crate::graph::{Batch, Cx, Node, Packet};
use crate::nodes::decompress::Decompress;
use crate::nodes::emit::Emit;
use crate::nodes::fragment::Fragment;
use crate::nodes::rewrite::Rewrite;
use crate::worker::clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Records of one packet that wait for it to match or to end. Of what is more (fragments), the verdict is what was known.
const PER_PACKET: usize = 8;
/// Packets of a batch, with those that come out of waiting in it.
const PACKETS: usize = 4 * MAX_BATCH;
/// In [`crate::graph::Meta::watch`]: the packet matches. The rest is its number.
const MATCHED: u32 = 1;

/// One worker's watch.
#[derive(Debug)]
pub struct Watch {
    session: Arc<Session>,
    worker: u16,
    /// Number of the next packet.
    next: u32,
    packets: Vec<Waiting>,
    /// The node that is running, or ran last.
    node: &'static str,
    now: u64,
}

/// A packet of the batch, and what was copied of it.
#[derive(Debug)]
struct Waiting {
    packet: u32,
    matched: bool,
    used: usize,
    records: [Option<Box<Record>>; PER_PACKET],
}

impl Watch {
    pub fn new(session: Arc<Session>, worker: u16) -> Self {
        let next = session.first.max(1);
        Self { session, worker, next, packets: Vec::with_capacity(PACKETS), node: "rx", now: 0 }
    }

    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// A batch begins: packets are as received.
    pub fn begin(&mut self, cx: &Cx<'_>, batch: &mut Batch) {
        self.node = "rx";
        self.look_at_the_clock(cx);
        if self.session.has_enough() {
            return;
        }
        self.session.counts.seen.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for packet in &mut batch.packets {
            packet.meta.watch = self.next << 1;
            self.next = ((self.next + 1) & NUMBERS).max(1);
            self.copy(cx, packet, Some(Point::Rx), End::Going);
            self.ask(packet, true);
        }
    }

    /// A node is about to run.
    pub fn enter(&mut self, cx: &Cx<'_>, node: &'static str, batch: &Batch) {
        if node == Emit::NAME {
            self.look_at_the_clock(cx);
            for packet in &batch.packets {
                if self.session.what == What::Trace {
                    self.copy_as(cx, packet, None, End::Sent, node);
                }
                self.ended(cx, packet, End::Sent);
            }
        }
        self.node = node;
    }

    /// A node has run.
    pub fn left(&mut self, cx: &Cx<'_>, batch: &mut Batch) {
        self.look_at_the_clock(cx);
        let node = self.node;
        let point = match node {
            Decompress::NAME => Some(Point::Open),
            Fragment::NAME => Some(Point::Seal),
            Rewrite::NAME => Some(Point::Tx),
            _ => None,
        };
        for packet in &mut batch.packets {
            if !self.knows(packet) {
                continue;
            }
            let point = point.filter(|point| match point {
                Point::Open => packet.meta.tunnel_in != NONE,
                Point::Seal => packet.meta.tunnel_out != NONE,
                Point::Rx | Point::Tx => true,
            });
            self.copy(cx, packet, point, End::Going);
            // A trace is asked for by what packets are as received and as opened; copying every node of every other packet
            // would cost the traffic too much.
            match (point, self.session.what) {
                (Some(Point::Open), What::Trace) => self.ask(packet, false),
                (Some(point), What::Capture(_)) => self.ask(packet, point.has_link()),
                _ => {}
            }
            if node == Decompress::NAME && self.session.what == What::Trace && packet.meta.watch & MATCHED == 0 {
                self.forget(packet);
            }
        }
    }

    /// A packet comes to its end by `end`; its frame is still there.
    pub fn ends(&mut self, cx: &Cx<'_>, packet: &Packet, end: End) {
        if !self.knows(packet) {
            return;
        }
        if self.session.what == What::Trace {
            self.copy(cx, packet, None, end);
        }
        self.ended(cx, packet, end);
    }

    /// The batch is through: what has not ended waits somewhere for the rest of its datagram.
    pub fn finish(&mut self) {
        let mut packets = std::mem::take(&mut self.packets);
        for mut waiting in packets.drain(..) {
            for mut record in waiting.records.iter_mut().filter_map(Option::take) {
                record.end = End::Gathered;
                self.settle(record, waiting.matched);
            }
        }
        self.packets = packets;
        // What ends between two batches had waited there.
        self.node = "held";
    }

    /// Time stamps are the node's, where time is the clock's.
    fn look_at_the_clock(&mut self, cx: &Cx<'_>) {
        self.now = if self.session.live { clock::now() } else { cx.now };
    }

    /// Whether the packet is one of this session's.
    fn knows(&self, packet: &Packet) -> bool {
        let since = |number: u32| number.wrapping_sub(self.session.first) & NUMBERS;
        packet.meta.watch != 0 && since(packet.meta.watch >> 1) <= since(self.next)
    }

    /// Whether the filter wants it, if that is not known already.
    fn ask(&mut self, packet: &mut Packet, link: bool) {
        if packet.meta.watch & MATCHED != 0 {
            return;
        }
        let (bytes, len) = (packet.frame.bytes(), packet.frame.total_len());
        if !self.session.filter.matches(link, bytes, len) || !self.session.take_one() {
            return;
        }
        packet.meta.watch |= MATCHED;
        let Some(at) = self.place(packet.meta.watch >> 1) else { return };
        self.packets[at].matched = true;
        if self.session.what == What::Trace {
            self.flush(at);
        }
    }

    /// Place of the packet with this number among those that wait.
    fn place(&self, number: u32) -> Option<usize> {
        // In the order of their numbers, but for those that come out of waiting.
        let guess = self.packets.first().map_or(0, |first| number.wrapping_sub(first.packet) as usize);
        if self.packets.get(guess).is_some_and(|waiting| waiting.packet == number) {
            return Some(guess);
        }
        self.packets.iter().position(|waiting| waiting.packet == number)
    }

    fn copy(&mut self, cx: &Cx<'_>, packet: &Packet, point: Option<Point>, end: End) {
        self.copy_as(cx, packet, point, end, self.node);
    }

    fn copy_as(&mut self, cx: &Cx<'_>, packet: &Packet, point: Option<Point>, end: End, node: &'static str) {
        let number = packet.meta.watch >> 1;
        let matched = packet.meta.watch & MATCHED != 0;
        let wanted = match self.session.what {
            What::Trace => true,
            What::Capture(_) => point.is_some_and(|point| self.session.wants(point)),
        };
        let place = self.place(number);
        if !wanted {
            // It has to be known as one that may match later.
            return if place.is_none() {
                self.wait(number, matched, None)
            };
        }
        let point = point.unwrap_or(Point::Rx);
        let Some(mut record) = self.session.record(point) else { return };
        record.packet = number;
        record.worker = self.worker;
        record.node = node;
        record.point = point;
        record.time = self.now;
        record.end = end;
        record.facts = Facts::of(cx, packet);
        record.copy(cx, packet, self.session.snap);
        if matched && self.session.what == What::Trace {
            return self.session.hand_over(record);
        }
        match place.map(|at| &mut self.packets[at]) {
            Some(waiting) if waiting.used < PER_PACKET => {
                waiting.records[waiting.used] = Some(record);
                waiting.used += 1;
            }
            Some(_) => self.settle(record, matched),
            None => self.wait(number, matched, Some(record)),
        }
    }

    fn wait(&mut self, packet: u32, matched: bool, record: Option<Box<Record>>) {
        if self.packets.len() == PACKETS {
            if let Some(record) = record {
                self.settle(record, matched);
            }
            return;
        }
        let used = usize::from(record.is_some());
        let mut records = [const { None }; PER_PACKET];
        records[0] = record;
        self.packets.push(Waiting { packet, matched, used, records });
    }

    /// To the reader, or back to the pool.
    fn settle(&self, record: Box<Record>, matched: bool) {
        if matched { self.session.hand_over(record) } else { self.session.give_back(record) }
    }

    /// What was copied of the packet goes to the reader as it is.
    fn flush(&mut self, at: usize) {
        let waiting = &mut self.packets[at];
        waiting.used = 0;
        for record in waiting.records.iter_mut().filter_map(Option::take) {
            self.session.hand_over(record);
        }
    }

    /// What was copied of the packet waits no longer.
    fn ended(&mut self, cx: &Cx<'_>, packet: &Packet, end: End) {
        let Some(at) = self.place(packet.meta.watch >> 1).filter(|at| self.packets[*at].used > 0) else { return };
        let matched = packet.meta.watch & MATCHED != 0;
        let facts = matched.then(|| Facts::of(cx, packet));
        let waiting = &mut self.packets[at];
        waiting.used = 0;
        let mut records = std::mem::replace(&mut waiting.records, [const { None }; PER_PACKET]);
        for mut record in records.iter_mut().filter_map(Option::take) {
            if let (Some(facts), What::Capture(_)) = (facts, self.session.what) {
                (record.facts, record.end) = (facts, end);
            }
            self.settle(record, matched);
        }
    }

    /// It does not match, and will not.
    fn forget(&mut self, packet: &mut Packet) {
        let number = packet.meta.watch >> 1;
        packet.meta.watch = 0;
        if let Some(at) = self.place(number) {
            let waiting = &mut self.packets[at];
            waiting.used = 0;
            for record in waiting.records.iter_mut().filter_map(Option::take) {
                self.session.give_back(record);
            }
        }
    }
}
