//! The first bytes of a TCP stream, or of a handshake that datagrams carry, in order: bounded per flow and in total.
//!
//! A worker has a fixed pool of buffers. A flow borrows one only while its first segment alone does not settle what it
//! is. A buffer whose flow fell silent can be taken over; the flow then notices that it is no longer the owner.
//!
//! Where segments overlap, the byte that came first stays, and a byte that differs is counted ([`Pool::conflicts`]). All
//! segments are forwarded as they came. Of data in order the receiver too has what came first: it trims a segment to what
//! is new (RFC 9293 §3.10.7.4). Of data that waits for a gap to close a receiver may take the later copy (Linux does where
//! it covers the earlier one whole), so a sender who contradicts itself there can show the two of us different bytes. No
//! honest sender does that, and the count says that somebody did.

use crate::flow::entry::NO_SLOT;
use crate::flow::{Direction, FlowIdx, Tick};
use crate::l7::Resume;

/// Bytes of a stream that are collected.
pub const CAP: usize = 16 * 1024;
/// Pieces with gaps between them that are kept track of.
pub const MAX_PIECES: usize = 16;

/// Ticks without a segment after which another flow may take a buffer over: 1 s.
const IDLE: u32 = Tick::PER_SECOND;
/// Buffers looked at for one to take over.
const LOOKS: usize = 16;

const NOBODY: u32 = u32::MAX;

/// More gaps than are kept track of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyPieces;

/// Which bytes of a buffer are there: sorted, disjoint, not touching.
#[derive(Clone, Copy, Default)]
struct Pieces {
    at: [(u16, u16); MAX_PIECES],
    n: u8,
}

impl Pieces {
    fn all(&self) -> &[(u16, u16)] {
        &self.at[..usize::from(self.n)]
    }

    /// Calls `fill` for each part of `from..to` that is missing, then notes it all as there.
    fn add(&mut self, from: u16, to: u16, mut fill: impl FnMut(u16, u16)) -> Result<(), TooManyPieces> {
        if from >= to {
            return Ok(());
        }
        let mut merged = Self::default();
        let mut new = (from, to);
        let mut put = |p: (u16, u16)| {
            let slot = merged.at.get_mut(usize::from(merged.n)).ok_or(TooManyPieces)?;
            *slot = p;
            merged.n += 1;
            Ok(())
        };
        let mut placed = false;
        for &(a, b) in self.all() {
            if b < new.0 {
                put((a, b))?;
            } else if a > new.1 {
                if !placed {
                    put(new)?;
                    placed = true;
                }
                put((a, b))?;
            } else {
                new = (new.0.min(a), new.1.max(b));
            }
        }
        if !placed {
            put(new)?;
        }
        let mut at = from;
        for &(a, b) in self.all() {
            if at < a.min(to) {
                fill(at, a.min(to));
            }
            at = at.max(b);
        }
        if at < to {
            fill(at, to);
        }
        *self = merged;
        Ok(())
    }

    /// How many bytes are there without a gap from the start.
    fn prefix(&self) -> usize {
        match self.all().first() {
            Some((0, end)) => usize::from(*end),
            _ => 0,
        }
    }
}

struct Slot {
    owner: u32,
    dir: Direction,
    /// Sequence number of the buffer's first byte; of a handshake in datagrams, which message it is.
    base: u32,
    last: Tick,
    pieces: Pieces,
    /// How far what is there has been read.
    resume: Resume,
}

pub struct Pool {
    slots: Box<[Slot]>,
    memory: Box<[u8]>,
    hand: usize,
    taken_over: u64,
    conflicts: u64,
}

