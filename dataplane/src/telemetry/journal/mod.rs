//! What has happened to an instance, for those who follow it: two bounded rings and any number of readers, none of whom can
//! hold anybody up. Nothing here is for the packet path: the control side and the threads beside the workers write.
//!
//! An event's number is one higher than the one before. An instance begins at its clock in milliseconds, so that numbers
//! rise over restarts too, and a reader who comes back with the last one it saw is told what it can still be told.

pub mod kind;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

pub use kind::{Kind, Level, Pace, Wanted};

/// Events kept: those that come now and then, and those that may come every second.
const KEPT: [usize; 2] = [4096, 2048];
/// Of one kind in a second, where it is one that may come in floods. The rest is counted (`left_out`).
pub const MOST_PER_SECOND: u32 = 100;
/// Readers at a time.
pub const MAX_READERS: usize = 16;
/// Longest text and subject, in bytes: what is in the ring is bounded by this.
const LONGEST: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Rises with every event, also over restarts of the instance.
    pub id: u64,
    /// Seconds since 1970.
    pub at: f64,
    pub kind: Kind,
    pub level: Level,
    /// Whom or what it is about: a tunnel, a port, a flow, who asked for a reload. Perhaps empty.
    #[serde(default)]
    pub about: String,
    /// One sentence.
    pub text: String,
    /// The figures and names in it, by kind: docs/api.md.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Value>,
}

/// An event that is being written down.
#[derive(Debug)]
pub struct Note {
    kind: Kind,
    about: String,
    text: String,
    facts: BTreeMap<String, Value>,
}

impl Note {
    pub fn new(kind: Kind, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, about: bounded(about.into()), text: bounded(text.into()), facts: BTreeMap::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => Value::String(bounded(text)),
            other => other,
        };
        self.facts.insert(name.to_owned(), value);
        self
    }

    /// As a reader sees it. `id`: of the connection's last event, for those that are about the connection.
    pub fn event(self, id: u64) -> Event {
        let Self { kind, about, text, facts } = self;
        Event { id, at: now(), kind, level: kind.level(), about, text, facts }
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Seconds since 1970, to the millisecond: JSON readers get it as it was written.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1e3)
}

#[derive(Debug)]
struct Rings {
    /// The number that the next event gets.
    next: u64,
    kept: [VecDeque<Arc<Event>>; 2],
    /// The highest number that has left each ring; one below the first where none has.
    lost: [u64; 2],
    /// Kinds that come in floods: in which second, and how many.
    floods: BTreeMap<&'static str, Flood>,
}

#[derive(Debug, Default)]
struct Flood {
    second: u64,
    told: u32,
    left_out: u64,
}

/// Figures of a journal, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// Number of the newest event.
    pub newest: u64,
    /// Events since the start.
    pub events: u64,
    /// Events that were not told because there were too many in one second.
    pub left_out: u64,
    /// Who follows now.
    pub readers: u64,
    /// Readers that were cut off because they were too slow.
    pub cut_off: u64,
}

#[derive(Debug)]
pub struct Journal {
    rings: Mutex<Rings>,
    first: u64,
    newest: watch::Sender<u64>,
    readers: AtomicUsize,
    /// Readers that want kinds on wish.
    wishes: AtomicUsize,
    cut_off: AtomicU64,
    left_out: AtomicU64,
}

impl Journal {
    pub fn new() -> Arc<Self> {
        Self::beginning_at((now() * 1e3) as u64)
    }

