//! Host names, each kept once: a worker's bounded table of interned, lower-cased, printable names.
//!
//! A flow holds a number and a reference. A name without references stays for the next flow until its place is needed.

use std::hash::{BuildHasher, RandomState};

/// Longest host name (RFC 1035 §2.3.4: 255 octets on the wire, 253 in text).
pub const MAX_HOST: usize = 253;

/// A host name on its way from a packet: printable ASCII without blanks, lower case, at most [`MAX_HOST`] bytes.
#[derive(Clone)]
pub struct HostName {
    bytes: [u8; MAX_HOST],
    len: u8,
    bad: bool,
}

impl Default for HostName {
    fn default() -> Self {
        Self { bytes: [0; MAX_HOST], len: 0, bad: false }
    }
}

impl std::fmt::Debug for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl HostName {
    pub fn clear(&mut self) {
        self.len = 0;
        self.bad = false;
    }

    /// Adds bytes. One that is not printable, or one too many, makes the name no name.
    pub fn push(&mut self, bytes: &[u8]) {
        for b in bytes {
            let fits = usize::from(self.len) < MAX_HOST;
            if !fits || !b.is_ascii_graphic() {
                self.bad = true;
                return;
            }
            self.bytes[usize::from(self.len)] = b.to_ascii_lowercase();
            self.len += 1;
        }
    }

    /// Says that there was a name, and that it is none.
    pub fn spoil(&mut self) {
        self.bad = true;
    }

    /// Whether there was a name that is none: too long, not printable, or of parts that do not add up.
    pub fn is_bad(&self) -> bool {
        self.bad
    }

    /// The name, without a trailing dot. `None` where there is none or what was pushed is not one.
    pub fn get(&self) -> Option<&str> {
        let name = &self.bytes[..usize::from(self.len)];
        let name = name.strip_suffix(b".").unwrap_or(name);
        if self.bad || name.is_empty() { None } else { std::str::from_utf8(name).ok() }
    }
}

struct Entry {
    refs: u32,
    hash: u32,
    /// 0: never used.
    len: u8,
    bytes: [u8; MAX_HOST],
}

pub struct Hosts {
    entries: Box<[Entry]>,
    /// Entry numbers plus one, 0 free; linear probing, never more than half full.
    index: Box<[u32]>,
    hasher: RandomState,
    fresh: u32,
    hand: u32,
    refused: u64,
}

/// Entries looked at for one without references.
const LOOKS: u32 = 64;

