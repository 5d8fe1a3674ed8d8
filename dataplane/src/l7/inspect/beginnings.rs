//! What is remembered of how flows began: first sequence numbers, and the start of the last datagram of each side.
//! Direct-mapped by the flow's place, so that a newer flow takes an older one's room.

use std::hash::{BuildHasher, RandomState};

use crate::flow::entry::NO_SLOT;
use crate::flow::{Direction, Flow, FlowIdx};
use crate::l7::BEFORE;

/// First sequence numbers of a flow that is opening. Direct-mapped: a flow that loses its place is still recognised
/// where its segments come in order.
#[derive(Clone, Copy)]
struct Start {
    flow: u32,
    /// Tells an entry's former flow from its present one.
    born: u32,
    /// Bits by direction.
    known: u8,
    seq: [u32; 2],
}

/// How the last datagram of each direction began, of a flow that is undecided. Direct-mapped like [`Start`].
#[derive(Clone, Copy)]
struct Before {
    flow: u32,
    born: u32,
    side: [Beginning; 2],
}

#[derive(Clone, Copy)]
pub struct Beginning {
    len: u8,
    bytes: [u8; BEFORE],
}

impl Before {
    const NONE: Self = Self { flow: u32::MAX, born: 0, side: [Beginning { len: 0, bytes: [0; BEFORE] }; 2] };
}

impl Beginning {
    fn of(data: &[u8]) -> Self {
        let mut beginning = Self { len: data.len().min(BEFORE) as u8, bytes: [0; BEFORE] };
        let len = usize::from(beginning.len);
        beginning.bytes[..len].copy_from_slice(&data[..len]);
        beginning
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

pub struct Beginnings {
    mark: Mark,
    starts: Box<[Start]>,
    befores: Box<[Before]>,
}

impl Beginnings {
    /// `places` for flows, 100 bytes each.
    pub fn new(places: usize) -> Self {
        let places = places.clamp(16, 1 << 24).next_power_of_two();
        let none = Start { flow: u32::MAX, born: 0, known: 0, seq: [0; 2] };
        Self {
            mark: Mark::new(),
            starts: vec![none; places].into_boxed_slice(),
            befores: vec![Before::NONE; places].into_boxed_slice(),
        }
    }

    /// Tells a flow from others that have, had or will have its entry.
    pub fn born(&self, flow: &Flow) -> u32 {
        self.mark.born(flow)
    }

    /// How the datagram before `payload` began, which takes its place.
    pub fn before(&mut self, idx: FlowIdx, flow: &Flow, dir: Direction, payload: &[u8]) -> Beginning {
        let mask = self.befores.len() - 1;
        let born = self.born(flow);
        let place = &mut self.befores[idx.0 as usize & mask];
        if (place.flow, place.born) != (idx.0, born) {
            *place = Before { flow: idx.0, born, ..Before::NONE };
        }
        let side = &mut place.side[dir.index()];
        if flow.l7_slot != NO_SLOT && side.len != 0 {
            // While a handshake is being put together, its first datagram is what the others are read by.
            return *side;
        }
        std::mem::replace(side, Beginning::of(payload))
    }

    pub fn set_start(&mut self, idx: FlowIdx, flow: &Flow, dir: Direction, seq: u32) {
        let mask = self.starts.len() - 1;
        let born = self.born(flow);
        let s = &mut self.starts[idx.0 as usize & mask];
        if s.flow != idx.0 || s.born != born {
            *s = Start { flow: idx.0, born, known: 0, seq: [0; 2] };
        }
        s.known |= 1 << dir.index();
        s.seq[dir.index()] = seq;
    }

    pub fn start(&self, idx: FlowIdx, flow: &Flow, dir: Direction) -> Option<u32> {
        let s = &self.starts[idx.0 as usize & (self.starts.len() - 1)];
        (s.flow == idx.0 && s.born == self.born(flow) && s.known & 1 << dir.index() != 0).then_some(s.seq[dir.index()])
    }
}

/// Tells flows that follow each other in one entry apart: birth time, ports and addresses, mixed by multiplication with odd
/// numbers that nobody else knows. Two that differ have the same number with a chance of 2^-31, whoever chose them.
pub struct Mark([u64; 6]);

impl Mark {
    pub fn new() -> Self {
        Self(std::array::from_fn(|at| RandomState::new().hash_one(at) | 1))
    }

    pub fn born(&self, flow: &Flow) -> u32 {
        let (low, high) = (flow.key().low(), flow.key().high());
        let ports = u64::from(low.1) << 16 | u64::from(high.1);
        let halves = |address: &[u8; 16]| {
            let whole = u128::from_ne_bytes(*address);
            [whole as u64, (whole >> 64) as u64]
        };
        let ([a, b], [c, d]) = (halves(&low.0), halves(&high.0));
        let words = [u64::from(flow.created().0) << 32 | ports, a, b, c, d];
        // Halves of words are multiplied apart: the upper bits of the sum depend on every bit.
        let sum = words.iter().zip(&self.0).fold(self.0[5], |sum, (word, k)| {
            let product = u128::from(*word) * u128::from(*k);
            sum.wrapping_add(product as u64 ^ (product >> 64) as u64)
        });
        (sum >> 32) as u32
    }
}
