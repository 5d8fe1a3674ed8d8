//! One transport session (the paper §5.4.6): seals and opens packets in place. Shared by all workers.
//!
//! ```text
//!  link place │ outer IP │ UDP │ 4 0 0 0  receiver 4  counter 8 │ inner packet  zeros │ tag 16
//!                                                                 └──── encrypted ───┘
//! ```
//!
//! Workers seal and open in runs, through a [`Sealer`] or an [`Opener`]: counters are taken, and the timers
//! ([`Activity`]) told, once per run.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::activity::{Activity, Run};
pub use super::error::{OpenError, SealError};
use super::message::{TRANSPORT_HEADER_LEN, TRANSPORT_MIN_LEN, Transport};
use super::noise::SessionKeys;

use super::{KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME};
use super::{REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_TIMEOUT};
use crate::crypto::aead::{Aead, AeadKey, NONCE_LEN, TAG_LEN};
use crate::crypto::ecn;
use crate::crypto::esp::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, LINK_LEN, write_link};
use crate::crypto::outer::Outer;
use crate::crypto::prefetch_line;
use crate::crypto::replay::{ReplayError, ReplayWindow};
use crate::io::frame::Frame;

/// Packets behind the newest that may still come. With the block being written to it fills a ring of 2 KiB; the Linux kernel's is 8128.
pub const WINDOW: u32 = 8128;
/// The text is padded to a multiple of this, so that its length tells less (the paper §5.4.6).
const PAD_TO: usize = 16;
/// Beside the text: header and tag.
pub const OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;

/// The packet that goes into a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Where it is, in bytes from the start of the frame (or slice). What is in front and behind is cut.
    pub place: Range<usize>,
    /// Its DSCP and ECN byte. The outer header gets the congestion marks (RFC 6040 §4.1); the rest stays inside, where it
    /// tells nobody what kind of traffic this is (as the Linux kernel does).
    pub tos: u8,
    /// The longest inner packet the tunnel takes: padding does not go beyond it. 0: no limit.
    pub mtu: usize,
}

/// What came out of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An IPv4 or IPv6 packet of the length that its header says, in bytes from the start of the frame (or slice). Its source
    /// address is still to be held against the peer's allowed IPs.
    Packet { place: Range<usize>, v6: bool },
    /// Nothing inside: the peer is there.
    Keepalive,
}

/// One session with one peer: a key for each direction.
///
/// A gateway has thousands, and each packet may be another one's, so what a packet needs is in as few cache lines as can be:
/// the first, which is only read, and one that is written, the second to send and the third to receive.
#[repr(C, align(64))]
pub struct Session {
    expires: u64,
    activity: Arc<Activity>,
    send: AeadKey,
    receive: AeadKey,
    local_index: u32,
    remote_index: u32,
    initiator: bool,
    /// Something was opened with it, or this host is the initiator: the peer has the keys.
    confirmed: AtomicBool,
    /// Next counter to send with.
    next: Counter,
    window: ReplayWindow,
    created: u64,
}

/// On a cache line of its own: it is written with each run, the fields around it are only read.
#[repr(align(64))]
struct Counter(AtomicU64);

#[cfg(not(any(feature = "aws-lc-rs", feature = "ipsec-mb")))]
const _: () = assert!(std::mem::offset_of!(Session, next) == 64 && std::mem::offset_of!(Session, window) == 128);

impl Session {
    /// `created` is when the handshake was completed, in monotonic nanoseconds, as all times here.
    pub fn new(keys: SessionKeys, created: u64, activity: Arc<Activity>) -> Self {
        let SessionKeys { local_index, remote_index, send, receive, initiator } = keys;
        Self {
            send: AeadKey::new_chacha(send.expose()),
            receive: AeadKey::new_chacha(receive.expose()),
            local_index,
            remote_index,
            initiator,
            created,
            expires: created.saturating_add(nanos(REJECT_AFTER_TIME)),
            activity,
            confirmed: AtomicBool::new(initiator),
            next: Counter(AtomicU64::new(0)),
            window: ReplayWindow::new(WINDOW),
        }
    }

