//! Finding inbound security associations by SPI.

use super::esp::SaError;

/// From SPI to position: open addressing, a quarter full at most, so that a look-up is one or two cache lines whatever
/// a stranger sends.
///
/// The SPIs are those of associations that this host has agreed to; a stranger cannot choose them.
#[derive(Clone, Debug, Default)]
pub struct SpiIndex {
    /// SPI and position; SPI 0, which is never in use, marks a free slot.
    slots: Vec<(u32, u32)>,
    /// Farthest that any SPI is from its own slot: where a look-up may stop.
    reach: usize,
}

impl SpiIndex {
    /// `find(spis[i])` will be `i`.
    ///
    /// # Errors
    /// [`SaError::DuplicateSpi`].
    pub fn new(spis: &[u32]) -> Result<Self, SaError> {
        let mut index = Self { slots: vec![(0, 0); (spis.len() * 4).next_power_of_two()], reach: 0 };
        for (position, &spi) in spis.iter().enumerate() {
            let mut at = index.slot(spi);
            let mut reach = 0;
            while index.slots[at].0 != 0 {
                if index.slots[at].0 == spi {
                    return Err(SaError::DuplicateSpi(spi));
                }
                at = (at + 1) & (index.slots.len() - 1);
                reach += 1;
            }
            index.slots[at] = (spi, position as u32);
            index.reach = index.reach.max(reach);
        }
        Ok(index)
    }

    #[inline]
    fn slot(&self, spi: u32) -> usize {
        // Multiplicative hashing; the high bits are the well-mixed ones.
        let mixed = u64::from(spi.wrapping_mul(0x9e37_79b1)) * self.slots.len() as u64;
        (mixed >> 32) as usize
    }

    /// Asks for the cache line that [`Self::find`] begins with.
    #[inline]
    pub fn prefetch(&self, spi: u32) {
        if let Some(slot) = self.slots.get(self.slot(spi)) {
            super::prefetch_line(slot);
        }
    }

    #[inline]
    /// Where this SPI was in the list. A few slots in a row are looked at, whatever is asked for.
    pub fn find(&self, spi: u32) -> Option<usize> {
        if self.slots.is_empty() || spi == 0 {
            return None;
        }
        let mut at = self.slot(spi);
        for _ in 0..=self.reach {
            let (have, position) = self.slots[at];
            if have == spi {
                return Some(position as usize);
            }
            if have == 0 {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_all_and_nothing_else(
            spis in proptest::collection::hash_set(256_u32..3000, 0..300),
            others in proptest::collection::vec(0_u32..4000, 50),
        ) {
            let list: Vec<u32> = spis.iter().copied().collect();
            let index = SpiIndex::new(&list).unwrap();
            for (i, spi) in list.iter().enumerate() {
                prop_assert_eq!(index.find(*spi), Some(i));
            }
            for spi in others {
                prop_assert_eq!(index.find(spi).is_some(), spis.contains(&spi));
            }
        }
    }

    #[test]
    fn duplicates_are_refused_and_an_empty_index_is_fine() {
        assert_eq!(SpiIndex::new(&[300, 301, 300]).map(|_| ()), Err(SaError::DuplicateSpi(300)));
        for empty in [SpiIndex::new(&[]).unwrap(), SpiIndex::default()] {
            assert_eq!((empty.find(0), empty.find(300)), (None, None));
        }
    }

    #[test]
    fn look_ups_stay_short_for_spis_in_a_row_and_far_apart() {
        for step in [1, 2, 256, 4096, 65_536] {
            let spis: Vec<u32> = (1..1000).map(|i| 0x1000_u32.wrapping_add(i * step)).collect();
            assert!(SpiIndex::new(&spis).unwrap().reach <= 16, "step {step}");
        }
    }
}
