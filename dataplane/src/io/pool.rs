//! One worker's frames: the free ones, the chains, and the account of where each chunk is.
//!
//! Every chunk is in exactly one place: free, out (a token exists), or with a port (given to the kernel to receive into,
//! or to send). A byte per chunk says which. It makes a chunk that the kernel names twice, or that is not that port's, a
//! counted error instead of two owners, and it finds a closed socket's chunks again.

use std::ptr::NonNull;
use std::sync::Arc;

use super::error::IoError;
use super::frame::{Frame, HEADROOM, NO_NEXT};
use super::umem::Umem;

/// Ports that one pool can serve.
pub const MAX_PORTS: usize = 120;
/// Parts that one packet may have: what one skb of the kernel holds (MAX_SKB_FRAGS + 1).
pub const MAX_PARTS: usize = 18;

const FREE: u8 = 0;
const OUT: u8 = 1;

/// A port's number in the pool's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortId(u8);

impl PortId {
    fn fill(self) -> u8 {
        2 + 2 * self.0
    }

    fn tx(self) -> u8 {
        3 + 2 * self.0
    }
}

/// A chain's further part, by chunk index. The first part's place is in its token.
#[derive(Clone, Copy)]
struct Part {
    off: u16,
    len: u16,
    next: u32,
}

/// Chunks that a port has given to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub port: String,
    /// To receive into: in the fill ring, with the driver, or in the receive ring.
    pub fill: u32,
    /// To send: in the transmit ring, with the driver, or in the completion ring.
    pub tx: u32,
}

/// Where all chunks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub total: u32,
    pub free: u32,
    /// Tokens in existence: packets in the graph.
    pub out: u32,
    pub ports: Vec<Held>,
    /// The same four counts, taken from the table of places instead of the counters.
    counted: (u32, u32, Vec<(u32, u32)>),
}

impl Account {
    /// Whether the counters add up to all chunks and agree with the table.
    pub fn balanced(&self) -> bool {
        let with_ports: u32 = self.ports.iter().map(|p| p.fill + p.tx).sum();
        self.free + self.out + with_ports == self.total
            && self.counted.0 == self.free
            && self.counted.1 == self.out
            && self.counted.2.iter().copied().eq(self.ports.iter().map(|p| (p.fill, p.tx)))
    }

    /// Whether every chunk is free: what must hold once all ports are closed.
    pub fn all_free(&self) -> bool {
        self.balanced() && self.free == self.total
    }
}

/// The pool. One per worker; not shared.
pub struct FramePool {
    umem: Arc<Umem>,
    base: NonNull<u8>,
    chunk_size: u32,
    /// Chunk size as a power of two.
    shift: u32,
    /// Last in, first out: the chunk freed last is the one still in the cache.
    free: Vec<u32>,
    place: Box<[u8]>,
    parts: Box<[Part]>,
    out: u32,
    ports: Vec<Held>,
    /// Chunks that the kernel named without owning them, and tokens of another pool. Zero unless something is broken.
    refused: u64,
}

// SAFETY: owns its region's chunks like a `Vec<Box<[u8]>>` would; the pointer is into that region.
unsafe impl Send for FramePool {}

impl FramePool {
    /// Takes the region over; all chunks are free.
    pub fn new(umem: Umem) -> Self {
        let chunks = umem.chunks();
        Self {
            base: umem.base(),
            chunk_size: umem.chunk_size(),
            shift: umem.chunk_size().trailing_zeros(),
            // Reversed, so that the first chunks are handed out first.
            free: (0..chunks).rev().collect(),
            place: vec![FREE; chunks as usize].into(),
            parts: vec![Part { off: 0, len: 0, next: NO_NEXT }; chunks as usize].into(),
            out: 0,
            ports: Vec::new(),
            refused: 0,
            umem: Arc::new(umem),
        }
    }

    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    pub fn total(&self) -> u32 {
        self.place.len() as u32
    }

    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Chunks refused because they were not where they should have been. Zero unless something is broken.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Opens a line in the account. A port that was closed gives its line to the next of the same name.
    pub fn register(&mut self, port: &str) -> Result<PortId, IoError> {
        if let Some(i) = self.ports.iter().position(|h| h.port == port && h.fill == 0 && h.tx == 0) {
            return Ok(PortId(i as u8));
        }
        if self.ports.len() == MAX_PORTS {
            return Err(IoError::TooManyPorts);
        }
        self.ports.push(Held { port: port.to_owned(), fill: 0, tx: 0 });
        Ok(PortId(self.ports.len() as u8 - 1))
    }

