//! The hash index: places of flows in the slab, by a hash of their keys. Two buckets of twelve ways for each, a bucket being
//! one cache line.
//!
//! The second bucket follows from the first and the tag, and the first from the second, so that an entry can be moved without
//! a look at its flow.

use super::entry::U24;
use super::memory;

pub(super) const WAYS: usize = 12;
/// How many entries an insertion moves at most besides the first.
const MOVES: u32 = 2;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: free.
    tags: [u16; WAYS],
    places: [U24; WAYS],
    /// A bit for each way whose entry belongs into its other bucket and found no room there.
    strays: u16,
    /// Entries that belong here and are in their other buckets: without any, nobody need look there.
    astray: u16,
}

const _: () = assert!(std::mem::size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self { tags: [0; WAYS], places: [U24::NONE; WAYS], strays: 0, astray: 0 };

    /// A bit for each way whose tag is `tag`.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::*;
            // SAFETY: SSE2 is part of every x86_64; the loads read tags 0 to 7 and 4 to 11, unaligned is allowed.
            unsafe {
                let wanted = _mm_set1_epi16(tag.cast_signed());
                let low = _mm_cmpeq_epi16(_mm_loadu_si128(self.tags.as_ptr().cast()), wanted);
                let high = _mm_cmpeq_epi16(_mm_loadu_si128(self.tags.as_ptr().add(4).cast()), wanted);
                // Sixteen bits: ways 0 to 7, then 4 to 11.
                let both = _mm_movemask_epi8(_mm_packs_epi16(low, high)) as u32;
                both & 0xff | both >> 8 << 4
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self.tags.iter().enumerate().fold(0, |m, (i, t)| m | u32::from(*t == tag) << i)
        }
    }

    /// Places under `tag`, one after the other.
    #[inline]
    fn places(&self, tag: u16) -> impl Iterator<Item = u32> + '_ {
        let mut m = self.matches(tag);
        std::iter::from_fn(move || {
            if m == 0 {
                return None;
            }
            let way = m.trailing_zeros() as usize;
            m &= m - 1;
            self.places.get(way).map(|p| p.get())
        })
    }

    fn free_way(&self) -> Option<usize> {
        let m = self.matches(0);
        (m != 0).then(|| m.trailing_zeros() as usize)
    }

    fn is_stray(&self, way: usize) -> bool {
        self.strays & 1 << way != 0
    }

    fn set(&mut self, way: usize, tag: u16, place: U24, stray: bool) {
        self.tags[way] = tag;
        self.places[way] = place;
        self.strays = self.strays & !(1 << way) | u16::from(stray) << way;
    }

    fn clear(&mut self, way: usize) {
        self.set(way, 0, U24::NONE, false);
    }
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    /// For so many entries, and a sixth more.
    pub(super) fn new(entries: u32) -> Self {
        // In small tables it is likelier that twelve or more meet in one bucket; a few buckets more make up for it.
        let buckets = (u64::from(entries) * 7).div_ceil(6 * WAYS as u64) + 4;
        Self { buckets: memory::filled(buckets as usize, &Bucket::EMPTY) }
    }

    pub(super) fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.buckets)
    }

    #[inline]
    fn first(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    /// The other bucket of an entry with this tag; the other's other is this.
    #[inline]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        let n = self.buckets.len() as u64;
        let sum = (u64::from((u32::from(tag)).wrapping_mul(0x9e37_79b1)) * n) >> 32;
        let d = sum + n - bucket as u64;
        (if d >= n { d - n } else { d }) as usize
    }

    /// Asks for the cache line of a key's first bucket.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        memory::prefetch(&self.buckets[self.first(hash)]);
    }

    /// The place that the key is most likely at. Asks for the second bucket's line if it is none in the first.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> Option<u32> {
        let (first, tag) = (self.first(hash), tag(hash));
        let found = self.buckets[first].places(tag).next();
        if found.is_none() && self.buckets[first].astray != 0 {
            memory::prefetch(&self.buckets[self.other(first, tag)]);
        }
        found
    }

    /// The place under this hash that `is` says yes to.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (first, tag) = (self.first(hash), tag(hash));
        let home = &self.buckets[first];
        if let Some(place) = home.places(tag).find(|p| is(*p)) {
            return Some(place);
        }
        if home.astray == 0 {
            return None;
        }
        self.buckets[self.other(first, tag)].places(tag).find(|p| is(*p))
    }

    /// `false`: no room to be had in hundreds of buckets.
    pub(super) fn insert(&mut self, place: u32, hash: u64) -> bool {
        let (tag, place) = (tag(hash), U24::new(place));
        let first = self.first(hash);
        let second = self.other(first, tag);
        for bucket in [first, second] {
            if let Some(way) = self.buckets[bucket].free_way() {
                self.set(bucket, way, tag, place, (first, bucket));
                return true;
            }
        }
        for depth in 0..=MOVES {
            for bucket in [first, second] {
                if let Some(way) = self.make_room(bucket, depth) {
                    self.set(bucket, way, tag, place, (first, bucket));
                    return true;
                }
            }
        }
        false
    }

    /// `(home, bucket)`: where the entry belongs, and where it is put.
    fn set(&mut self, bucket: usize, way: usize, tag: u16, place: U24, (home, _): (usize, usize)) {
        self.buckets[bucket].set(way, tag, place, home != bucket);
        if home != bucket {
            self.buckets[home].astray = self.buckets[home].astray.saturating_add(1);
        }
    }

    /// Moves one of a full bucket's entries to its other bucket, and there, `depth` deep, another one first. Gives the way that
    /// is free now.
    fn make_room(&mut self, bucket: usize, depth: u32) -> Option<usize> {
        for way in 0..WAYS {
            let (tag, place) = (self.buckets[bucket].tags[way], self.buckets[bucket].places[way]);
            let elsewhere = self.other(bucket, tag);
            if elsewhere == bucket {
                continue;
            }
            let free = match self.buckets[elsewhere].free_way() {
                None if depth > 0 => self.make_room(elsewhere, depth - 1),
                found => found,
            };
            let here = &self.buckets[bucket];
            // A deeper move may have come back here and taken this way.
            if let Some(free) = free
                && here.places[way] == place
                && here.tags[way] == tag
            {
                let home = if here.is_stray(way) { elsewhere } else { bucket };
                self.drop_way(bucket, way, home);
                self.set(elsewhere, free, tag, place, (home, elsewhere));
                return Some(way);
            }
        }
        None
    }

    fn drop_way(&mut self, bucket: usize, way: usize, home: usize) {
        self.buckets[bucket].clear(way);
        if home != bucket {
            let astray = &mut self.buckets[home].astray;
            // A count that once did not fit stays: a look too many is no harm.
            *astray = if *astray == u16::MAX { u16::MAX } else { astray.saturating_sub(1) };
        }
    }

    pub(super) fn remove(&mut self, place: u32, hash: u64) -> bool {
        let (tag, wanted) = (tag(hash), U24::new(place));
        let first = self.first(hash);
        for bucket in [first, self.other(first, tag)] {
            let b = &self.buckets[bucket];
            if let Some(way) = (0..WAYS).find(|&w| b.tags[w] == tag && b.places[w] == wanted) {
                self.drop_way(bucket, way, first);
                return true;
            }
        }
        false
    }
}

