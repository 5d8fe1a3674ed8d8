//! Reassembly of fragmented datagrams (RFC 791 §3.2, RFC 815, RFC 8200 §4.5): a table of fixed size that holds fragments,
//! whatever they are held as, until their datagram is complete. Knows no frames; all memory is taken by [`Table::new`].
//!
//! A datagram of which two fragments overlap is given up, and what still comes of it too (RFC 5722 §4, here for IPv4 as
//! well): nobody sends such by accident. An exact repetition is not an overlap: the network may copy packets, so the second
//! is dropped and the first stays (RFC 8200 §4.5). As fragments are never allowed to overlap, a datagram is complete when
//! the lengths of those held add up to its end; no list of holes is needed. Atomic fragments (RFC 6946) are whole packets
//! and never come here.

mod place;
#[cfg(test)]
mod tests;

pub use place::{Id, MAX_DATAGRAM, Place, finish, place};

/// The bounds of a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Incomplete datagrams at a time, those included that were given up and whose late fragments are still expected.
    pub datagrams: usize,
    /// Fragments held in total.
    pub pieces: usize,
    /// Fragments of one datagram.
    pub per_datagram: usize,
    /// Incomplete datagrams of one source. Its fragments are bounded by half of `pieces`.
    pub per_source: usize,
    /// How long (nanoseconds) an incomplete datagram waits, from its first fragment on.
    pub patience: u64,
}

impl Default for Limits {
    /// Frames held: at most 256. RFC 1122 §3.3.2 asks for 60 to 120 s, RFC 8200 for 60 s; Linux waits 30 s, and so do we.
    fn default() -> Self {
        Self { datagrams: 64, pieces: 256, per_datagram: 128, per_source: 16, patience: 30_000_000_000 }
    }
}

/// Why a fragment was not held, or is not held any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The rest did not come in time.
    Timeout,
    /// Its place was needed for others, or its source has more than its share.
    Full,
    /// Overlaps another, contradicts the datagram's end, is empty, of odd length, beyond the largest datagram, one of too
    /// many, or a fragment of a datagram given up for one of these.
    Bad,
    /// The same was there already.
    Duplicate,
}

/// A datagram that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    /// Bytes of payload, behind the header.
    pub payload: u32,
    /// Some fragment was marked "congestion experienced".
    pub ce: bool,
}

const END: u32 = u32::MAX;

struct Piece<T> {
    item: Option<T>,
    place: Place,
    /// The next of the datagram, by `start`; or of the free list.
    next: u32,
}

#[derive(Clone, Copy)]
struct Datagram {
    id: Id,
    since: u64,
    first: u32,
    tail: u32,
    pieces: u32,
    /// Bytes of payload held.
    have: u32,
    /// End of the farthest.
    reach: u32,
    /// End of the last one, once that is here.
    total: Option<u32>,
    /// One bit per ECN codepoint that was seen.
    ecn: u8,
    bad: bool,
}

/// What is held. `T`: a fragment as the caller has it.
pub struct Table<T> {
    limits: Limits,
    /// One per datagram; `None` is free.
    datagrams: Box<[Option<Datagram>]>,
    pieces: Box<[Piece<T>]>,
    free: u32,
    used: usize,
    incomplete: usize,
}

impl<T> Table<T> {
    pub fn new(limits: Limits) -> Self {
        let count = limits.pieces.clamp(2, END as usize);
        let piece =
            |at| Piece { item: None, place: Place::default(), next: if at + 1 < count { at as u32 + 1 } else { END } };
        Self {
            datagrams: vec![None; limits.datagrams.max(1)].into(),
            pieces: (0..count).map(piece).collect(),
            free: 0,
            used: 0,
            incomplete: 0,
            limits,
        }
    }

    /// Incomplete datagrams and fragments held.
    pub fn occupancy(&self) -> (usize, usize) {
        (self.incomplete, self.used)
    }

