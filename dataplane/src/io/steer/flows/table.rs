//! The writer's side of the driver's flow table: places, options, counters.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use softdpu_ebpf_common::flows::{
    Entry4, Entry6, Extra, FlowAction, LIVE, Options, Tail, WINDOW, hash4, hash6, last_word, unpack,
};

use super::shared::Shared;
use super::{FlowKey, FlowRule, Progress};

/// One entry, until it is [settled](Entries::settle).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(u32);

const V6: u32 = 1 << 31;
/// Options that need an [`Extra`].
const EXTRA: u8 = Options::METER | Options::SAMPLE | Options::MIRROR;

/// Why a flow is not put into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowRefused {
    #[error("the driver's flow table is full")]
    Full,
    #[error("the driver's table of meters, samples and mirror counters is full")]
    NoExtra,
    #[error("the flow is in the table already")]
    Known,
}

/// What was counted since the last time somebody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowCount {
    pub packets: u64,
    /// Of IP packets.
    pub bytes: u64,
}

/// What an entry leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Last {
    pub count: FlowCount,
    /// Of TCP: see [`softdpu_ebpf_common::flows::numbers_on`].
    pub numbers: u32,
    pub progress: Progress,
    /// Packets that its meter dropped.
    pub over: u64,
}

/// All entries. The kernel's part of the memory is the program's, this one's is where the writer remembers what it did.
pub struct Entries {
    v4: Shared<Entry4>,
    v6: Shared<Entry6>,
    extras: Shared<Extra>,
    free_extras: Vec<u16>,
    mask: u32,
    seed: [u64; 2],
    capacity: usize,
    used: usize,
    /// Counter of each place when it was last read, by family.
    read: [Vec<u64>; 2],
    /// Not to be given to anybody: taken, or taken away and not settled yet.
    taken: [Bits; 2],
    /// Taken away, final after the next grace period.
    leaving: Vec<EntryId>,
}

/// One bit per place.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] & 1 << (at % 64) != 0
    }

    fn set(&mut self, at: usize, on: bool) {
        let bit = 1 << (at % 64);
        self.0[at / 64] = if on { self.0[at / 64] | bit } else { self.0[at / 64] & !bit };
    }
}

/// Places per family, for so many entries: twice as many, so that a home's window is next to never full.
pub(in super::super) fn places(capacity: u32) -> u32 {
    capacity.clamp(8, 1 << 26).next_power_of_two() * 2
}

/// Meters, samples and mirror counters there is room for.
pub(in super::super) fn extras(capacity: u32) -> u32 {
    (capacity / 4).clamp(16, 65_536)
}

impl Entries {
    pub(super) fn new(
        v4: Shared<Entry4>,
        v6: Shared<Entry6>,
        extra: Shared<Extra>,
        capacity: u32,
        seed: [u64; 2],
    ) -> Self {
        let places = places(capacity);
        let all = places as usize + WINDOW;
        debug_assert!(v4.len() >= all && v6.len() >= all);
        let free_extras = (0..extra.len() as u32).rev().map(|n| n as u16).collect();
        Self {
            v4,
            v6,
            extras: extra,
            free_extras,
            mask: places - 1,
            seed,
            capacity: capacity.max(1) as usize,
            used: 0,
            read: [vec![0; all], vec![0; all]],
            taken: [Bits::new(all), Bits::new(all)],
            leaving: Vec::new(),
        }
    }