/// Never 0, which means free.
#[inline]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(n: u32) -> u64 {
        let x = u128::from(n + 1) * 0x9e37_79b9_7f4a_7c15;
        let y = u128::from(x as u64 ^ (x >> 64) as u64) * 0xf39c_c060_5ced_c835;
        (y >> 64) as u64 ^ y as u64
    }

    proptest! {
        #[test]
        fn the_other_of_the_other_is_this(entries in 1u32..5000, hash: u64) {
            let index = Index::new(entries);
            let first = index.first(hash);
            let second = index.other(first, tag(hash));
            prop_assert!(first < index.buckets.len() && second < index.buckets.len());
            prop_assert_eq!(index.other(second, tag(hash)), first);
        }

        /// Entries come and go at the brim; each is found while it is there, nothing else is, and no count is left over.
        #[test]
        fn holds_what_was_put_in(entries in 12u32..200, ops in proptest::collection::vec((any::<bool>(), 0u32..400), 1..800)) {
            let mut index = Index::new(entries);
            let mut there = std::collections::BTreeSet::new();
            for (put, n) in ops {
                if put && !there.contains(&n) && there.len() < entries as usize {
                    prop_assert!(index.insert(n, hash(n)), "{} of {}", there.len(), entries);
                    there.insert(n);
                } else if !put {
                    prop_assert_eq!(index.remove(n, hash(n)), there.remove(&n));
                }
                for m in [n, n ^ 1, n / 2, 399 - n] {
                    prop_assert_eq!(index.find(hash(m), |p| p == m).is_some(), there.contains(&m));
                }
            }
            for n in there {
                prop_assert!(index.remove(n, hash(n)));
            }
            prop_assert!(index.buckets.iter().all(|b| b.astray == 0 && b.strays == 0 && b.tags == [0; WAYS]));
        }
    }

    #[test]
    fn every_way_is_seen() {
        let mut b = Bucket::EMPTY;
        for way in 0..WAYS {
            assert_eq!(b.free_way(), Some(way));
            b.set(way, 7 + way as u16 % 3, U24::new(way as u32), false);
        }
        assert_eq!(b.free_way(), None);
        assert_eq!(b.places(7).collect::<Vec<_>>(), [0, 3, 6, 9]);
        assert_eq!(b.places(9).collect::<Vec<_>>(), [2, 5, 8, 11]);
    }

    #[test]
    fn fills_whole_and_leaves_few_astray() {
        let mut index = Index::new(100_000);
        for n in 0..100_000 {
            assert!(index.insert(n, hash(n)), "{n}");
        }
        let astray: u32 = index.buckets.iter().map(|b| b.strays.count_ones()).sum();
        assert!(astray < 15_000, "{astray}");
        assert!(index.memory() < 63 * 10_000 + 1000, "{}", index.memory());
    }
}
