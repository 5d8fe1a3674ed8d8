//! The ring that AF_XDP uses four times: one producer, one consumer, a power of two of slots in shared memory.
//!
//! The same code runs over the kernel's mapping and over plain memory, so that threads, property tests and loom can
//! drive both ends. The order is the kernel's (Documentation/networking/af_xdp.rst): the producer writes slots and then
//! releases its index; the consumer acquires that index, reads slots and then releases its own. Each end keeps a copy of
//! the other's index and looks again only when the copy says full or empty, so a batch costs two shared accesses.
//!
//! Loom checks the order over every interleaving: `RUSTFLAGS="--cfg loom" cargo test --release -p softdpu-loom`.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

/// Set by the kernel in a ring's flags when it will not look at the ring again before a system call.
const NEED_WAKEUP: u32 = 1;

/// One place in a ring. Under loom it reports a read that races a write.
#[cfg(not(loom))]
#[repr(transparent)]
pub struct Slot<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T: Copy> Slot<T> {
    fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// # Safety
    /// The other end must not touch the slot now: the indices decide whose it is.
    #[inline]
    unsafe fn read(&self) -> T {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() }
    }

    /// # Safety
    /// As for `read`.
    #[inline]
    unsafe fn write(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() = value }
    }
}

#[cfg(loom)]
pub struct Slot<T>(loom::cell::UnsafeCell<T>);

#[cfg(loom)]
impl<T: Copy> Slot<T> {
    fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    /// # Safety
    /// As in the version without loom, which checks it.
    unsafe fn read(&self) -> T {
        // SAFETY: the caller's promise, checked by loom.
        self.0.with(|p| unsafe { *p })
    }

    /// # Safety
    /// As for `read`.
    unsafe fn write(&self, value: T) {
        // SAFETY: the caller's promise, checked by loom.
        self.0.with_mut(|p| unsafe { *p = value })
    }
}

