//! Finding security associations: inbound ones by SPI, outbound ones by tunnel.

use std::sync::Arc;

use super::esp::{OpenError, Opened, SaError};
use super::inbound::InboundSa;
use super::outbound::OutboundSa;
use crate::io::frame::Frame;
use softdpu_ebpf_common::walk::Headers;

/// What one worker sealed for one tunnel. Bytes are the inner packets'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundStats {
    pub packets: u64,
    pub bytes: u64,
    pub failed: u64,
}

/// A tunnel's way out, as one worker sees it: the shared association and the worker's own counters.
#[derive(Debug)]
pub struct Outbound {
    pub sa: Arc<OutboundSa>,
    pub stats: OutboundStats,
}

/// All associations of one worker. Built by the control side, then only the worker touches it.
#[derive(Debug, Default)]
pub struct Sadb {
    inbound: Vec<(usize, Arc<InboundSa>)>,
    index: SpiIndex,
    outbound: Vec<Option<Outbound>>,
}

impl Sadb {
    /// `inbound`: each with the tunnel it belongs to. `outbound[i]` is tunnel `i`'s; `None` for tunnels of other kinds.
    ///
    /// # Errors
    /// [`SaError::DuplicateSpi`].
    pub fn new(
        inbound: Vec<(usize, InboundSa)>,
        outbound: impl IntoIterator<Item = Option<Arc<OutboundSa>>>,
    ) -> Result<Self, SaError> {
        let inbound: Vec<_> = inbound.into_iter().map(|(tunnel, sa)| (tunnel, Arc::new(sa))).collect();
        let spis: Vec<u32> = inbound.iter().map(|(_, sa)| sa.spi()).collect();
        let index = SpiIndex::new(&spis)?;
        let outbound =
            outbound.into_iter().map(|sa| sa.map(|sa| Outbound { sa, stats: OutboundStats::default() })).collect();
        Ok(Self { inbound, index, outbound })
    }

    /// Goes on where the plan before was: windows and counters of associations with the same SPI and key are kept.
    pub fn inherit(&mut self, old: &Sadb) {
        for (_, sa) in &mut self.inbound {
            let before = old.index.find(sa.spi()).map(|i| &old.inbound[i].1);
            if let Some(before) = before.filter(|before| sa.same_as(before)) {
                *sa = before.clone();
            }
        }
        for out in self.outbound.iter_mut().flatten() {
            let same = |o: &&Outbound| (o.sa.spi(), o.sa.key_id()) == (out.sa.spi(), out.sa.key_id());
            if let Some(before) = old.outbound.iter().flatten().find(same) {
                out.stats = before.stats;
            }
        }
    }

    /// The inbound association of an SPI and the tunnel it belongs to.
    #[inline]
    pub fn inbound(&self, spi: u32) -> Option<(usize, &InboundSa)> {
        let (tunnel, sa) = self.inbound.get(self.index.find(spi)?)?;
        Some((*tunnel, sa))
    }

    /// Opens a packet with the association that `headers.spi` names, and says which tunnel it came through.
    ///
    /// # Errors
    /// As [`InboundSa::open`].
    #[inline]
    pub fn open(&self, frame: &mut Frame, headers: &Headers) -> Result<(usize, Opened), OpenError> {
        // The walk leaves 0 where UDP to port 4500 holds no ESP header: a keepalive, or IKE.
        let Some((tunnel, sa)) = self.inbound(headers.spi) else {
            let keepalive =
                headers.spi == 0 && frame.bytes().get(headers.payload_off.into()..headers.end.into()) == Some(&[0xff]);
            return Err(if keepalive { OpenError::Keepalive } else { OpenError::NoSa });
        };
        Ok((tunnel, sa.open(frame, headers)?))
    }

    /// The way out of a tunnel. `None` where the tunnel is not ESP or there is no such.
    #[inline]
    pub fn outbound(&mut self, tunnel: usize) -> Option<&mut Outbound> {
        self.outbound.get_mut(tunnel)?.as_mut()
    }

    pub fn all_inbound(&self) -> impl Iterator<Item = (usize, &InboundSa)> {
        self.inbound.iter().map(|(tunnel, sa)| (*tunnel, &**sa))
    }

    pub fn all_outbound(&self) -> impl Iterator<Item = (usize, &Outbound)> {
        self.outbound.iter().enumerate().filter_map(|(i, o)| Some((i, o.as_ref()?)))
    }
}

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
    use crate::crypto::aead::{Cipher, KeyMaterial};
    use crate::crypto::inbound::{InboundConfig, InboundOptions, Sequence};
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

    fn inbound(spi: u32, key: u8, window: u32) -> InboundSa {
        let material = KeyMaterial::new(Cipher::Aes128Gcm, &[key; 20]).unwrap();
        InboundSa::new(&InboundConfig {
            spi,
            material: &material,
            sequence: Sequence::InIv,
            window,
            options: InboundOptions::default(),
        })
        .unwrap()
    }

    #[test]
    fn duplicates_are_refused_and_an_empty_table_is_fine() {
        let twice = Sadb::new(vec![(0, inbound(300, 1, 64)), (1, inbound(300, 2, 64))], []);
        assert_eq!(twice.map(|_| ()), Err(SaError::DuplicateSpi(300)));
        let mut empty = Sadb::new(vec![], [None]).unwrap();
        assert!(empty.inbound(300).is_none() && empty.outbound(0).is_none() && empty.outbound(9).is_none());
    }

    #[test]
    fn look_ups_stay_short_for_spis_in_a_row_and_far_apart() {
        for step in [1, 2, 256, 4096, 65_536] {
            let spis: Vec<u32> = (1..1000).map(|i| 0x1000_u32.wrapping_add(i * step)).collect();
            assert!(SpiIndex::new(&spis).unwrap().reach <= 16, "step {step}");
        }
    }
}
