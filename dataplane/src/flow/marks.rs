//! A bit for each entry that may make way for another: one that is unproven or over. So that one is found wherever it is.

use super::memory;

/// Words that a search looks at: 8,192 entries.
const LOOKS: usize = 128;

pub(super) struct Marks {
    words: Box<[u64]>,
    /// Where the next search begins.
    hand: usize,
}

impl Marks {
    pub(super) fn new(entries: usize) -> Self {
        Self { words: vec![0; entries.div_ceil(64)].into_boxed_slice(), hand: 0 }
    }

    pub(super) fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.words)
    }

    /// Asks for the cache line of an entry's mark.
    #[inline]
    pub(super) fn prefetch(&self, place: u32) {
        if let Some(word) = self.words.get(place as usize / 64) {
            memory::prefetch(word);
        }
    }

    #[inline]
    pub(super) fn set(&mut self, place: u32, on: bool) {
        let (word, bit) = (place as usize / 64, 1 << (place % 64));
        self.words[word] = if on { self.words[word] | bit } else { self.words[word] & !bit };
    }

    /// The next marked place that `fits`, going round.
    pub(super) fn next(&mut self, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let mut tried = 0;
        for _ in 0..LOOKS.min(self.words.len()) {
            let mut word = self.words[self.hand];
            while word != 0 {
                let place = (self.hand * 64) as u32 + word.trailing_zeros();
                if fits(place) {
                    return Some(place);
                }
                tried += 1;
                if tried == LOOKS {
                    return None;
                }
                word &= word - 1;
            }
            self.hand = if self.hand + 1 == self.words.len() { 0 } else { self.hand + 1 };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_only_one_and_goes_round() {
        let mut m = Marks::new(300);
        assert_eq!(m.next(|_| true), None);
        for place in [0, 63, 64, 299] {
            m.set(place, true);
            assert_eq!(m.next(|_| true), Some(place));
            assert_eq!(m.next(|p| p != place), None);
            m.set(place, false);
        }
        assert_eq!(m.next(|_| true), None);
    }
}