impl Pool {
    /// `buffers` of [`CAP`] bytes each; at most 65,534.
    pub fn new(buffers: usize) -> Self {
        let buffers = buffers.clamp(1, usize::from(NO_SLOT) - 1);
        let slot = || Slot {
            owner: NOBODY,
            dir: Direction::FromInitiator,
            base: 0,
            last: Tick(0),
            pieces: Pieces::default(),
            resume: Resume::default(),
        };
        Self {
            slots: std::iter::repeat_with(slot).take(buffers).collect(),
            memory: vec![0; buffers * CAP].into_boxed_slice(),
            hand: 0,
            taken_over: 0,
            conflicts: 0,
        }
    }

    /// Segments that said something else than one that had come before, at the same place.
    pub fn conflicts(&self) -> u64 {
        self.conflicts
    }

    /// Buffers that silent flows lost to others.
    pub fn taken_over(&self) -> u64 {
        self.taken_over
    }

    pub fn in_use(&self) -> usize {
        self.slots.iter().filter(|s| s.owner != NOBODY).count()
    }

    /// A buffer for one direction of a flow, starting at sequence number `base`. `None` where all are busy.
    pub fn take(&mut self, owner: FlowIdx, dir: Direction, base: u32, now: Tick) -> Option<u16> {
        let n = self.slots.len();
        for _ in 0..LOOKS.min(n) {
            let at = self.hand;
            self.hand = if at + 1 == n { 0 } else { at + 1 };
            let slot = &mut self.slots[at];
            if slot.owner == NOBODY || now.since(slot.last) > IDLE {
                self.taken_over += u64::from(slot.owner != NOBODY);
                let (pieces, resume) = (Pieces::default(), Resume::default());
                *slot = Slot { owner: owner.0, dir, base, last: now, pieces, resume };
                return Some(at as u16);
            }
        }
        None
    }

    /// Direction and base of the flow's buffer; `None` where it has lost it.
    pub fn held(&self, slot: u16, owner: FlowIdx) -> Option<(Direction, u32)> {
        self.slots.get(usize::from(slot)).filter(|s| s.owner == owner.0).map(|s| (s.dir, s.base))
    }

    /// How far the buffer has been read, as [`Self::set_resume`] was told.
    pub fn resume(&self, slot: u16) -> Resume {
        self.slots.get(usize::from(slot)).map_or_else(Resume::default, |s| s.resume)
    }

    pub fn set_resume(&mut self, slot: u16, resume: Resume) {
        if let Some(s) = self.slots.get_mut(usize::from(slot)) {
            s.resume = resume;
        }
    }

    pub fn give_back(&mut self, slot: u16, owner: FlowIdx) {
        if let Some(s) = self.slots.get_mut(usize::from(slot)).filter(|s| s.owner == owner.0) {
            s.owner = NOBODY;
        }
    }