    /// This host's name for it: the receiver of what comes in.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The peer's name for it.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    pub fn initiator(&self) -> bool {
        self.initiator
    }

    pub fn created(&self) -> u64 {
        self.created
    }

    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Bytes it takes in memory, beside what its keys have in the secret pages and what it shares with its peer's others.
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.window.heap()
    }

    /// Asks for the cache lines that sealing with it needs.
    #[inline]
    pub fn prefetch_sealing(&self) {
        prefetch_line(&self.expires);
    }

    /// Asks for the counter's.
    #[inline]
    pub fn prefetch_counter(&self) {
        prefetch_line(&self.next);
    }

    /// Asks for what sealing needs besides. Once [`Self::prefetch_sealing`] has had its time.
    #[inline]
    pub fn prefetch_sealing_deep(&self) {
        self.send.prefetch();
        prefetch_line(&*self.activity);
    }

    /// Asks for the cache lines that opening with it needs.
    #[inline]
    pub fn prefetch_opening(&self) {
        prefetch_line(&self.expires);
        prefetch_line(&self.window);
    }

    /// Asks for what opening needs besides. Once [`Self::prefetch_opening`] has had its time.
    #[inline]
    pub fn prefetch_opening_deep(&self) {
        self.receive.prefetch();
        prefetch_line(&*self.activity);
        self.window.prefetch();
    }

    /// Packets sent.
    pub fn messages(&self) -> u64 {
        self.next.0.load(Relaxed)
    }

    /// Whether the peer is known to have the keys. A responder must not send before (the paper §5.4.5).
    #[inline]
    pub fn confirmed(&self) -> bool {
        self.confirmed.load(Relaxed)
    }

    /// Too old to be used.
    #[inline]
    pub fn expired(&self, now: u64) -> bool {
        now >= self.expires
    }

    /// Whether this host is to make a new session, having sent with this one (the paper §6.2).
    pub fn stale_for_sending(&self, now: u64) -> bool {
        self.messages() > REKEY_AFTER_MESSAGES || self.initiator && self.older(now, REKEY_AFTER_TIME)
    }

    /// Whether this host is to make a new session, having received with this one: soon it could not answer any more (§6.2).
    pub fn stale_for_receiving(&self, now: u64) -> bool {
        self.initiator && self.older(now, REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT)
    }

    fn older(&self, now: u64, than: Duration) -> bool {
        now.saturating_sub(self.created) >= nanos(than)
    }

    /// Counters for a run of `packets`, taken in one step. `now` is taken for the time of the whole run.
    #[inline]
    pub fn sealer(&self, packets: u64, now: u64) -> Sealer<'_> {
        let (next, left) = if self.expired(now) { (0, 0) } else { self.take(packets) };
        Sealer { session: self, next, left, now, run: Run::default() }
    }

    /// For a run of packets that came in. `now` is taken for the time of the whole run.
    #[inline]
    pub fn opener(&self, now: u64) -> Opener<'_> {
        Opener { session: self, now, run: Run::default() }
    }

    /// Up to `wanted` counters: the first, and how many. Never one twice.
    fn take(&self, wanted: u64) -> (u64, u64) {
        let mut next = self.next.0.load(Relaxed);
        loop {
            let granted = wanted.min(REJECT_AFTER_MESSAGES.saturating_sub(next));
            if granted == 0 {
                return (next, 0);
            }
            // Relaxed: the counter is all that is shared; no other memory hangs on it.
            match self.next.0.compare_exchange_weak(next, next + granted, Relaxed, Relaxed) {
                Ok(_) => return (next, granted),
                Err(now) => next = now,
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("initiator", &self.initiator)
            .finish_non_exhaustive()
    }
}

/// Longest inner packet whose outer packet is within `mtu` (of the link or path, IP header included), behind `outer`.
pub fn max_inner(outer: &Outer, mtu: usize) -> usize {
    mtu.saturating_sub(outer.wire_len() + OVERHEAD)
}

/// Bytes of the text that a packet of `len` bytes is sent as: the next multiple of 16, if the tunnel's MTU allows it.
#[inline]
pub fn padded(len: usize, mtu: usize) -> usize {
    let full = len.next_multiple_of(PAD_TO);
    if mtu == 0 { full } else { full.min(mtu.max(len)) }
}

/// Seals a run of packets.
#[derive(Debug)]
pub struct Sealer<'a> {
    session: &'a Session,
    next: u64,
    left: u64,
    now: u64,
    run: Run,
}

