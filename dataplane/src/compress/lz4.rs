//! Packets to and from LZ4 under IPComp. One [`Compressor`] and one [`Decompressor`] per worker; neither allocates
//! after it was made.

use std::ops::Range;

use lz4_flex::block::{self, CompressTable, compress_into_with_table, get_maximum_output_size};

use super::governor::{Governor, looks_random};
use super::ipcomp::{self, CPI_LZ4, IPCOMP_LEN};
use crate::crypto::esp::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, LINK_LEN, NEXT_IPV4, NEXT_IPV6, write_link};
use crate::io::frame::{Frame, HEADROOM};

/// Shorter packets are left alone: headers of 40 bytes and about 90 of payload (RFC 3173 §2.2).
pub const MIN_LEN: usize = 130;
/// Longest packet tried. The table's 16-bit positions reach this far, and no IP packet but the longest is longer.
pub const MAX_LEN: usize = u16::MAX as usize - 1;
/// Bytes that must be saved, IPComp's header counted, for the peer's work to be worth it.
const MIN_GAIN: usize = 16;
/// IPv4 and TCP headers without options: what the probe does not look at, for they are never random.
const HEADERS: usize = 40;

/// What became of a packet offered for compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is an IPComp packet now, at `place` of the frame; its next header is 108.
    Compressed { place: Range<usize> },
    /// It is as it was.
    Left(Left),
}

/// Why a packet was left uncompressed. None of them is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    /// Below [`MIN_LEN`] or above [`MAX_LEN`].
    Size,
    /// Earlier packets of the flow did not shrink.
    Backoff,
    /// Looks random.
    Random,
    /// Tried, and not smaller by enough.
    NoGain,
    /// In several frames, or the place is not within the frame.
    Unfit,
}

impl Left {
    pub const ALL: [Left; 5] = [Self::Size, Self::Backoff, Self::Random, Self::NoGain, Self::Unfit];

    /// The counter's name.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Backoff => "backoff",
            Self::Random => "random",
            Self::NoGain => "no_gain",
            Self::Unfit => "unfit",
        }
    }
}

/// Why a compressed packet was not restored. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecompressError {
    /// No whole IPComp header, or no data behind it.
    Short,
    /// Another algorithm than [`CPI_LZ4`].
    UnknownCpi,
    /// Neither IPv4 nor IPv6 inside.
    BadNextHeader,
    /// Not LZ4, or what comes out is not the IP packet that the header says.
    Malformed,
    /// Would be larger than a frame, or than the limit: a bomb, or a peer with a larger MTU.
    Expansion,
    /// In several frames, or the place is not within the frame.
    Unfit,
}

impl DecompressError {
    pub const ALL: [DecompressError; 6] =
        [Self::Short, Self::UnknownCpi, Self::BadNextHeader, Self::Malformed, Self::Expansion, Self::Unfit];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::UnknownCpi => "unknown_cpi",
            Self::BadNextHeader => "bad_next_header",
            Self::Malformed => "malformed",
            Self::Expansion => "expansion",
            Self::Unfit => "unfit",
        }
    }
}

/// Compresses packets. Holds the match table and the scratch that a result waits in until it is known to be smaller.
pub struct Compressor {
    table: CompressTable,
    scratch: Box<[u8]>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    /// About 80 KiB.
    pub fn new() -> Self {
        let scratch = vec![0; IPCOMP_LEN + get_maximum_output_size(MAX_LEN)].into_boxed_slice();
        Self { table: CompressTable::small(), scratch }
    }

    /// Compresses the inner packet at `place` of the frame where that makes it smaller. `next_header` is its own (4 or
    /// 41), `flow` the memory of this direction of its flow. The frame ends behind the packet afterwards.
    pub fn compress(
        &mut self,
        frame: &mut Frame,
        place: Range<usize>,
        next_header: u8,
        flow: &mut Governor,
    ) -> Outcome {
        if frame.is_chain() {
            return Outcome::Left(Left::Unfit);
        }
        let Some(packet) = frame.bytes_mut().get_mut(place.clone()) else { return Outcome::Left(Left::Unfit) };
        match self.compress_slice(packet, next_header, flow) {
            Ok(smaller) => {
                packet[..smaller.len()].copy_from_slice(smaller);
                let end = place.start + smaller.len();
                let cut = frame.truncate(end);
                debug_assert!(cut, "smaller than it was");
                Outcome::Compressed { place: place.start..end }
            }
            Err(left) => Outcome::Left(left),
        }
    }

