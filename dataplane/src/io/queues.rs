//! The four rings of a port without the system calls: receive, send, complete, refill. Runs over the kernel's rings and
//! over plain memory alike, so that a made-up kernel can drive it in tests.

use super::frame::Frame;
use super::pool::{FramePool, MAX_PARTS, PortId};
use super::port::{PortStats, Rings, SHORTEST};
use super::ring::Producer;
use super::socket::{CONTD, Desc, Ends};

/// Free chunks that refilling leaves in the pool, for packets the graph makes itself.
const RESERVE: usize = 32;

pub(super) struct Queues {
    pub(super) ends: Ends,
    pub(super) id: PortId,
    pub(super) stats: PortStats,
    /// Whether chains may be sent.
    multi_buffer: bool,
    /// Chunks to keep with the kernel, and how many must be missing before it is worth a refill.
    fill_target: u32,
    fill_step: u32,
    /// First parts of a packet whose last one has not come yet.
    partial: Option<Frame>,
    partial_parts: usize,
    /// In the middle of a packet that is thrown away.
    skipping: bool,
}

impl Queues {
    pub(super) fn new(ends: Ends, id: PortId, fill_target: u32, multi_buffer: bool) -> Self {
        Self {
            ends,
            id,
            stats: PortStats::default(),
            multi_buffer,
            fill_target,
            fill_step: (fill_target / 4).clamp(1, 64),
            partial: None,
            partial_parts: 0,
            skipping: false,
        }
    }

    /// Appends up to `max` packets to `out`, never beyond its capacity. `None` where the ring was empty.
    #[inline]
    pub(super) fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> Option<usize> {
        let max = max.min(out.capacity() - out.len());
        let before = out.len();
        let mut bytes = 0;
        while out.len() - before < max {
            let Some(desc) = self.ends.rx.take() else { break };
            let last = desc.options & CONTD == 0;
            if last && self.partial.is_none() && !self.skipping && pool.take_back(self.id, desc.addr, desc.len) {
                // Made where it stays: a token that is made and then moved stalls the load of what was just stored.
                bytes += desc.len as usize;
                out.push(pool.token_at(desc.addr, desc.len));
                continue;
            }
            let part = pool.received(self.id, desc.addr, desc.len);
            if let Some(packet) = self.chain(pool, part, last) {
                bytes += packet.total_len();
                out.push(packet);
            }
        }
        let n = out.len() - before;
        if self.ends.rx.release() == 0 {
            return None;
        }
        self.stats.rx_packets += n as u64;
        self.stats.rx_bytes += bytes as u64;
        Some(n)
    }

    /// Adds a part; returns the packet when it was the last one. A part that made no sense spoils its packet.
    #[cold]
    fn chain(&mut self, pool: &mut FramePool, part: Option<Frame>, last: bool) -> Option<Frame> {
        self.stats.rx_bad += u64::from(part.is_none());
        let spoilt = part.is_none() || self.skipping || self.partial_parts == MAX_PARTS;
        if spoilt {
            self.stats.rx_truncated += u64::from(part.is_some() && !self.skipping);
            self.skipping = !last;
            self.partial_parts = 0;
            part.into_iter().chain(self.partial.take()).for_each(|f| pool.free(f));
            return None;
        }
        let mut head = part?;
        if let Some(mut first) = self.partial.take() {
            pool.append(&mut first, head);
            head = first;
        }
        self.partial_parts += 1;
        if !last {
            self.partial = Some(head);
            return None;
        }
        self.partial_parts = 0;
        self.stats.rx_chains += 1;
        Some(head)
    }

