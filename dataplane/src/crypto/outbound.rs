//! One outbound security association: takes sequence numbers, seals packets in place.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::aead::{Aead, AeadKey, KeyId, KeyMaterial, Salt};
use super::ecn::{Dscp, Ecn, Entry};
use super::esp::{
    AssociatedData, ESP_LEN, ICV_LEN, IV_LEN, Inner, LINK_LEN, Mode, SaError, SealError, TRAILER_LEN, UDP_LEN,
    check_spi, nonce,
};
use super::lifetime::{Account, Budget, Expiry, Lifetime, Used};
use super::outer::{Df, Encapsulation, Endpoints, Outer};
use super::transport::{self, Split};
use crate::io::frame::Frame;

pub use super::start::Start;

/// What an outbound association is made from.
#[derive(Debug)]
pub struct OutboundConfig<'a> {
    pub spi: u32,
    pub material: &'a KeyMaterial,
    /// Of the outer header. Transport mode has none: each packet keeps its own addresses.
    pub endpoints: Endpoints,
    pub encapsulation: Encapsulation,
    /// 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub extended: bool,
    pub start: Start,
    pub options: OutboundOptions,
}

/// What an outbound association may do differently. The default is what a tunnel from the policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundOptions {
    pub mode: Mode,
    pub dscp: Dscp,
    pub ecn: Ecn,
    pub df: Df,
    /// The outer TTL or hop limit; 64 where there is none. The inner one's is never copied (RFC 4301 §5.1.2.1).
    pub ttl: Option<u8>,
    pub lifetime: Lifetime,
    /// When it was added, by the monotonic clock that sealers are given.
    pub added_ns: u64,
    /// What it has carried before.
    pub used: Used,
}

/// An outbound security association. Shared by all workers: the key is only read, the numbers are one atomic.
///
/// There may be thousands, and each packet may be another one's, so what a packet needs is in as few cache lines as can be: two
/// that are read, and one that is written.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct OutboundSa {
    aead: AeadKey,
    /// Added to the sequence number to make the IV.
    iv_offset: u64,
    /// Last number that may ever be used.
    end: u64,
    /// Last number that may be used now: within the lease, where there is one.
    last: AtomicU64,
    spi: u32,
    salt: Salt,
    extended: bool,
    mode: Mode,
    entry: Entry,
    df: Df,
    outer: Outer,
    written: Written,
    key_id: KeyId,
}

/// What every run writes, on a cache line of its own.
#[derive(Debug)]
#[repr(C, align(64))]
struct Written {
    /// Next number to hand out; `last + 1` (0 past the 64-bit end) when all are used.
    next: AtomicU64,
    account: Account,
}

const _: () = assert!(size_of::<Written>() == 64);
#[cfg(not(any(feature = "aws-lc-rs", feature = "ipsec-mb")))]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(OutboundSa, outer) + Outer::V4_NEEDS <= 128 && offset_of!(OutboundSa, written) == 128);
};

impl OutboundSa {
    /// # Errors
    /// A reserved SPI, or a clock that was never set where the numbers come from it.
    pub fn new(config: &OutboundConfig<'_>) -> Result<Self, SaError> {
        check_spi(config.spi)?;
        let options = &config.options;
        let (first, iv_offset) = config.start.resolve(config.extended)?;
        let end = if config.extended { u64::MAX } else { u32::MAX.into() };
        // A packet limit is an earlier end of the numbers. Numbers that are skipped count, so it may come early.
        let left = options.lifetime.hard.packets.saturating_sub(options.used.packets);
        let last = if left == 0 { first - 1 } else { end.min(first.saturating_add(left - 1)) };
        Ok(Self {
            aead: AeadKey::new(config.material),
            outer: match options.ttl {
                Some(ttl) => Outer::with_ttl(config.endpoints, config.encapsulation, ttl),
                None => Outer::new(config.endpoints, config.encapsulation),
            },
            spi: config.spi,
            salt: Salt(config.material.salt()),
            extended: config.extended,
            mode: options.mode,
            entry: Entry::new(options.dscp, options.ecn),
            df: options.df,
            iv_offset,
            end: last,
            last: AtomicU64::new(last),
            key_id: config.material.id(),
            written: Written {
                next: AtomicU64::new(first),
                account: Account::new(options.lifetime, options.added_ns, options.used),
            },
        })
    }

