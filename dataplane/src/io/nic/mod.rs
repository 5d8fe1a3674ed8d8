//! Tier `nic`: a program and a table in the device itself. Why they are not the driver's, and what devices take: ADR 14.
//!
//! ```text
//!   Device::load(ifindex, entries) ── maps, program, attach ──► Device ── insert, count, remove
//!                                └── Refused: what was tried, the kernel's errno, whose words
//! ```

mod bpf;
#[cfg(test)]
mod tests;

use crate::io::steer::{FlowCount, FlowKey};
use aya_obj::Object;
use aya_obj::maps::Map;
use bpf::{Instruction, MapType};
use softdpu_ebpf_common::nic::{Action, Count, Entry, Key, last_word, names};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What a load had come to when it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This softdpu has no program for it.
    Object,
    Map,
    Program,
    Attach,
}

/// Why a device does not take the program or its maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", said(*.step, *.errno, words))]
pub struct Refused {
    pub step: Step,
    pub errno: Option<i32>,
    /// The verifier's, or ours. May be empty.
    pub words: String,
}

fn said(step: Step, errno: Option<i32>, words: &str) -> String {
    let what = match step {
        Step::Object => return words.to_owned(),
        Step::Map => "its table was refused",
        Step::Program => "the program was refused",
        Step::Attach => "the program was taken, but not put to work",
    };
    let error = errno.map(|errno| format!(": {}", io::Error::from_raw_os_error(errno))).unwrap_or_default();
    let colon = if words.is_empty() { "" } else { ": " };
    format!("{what}{error}{colon}{words}")
}

impl Refused {
    fn new(step: Step, error: &io::Error, words: String) -> Self {
        let errno = error.raw_os_error();
        let ours = match (errno, step) {
            (Some(libc::EPERM), _) => "CAP_SYS_ADMIN is missing",
            (Some(libc::EBUSY), Step::Attach) => "somebody else's program is in the device",
            _ => "",
        };
        Self { step, errno, words: if words.is_empty() { ours.to_owned() } else { words } }
    }
}

/// An entry of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryId {
    key: Key,
    counter: u32,
}

/// Why an entry was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("the device has no room for more")]
    Full,
    #[error("{0}")]
    Driver(io::Error),
}

/// A device that has the program. Dropping it takes the program out.
#[derive(Debug)]
pub struct Device {
    flows: OwnedFd,
    counts: OwnedFd,
    program: OwnedFd,
    /// `None`: not at work.
    link: Option<OwnedFd>,
    capacity: u32,
    /// Counters that no entry has, the lowest last.
    free: Vec<u32>,
    /// By counter: as it was read last.
    read: Vec<Count>,
}

impl Device {
    /// Makes the maps in the device, as many as `entries` large or as large as it takes them, loads the program for it and
    /// puts it to work, beside what the driver runs.
    ///
    /// # Errors
    /// What was refused, and with which words.
    pub fn load(ifindex: u32, entries: u32) -> Result<Self, Refused> {
        let mut device = Self::prepare(ifindex, entries)?;
        let link = bpf::attach_to_device(device.program.as_fd(), ifindex);
        device.link = Some(link.map_err(|error| Refused::new(Step::Attach, &error, String::new()))?);
        Ok(device)
    }