    /// Writes packets from the front of `frames` into the transmit ring: see [`super::xdp::XdpPort::tx_burst`].
    #[inline]
    pub(super) fn send(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        if frames.is_empty() {
            return 0;
        }
        let mut room = self.ends.tx.room(self.ends.tx.size()) as usize;
        let mut fit = 0;
        for frame in frames.iter() {
            let parts = if frame.is_chain() { pool.part_count(frame).min(MAX_PARTS) } else { 1 };
            if parts > room {
                break;
            }
            room -= parts;
            fit += 1;
        }
        let mut bytes = 0;
        let mut bad = 0;
        let base = pool.umem().base().as_ptr() as u64;
        for frame in frames.drain(..fit) {
            let len = frame.total_len();
            if frame.is_chain() {
                if self.put_chain(pool, frame) {
                    bytes += len;
                } else {
                    bad += 1;
                }
            } else if len < SHORTEST {
                pool.free(frame);
                bad += 1;
            } else {
                let addr = frame.chunk_ptr() as u64 - base + frame.offset() as u64;
                if self.ends.tx.put(Desc { addr, len: len as u32, options: 0 }) {
                    pool.lend_to_tx(self.id, frame.into_index());
                    bytes += len;
                } else {
                    pool.free(frame);
                    bad += 1;
                }
            }
        }
        self.ends.tx.commit();
        self.stats.tx_packets += (fit - bad) as u64;
        self.stats.tx_bytes += bytes as u64;
        self.stats.tx_bad += bad as u64;
        fit
    }

    /// Writes a chain's descriptors. `false` (freed) where it cannot be sent.
    #[cold]
    fn put_chain(&mut self, pool: &mut FramePool, frame: Frame) -> bool {
        let mut parts = [(0u32, 0u32, 0u32); MAX_PARTS];
        let mut n = 0;
        let mut good = self.multi_buffer && frame.total_len() >= SHORTEST;
        for part in pool.places(&frame) {
            // The kernel skips an empty descriptor without ever completing it.
            good &= n < MAX_PARTS && part.2 > 0;
            if !good {
                break;
            }
            parts[n] = part;
            n += 1;
        }
        if !good || (self.ends.tx.room(n as u32) as usize) < n {
            pool.free(frame);
            return false;
        }
        frame.into_index();
        let size = u64::from(pool.chunk_size());
        for (i, (index, off, len)) in parts.iter().take(n).copied().enumerate() {
            let options = if i + 1 < n { CONTD } else { 0 };
            // Room was checked above for all parts.
            let put = self.ends.tx.put(Desc { addr: u64::from(index) * size + u64::from(off), len, options });
            debug_assert!(put);
            pool.lend_to_tx(self.id, index);
        }
        self.stats.tx_chains += 1;
        true
    }

    /// Takes completed chunks back.
    pub(super) fn complete(&mut self, pool: &mut FramePool) {
        let mut bad = 0;
        while let Some(addr) = self.ends.completion.take() {
            bad += u64::from(!pool.completed(self.id, addr));
        }
        self.stats.tx_bad += bad;
        self.stats.completions += u64::from(self.ends.completion.release());
    }

    /// Completes and, where enough is missing, refills. Returns whether the kernel got new chunks to receive into.
    #[inline]
    pub(super) fn reap(&mut self, pool: &mut FramePool) -> bool {
        let held = pool.held(self.id);
        let missing = self.fill_target.saturating_sub(held.fill);
        if held.tx > 0 {
            self.complete(pool);
        }
        missing >= self.fill_step && self.refill(pool, missing)
    }

    fn refill(&mut self, pool: &mut FramePool, missing: u32) -> bool {
        let spare = pool.available().saturating_sub(RESERVE).min(missing as usize) as u32;
        self.stats.fill_short += u64::from(spare < missing);
        lend(pool, self.id, &mut self.ends.fill, spare) > 0
    }

    /// How the chunks that this port holds are spread over its rings just now.
    pub(super) fn rings(&self, pool: &FramePool) -> Rings {
        let held = pool.held(self.id);
        let fill = self.ends.fill.unconsumed();
        let rx = self.ends.rx.waiting();
        let completion = self.ends.completion.waiting();
        Rings {
            fill,
            kernel_rx: held.fill.saturating_sub(fill + rx),
            rx,
            tx: held.tx.saturating_sub(completion),
            completion,
        }
    }

    /// Gives up a packet that came in part.
    pub(super) fn drop_partial(&mut self, pool: &mut FramePool) {
        if let Some(frame) = self.partial.take() {
            pool.free(frame);
        }
    }
}

/// Puts up to `want` free chunks into a fill ring. Returns how many.
pub(super) fn lend(pool: &mut FramePool, id: PortId, ring: &mut Producer<u64>, want: u32) -> u32 {
    for _ in 0..want.min(ring.room(want)) {
        let Some(addr) = pool.lend_to_fill(id) else { break };
        // Room was checked above.
        let put = ring.put(addr);
        debug_assert!(put);
    }
    ring.commit()
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