    /// Entries in force.
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts a flow's direction into the table. From here on its packets are acted on in the driver. `device`: the slot to
    /// leave by, where it is forwarded.
    ///
    /// # Errors
    /// No room, in the table or around the flow's home; or it is there already.
    pub(super) fn insert(&mut self, key: &FlowKey, rule: &FlowRule, device: u16) -> Result<EntryId, FlowRefused> {
        if self.used >= self.capacity {
            return Err(FlowRefused::Full);
        }
        let family = usize::from(key.is_v6());
        let words = words(key);
        let home = self.home(key.is_v6(), &words) as usize;
        if self.at(key.is_v6(), home, &words).is_some() {
            return Err(FlowRefused::Known);
        }
        let offset = (0..WINDOW).find(|i| !self.taken[family].get(home + i)).ok_or(FlowRefused::Full)?;
        let place = home + offset;
        let id = EntryId(place as u32 | if key.is_v6() { V6 } else { 0 });
        let mut tail = tail(key, rule, device);
        if tail.options & EXTRA != 0 {
            tail.extra = self.free_extras.pop().ok_or(FlowRefused::NoExtra)?;
            // SAFETY: inside the map; no entry in force names it.
            unsafe { self.extras.at(usize::from(tail.extra)).write_volatile(extra(rule)) };
        }
        self.taken[family].set(place, true);
        self.read[family][place] = 0;
        let there = self.tail(id);
        // SAFETY: inside the map, and no reader takes anything of it for its own while the key is not live; but for `near`,
        // which belongs to the place and is changed by this writer alone.
        unsafe {
            tail.near = (&raw const (*there).near).read_volatile();
            there.write_volatile(tail);
        }
        self.set_key(id, &words);
        self.set_near(key.is_v6(), home, offset, true);
        self.used += 1;
        Ok(id)
    }

    /// Takes an entry away: from here on its packets meet the rules. Its counter is final, and its place free, after
    /// [`Self::settle`].
    pub fn remove(&mut self, id: EntryId) {
        let (v6, place) = id.place();
        let words = self.key(id);
        self.last_word(id).store(0, Ordering::Release);
        let home = self.home(v6, &words) as usize;
        self.set_near(v6, home, place - home, false);
        self.used -= 1;
        self.leaving.push(id);
    }