    /// All but the last step. With interface 0 everything is the host's, and runs there.
    fn prepare(ifindex: u32, entries: u32) -> Result<Self, Refused> {
        let mut capacity = entries.max(1);
        let (flows, counts) = loop {
            match maps(ifindex, capacity) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && capacity > 1 => capacity /= 2,
                made => break made.map_err(|error| Refused::new(Step::Map, &error, String::new()))?,
            }
        };
        let object = |words: String| Refused { step: Step::Object, errno: None, words };
        let code = code(&flows, &counts).map_err(object)?;
        let program = bpf::program(names::PROGRAM, &code, ifindex)
            .map_err(|(error, words)| Refused::new(Step::Program, &error, words))?;
        let free = (0..capacity).rev().collect();
        let read = vec![Count::default(); capacity as usize];
        Ok(Self { flows, counts, program, link: None, capacity, free, read })
    }

    /// Whether it is still there: an interface that went away took its program along.
    pub fn is_at_work(&self) -> bool {
        #[cfg(test)]
        if self.link.is_none() {
            return true;
        }
        self.link.as_ref().is_some_and(|link| bpf::link_interface(link.as_fd()).is_ok_and(|ifindex| ifindex != 0))
    }

    /// Maps and program of the host's, for tests of what uses them.
    #[cfg(test)]
    pub(crate) fn of_host(entries: u32) -> Result<Self, Refused> {
        Self::prepare(0, entries)
    }

    /// What the program makes of a frame, where it is the host's.
    #[cfg(test)]
    pub(crate) fn run(&self, frame: &[u8]) -> u32 {
        bpf::run(self.program.as_fd(), frame).unwrap_or(u32::MAX)
    }

    /// Most entries.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Entries in force.
    pub fn len(&self) -> u32 {
        self.capacity - self.free.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From here on the device drops the packets of this direction of a flow.
    ///
    /// # Errors
    /// It is full, or the driver refuses.
    pub fn insert(&mut self, key: &FlowKey) -> Result<EntryId, NotTaken> {
        let counter = self.free.last().copied().ok_or(NotTaken::Full)?;
        // Whoever had it before, or whatever the driver left there.
        self.read[counter as usize] = bpf::read(self.counts.as_fd(), &counter).map_err(NotTaken::Driver)?;
        let pair = |at: usize| u16::from_ne_bytes([key.station[at], key.station[at + 1]]);
        let entry = Entry { counter, station: [0, 2, 4].map(pair), action: Action::Drop as u16 };
        let words = words(key);
        bpf::add(self.flows.as_fd(), &words, &entry).map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC) => NotTaken::Full,
            _ => NotTaken::Driver(error),
        })?;
        self.free.pop();
        Ok(EntryId { key: words, counter })
    }

    /// What an entry counted since it was asked last. Nothing where the driver does not say.
    pub fn count(&mut self, entry: &EntryId) -> FlowCount {
        let Ok(now) = bpf::read::<u32, Count>(self.counts.as_fd(), &entry.counter) else { return FlowCount::default() };
        let before = std::mem::replace(&mut self.read[entry.counter as usize], now);
        let packets = now.packets.wrapping_sub(before.packets);
        FlowCount { packets, bytes: now.bytes.wrapping_sub(before.bytes) }
    }

    /// Takes an entry away, and gives the rest of what it counted.
    ///
    /// # Errors
    /// The driver refuses. The entry stays in force.
    pub fn remove(&mut self, entry: &EntryId) -> io::Result<FlowCount> {
        match bpf::remove(self.flows.as_fd(), &entry.key) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        let rest = self.count(entry);
        self.free.push(entry.counter);
        Ok(rest)
    }
}

fn maps(ifindex: u32, entries: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let flows = bpf::map::<Key, Entry>(MapType::Hash, names::FLOWS, entries, ifindex)?;
    Ok((flows, bpf::map::<u32, Count>(MapType::Array, names::COUNTS, entries, ifindex)?))
}

/// The program's instructions, with these maps in them. The object is our own; the words are for whoever built it wrong.
fn code(flows: &OwnedFd, counts: &OwnedFd) -> Result<Vec<Instruction>, String> {
    let object = object().ok_or("this softdpu was built without the program for SmartNICs (`cargo xtask ebpf`)")?;
    let mut object = Object::parse(object).map_err(|error| format!("the program's object: {error}"))?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let defined = std::mem::take(&mut object.maps);
    let map = |name: &str| defined.get(name).ok_or_else(|| format!("the program's object has no map {name}"));
    let maps: [(&str, i32, &Map); 2] = [
        (names::FLOWS, flows.as_raw_fd(), map(names::FLOWS)?),
        (names::COUNTS, counts.as_raw_fd(), map(names::COUNTS)?),
    ];
    object.relocate_maps(maps.into_iter(), &sections).map_err(|error| error.to_string())?;
    object.relocate_calls(&sections).map_err(|error| error.to_string())?;
    let key = object.programs.get(names::PROGRAM).map(|program| program.function_key());
    let function = key.and_then(|key| object.functions.get(&key));
    Ok(function.ok_or("the object has no program")?.instructions.clone())
}

/// The object's bytes, embedded by the build script where it was built.
fn object() -> Option<&'static [u8]> {
    /// The ELF reader casts into it.
    #[repr(C, align(8))]
    #[allow(dead_code, reason = "unused where there is no object")]
    struct Aligned<T: ?Sized>(T);
    const OBJECT: Option<&'static [u8]> = include!(concat!(env!("OUT_DIR"), "/nic_object.rs"));
    OBJECT
}

/// The key as the program has it.
fn words(key: &FlowKey) -> Key {
    let word = |bytes: &[u8; 16], at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let [s, d] = [key.sport, key.dport].map(u16::to_be_bytes);
    let last = last_word(u32::from_ne_bytes([s[0], s[1], d[0], d[1]]), key.protocol, key.version == 6);
    if key.version == 6 {
        [word(&key.src, 0), word(&key.src, 8), word(&key.dst, 0), word(&key.dst, 8), last]
    } else {
        let [s, d] = [&key.src, &key.dst].map(|a| [a[0], a[1], a[2], a[3]]);
        [u64::from_ne_bytes([s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]]), 0, 0, 0, last]
    }
}
