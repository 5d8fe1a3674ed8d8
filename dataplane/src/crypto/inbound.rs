//! One inbound security association: judges sequence numbers, opens packets in place.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use softdpu_ebpf_common::walk::{Fragment, Headers};

use super::aead::{Aead, AeadKey, KeyId, KeyMaterial, Salt};
use super::ecn::{self, Exit};
use super::esp::{
    AssociatedData, ESP_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICV_LEN, IV_LEN, LINK_LEN, Mode, NEXT_IPCOMP, NEXT_IPV4,
    NEXT_IPV6, NEXT_NONE, OpenError, Opened, PROTO_ESP, PROTO_UDP, SaError, UDP_LEN, check_spi, nonce, write_link,
};
use super::lifetime::{Account, Budget, Expiry, Lifetime, Used};
use super::replay::{ReplayError, ReplayWindow};
use super::transport;
use crate::io::frame::Frame;

pub use super::transport::NatFix;

/// Largest anti-replay window, as in the kernel.
const MAX_ESP_WINDOW: u32 = 4096;

/// Shortest ESP packet: header, IV, an empty padded text of 4 bytes, ICV.
const MIN_ESP: usize = ESP_LEN + IV_LEN + 4 + ICV_LEN;

/// How the peer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// 32 bits.
    Short,
    /// 64 bits, the high half inferred from the window (RFC 4303 appendix A). For any peer with extended numbers.
    Extended,
    /// 64 bits, in full in the IV, as softdpu sends it. The same bytes on the wire as `Extended`, but the receiver
    /// needs no history: after a restart of either side the first packet is understood. The IV is authenticated
    /// (it is part of the nonce), and a packet whose IV does not end in its sequence number is refused.
    InIv,
}

/// What an inbound association is made from.
#[derive(Debug)]
pub struct InboundConfig<'a> {
    pub spi: u32,
    pub material: &'a KeyMaterial,
    pub sequence: Sequence,
    /// Packets the anti-replay window holds, 64 to 4096. 0: none is kept, for mirrors of associations that have none
    /// (RFC 4303 §3.4.3 leaves that to the receiver); extended numbers cannot do without, and get 64.
    pub window: u32,
    pub options: InboundOptions,
}

/// What an inbound association may do differently. The default is what a tunnel from the policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundOptions {
    pub mode: Mode,
    /// What tunnel mode does with the outer DSCP and ECN.
    pub exit: Exit,
    /// For transport mode in UDP.
    pub nat: NatFix,
    pub lifetime: Lifetime,
    /// When it was added, by the monotonic clock that openers are given.
    pub added_ns: u64,
    /// What it has carried before.
    pub used: Used,
}

/// What became of the packets of one association. Bytes are the inner packets'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundStats {
    pub packets: u64,
    pub bytes: u64,
    /// Seen before or left of the window.
    pub replayed: u64,
    /// Did not authenticate.
    pub unauthentic: u64,
    /// Authentic dummies.
    pub dummies: u64,
    /// Too short, or authentic and yet wrong inside.
    pub malformed: u64,
}

/// An inbound security association, shared by all workers.
///
/// There may be thousands, and each packet may be another one's, so what a packet needs is in as few cache lines as can be: the
/// first, which is read, and two that are written.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct InboundSa {
    aead: AeadKey,
    spi: u32,
    salt: Salt,
    sequence: Sequence,
    mode: Mode,
    exit: Exit,
    /// Whether the window's verdict counts.
    anti_replay: bool,
    window: ReplayWindow,
    account: Account,
    refused: Refused,
    key_id: KeyId,
    nat: NatFix,
}

#[cfg(not(any(feature = "aws-lc-rs", feature = "ipsec-mb")))]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(InboundSa, window) == 64 && offset_of!(InboundSa, account) == 128 && size_of::<Account>() <= 64);
};

/// Packets not opened; as in [`InboundStats`].
#[derive(Debug, Default)]
struct Refused {
    replayed: AtomicU64,
    unauthentic: AtomicU64,
    dummies: AtomicU64,
    malformed: AtomicU64,
}