    /// Puts a segment in at `offset` bytes after the base; what lies beyond [`CAP`] is left out. Gives the bytes that
    /// are there from the base on.
    ///
    /// # Errors
    /// [`TooManyPieces`]; the buffer stays as it was.
    pub fn insert(&mut self, slot: u16, offset: usize, data: &[u8], now: Tick) -> Result<&[u8], TooManyPieces> {
        let at = usize::from(slot);
        let Some(s) = self.slots.get_mut(at) else { return Ok(&[]) };
        let buffer = &mut self.memory[at * CAP..(at + 1) * CAP];
        s.last = now;
        if offset < CAP {
            let end = (offset + data.len()).min(CAP);
            let differs = s.pieces.all().iter().any(|&(a, b)| {
                let (a, b) = (usize::from(a).max(offset), usize::from(b).min(end));
                a < b && buffer[a..b] != data[a - offset..b - offset]
            });
            self.conflicts += u64::from(differs);
            s.pieces.add(offset as u16, end as u16, |a, b| {
                let (a, b) = (usize::from(a), usize::from(b));
                buffer[a..b].copy_from_slice(&data[a - offset..b - offset]);
            })?;
        }
        Ok(&buffer[..s.pieces.prefix()])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const ME: FlowIdx = FlowIdx(1);

    proptest! {
        /// Any segments, overlapping and out of order, with different bytes in each: every byte is the one that came
        /// first, and the prefix ends at the first gap.
        #[test]
        fn first_data_wins(segments in proptest::collection::vec((0usize..300, 0usize..80), 1..40)) {
            let mut pool = Pool::new(2);
            let slot = pool.take(ME, Direction::FromInitiator, 0, Tick(0)).unwrap();
            let mut model = [None; 400];
            for (i, (off, len)) in segments.into_iter().enumerate() {
                let data = vec![i as u8; len];
                let pieces = |m: &[Option<u8>]| {
                    m.iter().zip(std::iter::once(&None).chain(m)).filter(|(a, b)| a.is_some() && b.is_none()).count()
                };
                let mut next = model;
                for b in &mut next[off..off + len] {
                    b.get_or_insert(i as u8);
                }
                match pool.insert(slot, off, &data, Tick(0)) {
                    Ok(prefix) => {
                        model = next;
                        let want: Vec<u8> = model.iter().map_while(|b| *b).collect();
                        prop_assert_eq!(prefix, &want[..]);
                    }
                    Err(TooManyPieces) => prop_assert!(pieces(&next) > MAX_PIECES),
                }
                prop_assert!(pieces(&model) <= MAX_PIECES);
            }
        }
    }

    #[test]
    fn a_contradiction_is_counted_and_a_repetition_is_not() {
        let mut pool = Pool::new(1);
        let slot = pool.take(ME, Direction::FromInitiator, 0, Tick(0)).unwrap();
        for (offset, data, conflicts) in
            [(4, &b"efgh"[..], 0), (2, b"cdef", 0), (6, b"GH", 1), (0, b"abcdefgh", 1), (0, b"abcdefgH", 2)]
        {
            pool.insert(slot, offset, data, Tick(0)).unwrap();
            assert_eq!(pool.conflicts(), conflicts, "{offset}");
        }
        assert_eq!(pool.insert(slot, 0, b"", Tick(0)).unwrap(), b"abcdefgh");
    }

    #[test]
    fn nothing_is_kept_beyond_the_cap() {
        let mut pool = Pool::new(1);
        let slot = pool.take(ME, Direction::FromInitiator, 0, Tick(0)).unwrap();
        assert_eq!(pool.insert(slot, CAP - 2, &[7; 100], Tick(0)).unwrap().len(), 0);
        assert_eq!(pool.insert(slot, CAP + 9, &[7; 100], Tick(0)).unwrap().len(), 0);
        assert_eq!(pool.insert(slot, 0, &[1; 65_000], Tick(0)).unwrap().len(), CAP);
        assert_eq!(pool.insert(slot, 0, &[], Tick(0)).unwrap()[CAP - 3..], [1, 7, 7]);
    }

    #[test]
    fn a_silent_flow_loses_its_buffer_to_another_and_a_busy_one_does_not() {
        let mut pool = Pool::new(1);
        let slot = pool.take(ME, Direction::FromInitiator, 5, Tick(0)).unwrap();
        pool.insert(slot, 0, b"mine", Tick(0)).unwrap();
        let other = FlowIdx(2);
        assert_eq!(pool.take(other, Direction::FromInitiator, 9, Tick(50)), None);
        assert_eq!(pool.held(slot, ME), Some((Direction::FromInitiator, 5)));
        assert_eq!(pool.take(other, Direction::FromResponder, 9, Tick(500)), Some(slot));
        assert_eq!(pool.held(slot, ME), None);
        // The former owner cannot give back what is no longer its own.
        pool.give_back(slot, ME);
        assert_eq!(pool.held(slot, other), Some((Direction::FromResponder, 9)));
        assert_eq!(pool.insert(slot, 0, b"", Tick(500)).unwrap(), b"");
        pool.give_back(slot, other);
        assert_eq!((pool.in_use(), pool.taken_over()), (0, 1));
    }
}