    /// An empty frame with [`HEADROOM`] in front. `None` where all chunks are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        Some(self.token(index, HEADROOM as u32, 0))
    }

    /// Takes a frame back, with all parts of its chain.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        if !self.owns(&frame) {
            // Another pool's: taking it would give its chunk number two owners here. Its own pool misses it and says so.
            self.refused += 1;
            frame.into_index();
            return;
        }
        let mut next = frame.next();
        self.put_back(frame.into_index());
        while next != NO_NEXT {
            let Some(part) = self.parts.get(next as usize) else { break };
            let after = part.next;
            if !self.put_back(next) {
                break;
            }
            next = after;
        }
    }

    fn put_back(&mut self, index: u32) -> bool {
        let Some(place) = self.place.get_mut(index as usize).filter(|p| **p == OUT) else {
            self.refused += 1;
            return false;
        };
        *place = FREE;
        self.out -= 1;
        self.free.push(index);
        true
    }

    /// Whether the frame is of this pool.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        (frame.index() as usize) < self.place.len() && std::ptr::eq(frame.chunk_ptr(), self.chunk(frame.index()))
    }

    #[inline]
    fn chunk(&self, index: u32) -> *mut u8 {
        self.base.as_ptr().wrapping_add((index as usize) << self.shift)
    }

    /// Makes the token of a chunk that nobody has now.
    #[inline(always)]
    fn token(&mut self, index: u32, off: u32, len: u32) -> Frame {
        self.place[index as usize] = OUT;
        self.out += 1;
        // SAFETY: the chunk is inside the region (its place byte was just written), the region outlives tokens (see
        // `Drop`), and callers took the index off the free list or out of a ring, so that no other token exists.
        unsafe { Frame::from_raw(NonNull::new_unchecked(self.chunk(index)), index, self.chunk_size, off, len) }
    }

    // --- between the pool and a port's rings ---

    /// A free chunk for a fill ring: its address in the region.
    #[inline]
    pub(super) fn lend_to_fill(&mut self, port: PortId) -> Option<u64> {
        let index = self.free.pop()?;
        self.place[index as usize] = port.fill();
        self.ports[port.0 as usize].fill += 1;
        Some(u64::from(index) << self.shift)
    }

    /// The token for a received descriptor. `None`, counted, where the chunk is not one this port lent.
    #[inline]
    pub(super) fn received(&mut self, port: PortId, addr: u64, len: u32) -> Option<Frame> {
        if !self.take_back(port, addr, len) {
            self.refused += 1;
            return None;
        }
        Some(self.token_at(addr, len))
    }

    /// Ends the loan of the chunk at `addr` to the port's fill ring. `false`, and nothing happens, where there is none, or
    /// the packet would not be inside the chunk. What follows is [`Self::token_at`].
    #[inline]
    pub(super) fn take_back(&mut self, port: PortId, addr: u64, len: u32) -> bool {
        let index = addr >> self.shift;
        let off = addr as u32 & (self.chunk_size - 1);
        let lent = self.place.get(index as usize).is_some_and(|p| *p == port.fill());
        if !lent || len > self.chunk_size - off {
            return false;
        }
        self.ports[port.0 as usize].fill -= 1;
        true
    }

    /// The token of a chunk just taken back.
    #[inline(always)]
    pub(super) fn token_at(&mut self, addr: u64, len: u32) -> Frame {
        self.token((addr >> self.shift) as u32, addr as u32 & (self.chunk_size - 1), len)
    }

    /// Hands a chunk (a token's, or a chain's part) to a transmit ring.
    #[inline]
    pub(super) fn lend_to_tx(&mut self, port: PortId, index: u32) {
        debug_assert_eq!(self.place[index as usize], OUT);
        self.place[index as usize] = port.tx();
        self.ports[port.0 as usize].tx += 1;
        self.out -= 1;
    }

    /// Takes a completed descriptor's chunk back. `false`, counted, where it is not one this port sent.
    #[inline]
    pub(super) fn completed(&mut self, port: PortId, addr: u64) -> bool {
        let index = addr >> self.shift;
        let Some(place) = self.place.get_mut(index as usize).filter(|p| **p == port.tx()) else {
            self.refused += 1;
            return false;
        };
        *place = FREE;
        self.ports[port.0 as usize].tx -= 1;
        self.free.push(index as u32);
        true
    }

    /// Takes back all that a port lent, once the kernel can touch none of it any more. Returns how many chunks.
    pub(super) fn reclaim(&mut self, port: PortId) -> u32 {
        let mut n = 0;
        for (index, place) in self.place.iter_mut().enumerate() {
            if *place == port.fill() || *place == port.tx() {
                *place = FREE;
                self.free.push(index as u32);
                n += 1;
            }
        }
        let held = &mut self.ports[port.0 as usize];
        (held.fill, held.tx) = (0, 0);
        n
    }

    /// Tokens in existence.
    pub fn out(&self) -> u32 {
        self.out
    }

    /// Chunks with the kernel to receive into, and to send.
    pub fn lent(&self) -> (u32, u32) {
        self.ports.iter().fold((0, 0), |(fill, tx), held| (fill + held.fill, tx + held.tx))
    }

    /// Whether the chunk is with that port to be sent.
    #[cfg(test)]
    pub(super) fn is_lent_to_tx(&self, port: PortId, index: u32) -> bool {
        self.place[index as usize] == port.tx()
    }

    pub fn held(&self, port: PortId) -> &Held {
        &self.ports[port.0 as usize]
    }

    // --- the account ---

    /// Where all chunks are. Walks the table of places: for telemetry and tests, not for each batch.
    pub fn account(&self) -> Account {
        let mut counts = [0u32; 256];
        for place in &self.place {
            counts[*place as usize] += 1;
        }
        let by_port = (0..self.ports.len() as u8)
            .map(|i| (counts[PortId(i).fill() as usize], counts[PortId(i).tx() as usize]))
            .collect();
        Account {
            total: self.total(),
            free: self.free.len() as u32,
            out: self.out,
            ports: self.ports.clone(),
            counted: (counts[FREE as usize], counts[OUT as usize], by_port),
        }
    }

    /// For tests: fails unless every chunk is free and nothing was refused.
    ///
    /// # Panics
    /// Where a chunk leaked.
    pub fn assert_no_leak(&self) {
        let account = self.account();
        assert!(account.all_free(), "frames leaked: {account:?}");
        assert_eq!(self.refused, 0, "chunks were refused");
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        if self.out > 0 {
            // Tokens still point into the region: it must stay.
            std::mem::forget(self.umem.clone());
        }
    }
}