impl InboundSa {
    /// # Errors
    /// A reserved SPI.
    pub fn new(config: &InboundConfig<'_>) -> Result<Self, SaError> {
        check_spi(config.spi)?;
        let options = &config.options;
        Ok(Self {
            aead: AeadKey::new(config.material),
            spi: config.spi,
            salt: Salt(config.material.salt()),
            sequence: config.sequence,
            mode: options.mode,
            exit: options.exit,
            nat: options.nat,
            key_id: config.material.id(),
            anti_replay: config.window > 0 || config.sequence == Sequence::Extended,
            window: ReplayWindow::new(config.window.min(MAX_ESP_WINDOW)),
            account: Account::new(options.lifetime, options.added_ns, options.used),
            refused: Refused::default(),
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

    /// What tunnel mode does with the outer DSCP and ECN byte: for callers that decompress first.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Its runs of the moment are not included.
    pub fn stats(&self) -> InboundStats {
        let Used { packets, bytes, .. } = self.account.used();
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        InboundStats {
            packets,
            bytes,
            replayed: count(&self.refused.replayed),
            unauthentic: count(&self.refused.unauthentic),
            dummies: count(&self.refused.dummies),
            malformed: count(&self.refused.malformed),
        }
    }

    /// What it has carried, its runs of the moment not included.
    pub fn used(&self) -> Used {
        self.account.used()
    }

    pub fn lifetime(&self) -> &Lifetime {
        self.account.lifetime()
    }

    pub fn added_ns(&self) -> u64 {
        self.account.added_ns()
    }

    /// Which limit has been reached by `now` (0: those of time are not looked at).
    pub fn expired(&self, now: u64) -> Option<Expiry> {
        self.account.expired(now)
    }

    /// As [`Self::expired`], but says each only once: for whoever has to tell somebody.
    pub fn take_expiry(&self, now: u64) -> Option<Expiry> {
        self.account.take_expiry(now)
    }

    /// The replay state, to be read: highest number, and which have been seen ([`ReplayWindow::check`]).
    pub fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// Takes over the replay state of another that has opened packets with this key (see [`ReplayWindow::restore`]),
    /// before the first packet. Numbers below the other's own window must count as seen.
    pub fn set_sequence(&mut self, top: u64, seen: impl Fn(u64) -> bool) {
        self.window.restore(top, seen);
    }

    /// Goes on behind another that has opened packets with this key, before the first packet: with its window. Its account is in
    /// [`InboundOptions::used`].
    pub fn go_on_from(&mut self, other: &Self) {
        self.window.restore(other.window.top(), |seq| other.window.check(seq).is_err());
    }

    /// Takes over what the other has opened since: numbers that it would not take are seen here too, and what it has carried beyond
    /// `told` is carried. Gives what is to be told next time. Both may be in use.
    pub fn learn_from(&self, other: &Self, told: Used) -> Used {
        let now = other.used();
        let top = other.window.top();
        for seq in top.saturating_sub(u64::from(self.window.size()) - 1).max(1)..=top {
            // What has left the other's window meanwhile may have been seen there.
            if other.window.check(seq).is_err() {
                // Refused where it was seen here already, or is too old for it.
                let _ = self.window.accept(seq);
            }
        }
        let more = |now: u64, told: u64| now.saturating_sub(told);
        self.account.add(more(now.packets, told.packets), more(now.bytes, told.bytes), now.last_ns);
        now
    }

    /// As if it had opened packets.
    #[cfg(test)]
    pub(crate) fn carried(&self, packets: u64, bytes: u64, now: u64) {
        self.account.add(packets, bytes, now);
    }

    /// Whether packets of the one are packets of the other: then this one may go on in the other's place after a reload,
    /// with its window and its account. A new one in its place would forget what was seen, and every packet of the past
    /// could be replayed.
    pub fn same_as(&self, other: &InboundSa) -> bool {
        (self.spi, self.key_id) == (other.spi, other.key_id)
    }

    /// Bytes it takes in memory, beside what its key has in the secret pages.
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.window.heap() + self.account.heap()
    }

    /// Asks for the cache lines of the association itself.
    #[inline]
    pub fn prefetch(&self) {
        super::prefetch_line(&self.aead);
        super::prefetch_line(&self.window);
        super::prefetch_line(&self.account);
    }

    /// Asks for what the association points at: the key, and the window's line. Once [`Self::prefetch`] has had its time.
    #[inline]
    pub fn prefetch_deep(&self) {
        self.aead.prefetch();
        self.window.prefetch();
    }

    /// For a run of packets of this association.
    pub fn opener(&self) -> Opener<'_> {
        self.opener_at(0)
    }

    /// The same at `now`, by the monotonic clock of [`InboundOptions::added_ns`]: limits of time are kept, and the
    /// association knows when it was used.
    #[inline]
    pub fn opener_at(&self, now: u64) -> Opener<'_> {
        Opener { sa: self, budget: self.account.begin(now), now, seen: InboundStats::default() }
    }

    /// Opens one packet; for many see [`Self::opener`].
    ///
    /// # Errors
    /// See [`Opener::open`].
    #[inline]
    pub fn open(&self, frame: &mut Frame, headers: &Headers) -> Result<Opened, OpenError> {
        self.opener().open(frame, headers)
    }

