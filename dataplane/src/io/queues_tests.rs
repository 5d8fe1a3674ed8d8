//! A made-up kernel at the other ends of the rings: does what a kernel does in any order, and sometimes what none should.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::io::ring::{Consumer, heap};
use crate::io::umem::Umem;
use proptest::prelude::*;

struct Kernel {
    rx: Producer<Desc>,
    tx: Consumer<Desc>,
    fill: Consumer<u64>,
    completion: Producer<u64>,
    /// Sent, not completed.
    sent: Vec<u64>,
}

fn port(pool: &mut FramePool, name: &str, ring: u32, target: u32) -> (Queues, Kernel) {
    let start = u32::MAX - 5;
    let (rx, my_rx) = heap(ring, start);
    let (my_tx, tx) = heap(ring, start);
    let (my_fill, fill) = heap(ring * 2, start);
    let (completion, my_completion) = heap(ring * 2, start);
    let ends = Ends { rx: my_rx, tx: my_tx, fill: my_fill, completion: my_completion };
    let id = pool.register(name).unwrap();
    let mut queues = Queues::new(ends, id, target, true);
    queues.reap(pool);
    (queues, Kernel { rx, tx, fill, completion, sent: Vec::new() })
}

impl Kernel {
    /// Receives a packet in `parts` chunks of `len` bytes. `false` where chunks or room are lacking.
    fn deliver(&mut self, parts: u32, len: u32) -> bool {
        if self.fill.ready(parts) < parts || self.rx.room(parts) < parts {
            return false;
        }
        for i in 0..parts {
            let addr = self.fill.take().unwrap() + 256;
            assert!(self.rx.put(Desc { addr, len, options: if i + 1 < parts { CONTD } else { 0 } }));
        }
        self.fill.release();
        self.rx.commit();
        true
    }

    /// Takes up to `n` descriptors to send. Returns the packets' part counts.
    fn transmit(&mut self, n: usize) -> Vec<u32> {
        let (mut packets, mut parts) = (Vec::new(), 0);
        for _ in 0..n {
            let Some(desc) = self.tx.take() else { break };
            assert!(desc.len > 0 && desc.addr % 2048 + u64::from(desc.len) <= 2048, "the kernel would refuse {desc:?}");
            self.sent.push(desc.addr);
            parts += 1;
            if desc.options & CONTD == 0 {
                packets.push(std::mem::take(&mut parts));
            }
        }
        self.tx.release();
        packets
    }

    /// Completes up to `n`, as far as there is room (a kernel reserves it before it takes a descriptor).
    fn finish(&mut self, n: usize) {
        let n = n.min(self.sent.len()).min(self.completion.room(u32::MAX) as usize);
        for addr in self.sent.drain(..n) {
            assert!(self.completion.put(addr));
        }
        self.completion.commit();
    }
}

#[test]
fn a_bad_descriptor_spoils_its_packet_and_no_other() {
    let mut pool = FramePool::new(Umem::heap(128, 2048).unwrap());
    let (mut q, mut k) = port(&mut pool, "a", 64, 64);
    let mut out = Vec::with_capacity(64);
    let chunk = |k: &mut Kernel| k.fill.take().unwrap() + 256;
    // First and third parts are good, the second one is a chunk we never lent.
    let (first, third, next) = (chunk(&mut k), chunk(&mut k), chunk(&mut k));
    k.fill.release();
    for (addr, options) in [(first, CONTD), (127 * 2048, CONTD), (third, 0), (next, 0)] {
        assert!(k.rx.put(Desc { addr, len: 100, options }));
    }
    k.rx.commit();
    assert_eq!(q.receive(&mut pool, &mut out, 64), Some(1));
    assert_eq!((out[0].index(), out[0].is_chain()), ((next / 2048) as u32, false));
    assert_eq!((q.stats.rx_bad, q.stats.rx_packets, pool.refused()), (1, 1, 1));
    out.drain(..).for_each(|f| pool.free(f));
    assert!(pool.account().balanced() && pool.account().out == 0);
}

#[test]
fn a_chain_goes_whole_or_not_at_all() {
    let mut pool = FramePool::new(Umem::heap(128, 2048).unwrap());
    let (mut q, mut k) = port(&mut pool, "a", 4, 1);
    let mut frames: Vec<Frame> = [60, 5000, 60].iter().map(|n| pool.scatter(&vec![1; *n]).unwrap()).collect();
    assert_eq!(q.send(&mut pool, &mut frames), 2, "one and three parts fill the ring");
    assert_eq!(q.send(&mut pool, &mut frames), 0);
    assert_eq!(k.transmit(2), [1]);
    let chain = pool.scatter(&[2; 5000]).unwrap();
    frames.insert(0, chain);
    assert_eq!(q.send(&mut pool, &mut frames), 0, "two places for three parts; the short one must not overtake");
    assert_eq!(k.transmit(2), [2], "the rest of the first chain");
    assert_eq!(q.send(&mut pool, &mut frames), 2);
    k.finish(9);
    q.complete(&mut pool);
    assert_eq!((q.stats.tx_packets, q.stats.tx_chains, q.stats.tx_bad), (4, 2, 0));
    assert!(pool.account().balanced());
}