    /// The same on plain bytes: the IPComp packet, in the scratch.
    ///
    /// # Errors
    /// See [`Left`].
    pub fn compress_slice(&mut self, packet: &[u8], next_header: u8, flow: &mut Governor) -> Result<&[u8], Left> {
        if !(MIN_LEN..=MAX_LEN).contains(&packet.len()) {
            return Err(Left::Size);
        }
        if !flow.admit() {
            return Err(Left::Backoff);
        }
        if looks_random(&packet[HEADERS..]) {
            flow.learn(false);
            return Err(Left::Random);
        }
        let (header, data) = self.scratch.split_at_mut(IPCOMP_LEN);
        let len = compress_into_with_table(packet, data, &mut self.table).ok().map(|n| n + IPCOMP_LEN);
        let Some(len) = len.filter(|n| n + MIN_GAIN <= packet.len()) else {
            flow.learn(false);
            return Err(Left::NoGain);
        };
        flow.learn(true);
        header.copy_from_slice(&ipcomp::write(next_header));
        Ok(&self.scratch[..len])
    }
}

/// A packet as it was before [`Compressor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decompressed {
    /// Where it is, in bytes from the start of the frame.
    pub place: Range<usize>,
    /// 4 or 41.
    pub next_header: u8,
}

/// Restores packets. Holds the scratch that the compressed form is read from while the frame takes the result.
pub struct Decompressor {
    scratch: Box<[u8]>,
    max: usize,
}

impl Decompressor {
    /// `max`: longest packet restored, at most 65,535. The frame's chunk is a limit as well.
    pub fn new(max: usize) -> Self {
        Self { scratch: vec![0; u16::MAX.into()].into_boxed_slice(), max: max.min(u16::MAX.into()) }
    }

    /// Restores the IPComp packet at `place` of the frame. The frame then begins with the link place ([`LINK_LEN`]
    /// bytes) in front of it, with the usual headroom in front of that where the packet leaves so much.
    ///
    /// # Errors
    /// See [`DecompressError`]. The frame's bytes are then void; it is to be dropped.
    pub fn decompress(&mut self, frame: &mut Frame, place: Range<usize>) -> Result<Decompressed, DecompressError> {
        if frame.is_chain() {
            return Err(DecompressError::Unfit);
        }
        let packet = frame.bytes().get(place).ok_or(DecompressError::Unfit)?;
        // A longer one cannot come out of a tunnel.
        let input = self.scratch.get_mut(..packet.len()).ok_or(DecompressError::Unfit)?;
        input.copy_from_slice(packet);
        let (chunk, _) = frame.chunk_mut();
        // Twice only for packets that nearly fill the chunk: once with the usual headroom, once without.
        let mut start = HEADROOM.min(chunk.len());
        let (len, next_header) = match restore(input, &mut chunk[start..], self.max) {
            Err(DecompressError::Expansion) if chunk.len() > LINK_LEN => {
                start = LINK_LEN;
                restore(input, &mut chunk[start..], self.max)?
            }
            other => other?,
        };
        let ethertype = if next_header == NEXT_IPV4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        write_link(&mut chunk[start - LINK_LEN..start], ethertype);
        let placed = frame.set_place(start - LINK_LEN..start + len);
        debug_assert!(placed, "what was restored is within the chunk");
        Ok(Decompressed { place: LINK_LEN..LINK_LEN + len, next_header })
    }

    /// The same on plain bytes: restores `packet` into the start of `out`, and says how long it is and its next header.
    ///
    /// # Errors
    /// See [`DecompressError`].
    pub fn decompress_slice(&self, packet: &[u8], out: &mut [u8]) -> Result<(usize, u8), DecompressError> {
        restore(packet, out, self.max)
    }
}

