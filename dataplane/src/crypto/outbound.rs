//! One outbound security association: takes sequence numbers, seals packets in place.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::aead::{Aead, KeyId, KeyMaterial, Salt, new_aead};
use super::esp::{
    AssociatedData, ESP_LEN, ICV_LEN, IV_LEN, Inner, LINK_LEN, SaError, SealError, TRAILER_LEN, check_spi, nonce,
};
use super::outer::{Encapsulation, Endpoints, Outer};
use crate::io::frame::Frame;

/// 2025-01-01T00:00:00Z. A clock that says less was never set.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_735_689_600);

/// Where the sequence numbers and the IVs begin.
///
/// A nonce used twice under one key breaks AES-GCM and ChaCha20-Poly1305 altogether. Keys from files outlive the
/// process, so a counter that began at 1 at each start would do just that (RFC 4106 §2 forbids it). Both `Clock` forms
/// begin at the nanoseconds since 1970: no association sends a packet per nanosecond, so each start is beyond
/// whatever an earlier one used, as long as the clock is not set back between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Sequence numbers from the clock, IV equal to the sequence number. For a peer that takes the high half from the
    /// IV ([`Sequence::InIv`](super::inbound::Sequence::InIv)): it then follows a restart at once, where counting from
    /// 1 again would look like a replay. Extended numbers only; without them it is [`Start::ClockIv`].
    Clock,
    /// Sequence numbers from 1, IV = clock + sequence number. For any peer.
    ClockIv,
    /// As given: for keys that are fresh by themselves (a key exchange) and for tests.
    At { seq: u64, iv_offset: u64 },
}

/// What an outbound association is made from.
#[derive(Debug)]
pub struct OutboundConfig<'a> {
    pub spi: u32,
    pub material: &'a KeyMaterial,
    pub endpoints: Endpoints,
    pub encapsulation: Encapsulation,
    /// 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub extended: bool,
    pub start: Start,
}

/// An outbound security association. Shared by all workers: the key is only read, the numbers are one atomic.
#[derive(Debug)]
pub struct OutboundSa {
    aead: Box<dyn Aead>,
    outer: Outer,
    spi: u32,
    salt: Salt,
    extended: bool,
    /// Added to the sequence number to make the IV.
    iv_offset: u64,
    /// Last number that may be used.
    last: u64,
    key_id: KeyId,
    /// Next number to hand out; `last + 1` (0 past the 64-bit end) when all are used. On a cache line of its own: it is
    /// the one field that is written.
    next: Counter,
}