impl Sealer<'_> {
    /// Puts a packet into the session, in place: the frame is then the whole outer packet, its link place in front.
    ///
    /// # Errors
    /// See [`SealError`]. Nothing was touched then, and no counter used.
    #[inline]
    pub fn seal(&mut self, frame: &mut Frame, plain: &Plain, outer: &Outer) -> Result<(), SealError> {
        if frame.is_chain() {
            return Err(SealError::Chained);
        }
        let (chunk, packet) = frame.chunk_mut();
        let (start, end) = (plain.place.start, plain.place.end);
        if start > end || end > packet.len() {
            return Err(SealError::BadPlace);
        }
        let place = packet.start + start..packet.start + end;
        let sealed = self.seal_place(chunk, place, plain, outer)?;
        let placed = frame.set_place(sealed);
        debug_assert!(placed, "the sealed packet is within the chunk");
        Ok(())
    }

    /// The same on plain bytes: `plain.place` is in `buf`, and so is the answer, the place of the whole sealed frame. For
    /// packets in several frames, gathered by the caller.
    ///
    /// # Errors
    /// As for [`Self::seal`].
    #[inline]
    pub fn seal_slice(&mut self, buf: &mut [u8], plain: &Plain, outer: &Outer) -> Result<Range<usize>, SealError> {
        self.seal_place(buf, plain.place.clone(), plain, outer)
    }

    /// Uses up what is left of the run.
    #[cfg(test)]
    pub(super) fn forfeit(&mut self) {
        self.left = 0;
    }

    #[inline]
    fn seal_place(
        &mut self,
        buf: &mut [u8],
        place: Range<usize>,
        plain: &Plain,
        outer: &Outer,
    ) -> Result<Range<usize>, SealError> {
        let message = layout(buf.len(), &place, plain.mtu)?;
        let front = message.start.checked_sub(outer.len()).ok_or(SealError::NoRoom)?;
        let wire = message.end - front - LINK_LEN;
        outer.check_len(wire).map_err(|_| SealError::TooLong)?;
        self.seal_laid_out(buf, &place, &message)?;
        let frame = &mut buf[front..message.end];
        // Behind the cipher: these lines of the cache are still here, and the cipher's first loads need not wait for them.
        outer.write(&mut frame[..outer.len()], wire, plain.tos & 3);
        outer.finish(frame);
        Ok(front..message.end)
    }

    /// The message alone, for a socket that adds the rest: there are 16 bytes before `place` and room for padding and tag
    /// behind it in `buf`; the answer is the message's place. An empty `place` is a keepalive.
    ///
    /// # Errors
    /// As for [`Self::seal`].
    pub fn seal_message(&mut self, buf: &mut [u8], place: Range<usize>, mtu: usize) -> Result<Range<usize>, SealError> {
        let message = layout(buf.len(), &place, mtu)?;
        self.seal_laid_out(buf, &place, &message)?;
        Ok(message)
    }

    #[inline]
    fn seal_laid_out(&mut self, buf: &mut [u8], place: &Range<usize>, message: &Range<usize>) -> Result<(), SealError> {
        if self.left == 0 {
            if self.session.expired(self.now) {
                return Err(SealError::Expired);
            }
            (self.next, self.left) = self.session.take(1);
            if self.left == 0 {
                return Err(SealError::CounterExhausted);
            }
        }
        let counter = self.next;
        self.next += 1;
        self.left -= 1;
        let (text, tag_place) = buf[place.start..message.end].split_at_mut(message.end - place.start - TAG_LEN);
        text[place.len()..].fill(0);
        // The AEAD's own limit is 64 GiB; IP's, which the caller's buffer is held to, is far below.
        let tag = self.session.send.seal(nonce(counter), &[], text).map_err(|_| SealError::TooLong)?;
        tag_place.copy_from_slice(&tag);
        let header = Transport { receiver: self.session.remote_index, counter };
        buf[message.start..place.start].copy_from_slice(&header.to_bytes());
        self.run.add(message.len(), place.len());
        Ok(())
    }
}

impl Drop for Sealer<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            // Given back where nobody took further ones meanwhile; skipped otherwise, which does no harm.
            let _ = self.session.next.0.compare_exchange(self.next + self.left, self.next, Relaxed, Relaxed);
        }
        if self.run.packets > 0 {
            self.session.activity.sent(self.now, self.run.bytes, self.run.data);
        }
    }
}

/// The bounds of the message around the packet in `place`.
#[inline]
fn layout(len: usize, place: &Range<usize>, mtu: usize) -> Result<Range<usize>, SealError> {
    if place.start > place.end || place.end > len {
        return Err(SealError::BadPlace);
    }
    let start = place.start.checked_sub(TRANSPORT_HEADER_LEN).ok_or(SealError::NoRoom)?;
    let end = place.start + padded(place.len(), mtu) + TAG_LEN;
    if end > len { Err(SealError::NoRoom) } else { Ok(start..end) }
}

/// Opens a run of packets.
#[derive(Debug)]
pub struct Opener<'a> {
    session: &'a Session,
    now: u64,
    run: Run,
}

