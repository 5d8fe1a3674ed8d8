//! `reassemble`, `gather` and `join`: fragments wait here until their datagram is complete.
//!
//! `reassemble` stands before `open`: a fragmented packet of a tunnel's peer becomes the one packet that can be opened.
//! `gather` stands behind it, and only where rules ask for ports, which later fragments do not have: it lets a datagram's
//! fragments go on when all are there, the first first, so that they are judged as one flow. They go on as fragments: who cut
//! them knew the path, and a router may not cut IPv6.
//!
//! `join` stands before `seal`, for tunnels in transport mode: those seal what a whole datagram carries (RFC 4303 §3.1.1), so
//! fragments of one are put together before and it is cut again after.
//!
//! All fragments of a datagram must reach one worker. NICs that hash ports into the queue's choice send the first fragment
//! elsewhere than the others; such datagrams time out here (`reassembly_timeout`).

use crate::graph::packet::{MAX_BATCH, NONE};
use crate::graph::{Batch, Cx, DropReason, Node, Packet};
use crate::nodes::fragment::copy_out;
use crate::nodes::{open, xfrm};
use crate::plan::rules::ip;
use crate::tunnel::keys::Way;
use crate::wire::reassembly::{Complete, Limits, Place, Refusal, Table, finish, place};
use softdpu_ebpf_common::walk::{self, Fragment};

/// Before `open`: fragments of what is sealed and for this host.
pub struct Reassemble(Waiting);

/// Before `flow`: all other fragments, where rules ask for ports.
pub struct Gather(Waiting);

impl Reassemble {
    /// `frames`: how many the worker has; an eighth of them may wait here.
    pub fn new(frames: u32) -> Self {
        Self(Waiting::new(frames))
    }

    pub fn waiting(&mut self) -> &mut Waiting {
        &mut self.0
    }
}

impl Gather {
    /// As [`Reassemble::new`].
    pub fn new(frames: u32) -> Self {
        Self(Waiting::new(frames))
    }

    pub fn waiting(&mut self) -> &mut Waiting {
        &mut self.0
    }
}

/// Before `seal`: fragments that go into a tunnel in transport mode.
pub struct Join(Waiting);

impl Join {
    /// As [`Reassemble::new`].
    pub fn new(frames: u32) -> Self {
        Self(Waiting::new(frames))
    }

    pub fn waiting(&mut self) -> &mut Waiting {
        &mut self.0
    }
}

impl Node for Join {
    const NAME: &'static str = "join";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.to_seal {
            return;
        }
        self.0.take(batch, |packet| packet.meta.tunnel_out != NONE && cx.way(packet).is_some_and(Way::is_transport));
        self.0.run(cx, batch, zone, Waiting::join);
    }
}

impl Node for Reassemble {
    const NAME: &'static str = "reassemble";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if !cx.seen.fragments {
            return;
        }
        self.0.take(batch, |packet| {
            let to = ip(packet.headers.l3, &packet.headers.dst);
            cx.keys.may_be_sealed(packet.headers.proto, to, || cx.fib.is_local(to))
        });
        // Their addresses say where they are from; by which port they came does not matter.
        self.0.run(cx, batch, |_| 0, Waiting::join);
    }
}

impl Node for Gather {
    const NAME: &'static str = "gather";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        // What came out of a tunnel may be a fragment too, without having been seen as one.
        if !cx.plan.asks_ports && !xfrm::asks_ports(cx) {
            return;
        }
        self.0.take(batch, |_| true);
        self.0.run(cx, batch, zone, Waiting::release);
    }
}

/// Nobody outside a tunnel can add to a datagram that comes by it.
fn zone(packet: &Packet) -> u32 {
    let meta = &packet.meta;
    if meta.tunnel_in == NONE { 1 << 16 | u32::from(meta.port_in) } else { u32::from(meta.tunnel_in) }
}

/// Fragments that wait, with the frames they are in.
pub struct Waiting {
    table: Table<Packet>,
    /// Those of the batch.
    taken: Vec<Packet>,
    whole: Vec<(Packet, Place)>,
}

