//! Ports without a wire: what one sends the other receives, or a test pushes in and takes out.
//!
//! Bytes are copied, so the two ends may be on different workers with pools of their own. Buffers go round and keep their
//! capacity: once warm, nothing is allocated.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::frame::Frame;
use super::pool::FramePool;
use super::port::{PortStats, SHORTEST};

/// Bytes that a buffer has from the start, so that ordinary packets never make it grow.
const BUFFER: usize = 2048;

/// One direction: a bounded queue of packets. Clones are the same wire.
#[derive(Clone)]
pub struct Wire(Arc<WireQueues>);

struct WireQueues {
    full: ArrayQueue<Vec<u8>>,
    empty: ArrayQueue<Vec<u8>>,
}

impl Wire {
    /// A wire that holds up to `capacity` packets (at least 1).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let empty = ArrayQueue::new(capacity);
        while empty.push(Vec::with_capacity(BUFFER)).is_ok() {}
        Self(Arc::new(WireQueues { full: ArrayQueue::new(capacity), empty }))
    }

    /// Puts a packet on. `false` where the wire is full.
    pub fn push(&self, packet: &[u8]) -> bool {
        self.push_with(|buffer| buffer.extend_from_slice(packet))
    }

    fn push_with(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        // There are as many buffers as places, so holding one is holding a place.
        let Some(mut buffer) = self.0.empty.pop() else { return false };
        buffer.clear();
        write(&mut buffer);
        self.0.full.push(buffer).is_ok()
    }

    /// Takes the next packet off, for tests: allocates.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut packet = None;
        self.take_with(|bytes| packet = Some(bytes.to_vec()));
        packet
    }

    /// Shows the next packet to `read`. `false` where there is none.
    pub fn take_with(&self, read: impl FnOnce(&[u8])) -> bool {
        let Some(buffer) = self.0.full.pop() else { return false };
        read(&buffer);
        // As many places as buffers: it fits.
        let _ = self.0.empty.push(buffer);
        true
    }

    pub fn len(&self) -> usize {
        self.0.full.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.full.is_empty()
    }
}

/// A port between two wires.
pub struct LoopbackPort {
    rx: Wire,
    tx: Wire,
    stats: PortStats,
}

impl LoopbackPort {
    /// Receives from `rx`, sends into `tx`. The caller keeps clones as the other ends.
    pub fn new(rx: Wire, tx: Wire) -> Self {
        Self { rx, tx, stats: PortStats::default() }
    }