/// Chains: packets longer than a chunk.
impl FramePool {
    /// Puts `rest` (a frame or a chain) behind `head`'s last part.
    pub fn append(&mut self, head: &mut Frame, rest: Frame) {
        debug_assert!(self.owns(head) && self.owns(&rest));
        let (len, next, total) = (rest.len(), rest.next(), rest.total_len());
        let part = Part { off: rest.offset() as u16, len: len as u16, next };
        let more = head.total_len() - head.len() + total;
        let index = rest.into_index();
        self.parts[index as usize] = part;
        if !head.is_chain() {
            head.set_chain(index, more as u32);
            return;
        }
        let mut tail = head.next() as usize;
        while self.parts[tail].next != NO_NEXT {
            tail = self.parts[tail].next as usize;
        }
        self.parts[tail].next = index;
        head.set_chain(head.next(), more as u32);
    }

    /// Cuts a chain behind its first part and returns the rest as a frame of its own.
    pub fn split_off(&mut self, head: &mut Frame) -> Option<Frame> {
        if !head.is_chain() {
            return None;
        }
        let (index, more) = (head.next(), (head.total_len() - head.len()) as u32);
        head.set_chain(NO_NEXT, 0);
        let part = *self.parts.get(index as usize)?;
        // The chunk is out already, as a part; it only gets a token of its own.
        self.out -= 1;
        let mut rest = self.token(index, u32::from(part.off), u32::from(part.len));
        rest.set_chain(part.next, if part.next == NO_NEXT { 0 } else { more - u32::from(part.len) });
        Some(rest)
    }