    /// Opens one packet; for many see [`Self::opener`].
    ///
    /// # Errors
    /// See [`Opener::open_slice`].
    #[inline]
    pub fn open_slice(&self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        self.opener().open_slice(buf, esp)
    }

    /// Authenticates and decrypts: where the text is, and what it says it is.
    #[inline]
    fn decrypt(&self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        let packet = buf.get_mut(esp.clone()).ok_or(OpenError::Short)?;
        if packet.len() < MIN_ESP {
            return Err(OpenError::Short);
        }
        let Some((&spi, rest)) = packet.split_first_chunk::<4>() else { return Err(OpenError::Short) };
        let Some((&low, rest)) = rest.split_first_chunk::<4>() else { return Err(OpenError::Short) };
        let Some((&iv, _)) = rest.split_first_chunk::<IV_LEN>() else { return Err(OpenError::Short) };
        if u32::from_be_bytes(spi) != self.spi {
            return Err(OpenError::NoSa);
        }
        let low = u32::from_be_bytes(low);
        let seq = match self.sequence {
            Sequence::Short => low.into(),
            Sequence::Extended => self.window.infer(low).map_err(replay_error)?,
            Sequence::InIv => {
                let seq = u64::from_be_bytes(iv);
                if seq as u32 != low {
                    return Err(OpenError::BadIv);
                }
                seq
            }
        };
        if self.anti_replay {
            self.window.check(seq).map_err(replay_error)?;
        }

        let text = &mut packet[ESP_LEN + IV_LEN..];
        let Some((text, &mut icv)) = text.split_last_chunk_mut::<ICV_LEN>() else { return Err(OpenError::Short) };
        let aad = AssociatedData::new(self.spi, seq, self.sequence != Sequence::Short);
        self.aead.open(nonce(self.salt.0, iv), aad.as_slice(), text, icv).map_err(|_| OpenError::BadIcv)?;
        // Another worker may have had the same packet.
        let fresh = self.window.accept(seq);
        if self.anti_replay {
            fresh.map_err(replay_error)?;
        }

        // From here on the peer itself wrote what we read.
        let [body @ .., pad_len, next_header] = &*text else { return Err(OpenError::BadPadding) };
        let len = body.len().checked_sub((*pad_len).into()).ok_or(OpenError::BadPadding)?;
        let padding = &body[len..];
        if padding.iter().zip(1_u8..).any(|(got, want)| *got != want) {
            return Err(OpenError::BadPadding);
        }
        let next_header = *next_header;
        if next_header == NEXT_NONE {
            return Err(OpenError::Dummy);
        }
        let start = esp.start + ESP_LEN + IV_LEN;
        Ok(Opened { place: start..start + len, next_header, seq })
    }

    /// As [`Self::decrypt`], where a whole packet is inside.
    #[inline]
    fn open_tunnel(&self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        let opened = self.decrypt(buf, esp)?;
        let (version, min) = match opened.next_header {
            NEXT_IPV4 => (4, 20),
            NEXT_IPV6 => (6, 40),
            NEXT_IPCOMP => (0, 4),
            _ => return Err(OpenError::BadNextHeader),
        };
        if opened.place.len() < min || version != 0 && buf[opened.place.start] >> 4 != version {
            return Err(OpenError::BadInner);
        }
        Ok(opened)
    }

    #[inline]
    fn open_at(&self, buf: &mut [u8], headers: &Headers) -> Result<Opened, OpenError> {
        let esp = esp_place(buf, headers)?;
        match self.mode {
            Mode::Tunnel => {
                let opened = self.open_tunnel(buf, esp)?;
                if opened.next_header != NEXT_IPCOMP {
                    ecn::decapsulate_as(&mut buf[opened.place.clone()], headers.tos, self.exit)?;
                }
                Ok(opened)
            }
            Mode::Transport => {
                let opened = self.decrypt(buf, esp)?;
                let outer = headers.l3_off.into()..headers.l4_off.into();
                let nat = if headers.proto == PROTO_UDP { self.nat } else { NatFix::None };
                let (place, next_header) = transport::restore(buf, outer, opened.place, opened.next_header, nat)?;
                Ok(Opened { place, next_header, seq: opened.seq })
            }
        }
    }
}

/// Opens a run of packets of one association. When it is dropped, what became of them is added to the association's
/// account.
#[derive(Debug)]
pub struct Opener<'a> {
    sa: &'a InboundSa,
    budget: Budget,
    now: u64,
    seen: InboundStats,
}