#[test]
fn what_cannot_be_sent_does_not_block_the_ring() {
    let mut pool = FramePool::new(Umem::heap(128, 2048).unwrap());
    let (mut q, _k) = port(&mut pool, "a", 64, 1);
    let mut frames: Vec<Frame> = [0, 13, 14].iter().map(|n| pool.scatter(&vec![1; *n]).unwrap()).collect();
    let mut hollow = pool.scatter(&[1; 4000]).unwrap();
    let len = hollow.len();
    assert!(hollow.trim_front(len));
    frames.insert(0, hollow);
    assert_eq!(q.send(&mut pool, &mut frames), 4);
    assert_eq!((q.stats.tx_bad, q.stats.tx_packets, q.stats.tx_bytes), (3, 1, 14));
    assert!(pool.account().balanced());
    assert_eq!((pool.account().out, pool.held(q.id).tx), (0, 1));
    let mut q = Queues { multi_buffer: false, ..q };
    let mut frames = vec![pool.scatter(&[1; 4000]).unwrap()];
    assert_eq!(q.send(&mut pool, &mut frames), 1);
    assert_eq!(q.stats.tx_bad, 4);
}

#[derive(Debug, Clone)]
enum Step {
    Deliver(u32, u32),
    Receive(usize),
    Send(usize),
    Transmit(usize),
    Finish(usize),
    Reap,
    Drop(usize),
    /// Descriptors that no kernel should produce.
    Nonsense(u64, u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..4, 14u32..1792).prop_map(|(p, l)| Step::Deliver(p, l)),
        1 => (17u32..21, 60u32..61).prop_map(|(p, l)| Step::Deliver(p, l)),
        4 => (1usize..9).prop_map(Step::Receive),
        4 => (0usize..9).prop_map(Step::Send),
        3 => (1usize..9).prop_map(Step::Transmit),
        3 => (1usize..9).prop_map(Step::Finish),
        3 => Just(Step::Reap),
        1 => (0usize..4).prop_map(Step::Drop),
        1 => (any::<u64>(), any::<u32>(), 0u32..2).prop_map(|(a, l, o)| Step::Nonsense(a % (300 * 2048), l, o)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Packets from port a to port b under any order of events: the account always balances, what is sent was received,
    /// in order and whole, and in the end every chunk is back.
    #[test]
    fn the_account_balances_whatever_the_kernel_does(steps in prop::collection::vec(step(), 0..300)) {
        let mut pool = FramePool::new(Umem::heap(256, 2048).unwrap());
        let (mut a, mut ka) = port(&mut pool, "a", 32, 48);
        let (mut b, mut kb) = port(&mut pool, "b", 16, 8);
        let mut graph: Vec<Frame> = Vec::with_capacity(256);
        let (mut delivered, mut forwarded) = (Vec::new(), Vec::new());
        let mut nonsense = 0;
        for s in steps {
            match s {
                Step::Deliver(parts, len) => {
                    if ka.deliver(parts, len) {
                        delivered.push(parts);
                    }
                }
                Step::Receive(n) => {
                    let got = a.receive(&mut pool, &mut graph, n).unwrap_or(0);
                    prop_assert!(got <= n);
                }
                Step::Send(n) => {
                    let mut batch: Vec<Frame> = graph.drain(..n.min(graph.len())).collect();
                    forwarded.extend(batch.iter().map(|f| pool.part_count(f) as u32));
                    b.send(&mut pool, &mut batch);
                    forwarded.truncate(forwarded.len() - batch.len());
                    batch.append(&mut graph);
                    graph.extend(batch);
                }
                Step::Transmit(n) => {
                    kb.transmit(n);
                }
                Step::Finish(n) => kb.finish(n),
                Step::Reap => {
                    a.reap(&mut pool);
                    b.reap(&mut pool);
                }
                Step::Drop(n) => graph.drain(..n.min(graph.len())).for_each(|f| pool.free(f)),
                Step::Nonsense(addr, len, options) => {
                    // Chunks of port b, or none at all; and completions of what was never sent.
                    let lent_by_a = pool.held(a.id).fill > 0 && addr < 256 * 2048;
                    if !lent_by_a {
                        nonsense += u32::from(ka.rx.put(Desc { addr, len, options: 0 }));
                        ka.rx.commit();
                    } else if options == 1 {
                        nonsense += u32::from(ka.completion.put(addr));
                        ka.completion.commit();
                    }
                }
            }
            let account = pool.account();
            prop_assert!(account.balanced(), "{:?}", account);
        }
        // Sends come out whole: drain everything and compare what was seen with what was accepted.
        prop_assert!(forwarded.len() <= delivered.len());
        prop_assert_eq!(b.stats.tx_packets as usize, forwarded.len());
        graph.drain(..).for_each(|f| pool.free(f));
        kb.transmit(usize::MAX);
        while !kb.sent.is_empty() {
            kb.finish(usize::MAX);
            b.complete(&mut pool);
        }
        a.complete(&mut pool);
        b.complete(&mut pool);
        a.drop_partial(&mut pool);
        prop_assert_eq!(pool.held(b.id).tx, 0);
        prop_assert!(u64::from(nonsense) >= pool.refused());
        pool.reclaim(a.id);
        pool.reclaim(b.id);
        prop_assert!(pool.account().all_free());
    }
}