    pub fn is_empty(&self) -> bool {
        self.incomplete == 0
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a fragment. Where it completes its datagram, all its fragments are put into `whole` in their order, first to
    /// last, each with its place. Whatever is given up goes to `lost`, this fragment included. `now`: monotonic nanoseconds.
    pub fn insert(
        &mut self,
        now: u64,
        id: &Id,
        place: &Place,
        item: T,
        whole: &mut Vec<(T, Place)>,
        lost: &mut impl FnMut(T, Refusal),
    ) -> Option<Complete> {
        if !sane(place) {
            // It may be of a datagram whose other fragments are good, or forged: what is certain is that it says nothing.
            lost(item, Refusal::Bad);
            return None;
        }
        let at = self.find_or_open(now, id, lost);
        let Some(datagram) = &self.datagrams[at] else { return None };
        let fits = if datagram.bad { Err(Refusal::Bad) } else { self.fit(datagram, place) };
        let fits = fits.and_then(|after| if self.room_for_piece(at, lost) { Ok(after) } else { Err(Refusal::Full) });
        match fits {
            Ok(after) => self.link(at, after, place, item),
            Err(refusal) => {
                if refusal != Refusal::Duplicate {
                    self.give_up(at, refusal, lost);
                }
                lost(item, refusal);
                return None;
            }
        }
        self.complete(at, whole, lost)
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now: u64, lost: &mut impl FnMut(T, Refusal)) {
        if self.incomplete == 0 {
            return;
        }
        for at in 0..self.datagrams.len() {
            if self.datagrams[at].is_some_and(|d| now.saturating_sub(d.since) >= self.limits.patience) {
                self.give_up(at, Refusal::Timeout, lost);
                self.close(at);
            }
        }
    }

    /// Empties the table.
    pub fn drain(&mut self, mut out: impl FnMut(T)) {
        for at in 0..self.datagrams.len() {
            self.give_up(at, Refusal::Full, &mut |item, _| out(item));
            self.close(at);
        }
    }

    /// The datagram's line; a new one where it has none, for which another may have to go.
    fn find_or_open(&mut self, now: u64, id: &Id, lost: &mut impl FnMut(T, Refusal)) -> usize {
        if let Some(at) = self.datagrams.iter().position(|d| d.as_ref().is_some_and(|d| d.id == *id)) {
            let waited = self.datagrams[at].map_or(0, |d| now.saturating_sub(d.since));
            if waited < self.limits.patience {
                return at;
            }
            self.give_up(at, Refusal::Timeout, lost);
            self.close(at);
        }
        let source = id.source();
        let of_source = self.datagrams.iter().flatten().filter(|d| d.id.source() == source).count();
        if of_source >= self.limits.per_source.max(1) {
            self.evict(lost, |d| d.id.source() == source);
        } else if self.incomplete == self.datagrams.len() {
            self.evict(lost, |_| true);
        }
        let at = self.datagrams.iter().position(Option::is_none).unwrap_or_default();
        self.datagrams[at] = Some(Datagram {
            id: *id,
            since: now,
            first: END,
            tail: END,
            pieces: 0,
            have: 0,
            reach: 0,
            total: None,
            ecn: 0,
            bad: false,
        });
        self.incomplete += 1;
        at
    }

    /// Sees to it that one more fragment can be held for datagram `at`: its source's oldest other datagram goes where the
    /// source has its share, the oldest other of all where no place is free. `false`: there is no other.
    fn room_for_piece(&mut self, at: usize, lost: &mut impl FnMut(T, Refusal)) -> bool {
        let Some(id) = self.datagrams[at].map(|d| d.id) else { return false };
        let source = id.source();
        let of_source = self.datagrams.iter().flatten().filter(|d| d.id.source() == source);
        let share = of_source.map(|d| d.pieces as usize).sum::<usize>();
        if share >= self.pieces.len().div_ceil(2) {
            return self.evict(lost, |d| d.id != id && d.pieces > 0 && d.id.source() == source);
        }
        self.used < self.pieces.len() || self.evict(lost, |d| d.id != id && d.pieces > 0)
    }

    /// Gives up one datagram of those that `may` go: one that was given up before all, then the oldest.
    fn evict(&mut self, lost: &mut impl FnMut(T, Refusal), may: impl Fn(&Datagram) -> bool) -> bool {
        let candidates = self.datagrams.iter().enumerate().filter_map(|(at, d)| Some((at, d.as_ref()?)));
        let oldest = candidates.filter(|(_, d)| may(d)).min_by_key(|(_, d)| (!d.bad, d.since)).map(|(at, _)| at);
        let Some(at) = oldest else { return false };
        self.give_up(at, Refusal::Full, lost);
        self.close(at);
        true
    }

    /// Frees the datagram's fragments. Its line stays, so that what still comes of it is refused and not collected anew.
    fn give_up(&mut self, at: usize, refusal: Refusal, lost: &mut impl FnMut(T, Refusal)) {
        let Some(datagram) = &mut self.datagrams[at] else { return };
        let mut next = std::mem::replace(&mut datagram.first, END);
        (datagram.tail, datagram.pieces, datagram.have, datagram.bad) = (END, 0, 0, true);
        while next != END {
            let (item, after) = self.unlink(next);
            if let Some(item) = item {
                lost(item, refusal);
            }
            next = after;
        }
    }

    fn close(&mut self, at: usize) {
        if self.datagrams[at].take().is_some() {
            self.incomplete -= 1;
        }
    }

    /// Puts a piece back on the free list. Returns what it held and the one behind it.
    fn unlink(&mut self, at: u32) -> (Option<T>, u32) {
        let piece = &mut self.pieces[at as usize];
        let after = std::mem::replace(&mut piece.next, self.free);
        self.free = at;
        self.used -= 1;
        (piece.item.take(), after)
    }

    /// The piece behind which the fragment belongs ([`END`]: it is the first).
    fn fit(&self, datagram: &Datagram, place: &Place) -> Result<u32, Refusal> {
        let beyond = |total| place.end() > total || (place.last && (place.end() != total || datagram.reach > total));
        let total = datagram.total.or(place.last.then_some(place.end()));
        let (mut before, mut after) = (END, datagram.first);
        // They mostly come in order.
        if datagram.tail != END && self.pieces[datagram.tail as usize].place.start < place.start {
            (before, after) = (datagram.tail, END);
        }
        while after != END && self.pieces[after as usize].place.start < place.start {
            (before, after) = (after, self.pieces[after as usize].next);
        }
        if after != END {
            let next = &self.pieces[after as usize].place;
            if (next.start, next.len, next.last) == (place.start, place.len, place.last) {
                return Err(Refusal::Duplicate);
            }
            if next.start < place.end() {
                return Err(Refusal::Bad);
            }
        }
        let overlaps = before != END && self.pieces[before as usize].place.end() > place.start;
        let too_many = datagram.pieces as usize >= self.limits.per_datagram.max(2);
        if overlaps || too_many || total.is_some_and(beyond) { Err(Refusal::Bad) } else { Ok(before) }
    }

    fn link(&mut self, at: usize, after: u32, place: &Place, item: T) {
        let Some(datagram) = &mut self.datagrams[at] else { return };
        let new = self.free;
        let next = if after == END { datagram.first } else { self.pieces[after as usize].next };
        let piece = &mut self.pieces[new as usize];
        self.free = piece.next;
        *piece = Piece { item: Some(item), place: *place, next };
        if after == END {
            datagram.first = new;
        } else {
            self.pieces[after as usize].next = new;
        }
        if next == END {
            datagram.tail = new;
        }
        self.used += 1;
        datagram.pieces += 1;
        datagram.have += place.len;
        datagram.reach = datagram.reach.max(place.end());
        datagram.ecn |= 1 << (place.ecn & 3);
        if place.last {
            datagram.total = Some(place.end());
        }
    }

    fn complete(
        &mut self,
        at: usize,
        whole: &mut Vec<(T, Place)>,
        lost: &mut impl FnMut(T, Refusal),
    ) -> Option<Complete> {
        let datagram = self.datagrams[at].as_ref().filter(|d| d.total == Some(d.have))?;
        // RFC 3168 §5.3: a mark on one of several that could not be marked is nobody's honest work.
        let (ce, not_capable) = (datagram.ecn & 0b1000 != 0, datagram.ecn & 0b0001 != 0);
        let head = self.pieces[datagram.first as usize].place.head;
        if (ce && not_capable) || u32::from(head) + datagram.have > MAX_DATAGRAM {
            self.give_up(at, Refusal::Bad, lost);
            return None;
        }
        let complete = Complete { payload: datagram.have, ce };
        let mut next = datagram.first;
        while next != END {
            let place = self.pieces[next as usize].place;
            let (item, after) = self.unlink(next);
            whole.extend(item.map(|item| (item, place)));
            next = after;
        }
        self.close(at);
        Some(complete)
    }
}

/// What a fragment by itself must obey: RFC 791 §3.1 (only the last may be other than a multiple of 8 long), and the largest
/// datagram.
fn sane(place: &Place) -> bool {
    place.len > 0 && (place.last || place.len.is_multiple_of(8)) && place.end() + u32::from(place.head) <= MAX_DATAGRAM
}