    pub fn spi(&self) -> u32 {
        self.spi
    }

    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The last sequence number handed out.
    pub fn sequence(&self) -> u64 {
        self.written.next.load(Ordering::Relaxed).wrapping_sub(1)
    }

    /// Goes on behind `seq`, where another that has the same key got to; never back. Skips one number more, so that no
    /// sealer of the moment can give numbers back to before it.
    pub fn skip_to(&self, seq: u64) {
        let next = |now: u64| (now != 0).then(|| now.max(seq.saturating_add(1)).wrapping_add(1));
        let _ = self.written.next.try_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Numbers up to `last` may be used from now on, and none beyond: for an association whose numbers another shares, and has
    /// handed over up to there.
    pub fn lease_to(&self, last: u64) {
        self.last.store(last.min(self.end), Ordering::Relaxed);
    }

    /// How many numbers may still be handed out.
    pub fn left(&self) -> u64 {
        let next = self.written.next.load(Ordering::Relaxed);
        if next == 0 { 0 } else { self.last.load(Ordering::Relaxed).wrapping_add(1).saturating_sub(next) }
    }

    /// What it has carried, its runs of the moment not included.
    pub fn used(&self) -> Used {
        self.written.account.used()
    }

    pub fn lifetime(&self) -> &Lifetime {
        self.written.account.lifetime()
    }

    pub fn added_ns(&self) -> u64 {
        self.written.account.added_ns()
    }

    /// Which limit has been reached by `now` (0: those of time are not looked at). Running out of sequence numbers is a
    /// hard limit.
    pub fn expired(&self, now: u64) -> Option<Expiry> {
        self.written.account.expired(now)
    }

    /// As [`Self::expired`], but says each only once: for whoever has to tell somebody.
    pub fn take_expiry(&self, now: u64) -> Option<Expiry> {
        self.written.account.take_expiry(now)
    }

    /// Bytes that a packet of `inner` bytes grows by, from its IP header to the end of the outer packet.
    pub fn overhead(&self, inner: usize) -> usize {
        self.front(&self.outer) - LINK_LEN + pad_len(inner) + TRAILER_LEN + ICV_LEN
    }

    /// Longest inner packet whose outer packet is within `mtu` (of the link, IP header included).
    pub fn max_inner(&self, mtu: usize) -> usize {
        self.max_inner_via(&self.outer, mtu)
    }

    /// As [`Self::max_inner`], behind another outer header (see [`Sealer::via`]).
    pub fn max_inner_via(&self, outer: &Outer, mtu: usize) -> usize {
        // What is encrypted is padded to a multiple of 4. In transport mode the header in front is such a multiple too.
        let text = mtu.saturating_sub(self.front(outer) - LINK_LEN + ICV_LEN) & !3;
        text.saturating_sub(TRAILER_LEN)
    }

    /// What `outer` and ESP take in front of a packet, the link place included.
    #[inline]
    fn front(&self, outer: &Outer) -> usize {
        let headers = match self.mode {
            Mode::Tunnel => outer.len(),
            Mode::Transport => LINK_LEN + if outer.ports().is_some() { UDP_LEN } else { 0 },
        };
        headers + ESP_LEN + IV_LEN
    }

    /// Bytes it takes in memory, beside what its key has in the secret pages.
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.written.account.heap()
    }

    /// Asks for the cache lines that say where a packet goes and what is put around it.
    #[inline]
    pub fn prefetch(&self) {
        super::prefetch_line(&self.aead);
        super::prefetch_line(self.outer.end());
    }

    /// Asks for the key, and what is written. Once [`Self::prefetch`] has had its time.
    #[inline]
    pub fn prefetch_deep(&self) {
        self.aead.prefetch();
        super::prefetch_line(&self.written);
    }