    /// Two ports that are each other's far end.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let (there, back) = (Wire::new(capacity), Wire::new(capacity));
        (Self::new(back.clone(), there.clone()), Self::new(there, back))
    }

    pub fn rx_wire(&self) -> &Wire {
        &self.rx
    }

    pub fn tx_wire(&self) -> &Wire {
        &self.tx
    }

    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = max.min(out.capacity() - out.len());
        let mut n = 0;
        while n < max {
            let mut frame = None;
            if !self.rx.take_with(|bytes| frame = pool.scatter(bytes)) {
                break;
            }
            // A packet that found no chunks is lost, as on a NIC whose ring is empty.
            let Some(frame) = frame else {
                self.stats.rx_truncated += 1;
                continue;
            };
            self.stats.rx_bytes += frame.total_len() as u64;
            self.stats.rx_chains += u64::from(frame.is_chain());
            out.push(frame);
            n += 1;
        }
        self.stats.rx_packets += n as u64;
        n
    }

    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        let mut n = 0;
        for frame in frames.iter() {
            if frame.total_len() < SHORTEST {
                self.stats.tx_bad += 1;
            } else if self.tx.push_with(|buffer| pool.parts(frame).for_each(|part| buffer.extend_from_slice(part))) {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += frame.total_len() as u64;
                self.stats.tx_chains += u64::from(frame.is_chain());
            } else {
                break;
            }
            n += 1;
        }
        for frame in frames.drain(..n) {
            pool.free(frame);
        }
        n
    }

    /// Nothing to do: packets are on the wire when `tx_burst` returns.
    pub fn flush(&mut self, _pool: &mut FramePool) {}

    /// Nothing to do: there are no rings.
    pub fn reap(&mut self, _pool: &mut FramePool) {}

    pub fn stats(&self) -> &PortStats {
        &self.stats
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        &mut self.stats
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::io::port::PortIo;
    use crate::io::umem::Umem;

    #[test]
    fn packets_cross_whole_and_in_order() {
        let mut here = FramePool::new(Umem::heap(64, 2048).unwrap());
        let mut there = FramePool::new(Umem::heap(64, 4096).unwrap());
        let (mut a, mut b) = LoopbackPort::pair(8);
        let packets: Vec<Vec<u8>> = [14, 60, 1514, 9000].iter().map(|n| (0..*n).map(|i| i as u8).collect()).collect();
        let mut frames: Vec<Frame> = packets.iter().map(|p| here.scatter(p).unwrap()).collect();
        assert!(frames[3].is_chain());
        assert_eq!(a.tx_burst(&mut here, &mut frames), 4);
        here.assert_no_leak();
        let mut got = Vec::with_capacity(8);
        assert_eq!(b.rx_burst(&mut there, &mut got, 64), 4);
        for (frame, packet) in got.iter().zip(&packets) {
            let mut flat = vec![0; packet.len()];
            assert_eq!(there.linearise(frame, &mut flat), Some(packet.len()));
            assert_eq!(&flat, packet);
        }
        assert_eq!((a.stats().tx_chains, b.stats().rx_chains), (1, 1));
        got.drain(..).for_each(|f| there.free(f));
        there.assert_no_leak();
    }

    #[test]
    fn a_full_wire_leaves_the_rest_and_send_gives_it_up() {
        let mut pool = FramePool::new(Umem::heap(8, 2048).unwrap());
        let (rx, tx) = (Wire::new(4), Wire::new(2));
        let mut port = PortIo::Loopback(LoopbackPort::new(rx, tx.clone()));
        let mut frames: Vec<Frame> = (0..5u8).map(|i| pool.scatter(&[i; 60]).unwrap()).collect();
        assert_eq!(port.tx_burst(&mut pool, &mut frames), 2);
        assert_eq!(frames[0].bytes()[0], 2, "the rest is in order");
        assert_eq!(tx.take().unwrap()[0], 0);
        assert_eq!(port.send(&mut pool, &mut frames), 2);
        assert!(frames.is_empty());
        assert_eq!((port.stats().tx_full, port.stats().tx_packets), (2, 3));
        pool.assert_no_leak();
    }

    #[test]
    fn the_output_vector_never_grows() {
        let mut pool = FramePool::new(Umem::heap(8, 2048).unwrap());
        let wire = Wire::new(4);
        let mut port = LoopbackPort::new(wire.clone(), Wire::new(1));
        (0..4).for_each(|_| assert!(wire.push(&[0; 60])));
        assert!(!wire.push(&[0; 60]), "full");
        let mut out = Vec::with_capacity(3);
        let capacity = out.capacity();
        assert_eq!(port.rx_burst(&mut pool, &mut out, 64), capacity.min(4));
        assert_eq!(out.capacity(), capacity);
        out.drain(..).for_each(|f| pool.free(f));
    }

    #[test]
    fn a_packet_without_chunks_is_counted() {
        let mut pool = FramePool::new(Umem::heap(2, 2048).unwrap());
        let wire = Wire::new(4);
        let mut port = LoopbackPort::new(wire.clone(), Wire::new(1));
        assert!(wire.push(&[0; 9000]) && wire.push(&[0; 60]));
        let mut out = Vec::with_capacity(4);
        assert_eq!(port.rx_burst(&mut pool, &mut out, 4), 1);
        assert_eq!(port.stats().rx_truncated, 1);
        out.drain(..).for_each(|f| pool.free(f));
        pool.assert_no_leak();
    }
}