    /// What the entry counted since it was asked last.
    pub fn count(&mut self, id: EntryId) -> FlowCount {
        let (v6, place) = id.place();
        let counter = self.tail(id);
        // SAFETY: aligned and inside the map.
        let now = unsafe { AtomicU64::from_ptr(&raw mut (*counter).counter) }.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.read[usize::from(v6)][place], now);
        let (packets, bytes) = unpack(now.wrapping_sub(before));
        FlowCount { packets, bytes }
    }

    fn last(&mut self, id: EntryId) -> Last {
        let (progress, over) = self.progress(id);
        let tail = self.tail(id);
        // SAFETY: inside the map and aligned.
        let numbers = unsafe { AtomicU32::from_ptr(&raw mut (*tail).numbers) }.load(Ordering::Relaxed);
        Last { count: self.count(id), numbers, progress, over }
    }

    /// How far meter and sample have come, and the packets that the meter dropped.
    pub fn progress(&self, id: EntryId) -> (Progress, u64) {
        let tail = self.tail(id);
        // SAFETY: inside the map; both are written by this writer only while the entry is not in force.
        let (options, extra) = unsafe { ((*tail).options, (*tail).extra) };
        if options & EXTRA == 0 {
            return Default::default();
        }
        let extra = self.extras.at(usize::from(extra));
        // SAFETY: inside the map and aligned; so for all three.
        let words = unsafe { [&raw mut (*extra).full_at, &raw mut (*extra).met, &raw mut (*extra).over] };
        // SAFETY: as said.
        let [full_at, met, over] = words.map(|word| unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Relaxed));
        (Progress { until_full: full_at.saturating_sub(kernel_now()), met }, over)
    }

    /// TCP flags that its packets had.
    pub fn seen(&self, id: EntryId) -> u8 {
        // SAFETY: inside the map.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.tail(id)).seen) }.load(Ordering::Relaxed)
    }

    /// Packets that its meter dropped.
    pub fn over(&self, id: EntryId) -> u64 {
        let tail = self.tail(id);
        // SAFETY: inside the map; both are written by this writer only while the entry is not in force.
        let (options, extra) = unsafe { ((*tail).options, (*tail).extra) };
        if options & Options::METER == 0 {
            return 0;
        }
        // SAFETY: inside the map and aligned.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.extras.at(usize::from(extra))).over) }.load(Ordering::Relaxed)
    }

    /// Whether [`Self::settle`] has something to do.
    pub fn unsettled(&self) -> usize {
        self.leaving.len()
    }

    /// Waits until no packet is in the program that came before the last removal, and frees the places of what was removed.
    /// `last` is called with what each leaves.
    pub fn settle(&mut self, mut last: impl FnMut(EntryId, Last)) {
        if self.leaving.is_empty() {
            return;
        }
        super::super::maps::grace_period();
        for id in std::mem::take(&mut self.leaving) {
            last(id, self.last(id));
            let tail = self.tail(id);
            // SAFETY: inside the map; the entry is nobody's any more.
            let (options, extra) = unsafe { ((*tail).options, (*tail).extra) };
            if options & EXTRA != 0 {
                self.free_extras.push(extra);
            }
            let (v6, place) = id.place();
            self.taken[usize::from(v6)].set(place, false);
        }
    }

    /// The entry of a key, if it is in force.
    pub fn find(&self, key: &FlowKey) -> Option<EntryId> {
        let words = words(key);
        self.at(key.is_v6(), self.home(key.is_v6(), &words) as usize, &words)
    }

    fn at(&self, v6: bool, home: usize, words: &[u64; 5]) -> Option<EntryId> {
        let near = self.near(v6, home).load(Ordering::Relaxed);
        let ids = (0..WINDOW).filter(|i| near & 1u64 << i != 0);
        ids.map(|i| EntryId((home + i) as u32 | if v6 { V6 } else { 0 })).find(|id| self.key(*id) == *words)
    }

    fn home(&self, v6: bool, words: &[u64; 5]) -> u32 {
        let [a, .., e] = *words;
        self.mask & if v6 { hash6(words, self.seed) } else { hash4(&[a, e], self.seed) }
    }

    fn tail(&self, id: EntryId) -> *mut Tail {
        let (v6, place) = id.place();
        // SAFETY: inside the map.
        if v6 { unsafe { &raw mut (*self.v6.at(place)).tail } } else { unsafe { &raw mut (*self.v4.at(place)).tail } }
    }

    fn near(&self, v6: bool, place: usize) -> &AtomicU64 {
        let tail = self.tail(EntryId(place as u32 | if v6 { V6 } else { 0 }));
        // SAFETY: aligned and inside the map, which lives as long as `self`.
        unsafe { AtomicU64::from_ptr(&raw mut (*tail).near) }
    }

    fn set_near(&self, v6: bool, home: usize, offset: usize, on: bool) {
        let near = self.near(v6, home);
        let before = near.load(Ordering::Relaxed);
        near.store(if on { before | 1u64 << offset } else { before & !(1u64 << offset) }, Ordering::Release);
    }

    fn last_word(&self, id: EntryId) -> &AtomicU64 {
        let (v6, place) = id.place();
        // SAFETY (both): aligned and inside the map, which lives as long as `self`.
        if v6 {
            // SAFETY: inside the map.
            unsafe { AtomicU64::from_ptr(&raw mut (*self.v6.at(place)).key[4]) }
        } else {
            // SAFETY: inside the map.
            unsafe { AtomicU64::from_ptr(&raw mut (*self.v4.at(place)).key[1]) }
        }
    }

    /// As [`words`] has it.
    fn key(&self, id: EntryId) -> [u64; 5] {
        let (v6, place) = id.place();
        // SAFETY (both): inside the map; keys are written by this writer only.
        if v6 {
            // SAFETY: inside the map.
            unsafe { (&raw const (*self.v6.at(place)).key).read_volatile() }
        } else {
            // SAFETY: inside the map.
            let [a, e] = unsafe { (&raw const (*self.v4.at(place)).key).read_volatile() };
            [a, 0, 0, 0, e]
        }
    }

    fn set_key(&self, id: EntryId, words: &[u64; 5]) {
        let (v6, place) = id.place();
        let [a, b, c, d, last] = *words;
        // SAFETY (both): inside the map, and the entry is not live.
        if v6 {
            // SAFETY: inside the map.
            unsafe { (&raw mut (*self.v6.at(place)).key).write_volatile([a, b, c, d, 0]) };
        } else {
            // SAFETY: inside the map.
            unsafe { (&raw mut (*self.v4.at(place)).key).write_volatile([a, 0]) };
        }
        // The program reads the key first and what it needs after it, without a barrier: on machines that keep loads in
        // order (x86) this store is enough. Elsewhere a reader may see an old tail for a moment, so it is waited for.
        if cfg!(not(target_arch = "x86_64")) {
            fence(Ordering::SeqCst);
            super::super::maps::grace_period();
        }
        self.last_word(id).store(last, Ordering::Release);
    }
}