    /// Numbers for a batch of `packets`, taken in one step. Those not used go back where no other worker has taken any
    /// since; else they are skipped, which does no harm.
    pub fn sealer(&self, packets: u64) -> Sealer<'_> {
        self.sealer_at(packets, 0)
    }

    /// The same at `now`, by the monotonic clock of [`OutboundOptions::added_ns`]: limits of time are kept, and the
    /// association knows when it was used.
    #[inline]
    pub fn sealer_at(&self, packets: u64, now: u64) -> Sealer<'_> {
        let budget = self.written.account.begin(now);
        let (next, left) = if budget.packets == 0 { (0, 0) } else { self.take(packets) };
        Sealer { sa: self, outer: &self.outer, next, left, budget, now, packets: 0, bytes: 0 }
    }

    /// Seals one packet; for many see [`Self::sealer`].
    ///
    /// # Errors
    /// See [`Sealer::seal`].
    pub fn seal(&self, frame: &mut Frame, inner: &Inner) -> Result<(), SealError> {
        self.sealer(0).seal(frame, inner)
    }

    /// Up to `wanted` numbers: the first, and how many. Never beyond the last, so never one twice.
    #[inline]
    fn take(&self, wanted: u64) -> (u64, u64) {
        let mut next = self.written.next.load(Ordering::Relaxed);
        loop {
            // `next` is 0 only when the 64-bit numbers have run out: the first is 1.
            let last = self.last.load(Ordering::Relaxed);
            let left = if next == 0 || next > last { 0 } else { (last - next).saturating_add(1) };
            let granted = wanted.min(left);
            if granted == 0 {
                return (next, 0);
            }
            // Relaxed: the number is all that is shared; no other memory hangs on it.
            let after = next.wrapping_add(granted);
            match self.written.next.compare_exchange_weak(next, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (next, granted),
                Err(now) => next = now,
            }
        }
    }

    /// Where the parts of the sealed packet go, link place first, around `inner` in `buf`.
    #[inline]
    fn layout(&self, buf: &[u8], inner: &Inner, outer: &Outer) -> Result<Layout, SealError> {
        let (start, end) = (inner.place.start, inner.place.end);
        let packet = buf.get(start..end).ok_or(SealError::BadPlace)?;
        let split = match self.mode {
            Mode::Tunnel => None,
            Mode::Transport => Some(transport::split(packet)?),
        };
        let text = start + split.map_or(0, |s| s.header);
        let front = start.checked_sub(self.front(outer)).ok_or(SealError::NoRoom)?;
        let text_end = end + pad_len(end - start) + TRAILER_LEN;
        let back = text_end + ICV_LEN;
        if back > buf.len() {
            return Err(SealError::NoRoom);
        }
        match &split {
            None => outer.check_len(back - front - LINK_LEN)?,
            Some(split) => split.check_len(back - front - LINK_LEN)?,
        }
        Ok(Layout { front, text, text_end, back, split })
    }

    #[inline]
    fn seal_laid_out(
        &self,
        buf: &mut [u8],
        inner: &Inner,
        at: &Layout,
        outer: &Outer,
        seq: u64,
    ) -> Result<(), SealError> {
        // Padding is 1, 2, 3 … (RFC 4303 §2.4), as much as makes the ciphertext a multiple of 4.
        const PADDING: [u8; 3] = [1, 2, 3];
        let iv = seq.wrapping_add(self.iv_offset);
        let wire = at.back - at.front - LINK_LEN;
        let df = self.df.of(inner, buf);
        let frame = &mut buf[at.front..at.back];
        if let Some(split) = &at.split {
            transport::put(frame, inner.place.start - at.front, split, outer.ports());
        }
        let (front, rest) = frame.split_at_mut(at.text - at.front);
        let (text, icv) = rest.split_at_mut(at.text_end - at.text);
        let tail = &mut text[inner.place.end - at.text..];
        let pad = tail.len() - TRAILER_LEN;
        tail[..pad].copy_from_slice(&PADDING[..pad]);
        tail[pad] = pad as u8;
        tail[pad + 1] = at.split.map_or(inner.next_header, |s| s.proto);
        let (headers, esp) = front.split_at_mut(front.len() - ESP_LEN - IV_LEN);
        if at.split.is_none() {
            // The low half of the number does for the ID: it comes again after 65,536 packets (RFC 6864 §4.3).
            let id = if df { None } else { Some(seq as u16) };
            outer.write_with(headers, wire, self.entry.outer(inner.tos), id);
        }
        // One wide store: SPI, low half of the number, IV.
        let header = u128::from(self.spi) << 96 | u128::from(seq as u32) << 64 | u128::from(iv);
        esp.copy_from_slice(&header.to_be_bytes());
        let aad = AssociatedData::new(self.spi, seq, self.extended);
        // The AEAD's own limit is 64 GiB; `check_len` has refused that long ago.
        let nonce = nonce(self.salt.0, iv.to_be_bytes());
        let tag = self.aead.seal(nonce, aad.as_slice(), text).map_err(|_| SealError::TooLong)?;
        icv.copy_from_slice(&tag);
        match &at.split {
            None => outer.finish(frame),
            Some(split) if outer.ports().is_some() => transport::finish(frame, split),
            Some(_) => {}
        }
        Ok(())
    }
}

