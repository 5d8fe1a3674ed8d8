//! The flow table in the driver, from user space. [`softdpu_ebpf_common::flows`] says how it is laid out.

mod shared;
mod table;

use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use softdpu_ebpf_common::flows::{Entry4, Entry6, Extra, WINDOW, names};
use softdpu_ebpf_common::maps::{ActiveFlags, Counter, names as maps};
use softdpu_ebpf_common::walk::{Headers, L3};

use self::shared::Shared;
pub use self::table::{Entries, EntryId, FlowCount, FlowRefused, Last};
pub(super) use self::table::{extras, places};
use super::{
    Steer,
    error::{Result, SteerError},
    maps::sum,
};

/// One direction of a flow as its packets come in: TCP or UDP, untagged, without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// IPv4 addresses are the first four bytes, the rest zero.
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub sport: u16,
    pub dport: u16,
    pub protocol: u8,
    /// 4 or 6.
    pub version: u8,
    /// The destination MAC they have: the station's own. Not part of the key, but what has another one is not acted on.
    pub station: [u8; 6],
}

impl FlowKey {
    /// The key of a packet.
    pub fn of(h: &Headers, station: [u8; 6]) -> Self {
        let version = if h.l3 == L3::V6 { 6 } else { 4 };
        Self { src: h.src, dst: h.dst, sport: h.sport, dport: h.dport, protocol: h.proto, version, station }
    }

    pub(super) fn is_v6(&self) -> bool {
        self.version == 6
    }
}

/// What becomes of the packets of one direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowVerdict {
    Pass,
    Drop,
    /// Out by another interface. Packets with TTL 1, and IP packets larger than `mtu` bytes, go to the rules instead.
    Forward {
        ifindex: u32,
        mtu: u16,
        dst_mac: [u8; 6],
        src_mac: [u8; 6],
    },
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Bytes of IP packets per second, at least 1.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u64,
}

impl Meter {
    /// Nanoseconds that one byte takes, in 1/2^16.
    pub fn per_byte(&self) -> u64 {
        u64::try_from(self.nanos(1 << 16)).unwrap_or(u64::MAX >> 17)
    }

    /// Nanoseconds' worth of burst.
    pub fn burst_nanos(&self) -> u64 {
        u64::try_from(self.nanos(self.burst)).unwrap_or(u64::MAX >> 1)
    }

    fn nanos(&self, bytes: u64) -> u128 {
        u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.max(1))
    }
}

/// How far a meter and a sample have come: taken along when a flow goes down or comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// Nanoseconds until the bucket is full again.
    pub until_full: u64,
    /// Packets met, of which every so many is sampled.
    pub met: u64,
}

/// What to do with the packets of one direction of a flow, and what else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRule {
    pub action: FlowVerdict,
    /// What is over is dropped and counted.
    pub meter: Option<Meter>,
    /// 0..=63.
    pub dscp: Option<u8>,
    /// One of so many goes to the rules instead, and is not counted here; 0: none does.
    pub sample: u32,
    /// Counted under this number too, below 1024: see [`Steer::mirror_count`].
    pub mirror: Option<u16>,
    /// Where meter and sample go on.
    pub progress: Progress,
    /// The interface to leave by takes frames of one buffer only: others go to the rules.
    pub linear: bool,
    /// Of TCP: see [`softdpu_ebpf_common::flows::numbers_on`].
    pub numbers: u32,
}

impl From<FlowVerdict> for FlowRule {
    fn from(action: FlowVerdict) -> Self {
        Self {
            action,
            meter: None,
            dscp: None,
            sample: 0,
            mirror: None,
            progress: Progress::default(),
            linear: false,
            numbers: 0,
        }
    }
}

/// Maps the table's memory.
pub(super) fn open(ebpf: &mut Ebpf, capacity: u32, seed: [u64; 2]) -> Result<Entries> {
    let all = places(capacity) as usize + WINDOW;
    let v4: Shared<Entry4> = shared(ebpf, names::FLOWS4, all)?;
    let v6: Shared<Entry6> = shared(ebpf, names::FLOWS6, all)?;
    let extra: Shared<Extra> = shared(ebpf, names::EXTRAS, extras(capacity) as usize)?;
    Ok(Entries::new(v4, v6, extra, capacity, seed))
}

fn shared<T: Copy>(ebpf: &mut Ebpf, name: &'static str, len: usize) -> Result<Shared<T>> {
    let map = ebpf.map(name).ok_or_else(|| SteerError::no_map(name))?;
    let aya::maps::Map::Array(data) = map else { return Err(SteerError::no_map(name)) };
    let fd: BorrowedFd<'_> = data.fd().as_fd();
    Shared::map(fd, len).map_err(|e| SteerError::Map {
        map: name,
        what: format!("cannot be mapped: {e}"),
        errno: e.raw_os_error(),
    })
}

impl Steer {
    /// Puts one direction of a flow into the table; from here on its packets do not meet the rules.
    ///
    /// # Errors
    /// The table is full or has it already; the interface to leave by does not exist.
    pub fn flow_insert(&mut self, key: &FlowKey, rule: impl Into<FlowRule>) -> Result<EntryId> {
        let rule = rule.into();
        let device = match rule.action {
            FlowVerdict::Forward { ifindex, .. } => self.device(ifindex)?,
            FlowVerdict::Pass | FlowVerdict::Drop => 0,
        };
        let id = self.flows.insert(key, &rule, device).map_err(SteerError::Flow)?;
        self.flows_used()?;
        Ok(id)
    }

    /// Takes an entry out: its packets meet the rules from here on. What it counted last comes with
    /// [`Entries::settle`].
    ///
    /// # Errors
    /// The map refuses; the entry is out nevertheless.
    pub fn flow_remove(&mut self, id: EntryId) -> Result<()> {
        self.flows.remove(id);
        self.flows_used()
    }

    /// Entries and their counters.
    pub fn flows(&mut self) -> &mut Entries {
        &mut self.flows
    }

    /// Packets and IP bytes counted under a mirror number.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn mirror_count(&self, number: u16) -> Result<Counter> {
        let values = self.maps.mirrors.get(&u32::from(number), 0).map_err(SteerError::map(names::MIRRORS))?;
        Ok(sum(&values))
    }

    fn device(&mut self, ifindex: u32) -> Result<u16> {
        let slot = self.slot(ifindex)?;
        if self.devices.insert(slot) {
            self.maps.devices.set(slot, ifindex, None, 0).map_err(SteerError::map(maps::DEVICES))?;
        }
        Ok(slot as u16)
    }

    /// Packets look into the table only while it has flows.
    fn flows_used(&mut self) -> Result<()> {
        let rest = self.active & !ActiveFlags::FLOWS;
        let word = rest | if self.flows.is_empty() { 0 } else { ActiveFlags::FLOWS };
        if word == self.active { Ok(()) } else { self.activate(word) }
    }
}