impl EntryId {
    fn place(self) -> (bool, usize) {
        (self.0 & V6 != 0, (self.0 & !V6) as usize)
    }
}

/// The key as the program has it; IPv4's in the first and last.
fn words(key: &FlowKey) -> [u64; 5] {
    let word = |bytes: &[u8; 16], at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let [s, d] = [key.sport, key.dport].map(u16::to_be_bytes);
    let last = last_word(u32::from_ne_bytes([s[0], s[1], d[0], d[1]]), key.protocol);
    debug_assert!(last & LIVE != 0);
    if key.is_v6() {
        [word(&key.src, 0), word(&key.src, 8), word(&key.dst, 0), word(&key.dst, 8), last]
    } else {
        let [s, d] = [&key.src, &key.dst].map(|a| [a[0], a[1], a[2], a[3]]);
        [u64::from_ne_bytes([s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]]), 0, 0, 0, last]
    }
}

fn tail(key: &FlowKey, rule: &FlowRule, device: u16) -> Tail {
    let pair = |mac: &[u8; 6], at: usize| u16::from_ne_bytes([mac[at], mac[at + 1]]);
    let mut tail = Tail { station: [0, 2, 4].map(|at| pair(&key.station, at)), ..Tail::default() };
    match rule.action {
        super::FlowVerdict::Pass => tail.action = FlowAction::Pass as u8,
        super::FlowVerdict::Drop => tail.action = FlowAction::Drop as u8,
        super::FlowVerdict::Forward { mtu, dst_mac: d, src_mac: s, .. } => {
            tail.action = FlowAction::Forward as u8;
            tail.mtu = mtu;
            tail.device = device;
            tail.macs =
                [[d[0], d[1], d[2], d[3]], [d[4], d[5], s[0], s[1]], [s[2], s[3], s[4], s[5]]].map(u32::from_ne_bytes);
        }
    }
    if let Some(dscp) = rule.dscp {
        tail.options |= Options::MARK;
        tail.tos = dscp << 2;
    }
    let option = |wanted: bool, bit: u8| if wanted { bit } else { 0 };
    tail.options |= option(rule.meter.is_some(), Options::METER)
        | option(rule.sample > 0, Options::SAMPLE)
        | option(rule.mirror.is_some(), Options::MIRROR)
        | option(rule.linear, Options::LINEAR);
    tail.numbers = rule.numbers;
    tail
}

fn extra(rule: &FlowRule) -> Extra {
    let mut extra = Extra { every: rule.sample, mirror: u32::from(rule.mirror.unwrap_or(0)), ..Extra::default() };
    extra.met = rule.progress.met;
    if let Some(meter) = rule.meter {
        (extra.per_byte, extra.burst) = (meter.per_byte(), meter.burst_nanos());
        extra.full_at = kernel_now().saturating_add(rule.progress.until_full);
    }
    extra
}

/// The clock of `bpf_ktime_get_ns`.
fn kernel_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
