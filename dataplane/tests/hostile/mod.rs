//! A worker in memory with connections that were there before, and an account of every packet that is put in.
#![allow(dead_code, clippy::unwrap_used)]

use softdpu::config;
use softdpu::flow::{Direction, Flow, FlowIdx, Tick};
use softdpu::graph::DropReason;
use softdpu::l7::{Class, Reason};
use softdpu::worker::harness::Harness;
use softdpu_ebpf_common::walk::walk;
use softdpu_testbed::packet::{ACK, Ends, SYN, frame, tcp};

use crate::counting;

/// Connections that an attack must leave alone.
const OLD: u16 = 64;
/// Frames put on the wire before each settling.
const TURN: usize = 512;
const SERVER: [u8; 4] = [10, 2, 0, 2];

const POLICY: &str = r#"
[workers]
count = 1
frames = 2048

[flows]
capacity = 8192

[[port]]
name = "near"
kind = "loopback"
loop_to = "far"

[[port]]
name = "far"
kind = "loopback"
loop_to = "near"

[[steer]]
name = "all"
action = "worker"

[[rule]]
name = "all"
action = "forward"
"#;

/// A rule over ports: fragments are held until their datagram is whole.
pub const OVER_PORTS: &str = "[[rule]]\nname = \"ports\"\nports = [9]\naction = \"drop\"\n";

pub struct Edge {
    pub h: Harness,
    /// Frames put in, and those that came out.
    sent: u64,
    came: u64,
    /// Allocations within the worker's turns.
    pub allocated: u64,
    /// Packets that each old connection has had from its client.
    old_packets: u64,
}

impl Edge {
    /// `rules`: TOML that goes before the rule that forwards everything.
    pub fn new(rules: &str) -> Self {
        let policy = POLICY.replace("[[rule]]", &format!("{rules}[[rule]]"));
        let h = Harness::new(config::parse(&policy, "hostile").unwrap()).unwrap();
        let mut edge = Self { h, sent: 0, came: 0, allocated: 0, old_packets: 0 };
        for port in 0..OLD {
            edge.open(old(port), 1000);
            let get = format!("GET / HTTP/1.1\r\nHost: old{port}.example\r\n\r\n");
            edge.put(0, [frame(&tcp(old(port), ACK, 1001, 5001, get.as_bytes()))]);
            let answer = b"HTTP/1.1 200 OK\r\nServer: old\r\nContent-Length: 0\r\n\r\n";
            edge.put(1, [frame(&tcp(old(port).back(), ACK, 5001, 1100, answer))]);
        }
        edge.old_packets = 3;
        edge.old_go_on();
        edge.allocated = 0;
        edge
    }

    /// A handshake of three segments; the client's data begin at `isn` + 1, the server's at 5001.
    pub fn open(&mut self, ends: Ends, isn: u32) {
        self.put(0, [frame(&tcp(ends, SYN, isn, 0, &[]))]);
        self.put(1, [frame(&tcp(ends.back(), SYN | ACK, 5000, isn + 1, &[]))]);
        self.put(0, [frame(&tcp(ends, ACK, isn + 1, 5001, &[]))]);
    }

    /// Puts frames in at a port, and gives how many came out at the other.
    pub fn put(&mut self, port: usize, frames: impl IntoIterator<Item = Vec<u8>>) -> u64 {
        self.pass(port, frames, |_| ())
    }

    /// The same; `see` gets what comes out.
    pub fn pass(
        &mut self,
        port: usize,
        frames: impl IntoIterator<Item = Vec<u8>>,
        mut see: impl FnMut(Vec<u8>),
    ) -> u64 {
        let before = self.came;
        let mut frames = frames.into_iter().peekable();
        while frames.peek().is_some() {
            for f in frames.by_ref().take(TURN) {
                assert!(self.h.send(port, &f), "the wire is full");
                self.sent += 1;
            }
            let allocated = counting::allocations();
            self.h.settle();
            self.allocated += counting::allocations() - allocated;
            while let Some(out) = self.h.receive(1 - port) {
                self.came += 1;
                see(out);
            }
        }
        self.came - before
    }

    pub fn wait(&mut self, seconds: u64) {
        self.h.wait(seconds * 1_000_000_000);
    }

    pub fn find(&mut self, ends: Ends) -> Option<FlowIdx> {
        let frame = frame(&tcp(ends, ACK, 1, 1, &[]));
        let p = self.h.worker.flows.prepare(&walk(&frame[..]).unwrap(), &frame, Tick(0)).unwrap();
        self.h.worker.flows.lookup(&p).map(|(idx, _)| idx)
    }

