//! One cache line of the hash index: eight tags and the eight places they stand for.

use super::entry::NONE;

pub(super) const WAYS: usize = 8;

#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// 0: free.
    tags: [u16; WAYS],
    places: [u32; WAYS],
}

const _: () = assert!(std::mem::size_of::<Bucket>() == 64);

impl Bucket {
    pub(super) fn empty() -> Self {
        Self { tags: [0; WAYS], places: [NONE; WAYS] }
    }

    /// A bit for each way whose tag is `tag`.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::*;
            // SAFETY: SSE2 is part of every x86_64; the load reads the 16 bytes of `tags`, unaligned is allowed.
            unsafe {
                let tags = _mm_loadu_si128(self.tags.as_ptr().cast());
                let same = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag.cast_signed()));
                _mm_movemask_epi8(_mm_packs_epi16(same, _mm_setzero_si128())) as u32
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self.tags.iter().enumerate().fold(0, |m, (i, t)| m | u32::from(*t == tag) << i)
        }
    }

    /// Places under `tag`, one after the other.
    #[inline]
    pub(super) fn places(&self, tag: u16) -> impl Iterator<Item = u32> + '_ {
        let mut m = self.matches(tag);
        std::iter::from_fn(move || {
            if m == 0 {
                return None;
            }
            let way = m.trailing_zeros() as usize;
            m &= m - 1;
            Some(self.places[way & (WAYS - 1)])
        })
    }

    pub(super) fn free_way(&self) -> Option<usize> {
        let m = self.matches(0);
        (m != 0).then(|| m.trailing_zeros() as usize)
    }

    pub(super) fn place(&self, way: usize) -> u32 {
        self.places[way]
    }

    pub(super) fn set(&mut self, way: usize, tag: u16, place: u32) {
        self.tags[way] = tag;
        self.places[way] = place;
    }

    /// `false` where it is not here.
    pub(super) fn remove(&mut self, place: u32) -> bool {
        match (0..WAYS).find(|&w| self.tags[w] != 0 && self.places[w] == place) {
            Some(way) => {
                self.set(way, 0, NONE);
                true
            }
            None => false,
        }
    }
}