/// Where the parts of one ring lie, and what keeps them mapped.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<Slot<T>>,
    size: u32,
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointers lead to memory that `_memory` keeps alive; indices are atomics, and a slot is touched only by the
// end that the indices give it to. `T: Send` values cross from one end to the other.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into `_memory`, which lives as long as `self`.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    fn slot(&self, at: u32) -> &Slot<T> {
        // SAFETY: `size` is a power of two, so the masked index is inside the array.
        unsafe { &*self.slots.as_ptr().add((at & (self.size - 1)) as usize) }
    }

    fn need_wakeup(&self) -> bool {
        self.flags().load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// Raw places of a ring in a mapping; see [`Producer::from_raw`].
#[derive(Clone, Copy)]
pub struct RingParts<T> {
    pub producer: NonNull<AtomicU32>,
    pub consumer: NonNull<AtomicU32>,
    pub flags: NonNull<AtomicU32>,
    pub slots: NonNull<Slot<T>>,
    /// Slots; a power of two.
    pub size: u32,
}

impl<T: Copy> RingParts<T> {
    fn keep(self, memory: Arc<dyn Any + Send + Sync>) -> Shared<T> {
        assert!(self.size.is_power_of_two(), "ring of {} slots: not a power of two", self.size);
        let Self { producer, consumer, flags, slots, size } = self;
        Shared { producer, consumer, flags, slots, size, _memory: memory }
    }
}

/// The end that writes.
pub struct Producer<T> {
    ring: Shared<T>,
    /// Next slot to write; slots before it and after `public` are written but not yet shown.
    head: u32,
    /// What the consumer has been shown.
    public: u32,
    /// The consumer's index when last looked at.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    /// # Safety
    /// `parts` must lie in `memory`, be laid out as AF_XDP lays out a ring, and have no other producer.
    pub unsafe fn from_raw(parts: RingParts<T>, memory: Arc<dyn Any + Send + Sync>) -> Self {
        let ring = parts.keep(memory);
        let head = ring.producer().load(Ordering::Relaxed);
        let seen = ring.consumer().load(Ordering::Acquire);
        Self { ring, head, public: head, seen }
    }

    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// Slots that can be written now. Looks at the consumer's index only where the copy shows fewer than `want`.
    #[inline]
    pub fn room(&mut self, want: u32) -> u32 {
        let room = self.ring.size.saturating_sub(self.head.wrapping_sub(self.seen));
        if room >= want {
            return room;
        }
        self.seen = self.ring.consumer().load(Ordering::Acquire);
        self.ring.size.saturating_sub(self.head.wrapping_sub(self.seen))
    }

    /// Writes the next slot; the consumer sees it after [`Self::commit`]. `false` where the ring is full.
    #[inline]
    #[must_use]
    pub fn put(&mut self, value: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: room(1) > 0: the consumer has released this slot and we have not committed it.
        unsafe { self.ring.slot(self.head).write(value) };
        self.head = self.head.wrapping_add(1);
        true
    }

    /// Takes back what was put since the last commit.
    pub fn rollback(&mut self) {
        self.head = self.public;
    }

    /// Shows the consumer all that was put. Returns how many that were.
    #[inline]
    pub fn commit(&mut self) -> u32 {
        let n = self.head.wrapping_sub(self.public);
        if n > 0 {
            self.ring.producer().store(self.head, Ordering::Release);
            self.public = self.head;
        }
        n
    }

    /// Committed slots that the consumer has not taken yet.
    pub fn unconsumed(&self) -> u32 {
        self.public.wrapping_sub(self.ring.consumer().load(Ordering::Acquire)).min(self.ring.size)
    }

    /// Whether the kernel wants a system call before it looks at the ring again.
    #[inline]
    pub fn need_wakeup(&self) -> bool {
        self.ring.need_wakeup()
    }
}

/// The end that reads.
pub struct Consumer<T> {
    ring: Shared<T>,
    /// Next slot to read; slots before it and after `public` are read but not yet given back.
    tail: u32,
    /// What the producer may overwrite.
    public: u32,
    /// The producer's index when last looked at.
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    /// # Safety
    /// `parts` must lie in `memory`, be laid out as AF_XDP lays out a ring, and have no other consumer.
    pub unsafe fn from_raw(parts: RingParts<T>, memory: Arc<dyn Any + Send + Sync>) -> Self {
        let ring = parts.keep(memory);
        let tail = ring.consumer().load(Ordering::Relaxed);
        Self { ring, tail, public: tail, seen: tail }
    }

    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// Slots that can be read now, at most the ring's size. Looks at the producer's index only where the copy shows
    /// fewer than `want`.
    #[inline]
    pub fn ready(&mut self, want: u32) -> u32 {
        let ready = self.seen.wrapping_sub(self.tail);
        if ready >= want {
            return ready.min(self.ring.size);
        }
        self.seen = self.ring.producer().load(Ordering::Acquire);
        self.seen.wrapping_sub(self.tail).min(self.ring.size)
    }

    /// Reads the next slot; the producer gets it back after [`Self::release`].
    #[inline]
    #[must_use]
    pub fn take(&mut self) -> Option<T> {
        if self.ready(1) == 0 {
            return None;
        }
        // SAFETY: ready(1) > 0: the producer has shown this slot and we have not released it.
        let value = unsafe { self.ring.slot(self.tail).read() };
        self.tail = self.tail.wrapping_add(1);
        Some(value)
    }

    /// Gives the producer back all slots that were taken. Returns how many that were.
    #[inline]
    pub fn release(&mut self) -> u32 {
        let n = self.tail.wrapping_sub(self.public);
        if n > 0 {
            self.ring.consumer().store(self.tail, Ordering::Release);
            self.public = self.tail;
        }
        n
    }

    /// Slots that wait to be read.
    pub fn waiting(&self) -> u32 {
        self.ring.producer().load(Ordering::Acquire).wrapping_sub(self.tail).min(self.ring.size)
    }
}

/// A ring in plain memory.
struct Heap<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: Box<[Slot<T>]>,
}

// SAFETY: slots are reached only through the two ends, which the indices keep apart (see `Shared`).
unsafe impl<T: Send> Sync for Heap<T> {}