fn restore(packet: &[u8], out: &mut [u8], max: usize) -> Result<(usize, u8), DecompressError> {
    let (next_header, cpi) = ipcomp::read(packet).ok_or(DecompressError::Short)?;
    if cpi != CPI_LZ4 {
        return Err(DecompressError::UnknownCpi);
    }
    let (version, min) = match next_header {
        NEXT_IPV4 => (4, 20),
        NEXT_IPV6 => (6, 40),
        _ => return Err(DecompressError::BadNextHeader),
    };
    let data = &packet[IPCOMP_LEN..];
    if data.is_empty() {
        return Err(DecompressError::Short);
    }
    let room = out.len().min(max);
    let out = &mut out[..room];
    // The safe form of the crate: bounds-checked throughout, and it never writes past `out`.
    let len = block::decompress_into(data, out).map_err(|e| match e {
        block::DecompressError::OutputTooSmall { .. } => DecompressError::Expansion,
        _ => DecompressError::Malformed,
    })?;
    if len < min || out[0] >> 4 != version {
        return Err(DecompressError::Malformed);
    }
    Ok((len, next_header))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::testing::{TestFrame, ipv4, ipv6};
    use proptest::prelude::*;

    /// An IPv4 packet whose payload repeats itself.
    fn text(len: usize) -> Vec<u8> {
        let mut p = ipv4(len, 0);
        for (i, b) in p[40..].iter_mut().enumerate() {
            *b = b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\n"[i % 49];
        }
        p
    }

    fn ipcomp(next_header: u8, plain: &[u8]) -> Vec<u8> {
        [&ipcomp::write(next_header)[..], &block::compress(plain)].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn restores_what_was_compressed(
            len in 130_usize..9000, v6: bool, link in 0_usize..20, behind in 0_usize..20,
            values in 1_u8..20, seed: u64,
        ) {
            let mut packet = if v6 { ipv6(len, 0) } else { ipv4(len, 0) };
            let mut x = seed | 1;
            for b in &mut packet[48..] {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *b = (x >> 60) as u8 % values;
            }
            let next_header = if v6 { NEXT_IPV6 } else { NEXT_IPV4 };
            let bytes = [&vec![0xDD; link][..], &packet, &vec![0; behind]].concat();
            let mut f = TestFrame::new(10_240, &bytes);
            let got = Compressor::new().compress(f.frame(), link..link + len, next_header, &mut Governor::default());
            match got {
                Outcome::Compressed { place } => {
                    prop_assert!(place.len() + MIN_GAIN <= len && place.start == link);
                    prop_assert_eq!(f.frame().len(), place.end);
                    let back = Decompressor::new(65_535).decompress(f.frame(), place).unwrap();
                    prop_assert_eq!((back.place, back.next_header), (14..14 + len, next_header));
                    prop_assert_eq!(&f.frame().bytes()[14..], &packet[..]);
                    prop_assert_eq!(f.frame().bytes()[12], if v6 { 0x86 } else { 8 });
                    prop_assert_eq!(f.frame().headroom(), HEADROOM - LINK_LEN);
                }
                Outcome::Left(left) => {
                    prop_assert_eq!(left, Left::NoGain);
                    prop_assert_eq!(f.frame().bytes(), &bytes[..]);
                }
            }
        }

        #[test]
        fn garbage_neither_panics_nor_exceeds_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            header: bool, v6: bool, max in 0_usize..3000, from in 0_usize..20, to in 0_usize..420,
        ) {
            let mut bytes = bytes;
            if header && bytes.len() >= from + 4 {
                bytes[from..from + 4].copy_from_slice(&ipcomp::write(if v6 { 41 } else { 4 }));
            }
            let mut f = TestFrame::new(2048, &bytes);
            if let Ok(d) = Decompressor::new(max).decompress(f.frame(), from..to) {
                prop_assert!(d.place.len() <= max && f.frame().len() == d.place.end);
            }
        }
    }

    #[test]
    fn text_shrinks_and_the_rest_says_why_not() {
        let mut c = Compressor::new();
        let mut try_ = |packet: &[u8], flow: &mut Governor| c.compress_slice(packet, NEXT_IPV4, flow).map(<[u8]>::len);
        assert!(try_(&text(1400), &mut Governor::default()).unwrap() < 200);
        assert_eq!(try_(&text(MIN_LEN - 1), &mut Governor::default()), Err(Left::Size));
        assert!(try_(&text(MAX_LEN), &mut Governor::default()).unwrap() < 1000);
        assert_eq!(try_(&vec![0x45; MAX_LEN + 1], &mut Governor::default()), Err(Left::Size));

        let mut flow = Governor::default();
        assert_eq!(try_(&ipv4(290, 0), &mut flow), Err(Left::Random));
        assert_eq!(try_(&text(1400), &mut flow), Err(Left::Backoff));
        assert!(try_(&text(1400), &mut flow).is_ok());
        // 0..=31 in an order that never repeats four in a row: not random to the probe, nothing for LZ4.
        let mut x = 1_u64;
        let mut dull = ipv4(290, 0);
        for b in &mut dull[28..] {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *b = (x >> 59) as u8;
        }
        assert_eq!(try_(&dull, &mut flow), Err(Left::NoGain));
        assert_eq!(try_(&dull, &mut flow), Err(Left::Backoff));
    }

    #[test]
    fn bombs_are_bounded_by_the_frame_and_by_the_limit() {
        let bomb = |n: usize| {
            let mut p = vec![0; n];
            p[0] = 0x45;
            ipcomp(NEXT_IPV4, &p)
        };
        let open = |n: usize, chunk: usize, max: usize| {
            let mut f = TestFrame::new(chunk, &bomb(n));
            let len = f.frame().len();
            Decompressor::new(max).decompress(f.frame(), 0..len).map(|d| d.place.len())
        };
        assert_eq!(open(2048 - HEADROOM, 2048, 65_535), Ok(2048 - HEADROOM));
        // Without the headroom it still fits, to the last byte.
        assert_eq!(open(2048 - LINK_LEN, 2048, 65_535), Ok(2048 - LINK_LEN));
        assert_eq!(open(2048 - LINK_LEN + 1, 2048, 65_535), Err(DecompressError::Expansion));
        assert_eq!(open(1500, 2048, 1500), Ok(1500));
        assert_eq!(open(1501, 2048, 1500), Err(DecompressError::Expansion));
        let (d, huge) = (Decompressor::new(usize::MAX), bomb(1 << 24));
        assert_eq!(d.decompress_slice(&huge, &mut vec![0; 1 << 17]), Err(DecompressError::Expansion));
        assert_eq!(d.decompress_slice(&bomb(65_535), &mut vec![0; 1 << 17]), Ok((65_535, NEXT_IPV4)));
    }

    #[test]
    fn every_refusal_has_its_name() {
        let good = ipcomp(NEXT_IPV4, &text(300));
        let with = |at: usize, byte: u8| {
            let mut p = good.clone();
            p[at] = byte;
            p
        };
        let d = Decompressor::new(65_535);
        let mut out = vec![0; 2048];
        for (packet, want) in [
            (good.clone(), Ok((300, NEXT_IPV4))),
            (with(1, 0xff), Ok((300, NEXT_IPV4))),
            (good[..3].to_vec(), Err(DecompressError::Short)),
            (good[..4].to_vec(), Err(DecompressError::Short)),
            (with(3, 2), Err(DecompressError::UnknownCpi)),
            (with(0, 108), Err(DecompressError::BadNextHeader)),
            (with(0, 6), Err(DecompressError::BadNextHeader)),
            (with(0, NEXT_IPV6), Err(DecompressError::Malformed)),
            (good[..good.len() - 1].to_vec(), Err(DecompressError::Malformed)),
            (ipcomp(NEXT_IPV4, &[0x45; 19]), Err(DecompressError::Malformed)),
        ] {
            assert_eq!(d.decompress_slice(&packet, &mut out), want);
        }
        let mut f = TestFrame::new(2048, &good);
        let (mut d, len) = (Decompressor::new(65_535), good.len());
        assert_eq!(d.decompress(f.frame(), 0..len + 1), Err(DecompressError::Unfit));
        f.frame().set_chain(1, 9);
        assert_eq!(d.decompress(f.frame(), 0..len), Err(DecompressError::Unfit));
        let left = Compressor::new().compress(f.frame(), 0..len, 4, &mut Governor::default());
        assert_eq!(left, Outcome::Left(Left::Unfit));
    }
}