impl Hosts {
    /// `capacity`: most different names at a time, 264 bytes each.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 24);
        let entry = || Entry { refs: 0, hash: 0, len: 0, bytes: [0; MAX_HOST] };
        Self {
            entries: std::iter::repeat_with(entry).take(capacity).collect(),
            index: vec![0; (capacity * 2).next_power_of_two()].into_boxed_slice(),
            hasher: RandomState::new(),
            fresh: 0,
            hand: 0,
            refused: 0,
        }
    }

    /// Names that found no place because every one looked at was in use.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Names in the table, in use or not.
    pub fn len(&self) -> usize {
        self.fresh as usize
    }

    pub fn is_empty(&self) -> bool {
        self.fresh == 0
    }

    /// The name of a number that [`Self::intern`] gave and that has not been released.
    pub fn get(&self, id: u32) -> &str {
        let name = self.entries.get(id as usize).map_or(&[][..], |e| &e.bytes[..usize::from(e.len)]);
        std::str::from_utf8(name).unwrap_or("")
    }

    /// The number of a name, with one more reference. `None`, and counted, where the table is full.
    pub fn intern(&mut self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name) as u32;
        let mut at = hash as usize & self.mask();
        while let Some(id) = self.index[at].checked_sub(1) {
            let e = &mut self.entries[id as usize];
            if e.hash == hash && &e.bytes[..usize::from(e.len)] == name.as_bytes() {
                e.refs += 1;
                return Some(id);
            }
            at = (at + 1) & self.mask();
        }
        let Some(id) = (name.len() <= MAX_HOST && !name.is_empty()).then(|| self.place()).flatten() else {
            self.refused += 1;
            return None;
        };
        let e = &mut self.entries[id as usize];
        e.refs = 1;
        e.hash = hash;
        e.len = name.len() as u8;
        e.bytes[..name.len()].copy_from_slice(name.as_bytes());
        // Looked for again: making a place may have moved what was there.
        let mut at = hash as usize & self.mask();
        while self.index[at] != 0 {
            at = (at + 1) & self.mask();
        }
        self.index[at] = id + 1;
        Some(id)
    }

    /// One more reference to a name that has one.
    pub fn share(&mut self, id: u32) {
        if let Some(e) = self.entries.get_mut(id as usize) {
            e.refs += 1;
        }
    }

    /// Takes one reference back.
    pub fn release(&mut self, id: u32) {
        if let Some(e) = self.entries.get_mut(id as usize) {
            debug_assert!(e.refs > 0, "released more often than interned");
            e.refs = e.refs.saturating_sub(1);
        }
    }

    fn mask(&self) -> usize {
        self.index.len() - 1
    }

    fn place(&mut self) -> Option<u32> {
        let n = self.entries.len() as u32;
        if self.fresh < n {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        for _ in 0..LOOKS.min(n) {
            let id = self.hand;
            self.hand = if id + 1 == n { 0 } else { id + 1 };
            if self.entries[id as usize].refs == 0 {
                self.unindex(id);
                return Some(id);
            }
        }
        None
    }

    /// Takes an entry out of the index and closes the gap, so that probing needs no tombstones.
    fn unindex(&mut self, id: u32) {
        let mask = self.mask();
        let mut gap = self.entries[id as usize].hash as usize & mask;
        while self.index[gap] != id + 1 {
            if self.index[gap] == 0 {
                return;
            }
            gap = (gap + 1) & mask;
        }
        let mut at = (gap + 1) & mask;
        while let Some(other) = self.index[at].checked_sub(1) {
            let home = self.entries[other as usize].hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.index[gap] = self.index[at];
                gap = at;
            }
            at = (at + 1) & mask;
        }
        self.index[gap] = 0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn names_are_printable_lower_case_and_bounded() {
        let made = |parts: &[&[u8]]| {
            let mut n = HostName::default();
            parts.iter().for_each(|p| n.push(p));
            n.get().map(str::to_owned)
        };
        assert_eq!(made(&[b"WWW", b".", b"Example.COM."]).unwrap(), "www.example.com");
        assert_eq!(made(&[b"a b"]), None);
        assert_eq!(made(&[b"a\0"]), None);
        assert_eq!(made(&[b"a\xc3\xa9"]), None);
        assert_eq!(made(&[]), None);
        assert_eq!(made(&[b"."]), None);
        assert_eq!(made(&[&[b'a'; 253]]).unwrap().len(), 253);
        assert_eq!(made(&[&[b'a'; 254]]), None);
    }

    proptest! {
        /// Interning and releasing at random, against a map: a name in use keeps its number and its letters.
        #[test]
        fn agrees_with_a_map(ops in proptest::collection::vec((0u8..40, any::<bool>()), 1..400)) {
            let mut hosts = Hosts::new(16);
            let mut model: HashMap<u8, (u32, u32)> = HashMap::new();
            for (n, add) in ops {
                let name = format!("host{n}.example");
                if add {
                    let id = hosts.intern(&name);
                    let used = model.len();
                    match (model.get_mut(&n), id) {
                        (Some((known, refs)), Some(id)) => { prop_assert_eq!(*known, id); *refs += 1; }
                        (None, Some(id)) => { model.insert(n, (id, 1)); }
                        (None, None) => prop_assert_eq!(used, 16),
                        (Some(_), None) => prop_assert!(false, "a name in use was refused"),
                    }
                } else if let Some((id, refs)) = model.get_mut(&n) {
                    hosts.release(*id);
                    *refs -= 1;
                    if *refs == 0 {
                        model.remove(&n);
                    }
                }
                for (n, (id, _)) in &model {
                    prop_assert_eq!(hosts.get(*id), format!("host{n}.example"));
                }
            }
        }
    }
}
