//! The program's maps, with their types.

use std::time::Duration;

use aya::{
    Ebpf, Pod,
    maps::{
        Array, DevMap, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, XskMap, lpm_trie,
    },
};
use softdpu_ebpf_common::{
    flows,
    maps::{Counter, MAX_RULES, Prefix, Tables, names},
    watch,
};

use super::error::{Result, SteerError};

pub(super) type Key = lpm_trie::Key<Prefix>;
pub(super) type Trie = LpmTrie<MapData, Prefix, u32>;

pub(super) struct Maps {
    pub active: Array<MapData, u32>,
    pub tables: Array<MapData, Tables>,
    pub from: Trie,
    pub to: Trie,
    pub slots: HashMap<MapData, u32, u32>,
    pub sockets: XskMap<MapData>,
    pub devices: DevMap<MapData>,
    pub mirrors: PerCpuArray<MapData, Counter>,
    pub rule_counters: PerCpuArray<MapData, Counter>,
    pub reasons: PerCpuArray<MapData, Counter>,
    pub watched: RingBuf<MapData>,
    pub watch_lost: PerCpuArray<MapData, Counter>,
    cpus: usize,
}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(_, e)| SteerError::Load { what: format!("number of CPUs: {e}"), errno: e.raw_os_error() })?;
        Ok(Maps {
            active: take(ebpf, names::ACTIVE)?,
            tables: take(ebpf, names::TABLES)?,
            from: take(ebpf, names::FROM)?,
            to: take(ebpf, names::TO)?,
            slots: take(ebpf, names::SLOTS)?,
            sockets: take(ebpf, names::SOCKETS)?,
            devices: take(ebpf, names::DEVICES)?,
            mirrors: take(ebpf, flows::names::MIRRORS)?,
            rule_counters: take(ebpf, names::RULE_COUNTERS)?,
            reasons: take(ebpf, names::REASONS)?,
            watched: take(ebpf, watch::names::RING)?,
            watch_lost: take(ebpf, watch::names::LOST)?,
            cpus,
        })
    }

    pub fn trie(&mut self, source: bool) -> (&mut Trie, &'static str) {
        if source { (&mut self.from, names::FROM) } else { (&mut self.to, names::TO) }
    }

    pub fn zero_rule_counters(&mut self, generation: u32, rules: usize) -> Result<()> {
        for rule in 0..rules as u32 {
            let zero = PerCpuValues::try_from(vec![Counter::default(); self.cpus]).map_err(|e| SteerError::Map {
                map: names::RULE_COUNTERS,
                what: e.to_string(),
                errno: e.raw_os_error(),
            })?;
            self.rule_counters
                .set(generation * MAX_RULES as u32 + rule, zero, 0)
                .map_err(SteerError::map(names::RULE_COUNTERS))?;
        }
        Ok(())
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T> {
    let map = ebpf.take_map(name).ok_or_else(|| SteerError::no_map(name))?;
    T::try_from(map).map_err(SteerError::map(name))
}

/// Sum over all CPUs.
pub(super) fn sum(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |a, b| Counter {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
    })
}

/// Waits until every packet that was in the program when this was called has left it.
pub(super) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: plain system call without pointers. It waits for an RCU grace period, and XDP programs run inside one.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Refused under nohz_full and by some seccomp profiles. A program run takes microseconds.
        std::thread::sleep(Duration::from_millis(50));
    }
}

const _: fn() = || {
    fn pod<T: Pod>() {}
    pod::<Tables>();
};