    pub fn flow(&mut self, ends: Ends) -> &Flow {
        let idx = self.find(ends).expect("the flow is there");
        self.h.worker.flows.get(idx)
    }

    /// Class and host of a TCP flow.
    pub fn told(&mut self, ends: Ends) -> (Class, Option<String>) {
        let idx = self.find(ends).expect("the flow is there");
        let worker = &self.h.worker;
        let flow = worker.flows.get(idx);
        (flow.class(), worker.inspector.host_of(flow).map(str::to_owned))
    }

    /// Class and host of all flows that have `port` at an end.
    pub fn all_told(&self, port: u16) -> Vec<(Class, Option<String>)> {
        let worker = &self.h.worker;
        let at = |f: &Flow| f.initiator().port == port || f.responder().port == port;
        let told = |f: &Flow| (f.class(), worker.inspector.host_of(f).map(str::to_owned));
        worker.flows.iter().filter(|(_, f)| at(f)).map(|(_, f)| told(f)).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.h.dropped(reason)
    }

    pub fn given_up(&self, reason: Reason) -> u64 {
        self.h.worker.inspector.given_up(reason)
    }

    pub fn cut_short(&self, reason: Reason) -> u64 {
        self.h.worker.inspector.cut_short(reason)
    }

    /// Flows that stay unknown or were read in part, whatever the bound.
    pub fn refused(&self) -> u64 {
        Reason::ALL.iter().map(|r| self.given_up(*r) + self.cut_short(*r)).sum()
    }

    /// A packet each way on every old connection: each comes out as it went in, and all are known as what they are.
    pub fn old_go_on(&mut self) {
        for port in 0..OLD {
            for (side, ends) in [(0, old(port)), (1, old(port).back())] {
                let packet = tcp(ends, ACK, if side == 0 { 1100 } else { 5100 }, 1, b"still here");
                let mut out = Vec::new();
                self.pass(side, [frame(&packet)], |o| out.push(o));
                let [out] = out.as_slice() else { panic!("{} packets of one", out.len()) };
                assert_eq!(out[34..], packet[20..], "what is forwarded is what came");
            }
        }
        self.old_packets += 1;
        let packets = self.old_packets;
        for port in 0..OLD {
            assert_eq!(self.told(old(port)), (Class::Http, Some(format!("old{port}.example"))));
            let flow = self.flow(old(port));
            assert_eq!((flow.state().name(), flow.is_proven()), ("established", true));
            assert_eq!(flow.packets(Direction::FromInitiator), packets);
        }
    }

    /// Every packet is where it should be, no memory was asked for, and old connections live.
    pub fn assert_unharmed(&mut self) {
        self.old_go_on();
        assert_eq!(self.allocated, 0, "the packet path asked for memory");
        self.h.worker.publish();
        let c = &self.h.worker.counters;
        let drops: u64 = c.drops.iter().map(|d| d.get()).sum();
        assert_eq!(self.sent, self.came + drops + c.fragments_held.get(), "every refusal has a name");
        for reason in Reason::ALL {
            // What the inspector counts, the metrics say.
            assert_eq!(c.l7.given_up[reason as usize].get(), self.given_up(reason));
            assert_eq!(c.l7.cut_short[reason as usize].get(), self.cut_short(reason));
        }
        assert!(self.h.worker.pool.account().balanced());
    }

    /// The last of it: nothing is left behind.
    pub fn end(mut self) {
        self.assert_unharmed();
        // Everything times out: 60 days, in turns that look at a part of the table each.
        self.h.now += 60 * 86_400 * 1_000_000_000;
        for _ in 0..1000 {
            self.h.now += 10_000_000;
            self.h.worker.turn(self.h.now);
        }
        assert_eq!((self.h.worker.flows.len(), self.h.worker.inspector.pool().in_use()), (0, 0));
        self.h.assert_no_leak();
    }
}

fn old(port: u16) -> Ends {
    Ends { src: [10, 1, 0, 2], dst: SERVER, ports: (1000 + port, 80) }
}

/// Client number `n`, to a port of the server.
pub fn client(n: u32, port: u16) -> Ends {
    let [_, _, a, b] = n.to_be_bytes();
    Ends { src: [10, 3, a, b], dst: SERVER, ports: (20_000, port) }
}

/// A stream in segments of `size`, with the first byte at `isn` + 1.
pub fn segments(ends: Ends, isn: u32, stream: &[u8], size: usize) -> Vec<Vec<u8>> {
    let at = |i: usize| isn + 1 + (i * size) as u32;
    stream.chunks(size).enumerate().map(|(i, part)| frame(&tcp(ends, ACK, at(i), 5001, part))).collect()
}