impl Waiting {
    fn new(frames: u32) -> Self {
        let all = Limits::default();
        let pieces = all.pieces.min(frames as usize / 8).max(8);
        let table = Table::new(Limits { pieces, ..all });
        Self { table, taken: Vec::with_capacity(2 * MAX_BATCH), whole: Vec::with_capacity(all.per_datagram) }
    }

    /// Incomplete datagrams and fragments held.
    pub fn occupancy(&self) -> (usize, usize) {
        self.table.occupancy()
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now: u64, mut lost: impl FnMut(Packet, DropReason)) {
        self.table.expire(now, &mut |packet, refusal| lost(packet, reason(refusal)));
    }

    pub fn drain(&mut self, out: impl FnMut(Packet)) {
        self.table.drain(out);
    }

    fn take(&mut self, batch: &mut Batch, wanted: impl Fn(&Packet) -> bool) {
        let fragment = |packet: &mut Packet| packet.headers.fragment != Fragment::No && wanted(packet);
        self.taken.extend(batch.packets.extract_if(.., fragment));
    }

    fn run(
        &mut self,
        cx: &mut Cx<'_>,
        batch: &mut Batch,
        zone: impl Fn(&Packet) -> u32,
        end: fn(&mut Self, &mut Cx<'_>, &mut Batch, Complete),
    ) {
        let mut taken = std::mem::take(&mut self.taken);
        for packet in taken.drain(..) {
            let Some((id, place)) = place(packet.frame.bytes(), &packet.headers, zone(&packet)) else {
                cx.drop_packet(packet, DropReason::BadFragment);
                continue;
            };
            let now = cx.now;
            let lost = &mut |packet, refusal| cx.drop_packet(packet, reason(refusal));
            if let Some(complete) = self.table.insert(now, &id, &place, packet, &mut self.whole, lost) {
                end(self, cx, batch, complete);
            }
        }
        self.taken = taken;
    }

    /// Puts the fragments back into the batch, first to last.
    fn release(&mut self, _cx: &mut Cx<'_>, batch: &mut Batch, _complete: Complete) {
        batch.packets.extend(self.whole.drain(..).map(|(packet, _)| packet));
    }

    /// Puts the whole datagram into the batch: one frame where it fits, else several.
    #[cold]
    fn join(&mut self, cx: &mut Cx<'_>, batch: &mut Batch, complete: Complete) {
        let Some((first, at)) = self.whole.first() else { return };
        let (mut meta, mut headers, at) = (first.meta, first.headers, *at);
        meta.joined = meta.tunnel_out != NONE;
        let head = usize::from(at.head);
        let scratch = std::mem::take(&mut cx.scratch);
        let len = head + complete.payload as usize;
        // A header is always in the frame's first part: `place` has read it there.
        scratch[..head].copy_from_slice(&first.frame.bytes()[..head]);
        let mut to = head;
        for (packet, place) in &self.whole {
            let end = to + place.len as usize;
            copy_out(cx, packet, usize::from(place.body), &mut scratch[to..end]);
            to = end;
        }
        for (packet, _) in self.whole.drain(..) {
            cx.pool.free(packet.frame);
        }
        finish(&mut scratch[..len], headers.l3, &at, complete.ce);
        let walked = walk::walk_ip_into(&scratch[..len], 0, &mut headers);
        let frame = walked.ok().and_then(|()| cx.pool.scatter(&scratch[..len]));
        cx.scratch = scratch;
        match frame {
            Some(frame) => {
                cx.seen.sealed |= open::concerns(&headers, cx.keys);
                batch.packets.push(Packet { frame, headers, meta });
                cx.counters.reassembled.inc();
            }
            None => cx.counters.drop_packet(DropReason::BadFragment as usize),
        }
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (datagrams, fragments) = self.occupancy();
        write!(f, "Waiting({datagrams} datagrams, {fragments} fragments)")
    }
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for Reassemble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Timeout => DropReason::ReassemblyTimeout,
        Refusal::Full => DropReason::ReassemblyFull,
        Refusal::Bad => DropReason::BadFragment,
        Refusal::Duplicate => DropReason::DuplicateFragment,
    }
}