    fn beginning_at(first: u64) -> Arc<Self> {
        let first = first.max(1);
        let lost = [first - 1; 2];
        let rings = Rings { next: first, kept: Default::default(), lost, floods: BTreeMap::new() };
        Arc::new(Self {
            rings: Mutex::new(rings),
            first,
            newest: watch::Sender::new(first - 1),
            readers: AtomicUsize::new(0),
            wishes: AtomicUsize::new(0),
            cut_off: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        })
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an event down and wakes who follows. Never waits for a reader.
    pub fn tell(&self, note: Note) {
        let mut rings = self.rings();
        let second = now() as u64;
        if note.kind.pace() != Pace::Seldom {
            let over = rings.turn(note.kind, second);
            let flood = rings.floods.entry(note.kind.code()).or_default();
            if flood.told >= MOST_PER_SECOND {
                flood.left_out += 1;
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return;
            }
            flood.told += 1;
            over.into_iter().for_each(|over| rings.push(over));
        }
        rings.push(note);
        self.newest.send_replace(rings.next - 1);
    }

    /// Says what was left out of floods that are over. Called once in a while.
    pub fn tell_left_out(&self) {
        let mut rings = self.rings();
        let second = now() as u64;
        let over: Vec<Note> = Kind::ALL.iter().filter_map(|kind| rings.turn(*kind, second)).collect();
        if !over.is_empty() {
            over.into_iter().for_each(|over| rings.push(over));
            self.newest.send_replace(rings.next - 1);
        }
    }

    /// Whether somebody follows events that are made on wish only.
    pub fn is_wished(&self) -> bool {
        self.wishes.load(Ordering::Relaxed) > 0
    }

    pub fn figures(&self) -> Figures {
        let next = self.rings().next;
        Figures {
            newest: next - 1,
            events: next - self.first,
            left_out: self.left_out.load(Ordering::Relaxed),
            readers: self.readers.load(Ordering::Relaxed) as u64,
            cut_off: self.cut_off.load(Ordering::Relaxed),
        }
    }

    /// A reader of the events after number `since`; `None`: of those that are still to come. No answer: there are
    /// [`MAX_READERS`] already.
    pub fn reader(self: &Arc<Self>, wanted: Wanted, since: Option<u64>) -> Option<Reader> {
        let more = |readers| (readers < MAX_READERS).then_some(readers + 1);
        self.readers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        if wanted.any_of(Pace::OnWish) {
            self.wishes.fetch_add(1, Ordering::Relaxed);
        }
        let rings = self.rings();
        let newest = rings.next - 1;
        let oldest = rings.lost(wanted) + 1;
        // What is beyond our numbers is another instance's, whose clock was ahead.
        let asked = since.unwrap_or(newest).min(newest);
        let missed = (asked + 1 < oldest && since != Some(0)).then(|| oldest - asked.max(self.first - 1) - 1);
        let at = asked.max(oldest - 1);
        drop(rings);
        let told = self.newest.subscribe();
        Some(Reader { journal: self.clone(), wanted, at, told, oldest, missed: missed.filter(|missed| *missed > 0) })
    }

    /// A reader is cut off without being told: it does not read at all.
    pub fn count_cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

impl Rings {
    fn push(&mut self, note: Note) {
        let ring = ring_of(note.kind);
        let event = Arc::new(note.event(self.next));
        self.next += 1;
        self.kept[ring].push_back(event);
        if self.kept[ring].len() > KEPT[ring]
            && let Some(oldest) = self.kept[ring].pop_front()
        {
            self.lost[ring] = oldest.id;
        }
    }

    /// A new second for a kind: what was left out of the one before.
    fn turn(&mut self, kind: Kind, second: u64) -> Option<Note> {
        let flood = self.floods.get_mut(kind.code()).filter(|flood| flood.second != second);
        let Some(flood) = flood else {
            self.floods.entry(kind.code()).or_insert(Flood { second, ..Flood::default() });
            return None;
        };
        let left_out = std::mem::take(flood).left_out;
        flood.second = second;
        let text = format!("{left_out} more events of the kind {kind} in a second");
        (left_out > 0).then(|| Note::new(Kind::LeftOut, kind.code(), text).with("count", left_out))
    }

    /// The highest number that has left the rings that a reader reads.
    fn lost(&self, wanted: Wanted) -> u64 {
        let reads = |ring: usize| Kind::ALL.iter().any(|kind| wanted.has(*kind) && ring_of(*kind) == ring);
        (0..KEPT.len()).filter(|ring| reads(*ring)).map(|ring| self.lost[ring]).max().unwrap_or(0)
    }

    /// The events of both rings after number `at`, at most `most` of them, in order.
    fn after(&self, at: u64, wanted: Wanted, most: usize) -> (Vec<Arc<Event>>, u64) {
        let mut heads =
            self.kept.each_ref().map(|ring| ring.range(ring.partition_point(|event| event.id <= at)..).peekable());
        let (mut found, mut reached) = (Vec::new(), at);
        while found.len() < most {
            let [a, b] = heads.each_mut().map(|head| head.peek().map_or(u64::MAX, |event| event.id));
            let Some(event) = heads[usize::from(b < a)].next() else { break };
            reached = event.id;
            if wanted.has(event.kind) {
                found.push(event.clone());
            }
        }
        (found, reached)
    }
}

fn ring_of(kind: Kind) -> usize {
    usize::from(kind.pace() != Pace::Seldom)
}

/// Who follows. It has a place in the rings and nothing else: what it does not read is not kept for it.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    wanted: Wanted,
    /// The last number it was given, or was not interested in.
    at: u64,
    told: watch::Receiver<u64>,
    oldest: u64,
    missed: Option<u64>,
}

/// What a reader is given at a time.
const AT_ONCE: usize = 64;

impl Reader {
    /// Number of the oldest event that is kept, as of the start.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Events, at most, that had gone before it came back for them.
    pub fn missed(&self) -> Option<u64> {
        self.missed
    }

    /// Number of the last event it was given.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What has come since, without waiting; empty where nothing has.
    ///
    /// # Errors
    /// It was too slow: so many events, at most, have left the ring unread. It is over.
    pub fn read(&mut self) -> Result<Vec<Arc<Event>>, u64> {
        let rings = self.journal.rings();
        let lost = rings.lost(self.wanted);
        if self.at < lost {
            self.journal.cut_off.fetch_add(1, Ordering::Relaxed);
            return Err(lost - self.at);
        }
        let (found, reached) = rings.after(self.at, self.wanted, AT_ONCE);
        self.at = reached;
        Ok(found)
    }

    /// Waits until there may be something to read. `false`: the journal is gone.
    pub async fn wait(&mut self) -> bool {
        let at = self.at;
        self.told.wait_for(|newest| *newest > at).await.is_ok()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.journal.readers.fetch_sub(1, Ordering::Relaxed);
        if self.wanted.any_of(Pace::OnWish) {
            self.journal.wishes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