impl Opener<'_> {
    /// Whether this run is the first to open anything with a responder's session: from now on it is the one to send with,
    /// and the control side should know.
    #[inline]
    pub fn confirms(&self) -> bool {
        self.run.packets > 0 && !self.session.confirmed()
    }

    /// Takes a packet out of the session, in place. `message` is where the UDP payload is in the frame, `tos` the outer header's
    /// DSCP and ECN byte.
    ///
    /// The frame then begins with the link place ([`LINK_LEN`] bytes) in front of what was inside, the outer header's congestion
    /// marks merged in (RFC 6040), and ends with it. After a keepalive its place is as before.
    ///
    /// # Errors
    /// See [`OpenError`]. The frame's bytes are then void, its place is as before; it is to be dropped.
    #[inline]
    pub fn open(&mut self, frame: &mut Frame, message: Range<usize>, tos: u8) -> Result<Opened, OpenError> {
        if frame.is_chain() {
            return Err(OpenError::Chained);
        }
        let bytes = frame.bytes_mut();
        let (place, v6) = match self.open_slice(bytes, message)? {
            Opened::Packet { place, v6 } => (place, v6),
            Opened::Keepalive => return Ok(Opened::Keepalive),
        };
        // The message's header alone is longer than the link place, so there is room for it.
        let front = place.start - LINK_LEN;
        write_link(&mut bytes[front..place.start], if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
        ecn::decapsulate(&mut bytes[place.clone()], tos).map_err(|e| match e {
            esp::OpenError::EcnNotCapable => OpenError::EcnNotCapable,
            _ => OpenError::BadInner,
        })?;
        let kept = frame.truncate(place.end) && frame.trim_front(front);
        debug_assert!(kept, "what is inside is within the frame");
        Ok(Opened::Packet { place: LINK_LEN..LINK_LEN + place.len(), v6 })
    }

    /// The same on plain bytes: `message` is in `buf`, and so is the answer's place. No link place is written and no congestion
    /// mark merged. For packets in several frames, gathered by the caller, and for those that a socket received.
    ///
    /// # Errors
    /// See [`OpenError`]; the bytes of `message` are then void.
    #[inline]
    pub fn open_slice(&mut self, buf: &mut [u8], message: Range<usize>) -> Result<Opened, OpenError> {
        let from = message.start;
        let packet = buf.get_mut(message).ok_or(OpenError::Short)?;
        if packet.len() < TRANSPORT_MIN_LEN {
            return Err(OpenError::Short);
        }
        let header = Transport::parse(packet).map_err(|_| OpenError::NotTransport)?;
        let session = self.session;
        if header.receiver != session.local_index {
            return Err(OpenError::WrongIndex);
        }
        if session.expired(self.now) {
            return Err(OpenError::Expired);
        }
        if header.counter >= REJECT_AFTER_MESSAGES {
            return Err(OpenError::CounterExhausted);
        }
        // The window counts from 1.
        let number = header.counter + 1;
        session.window.check(number).map_err(replay_error)?;
        let len = packet.len();
        let Some((text, &mut tag)) = packet[TRANSPORT_HEADER_LEN..].split_last_chunk_mut::<TAG_LEN>() else {
            return Err(OpenError::Short);
        };
        session.receive.open(nonce(header.counter), &[], text, tag).map_err(|_| OpenError::BadTag)?;
        session.window.accept(number).map_err(replay_error)?;

        // From here on the peer itself wrote what we read.
        self.run.add(len, text.len());
        if text.is_empty() {
            return Ok(Opened::Keepalive);
        }
        let (len, v6) = inner_len(text).ok_or(OpenError::BadInner)?;
        let start = from + TRANSPORT_HEADER_LEN;
        Ok(Opened::Packet { place: start..start + len, v6 })
    }
}

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        if self.run.packets > 0 {
            self.session.activity.received(self.now, self.run.bytes, self.run.data);
            if !self.session.confirmed() {
                self.session.confirmed.store(true, Relaxed);
            }
        }
    }
}

/// The length of the IP packet at the start of `text`, header included, and whether it is IPv6. `None` where there is none,
/// or not all of it.
#[inline]
fn inner_len(text: &[u8]) -> Option<(usize, bool)> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*text.get(at)?, *text.get(at + 1)?])));
    let (len, min, v6) = match text.first()? >> 4 {
        4 => (word(2)?, 20, false),
        6 => (word(4)? + 40, 40, true),
        _ => return None,
    };
    (len >= min && len <= text.len()).then_some((len, v6))
}

/// Four zeros and the counter, little-endian (the paper §5.4.6). Put together in a register.
#[inline]
fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&(u128::from(counter) << 32).to_le_bytes()[..NONCE_LEN]);
    nonce
}

fn replay_error(e: ReplayError) -> OpenError {
    match e {
        ReplayError::Seen => OpenError::Replay,
        ReplayError::TooOld => OpenError::TooOld,
    }
}

const fn nanos(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000
}