/// Both ends of a ring in plain memory, whose indices start at `start` (the kernel's start at 0 and wrap; tests start
/// near the wrap). `size` must be a power of two.
pub fn heap<T: Copy + Default + Send + 'static>(size: u32, start: u32) -> (Producer<T>, Consumer<T>) {
    let heap = Arc::new(Heap {
        producer: AtomicU32::new(start),
        consumer: AtomicU32::new(start),
        flags: AtomicU32::new(0),
        slots: (0..size).map(|_| Slot::new(T::default())).collect(),
    });
    let parts = RingParts {
        producer: NonNull::from(&heap.producer),
        consumer: NonNull::from(&heap.consumer),
        flags: NonNull::from(&heap.flags),
        // A slice's pointer, so that it is good for every slot.
        slots: NonNull::from(&*heap.slots).cast(),
        size,
    };
    // SAFETY: the parts lie in `heap`; one producer and one consumer are made, here.
    unsafe { (Producer::from_raw(parts, heap.clone()), Consumer::from_raw(parts, heap)) }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn nothing_is_seen_before_commit_nor_reused_before_release() {
        let (mut p, mut c) = heap::<u64>(2, u32::MAX);
        assert!(p.put(1) && p.put(2));
        assert!(!p.put(3), "full");
        assert_eq!(c.take(), None, "not committed");
        assert_eq!(p.commit(), 2);
        assert_eq!((c.take(), c.take(), c.take()), (Some(1), Some(2), None));
        assert_eq!(p.room(1), 0, "taken but not released");
        assert_eq!(c.release(), 2);
        assert_eq!(p.room(2), 2);
    }

    #[test]
    fn rollback_forgets_what_was_put() {
        let (mut p, mut c) = heap::<u64>(4, 0);
        assert!(p.put(1));
        assert_eq!(p.commit(), 1);
        assert!(p.put(8) && p.put(9));
        p.rollback();
        assert_eq!(p.commit(), 0);
        assert!(p.put(2));
        p.commit();
        assert_eq!((c.take(), c.take(), c.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn ten_thousand_descriptors_between_threads_arrive_in_order() {
        const N: u64 = 10_000;
        let (mut p, mut c) = heap::<u64>(64, u32::MAX - 100);
        let sender = std::thread::spawn(move || {
            let mut next = 0;
            while next < N {
                while next < N && p.put(next * 7) {
                    next += 1;
                }
                if p.commit() == 0 {
                    std::thread::yield_now();
                }
            }
            p
        });
        let mut got = 0;
        while got < N {
            while let Some(v) = c.take() {
                assert_eq!(v, got * 7);
                got += 1;
            }
            if c.release() == 0 {
                std::thread::yield_now();
            }
        }
        let p = sender.join().unwrap();
        assert_eq!((p.unconsumed(), c.waiting()), (0, 0));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Put(u8),
        Commit,
        Rollback,
        Take(u8),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u8..12).prop_map(Step::Put),
            Just(Step::Commit),
            Just(Step::Rollback),
            (1u8..12).prop_map(Step::Take),
            Just(Step::Release)
        ]
    }

    proptest! {
        /// Against a plain queue: same values in the same order, and never more room or more ready than there is.
        #[test]
        fn behaves_as_a_queue(bits in 0u32..5, start in any::<u32>(), steps in prop::collection::vec(step(), 0..200)) {
            let size = 1u32 << bits;
            let (mut p, mut c) = heap::<u64>(size, start);
            let (mut written, mut shown) = (Vec::new(), VecDeque::new());
            let (mut taken, mut next) = (0u32, 0u64);
            for s in steps {
                let used = written.len() as u32 + shown.len() as u32 + taken;
                match s {
                    Step::Put(n) => {
                        prop_assert_eq!(p.room(size), size - used);
                        for k in 0..u32::from(n) {
                            prop_assert_eq!(p.put(next), used + k < size);
                            if used + k < size {
                                written.push(next);
                                next += 1;
                            }
                        }
                    }
                    Step::Commit => {
                        prop_assert_eq!(p.commit(), written.len() as u32);
                        shown.extend(written.drain(..));
                    }
                    Step::Rollback => {
                        p.rollback();
                        written.clear();
                    }
                    Step::Take(n) => {
                        prop_assert_eq!(c.ready(u32::MAX), shown.len() as u32);
                        for _ in 0..n {
                            let want = shown.pop_front();
                            taken += u32::from(want.is_some());
                            prop_assert_eq!(c.take(), want);
                        }
                    }
                    Step::Release => {
                        prop_assert_eq!(c.release(), taken);
                        taken = 0;
                    }
                }
                prop_assert_eq!(p.unconsumed(), shown.len() as u32 + taken);
                prop_assert_eq!(c.waiting(), shown.len() as u32);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;

    /// A batch of values through a ring shorter than the batch: loom reports a slot read before it was written, or
    /// written again before it was read, in any interleaving.
    #[test]
    fn order_and_ownership_hold_in_every_interleaving() {
        loom::model(|| {
            const N: u32 = 4;
            let (mut p, mut c) = heap::<u32>(2, u32::MAX);
            let sender = loom::thread::spawn(move || {
                let mut next = 0;
                while next < N {
                    while next < N && p.put(next) {
                        next += 1;
                    }
                    if p.commit() == 0 {
                        loom::thread::yield_now();
                    }
                }
            });
            let mut want = 0;
            while want < N {
                while let Some(v) = c.take() {
                    assert_eq!(v, want);
                    want += 1;
                }
                if c.release() == 0 {
                    loom::thread::yield_now();
                }
            }
            sender.join().unwrap();
            assert_eq!(c.take(), None);
        });
    }
}
