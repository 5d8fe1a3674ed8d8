//! A port that misbehaves on purpose: loses, repeats, reorders, damages and cuts packets, and refuses to send. The same
//! seed gives the same faults.

use super::error::IoError;
use super::frame::Frame;
use super::pool::FramePool;
use super::port::{PortIo, PortStats};

/// How often each fault happens, in 1/65536 per packet received (`tx_full`: per burst to be sent).
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub drop: u16,
    pub duplicate: u16,
    /// The packet is held back and comes after a later one.
    pub reorder: u16,
    /// One bit is turned over.
    pub corrupt: u16,
    pub truncate: u16,
    pub tx_full: u16,
}

/// How often each fault has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub dropped: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    pub truncated: u64,
    pub tx_refused: u64,
}

pub struct FaultPort {
    inner: PortIo,
    faults: Faults,
    counts: FaultCounts,
    random: SplitMix,
    fresh: Vec<Frame>,
    held: Option<Frame>,
}

/// Packets looked at per burst.
const BURST: usize = 256;

impl FaultPort {
    pub fn new(inner: PortIo, faults: Faults, seed: u64) -> Self {
        let fresh = Vec::with_capacity(BURST);
        Self { inner, faults, counts: FaultCounts::default(), random: SplitMix(seed), fresh, held: None }
    }

    pub fn inner(&self) -> &PortIo {
        &self.inner
    }

    pub fn counts(&self) -> &FaultCounts {
        &self.counts
    }

    pub fn exhausted(&self) -> bool {
        self.held.is_none() && self.inner.exhausted()
    }

    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = max.min(out.capacity() - out.len());
        let before = out.len();
        // Each packet may become two, and one may be held from before.
        self.inner.rx_burst(pool, &mut self.fresh, (max.saturating_sub(1) / 2).min(BURST));
        if self.fresh.is_empty() && max > 0 {
            out.extend(self.held.take());
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        for mut frame in fresh.drain(..) {
            if self.hit(self.faults.drop) {
                self.counts.dropped += 1;
                pool.free(frame);
                continue;
            }
            if self.hit(self.faults.corrupt) && !frame.is_empty() {
                self.counts.corrupted += 1;
                let (at, bit) = (self.random.below(frame.len()), self.random.below(8));
                frame.bytes_mut()[at] ^= 1 << bit;
            }
            if self.hit(self.faults.truncate) {
                self.counts.truncated += 1;
                if let Some(rest) = pool.split_off(&mut frame) {
                    pool.free(rest);
                }
                let len = self.random.below(frame.len() + 1);
                let cut = frame.truncate(len);
                debug_assert!(cut);
            }
            if self.hit(self.faults.duplicate)
                && let Some(copy) = copy(pool, &frame)
            {
                self.counts.duplicated += 1;
                out.push(copy);
            }
            if self.held.is_none() && self.hit(self.faults.reorder) {
                self.counts.reordered += 1;
                self.held = Some(frame);
                continue;
            }
            out.push(frame);
            out.extend(self.held.take());
        }
        self.fresh = fresh;
        out.len() - before
    }

    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        if !frames.is_empty() && self.hit(self.faults.tx_full) {
            self.counts.tx_refused += 1;
            return 0;
        }
        self.inner.tx_burst(pool, frames)
    }

    pub fn flush(&mut self, pool: &mut FramePool) {
        self.inner.flush(pool);
    }

    pub fn reap(&mut self, pool: &mut FramePool) {
        self.inner.reap(pool);
    }

    /// The inner port's: what it did, before the faults.
    pub fn stats(&self) -> &PortStats {
        self.inner.stats()
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        self.inner.stats_mut()
    }

    pub fn close(mut self, pool: &mut FramePool) -> Result<(), IoError> {
        if let Some(frame) = self.held.take() {
            pool.free(frame);
        }
        self.inner.close(pool)
    }

    fn hit(&mut self, rate: u16) -> bool {
        rate > 0 && self.random.below(1 << 16) < rate as usize
    }
}

fn copy(pool: &mut FramePool, frame: &Frame) -> Option<Frame> {
    let mut flat = vec![0; frame.total_len()];
    pool.linearise(frame, &mut flat)?;
    pool.scatter(&flat)
}

/// Vigna's SplitMix64: small, seedable, good enough to choose faults.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number under `n` (n > 0).
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::io::loopback::{LoopbackPort, Wire};
    use crate::io::umem::Umem;

    /// What comes out of 2,000 numbered packets.
    fn run(faults: Faults, seed: u64) -> (Vec<Vec<u8>>, FaultCounts) {
        let mut pool = FramePool::new(Umem::heap(256, 2048).unwrap());
        let wire = Wire::new(64);
        let port = PortIo::Loopback(LoopbackPort::new(wire.clone(), Wire::new(1)));
        let mut port = FaultPort::new(port, faults, seed);
        let (mut got, mut out, mut sent) = (Vec::new(), Vec::with_capacity(64), 0u32);
        loop {
            while sent < 2000 && wire.push(&sent.to_be_bytes().repeat(16)) {
                sent += 1;
            }
            if port.rx_burst(&mut pool, &mut out, 32) == 0 && sent == 2000 && wire.is_empty() {
                break;
            }
            assert!(out.len() <= 32);
            for frame in out.drain(..) {
                got.push(frame.bytes().to_vec());
                pool.free(frame);
            }
        }
        let counts = *port.counts();
        port.close(&mut pool).unwrap();
        pool.assert_no_leak();
        (got, counts)
    }

    #[test]
    fn without_faults_nothing_changes() {
        let (got, counts) = run(Faults::default(), 1);
        assert_eq!(counts, FaultCounts::default());
        assert!(got.iter().enumerate().all(|(i, p)| *p == (i as u32).to_be_bytes().repeat(16)));
        assert_eq!(got.len(), 2000);
    }

    #[test]
    fn every_fault_happens_is_counted_and_repeats_with_the_seed() {
        let rate = 6554;
        let faults =
            Faults { drop: rate, duplicate: rate, reorder: rate, corrupt: rate, truncate: rate, tx_full: rate };
        let (got, c) = run(faults, 7);
        for n in [c.dropped, c.duplicated, c.reordered, c.corrupted, c.truncated] {
            assert!((100..300).contains(&n), "{c:?}");
        }
        assert_eq!(got.len() as u64, 2000 - c.dropped + c.duplicated);
        assert_eq!(run(faults, 7), (got.clone(), c));
        assert_ne!(run(faults, 8).0, got);
    }

    #[test]
    fn a_port_that_refuses_keeps_the_frames_with_the_caller() {
        let mut pool = FramePool::new(Umem::heap(4, 2048).unwrap());
        let port = PortIo::Loopback(LoopbackPort::new(Wire::new(1), Wire::new(4)));
        let faults = Faults { tx_full: u16::MAX, ..Faults::default() };
        let mut port = PortIo::Fault(Box::new(FaultPort::new(port, faults, 1)));
        let mut frames = vec![pool.scatter(&[1; 60]).unwrap()];
        assert_eq!((port.tx_burst(&mut pool, &mut frames), frames.len()), (0, 1));
        assert_eq!(port.send(&mut pool, &mut frames), 1);
        assert_eq!(port.stats().tx_full, 1);
        port.close(&mut pool).unwrap();
        pool.assert_no_leak();
    }
}