#[derive(Debug)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl OutboundSa {
    /// # Errors
    /// A reserved SPI, or a clock that was never set where the numbers come from it.
    pub fn new(config: &OutboundConfig<'_>) -> Result<Self, SaError> {
        check_spi(config.spi)?;
        let (first, iv_offset) = match config.start {
            Start::At { seq, iv_offset } => (seq.max(1), iv_offset),
            Start::Clock if config.extended => (clock()?, 0),
            Start::Clock | Start::ClockIv => (1, clock()?),
        };
        Ok(Self {
            aead: new_aead(config.material),
            outer: Outer::new(config.endpoints, config.encapsulation),
            spi: config.spi,
            salt: Salt(config.material.salt()),
            extended: config.extended,
            iv_offset,
            last: if config.extended { u64::MAX } else { u32::MAX.into() },
            key_id: config.material.id(),
            next: Counter(AtomicU64::new(first)),
        })
    }

    pub fn spi(&self) -> u32 {
        self.spi
    }

    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Bytes that a packet of `inner` bytes grows by, from its IP header to the end of the outer packet.
    pub fn overhead(&self, inner: usize) -> usize {
        self.front() - LINK_LEN + pad_len(inner) + TRAILER_LEN + ICV_LEN
    }

    /// Longest inner packet whose outer packet is within `mtu` (of the link, IP header included).
    pub fn max_inner(&self, mtu: usize) -> usize {
        // What is encrypted is padded to a multiple of 4.
        let text = mtu.saturating_sub(self.front() - LINK_LEN + ICV_LEN) & !3;
        text.saturating_sub(TRAILER_LEN)
    }

    /// Bytes in front of the ciphertext, the link place included.
    #[inline]
    fn front(&self) -> usize {
        self.outer.len() + ESP_LEN + IV_LEN
    }

    /// Numbers for a batch of `packets`, taken in one step. What is not used is skipped, which does no harm.
    pub fn sealer(&self, packets: u64) -> Sealer<'_> {
        let (next, left) = self.take(packets);
        Sealer { sa: self, next, left }
    }

    /// Seals one packet; for many see [`Self::sealer`].
    ///
    /// # Errors
    /// See [`Sealer::seal`].
    pub fn seal(&self, frame: &mut Frame, inner: &Inner) -> Result<(), SealError> {
        self.sealer(0).seal(frame, inner)
    }

    /// Up to `wanted` numbers: the first, and how many. Never beyond the last, so never one twice.
    fn take(&self, wanted: u64) -> (u64, u64) {
        let mut next = self.next.0.load(Ordering::Relaxed);
        loop {
            // `next` is 0 only when the 64-bit numbers have run out: the first is 1.
            let left = if next == 0 || next > self.last { 0 } else { (self.last - next).saturating_add(1) };
            let granted = wanted.min(left);
            if granted == 0 {
                return (next, 0);
            }
            // Relaxed: the number is all that is shared; no other memory hangs on it.
            let after = next.wrapping_add(granted);
            match self.next.0.compare_exchange_weak(next, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (next, granted),
                Err(now) => next = now,
            }
        }
    }

    /// The bounds of the outer packet (link place included) around `inner` in a buffer of `len` bytes.
    #[inline]
    fn layout(&self, len: usize, inner: &Inner) -> Result<Layout, SealError> {
        let (start, end) = (inner.place.start, inner.place.end);
        if start > end || end > len {
            return Err(SealError::BadPlace);
        }
        let front = start.checked_sub(self.front()).ok_or(SealError::NoRoom)?;
        let text_end = end + pad_len(end - start) + TRAILER_LEN;
        let back = text_end + ICV_LEN;
        if back > len {
            return Err(SealError::NoRoom);
        }
        self.outer.check_len(back - front - LINK_LEN)?;
        Ok(Layout { front, text_end, back })
    }

    #[inline]
    fn seal_laid_out(&self, buf: &mut [u8], inner: &Inner, at: &Layout, seq: u64) -> Result<(), SealError> {
        // Padding is 1, 2, 3 … (RFC 4303 §2.4), as much as makes the ciphertext a multiple of 4.
        const PADDING: [u8; 3] = [1, 2, 3];
        let iv = seq.wrapping_add(self.iv_offset).to_be_bytes();
        let frame = &mut buf[at.front..at.back];
        let (prefix, rest) = frame.split_at_mut(self.front());
        let (text, icv) = rest.split_at_mut(at.text_end - inner.place.start);
        let len = inner.place.end - inner.place.start;
        let tail = &mut text[len..];
        let pad = tail.len() - TRAILER_LEN;
        tail[..pad].copy_from_slice(&PADDING[..pad]);
        tail[pad] = pad as u8;
        tail[pad + 1] = inner.next_header;
        let (outer, esp) = prefix.split_at_mut(self.outer.len());
        self.outer.write(outer, at.back - at.front - LINK_LEN, inner.tos);
        // One wide store: SPI, low half of the number, IV.
        let header = u128::from(self.spi) << 96 | u128::from(seq as u32) << 64 | u128::from(u64::from_be_bytes(iv));
        esp.copy_from_slice(&header.to_be_bytes());
        let aad = AssociatedData::new(self.spi, seq, self.extended);
        // The AEAD's own limit is 64 GiB; `check_len` has refused that long ago.
        let tag = self.aead.seal(nonce(self.salt.0, iv), aad.as_slice(), text).map_err(|_| SealError::TooLong)?;
        icv.copy_from_slice(&tag);
        self.outer.finish(frame);
        Ok(())
    }
}

struct Layout {
    front: usize,
    text_end: usize,
    back: usize,
}

/// Seals packets with sequence numbers that are its own. Owning them is what makes each number be used once.
#[derive(Debug)]
pub struct Sealer<'a> {
    sa: &'a OutboundSa,
    next: u64,
    left: u64,
}