struct Layout {
    front: usize,
    /// Of what is encrypted.
    text: usize,
    text_end: usize,
    back: usize,
    split: Option<Split>,
}

/// Seals a run of packets with sequence numbers that are its own. Owning them is what makes each number be used once.
/// When it is dropped, what it sealed is added to the association's account.
#[derive(Debug)]
pub struct Sealer<'a> {
    sa: &'a OutboundSa,
    outer: &'a Outer,
    next: u64,
    left: u64,
    budget: Budget,
    now: u64,
    packets: u64,
    bytes: u64,
}

impl<'a> Sealer<'a> {
    /// With this outer header in place of the association's own: the peer is elsewhere now (RFC 3948 §4, RFC 4555).
    /// Transport mode takes only the UDP ports from it.
    #[must_use]
    pub fn via(mut self, outer: &'a Outer) -> Self {
        self.outer = outer;
        self
    }

    /// Puts the packet into the tunnel, in place: padding, trailer and ICV behind it, IV, ESP, UDP and outer IP header
    /// in front, and the link place of [`LINK_LEN`] bytes in front of that. The outer IP header then is at offset
    /// [`LINK_LEN`] of the frame. In transport mode the outer IP header is the packet's own.
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
    pub fn seal_slice(&mut self, buf: &mut [u8], inner: &Inner) -> Result<Range<usize>, SealError> {
        let layout = self.sa.layout(buf, inner, self.outer)?;
        let bytes = inner.place.len() as u64;
        if self.left == 0 {
            self.take_one()?;
        }
        if self.bytes.saturating_add(bytes) > self.budget.bytes {
            self.sa.written.account.end();
            return Err(SealError::Expired);
        }
        // Used from here on, whatever happens: it never goes back.
        let seq = self.next;
        self.next = seq.wrapping_add(1);
        self.left -= 1;
        self.sa.seal_laid_out(buf, inner, &layout, self.outer, seq)?;
        self.packets += 1;
        self.bytes += bytes;
        Ok(layout.front..layout.back)
    }

    /// One more number.
    #[cold]
    fn take_one(&mut self) -> Result<(), SealError> {
        if self.budget.packets == 0 {
            return Err(SealError::Expired);
        }
        (self.next, self.left) = self.sa.take(1);
        if self.left > 0 {
            return Ok(());
        }
        if self.sa.last.load(Ordering::Relaxed) < self.sa.end {
            return Err(SealError::Expired); // till the lease is renewed
        }
        self.sa.written.account.end();
        let all = if self.sa.extended { u64::MAX } else { u32::MAX.into() };
        Err(if self.sa.end < all { SealError::Expired } else { SealError::SeqExhausted })
    }
}

impl Drop for Sealer<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.left > 0 {
            let end = self.next.wrapping_add(self.left);
            // Fails where another worker has taken numbers since: then these are skipped.
            let _ = self.sa.written.next.compare_exchange(end, self.next, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.sa.written.account.add(self.packets, self.bytes, self.now);
    }
}

/// Bytes of padding that bring inner packet and trailer to a multiple of 4 (RFC 4303 §2.4).
#[inline]
fn pad_len(inner: usize) -> usize {
    inner.wrapping_add(TRAILER_LEN).wrapping_neg() & 3
}

const _: () = assert!(IV_LEN == size_of::<u64>() && ESP_LEN == 2 * size_of::<u32>());

#[cfg(test)]
mod tests;
