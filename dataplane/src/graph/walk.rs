//! The graph itself: the nodes in the order a batch meets them. Adding a node is a field and a line here.

use super::context::Cx;
use super::packet::{Batch, NONE};
use super::{Fate, Node};
use crate::nodes::classify::Classify;
use crate::nodes::compress::Compress;
use crate::nodes::decompress::Decompress;
use crate::nodes::emit::Emit;
use crate::nodes::flow::Flow;
use crate::nodes::fragment::Fragment;
use crate::nodes::icmp::Icmp;
use crate::nodes::mss::Mss;
use crate::nodes::offload::Offload;
use crate::nodes::open::Open;
use crate::nodes::outer_fragment::OuterFragment;
use crate::nodes::parse::Parse;
use crate::nodes::policy::Policy;
use crate::nodes::reassemble::{Gather, Join, Reassemble, Waiting};
use crate::nodes::relay;
use crate::nodes::rewrite::Rewrite;
use crate::nodes::route::Route;
use crate::nodes::seal::SealNode;
use crate::nodes::select::Select;
use crate::watch::Watch;

/// One worker's nodes, with whatever memory each has of its own.
#[derive(Debug)]
pub struct Graph {
    parse: Parse,
    reassemble: Reassemble,
    open: Open,
    decompress: Decompress,
    gather: Gather,
    flow: Flow,
    classify: Classify,
    policy: Policy,
    select: Select,
    route: Route,
    join: Join,
    icmp: Icmp,
    mss: Mss,
    fragment: Fragment,
    compress: Compress,
    seal: SealNode,
    outer_fragment: OuterFragment,
    rewrite: Rewrite,
    offload: Offload,
    emit: Emit,
}

macro_rules! walk {
    ($look:expr, $self:ident, $cx:ident, $batch:ident: $($node:ident)*) => {
        $(if $batch.is_empty() { return; }
        $look.node(&mut $self.$node, $cx, $batch);)*
    };
}

/// Runs the nodes of a walk, one after the other.
pub trait Look {
    fn node<N: Node>(&mut self, node: &mut N, cx: &mut Cx<'_>, batch: &mut Batch);
}

/// Nobody looks.
struct Unwatched;

impl Look for Unwatched {
    #[inline(always)]
    fn node<N: Node>(&mut self, node: &mut N, cx: &mut Cx<'_>, batch: &mut Batch) {
        node.run(cx, batch);
    }
}

/// Somebody looks at what nodes do with packets.
struct Watched;

impl Look for Watched {
    #[cold]
    #[inline(never)]
    fn node<N: Node>(&mut self, node: &mut N, cx: &mut Cx<'_>, batch: &mut Batch) {
        watching(cx, |watch, cx| watch.enter(cx, N::NAME, batch));
        node.run(cx, batch);
        watching(cx, |watch, cx| watch.left(cx, batch));
    }
}

fn watching(cx: &mut Cx<'_>, look: impl FnOnce(&mut Watch, &Cx<'_>)) {
    if let Some(watch) = cx.watch.take() {
        look(watch, cx);
        cx.watch = Some(watch);
    }
}

impl Graph {
    /// `frames`: how many the worker has, which bounds how many fragments may wait.
    pub fn new(frames: u32) -> Self {
        Self {
            parse: Parse,
            reassemble: Reassemble::new(frames),
            open: Open,
            decompress: Decompress::default(),
            gather: Gather::new(frames),
            flow: Flow::default(),
            classify: Classify,
            policy: Policy,
            select: Select,
            route: Route,
            join: Join::new(frames / 4),
            icmp: Icmp,
            mss: Mss,
            fragment: Fragment::default(),
            compress: Compress::default(),
            seal: SealNode,
            outer_fragment: OuterFragment::default(),
            rewrite: Rewrite,
            offload: Offload,
            emit: Emit,
        }
    }

    /// Where fragments wait for the rest of their datagram.
    pub fn waiting(&mut self) -> [&mut Waiting; 3] {
        [self.reassemble.waiting(), self.gather.waiting(), self.join.waiting()]
    }

    /// Takes the batch from the receive ring to the transmit lists; the batch is empty afterwards.
    pub fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        if cx.watch.is_some() {
            watching(cx, |watch, cx| watch.begin(cx, batch));
            self.come_in(cx, batch, &mut Watched);
            watching(cx, |watch, _| watch.finish());
        } else {
            self.come_in(cx, batch, &mut Unwatched);
        }
    }

    /// As [`Self::run`], by way of `look`: for benches.
    pub fn run_with<L: Look>(&mut self, cx: &mut Cx<'_>, batch: &mut Batch, look: &mut L) {
        self.come_in(cx, batch, look);
    }

    /// `parse` alone: for benches.
    pub fn parse(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        walk!(Unwatched, self, cx, batch: parse);
    }

    /// `flow` and `classify` alone: for benches.
    pub fn understand(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        walk!(Unwatched, self, cx, batch: flow classify);
    }

    /// Takes packets up again that had waited for their next hop or their peer.
    pub fn resume(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        for packet in &mut batch.packets {
            packet.meta.fate = Fate::Go;
            cx.seen.to_seal |= packet.meta.tunnel_out != NONE;
            cx.seen.to_compress |= packet.meta.compress;
        }
        watching(cx, |watch, cx| watch.enter(cx, "relay", batch));
        relay::again(cx, batch);
        if cx.watch.is_some() {
            self.go_out(cx, batch, &mut Watched);
            watching(cx, |watch, _| watch.finish());
        } else {
            self.go_out(cx, batch, &mut Unwatched);
        }
    }

    fn come_in<L: Look>(&mut self, cx: &mut Cx<'_>, batch: &mut Batch, look: &mut L) {
        walk!(look, self, cx, batch: parse reassemble open decompress gather flow classify policy);
        self.go_out(cx, batch, look);
    }

    fn go_out<L: Look>(&mut self, cx: &mut Cx<'_>, batch: &mut Batch, look: &mut L) {
        walk!(look, self, cx, batch: select route join icmp mss fragment compress seal outer_fragment rewrite offload emit);
    }
}