impl Sealer<'_> {
    /// Puts the packet into the tunnel, in place: padding, trailer and ICV behind it, IV, ESP, UDP and outer IP header
    /// in front, and the link place of [`LINK_LEN`] bytes in front of that. The outer IP header then is at offset
    /// [`LINK_LEN`] of the frame.
    ///
    /// # Errors
    /// See [`SealError`]; the packet is then unchanged and no number is used, and it must not be sent.
    #[inline]
    pub fn seal(&mut self, frame: &mut Frame, inner: &Inner) -> Result<(), SealError> {
        if frame.is_chain() {
            return Err(SealError::Chained);
        }
        if inner.place.start > inner.place.end || inner.place.end > frame.len() {
            return Err(SealError::BadPlace);
        }
        let (chunk, place) = frame.chunk_mut();
        let inner = Inner {
            place: inner.place.start + place.start..inner.place.end + place.start,
            next_header: inner.next_header,
            tos: inner.tos,
        };
        let sealed = self.seal_slice(chunk, &inner)?;
        let placed = frame.set_place(sealed);
        debug_assert!(placed, "the sealed packet is within the chunk");
        Ok(())
    }

    /// The same on plain bytes: `inner.place` is in `buf`, and so is the answer, the place of the whole sealed frame.
    /// For packets in several frames, gathered by the caller.
    ///
    /// # Errors
    /// As for [`Self::seal`].
    #[inline]
    pub fn seal_slice(&mut self, buf: &mut [u8], inner: &Inner) -> Result<std::ops::Range<usize>, SealError> {
        let layout = self.sa.layout(buf.len(), inner)?;
        if self.left == 0 {
            (self.next, self.left) = self.sa.take(1);
            if self.left == 0 {
                return Err(SealError::SeqExhausted);
            }
        }
        let seq = self.next;
        self.next = seq.wrapping_add(1);
        self.left -= 1;
        self.sa.seal_laid_out(buf, inner, &layout, seq)?;
        Ok(layout.front..layout.back)
    }
}

/// Bytes of padding that bring inner packet and trailer to a multiple of 4 (RFC 4303 §2.4).
#[inline]
fn pad_len(inner: usize) -> usize {
    inner.wrapping_add(TRAILER_LEN).wrapping_neg() & 3
}

/// Nanoseconds since 1970, and within one process never less than before, whatever happens to the clock.
fn clock() -> Result<u64, SaError> {
    static ANCHOR: OnceLock<(Duration, Instant)> = OnceLock::new();
    let (wall, at) = match ANCHOR.get() {
        Some(anchor) => anchor,
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if now < CLOCK_FLOOR {
                return Err(SaError::ClockNotSet);
            }
            ANCHOR.get_or_init(|| (now, Instant::now()))
        }
    };
    // 64 bits of nanoseconds reach to the year 2554.
    Ok((*wall + at.elapsed()).as_nanos() as u64)
}