impl Opener<'_> {
    /// Takes the packet out of the tunnel, in place. `headers` is the walk of this frame (ESP, or ESP in UDP).
    ///
    /// The frame then begins with the link place ([`LINK_LEN`] bytes) in front of what was inside, and
    /// [`Opened::place`] says where that is. For IPv4 and IPv6 the outer header's congestion marks have been merged in
    /// (RFC 6040); for IPComp the caller does so once it is decompressed ([`ecn::decapsulate_as`] with the outer
    /// `headers.tos` and [`InboundSa::exit`]). In transport mode what was inside is the packet as it was before it was
    /// sealed, its own header in front.
    ///
    /// # Errors
    /// See [`OpenError`]. The frame's bytes are then void, its place is as before; it is to be dropped.
    #[inline]
    pub fn open(&mut self, frame: &mut Frame, headers: &Headers) -> Result<Opened, OpenError> {
        if frame.is_chain() {
            return Err(OpenError::Chained);
        }
        let bytes = frame.bytes_mut();
        let opened = self.open_packet(bytes, headers)?;
        // The ESP header alone is longer than the link place, so there is room for it.
        let front = opened.place.start - LINK_LEN;
        let link = &mut bytes[front..opened.place.start];
        match opened.next_header {
            NEXT_IPV4 => write_link(link, ETHERTYPE_IPV4),
            NEXT_IPV6 => write_link(link, ETHERTYPE_IPV6),
            _ => write_link(link, 0),
        }
        let kept = frame.truncate(opened.place.end) && frame.trim_front(front);
        debug_assert!(kept, "what is inside is within the frame");
        Ok(Opened { place: LINK_LEN..LINK_LEN + opened.place.len(), ..opened })
    }

    /// The same on plain bytes that `headers` is the walk of; the answer's place is in `buf`. No link place is written.
    /// For packets in several frames, gathered by the caller.
    ///
    /// # Errors
    /// See [`OpenError`]; the bytes are then void.
    #[inline]
    pub fn open_packet(&mut self, buf: &mut [u8], headers: &Headers) -> Result<Opened, OpenError> {
        self.within_limits()?;
        let opened = self.sa.open_at(buf, headers);
        self.count(opened)
    }

    /// The same for tunnel mode where only the ESP packet (from SPI to ICV) is known: `esp` is its place in `buf`. No
    /// congestion mark is merged.
    ///
    /// # Errors
    /// See [`OpenError`]; the bytes of `esp` are then void.
    #[inline]
    pub fn open_slice(&mut self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        self.within_limits()?;
        let opened = self.sa.open_tunnel(buf, esp);
        self.count(opened)
    }

    #[inline]
    fn within_limits(&self) -> Result<(), OpenError> {
        if self.seen.packets < self.budget.packets && self.seen.bytes < self.budget.bytes {
            return Ok(());
        }
        self.sa.account.end();
        Err(OpenError::Expired)
    }

    #[inline]
    fn count(&mut self, opened: Result<Opened, OpenError>) -> Result<Opened, OpenError> {
        let seen = &mut self.seen;
        match &opened {
            Ok(opened) => {
                seen.packets += 1;
                seen.bytes += opened.place.len() as u64;
            }
            Err(OpenError::Replay | OpenError::TooOld) => seen.replayed += 1,
            Err(OpenError::BadIcv | OpenError::BadIv) => seen.unauthentic += 1,
            Err(OpenError::Dummy) => seen.dummies += 1,
            Err(_) => seen.malformed += 1,
        }
        opened
    }
}

impl Drop for Opener<'_> {
    #[inline]
    fn drop(&mut self) {
        let (sa, seen) = (self.sa, &self.seen);
        sa.account.add(seen.packets, seen.bytes, self.now);
        for (all, n) in [
            (&sa.refused.replayed, seen.replayed),
            (&sa.refused.unauthentic, seen.unauthentic),
            (&sa.refused.dummies, seen.dummies),
            (&sa.refused.malformed, seen.malformed),
        ] {
            if n > 0 {
                all.fetch_add(n, Ordering::Relaxed);
            }
        }
    }
}

/// Where the ESP packet is in a frame that the walk has gone over.
#[inline]
fn esp_place(buf: &[u8], headers: &Headers) -> Result<Range<usize>, OpenError> {
    if headers.fragment != Fragment::No {
        return Err(OpenError::Fragment);
    }
    let (l4, end) = (usize::from(headers.l4_off), usize::from(headers.end));
    let start = match headers.proto {
        PROTO_ESP => l4,
        PROTO_UDP => l4 + UDP_LEN,
        _ => return Err(OpenError::NotEsp),
    };
    let Some(packet) = buf.get(start..end) else { return Err(OpenError::Short) };
    if headers.proto == PROTO_UDP && packet == [0xff] {
        return Err(OpenError::Keepalive);
    }
    Ok(start..end)
}

fn replay_error(e: ReplayError) -> OpenError {
    match e {
        ReplayError::Seen => OpenError::Replay,
        ReplayError::TooOld => OpenError::TooOld,
    }
}