    /// Chunk index, offset and length of each part, the first included.
    #[inline]
    pub(super) fn places<'a>(&'a self, frame: &Frame) -> Places<'a> {
        Places {
            pool: self,
            index: frame.index(),
            off: frame.offset() as u32,
            len: frame.len() as u32,
            next: frame.next(),
            done: false,
        }
    }

    pub fn part_count(&self, frame: &Frame) -> usize {
        if frame.is_chain() { self.places(frame).count() } else { 1 }
    }

    /// The packet's bytes, part by part.
    pub fn parts<'a>(&'a self, frame: &'a Frame) -> impl Iterator<Item = &'a [u8]> {
        self.places(frame).map(move |(index, off, len)| {
            // SAFETY: the frame owns all chunks of its chain and is borrowed for 'a; off + len is within the chunk.
            unsafe { std::slice::from_raw_parts(self.chunk(index).add(off as usize), len as usize) }
        })
    }

    /// The same for writing.
    pub fn parts_mut<'a>(&'a mut self, frame: &'a mut Frame) -> impl Iterator<Item = &'a mut [u8]> {
        let pool = &*self;
        pool.places(frame).map(move |(index, off, len)| {
            // SAFETY: as in `parts`; the borrow is exclusive, and the parts of a chain are different chunks.
            unsafe { std::slice::from_raw_parts_mut(pool.chunk(index).add(off as usize), len as usize) }
        })
    }

    /// Copies the whole packet to the front of `to`. Returns its length; `None` (nothing copied) where `to` is shorter.
    pub fn linearise(&self, frame: &Frame, to: &mut [u8]) -> Option<usize> {
        if frame.total_len() > to.len() {
            return None;
        }
        let mut at = 0;
        for part in self.parts(frame) {
            to.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        Some(at)
    }

    /// Makes a frame, or a chain where one chunk does not hold them, of `bytes`. Each part has full headroom and
    /// tailroom. `None` (nothing taken) where too few chunks are free.
    pub fn scatter(&mut self, bytes: &[u8]) -> Option<Frame> {
        let capacity = self.umem.part_capacity();
        if self.free.len() < bytes.len().div_ceil(capacity).max(1) {
            return None;
        }
        let mut pieces = bytes.chunks(capacity);
        let mut head = self.filled(pieces.next().unwrap_or_default())?;
        let (mut tail, mut more) = (NO_NEXT, 0);
        for piece in pieces {
            let part = self.filled(piece)?;
            more += piece.len() as u32;
            let entry = Part { off: part.offset() as u16, len: part.len() as u16, next: NO_NEXT };
            let index = part.into_index();
            self.parts[index as usize] = entry;
            match tail {
                NO_NEXT => head.set_chain(index, 0),
                _ => self.parts[tail as usize].next = index,
            }
            tail = index;
        }
        head.set_chain(head.next(), more);
        Some(head)
    }

    fn filled(&mut self, bytes: &[u8]) -> Option<Frame> {
        let index = self.free.pop()?;
        let mut frame = self.token(index, HEADROOM as u32, bytes.len() as u32);
        frame.bytes_mut().copy_from_slice(bytes);
        Some(frame)
    }
}

/// See [`FramePool::places`].
pub(super) struct Places<'a> {
    pool: &'a FramePool,
    index: u32,
    off: u32,
    len: u32,
    next: u32,
    done: bool,
}

impl Iterator for Places<'_> {
    type Item = (u32, u32, u32);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let now = (self.index, self.off, self.len);
        match self.pool.parts.get(self.next as usize).filter(|_| self.next != NO_NEXT) {
            Some(part) => {
                self.index = self.next;
                (self.off, self.len, self.next) = (u32::from(part.off), u32::from(part.len), part.next);
            }
            None => self.done = true,
        }
        Some(now)
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