const _: () = assert!(IV_LEN == size_of::<u64>() && ESP_LEN == 2 * size_of::<u32>());

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::aead::Cipher;
    use crate::crypto::esp::NEXT_IPV4;
    use crate::crypto::testing::{TestFrame, ipv4};
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    fn sa(extended: bool, start: Start) -> OutboundSa {
        let material = KeyMaterial::new(Cipher::Aes128Gcm, &[1; 20]).unwrap();
        let endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
        OutboundSa::new(&OutboundConfig {
            spi: 0x1000,
            material: &material,
            endpoints,
            encapsulation: Encapsulation::None,
            extended,
            start,
        })
        .unwrap()
    }

    fn inner(place: std::ops::Range<usize>) -> Inner {
        Inner { place, next_header: NEXT_IPV4, tos: 0 }
    }

    #[test]
    fn numbers_run_out_and_never_wrap() {
        for (extended, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX)] {
            let sa = sa(extended, Start::At { seq: last - 4, iv_offset: 0 });
            assert_eq!(sa.take(3), (last - 4, 3));
            let mut sealer = sa.sealer(10);
            assert_eq!((sealer.next, sealer.left), (last - 1, 2));
            let packet = ipv4(60, 0);
            for n in 0..4 {
                let mut f = TestFrame::new(2048, &packet);
                let got = sealer.seal(f.frame(), &inner(0..60));
                if n < 2 {
                    got.unwrap();
                } else {
                    assert_eq!(got, Err(SealError::SeqExhausted));
                    assert_eq!(f.frame().bytes(), packet, "nothing was touched");
                }
            }
            for _ in 0..3 {
                assert_eq!(sa.take(1).1, 0);
                assert_eq!(sa.take(u64::MAX).1, 0);
            }
        }
    }

    #[test]
    fn workers_never_share_a_number() {
        let sa = sa(true, Start::At { seq: u64::MAX - 3999, iv_offset: 0 });
        let taken: Vec<(u64, u64)> = std::thread::scope(|s| {
            let workers: Vec<_> = (1..=4)
                .map(|n| {
                    let sa = &sa;
                    s.spawn(move || (0..1000).map(|_| sa.take(n)).filter(|t| t.1 > 0).collect::<Vec<_>>())
                })
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let numbers: Vec<u64> = taken.iter().flat_map(|&(first, n)| (0..n).map(move |i| first + i)).collect();
        assert_eq!(numbers.len(), 4000);
        assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 4000);
    }

    #[test]
    fn a_new_association_starts_beyond_all_that_the_last_one_used() {
        let first = sa(true, Start::Clock);
        first.sealer(1000);
        let used = first.next.0.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(10));
        assert!(sa(true, Start::Clock).next.0.load(Ordering::Relaxed) >= used);
        // With 32-bit numbers it is the IV that must not come back.
        let (a, b) = (sa(false, Start::Clock), sa(false, Start::ClockIv));
        assert_eq!((a.next.0.load(Ordering::Relaxed), b.next.0.load(Ordering::Relaxed)), (1, 1));
        assert!(b.iv_offset > a.iv_offset);
    }

    #[test]
    fn overhead_and_mtu_agree_with_what_is_sent() {
        let sa = sa(true, Start::At { seq: 1, iv_offset: 0 });
        for len in 28..200 {
            let mut f = TestFrame::new(2048, &ipv4(len, 0));
            sa.seal(f.frame(), &inner(0..len)).unwrap();
            let wire = f.frame().len() - LINK_LEN;
            assert_eq!(wire, len + sa.overhead(len));
            assert!(sa.max_inner(wire) >= len && sa.max_inner(wire - 1) < len + 4);
        }
        for mtu in 80..3000 {
            let inner = sa.max_inner(mtu);
            assert!(inner + sa.overhead(inner) <= mtu && inner + 1 + sa.overhead(inner + 1) > mtu, "mtu {mtu}");
        }
    }

    #[test]
    fn no_room_is_an_error_and_uses_no_number() {
        let sa = sa(true, Start::At { seq: 1, iv_offset: 0 });
        let (packet, front) = (ipv4(60, 0), sa.front());
        let mut sealer = sa.sealer(1);
        for (off, size) in [(front - 1, 2048), (front, front + 60 + 2 + 2 + 15), (0, 80)] {
            let mut f = TestFrame::at(size, off, &packet);
            assert_eq!(sealer.seal(f.frame(), &inner(0..60)), Err(SealError::NoRoom));
            assert_eq!(f.frame().bytes(), packet);
        }
        let mut exact = TestFrame::at(front + 60 + 2 + 2 + 16, front, &packet);
        #[allow(clippy::reversed_empty_ranges)]
        for place in [0..61, 61..61, 5..4, usize::MAX..3] {
            assert_eq!(sealer.seal(exact.frame(), &inner(place)), Err(SealError::BadPlace));
        }
        assert_eq!(sealer.left, 1);
        sealer.seal(exact.frame(), &inner(0..60)).unwrap();
        let mut long = TestFrame::new(70_000, &vec![0x45; 65_535]);
        assert_eq!(sealer.seal(long.frame(), &inner(0..65_535)), Err(SealError::TooLong));
        exact.frame().set_chain(3, 100);
        assert_eq!(sealer.seal(exact.frame(), &inner(0..60)), Err(SealError::Chained));
    }

    #[test]
    fn reserved_spis_are_refused() {
        let material = KeyMaterial::new(Cipher::Aes128Gcm, &[1; 20]).unwrap();
        let ends = Endpoints::V4 { local: Ipv4Addr::LOCALHOST, remote: Ipv4Addr::LOCALHOST };
        for spi in [0, 1, 255] {
            let config = OutboundConfig {
                spi,
                material: &material,
                endpoints: ends,
                encapsulation: Encapsulation::None,
                extended: true,
                start: Start::Clock,
            };
            assert_eq!(OutboundSa::new(&config).map(|_| ()), Err(SaError::ReservedSpi(spi)));
        }
    }
}
