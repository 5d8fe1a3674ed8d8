//! What a watch is about, and the memory that workers and the control side share for it.

use super::filter::Program;
use super::record::{Point, Record};
use crossbeam::queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Most memory for the packets' bytes, in bytes.
const MEMORY: usize = 16 << 20;
/// Most records that wait to be read.
const MOST: usize = 8192;
/// Bytes of each packet that `trace` compares.
pub const TRACE_SNAP: usize = 128;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Every node that a packet meets.
    Trace,
    /// Packets at some points, as a set of [`Point::bit`]s.
    Capture(u8),
}

/// What packets match: programs for packets with link header and for those without. Both or none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub ethernet: Option<Program>,
    pub raw: Option<Program>,
}

impl Filter {
    pub fn matches(&self, link: bool, bytes: &[u8], len: usize) -> bool {
        let program = if link { &self.ethernet } else { &self.raw };
        program.as_ref().is_none_or(|program| program.run(bytes, len as u32) > 0)
    }

    pub fn is_any(&self) -> bool {
        self.ethernet.is_none() && self.raw.is_none()
    }
}

/// Numbers of packets are these bits.
pub const NUMBERS: u32 = u32::MAX >> 1;

static SESSIONS: AtomicU32 = AtomicU32::new(0);

/// One watch, from its beginning to its end.
#[derive(Debug)]
pub struct Session {
    pub what: What,
    pub filter: Filter,
    /// Bytes kept of each packet.
    pub snap: usize,
    /// Packets' numbers begin here, so that one that waited since an earlier session is not taken for one of this.
    pub first: u32,
    /// Time stamps are read at each node; else the batch's are taken (captures that are replayed have their own time).
    pub live: bool,
    /// Packets that may still be taken; below zero: no more.
    left: AtomicI64,
    over: AtomicBool,
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    pub counts: Counts,
}

/// What workers have seen.
#[derive(Debug, Default)]
pub struct Counts {
    /// Packets asked about.
    pub seen: AtomicU64,
    /// Those that matched.
    pub matched: AtomicU64,
    /// Records that there was no room for, by point; of traces all under the first.
    pub lost: [AtomicU64; 4],
}

impl Session {
    /// `count`: how many packets; 0: any number.
    pub fn new(what: What, filter: Filter, snap: usize, count: u64, live: bool) -> Self {
        let records = (MEMORY / (snap + 512)).clamp(64, MOST);
        let free = ArrayQueue::new(records);
        (0..records).for_each(|_| drop(free.push(Box::new(Record::empty(snap)))));
        Self {
            what,
            filter,
            snap,
            first: SESSIONS.fetch_add(1, Ordering::Relaxed) << 20 & NUMBERS,
            live,
            left: AtomicI64::new(if count == 0 { i64::MAX } else { i64::try_from(count).unwrap_or(i64::MAX) }),
            over: AtomicBool::new(false),
            free,
            full: ArrayQueue::new(records),
            counts: Counts::default(),
        }
    }

    /// Takes one packet of those that were asked for. `false`: there were enough.
    pub fn take_one(&self) -> bool {
        let taken = self.left.load(Ordering::Relaxed) > 0 && self.left.fetch_sub(1, Ordering::Relaxed) > 0;
        if taken {
            self.counts.matched.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// All packets that were asked for have been taken.
    pub fn has_enough(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= 0
    }

    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether packets are copied at this point.
    pub fn wants(&self, point: Point) -> bool {
        matches!(self.what, What::Capture(points) if points & point.bit() != 0)
    }

    /// An empty record. `None`, and counted: all are in use.
    pub fn record(&self, point: Point) -> Option<Box<Record>> {
        let record = self.free.pop();
        if record.is_none() {
            self.counts.lost[point as usize].fetch_add(1, Ordering::Relaxed);
        }
        record
    }

    /// To the reader. There is always room: as much as there are records.
    pub fn hand_over(&self, record: Box<Record>) {
        if let Err(record) = self.full.push(record) {
            self.give_back(record);
        }
    }

    pub fn give_back(&self, record: Box<Record>) {
        let _ = self.free.push(record);
    }

    /// The next record, for the reader, who gives it back.
    pub fn next(&self) -> Option<Box<Record>> {
        self.full.pop()
    }

    /// Records lost so far, by point.
    pub fn lost(&self) -> [u64; 4] {
        std::array::from_fn(|at| self.counts.lost[at].load(Ordering::Relaxed))
    }
}
