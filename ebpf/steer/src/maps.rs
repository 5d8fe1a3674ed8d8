//! The program's maps. Their keys and values are in `softdpu_ebpf_common::maps`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, DevMap, HashMap, LpmTrie, PerCpuArray, RingBuf, XskMap},
};
use softdpu_ebpf_common::{
    flows::{Entry4, Entry6, Extra},
    maps::{Counter, GENERATIONS, MAX_PORTS, MAX_PREFIXES, MAX_QUEUES, MAX_RULES, Prefix, REASONS, Tables},
    watch::{RING_BYTES, Seen},
};

/// One word of `ActiveFlags`: changing the rules of every packet is one store.
#[map]
pub static ACTIVE: Array<u32> = Array::with_max_entries(1, 0);

/// By generation.
#[map]
pub static TABLES: Array<Tables> = Array::with_max_entries(GENERATIONS as u32, 0);

/// Class of a source address.
#[map]
pub static FROM: LpmTrie<Prefix, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);

/// Class of a destination address.
#[map]
pub static TO: LpmTrie<Prefix, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);

/// Interface index to port slot.
#[map]
pub static SLOTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_PORTS as u32, 0);

/// By `socket_key`.
#[map]
pub static SOCKETS: XskMap = XskMap::with_max_entries((MAX_PORTS * MAX_QUEUES) as u32, 0);

/// By port slot.
#[map]
pub static DEVICES: DevMap = DevMap::with_max_entries(MAX_PORTS as u32, 0);

/// The flow table, by place; the loader sets the size it wants. User space has it in its memory.
#[map]
pub static FLOWS4: Array<Entry4> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static FLOWS6: Array<Entry6> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// By `Tail::extra`.
#[map]
pub static EXTRAS: Array<Extra> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What rules want counted besides, by the rule's number.
#[map]
pub static MIRRORS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(MAX_RULES as u32, 0);

/// By generation and rule: `generation * MAX_RULES + rule`.
#[map]
pub static RULE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries((GENERATIONS * MAX_RULES) as u32, 0);

/// By `Reason`.
#[map(name = "REASONS")]
pub static REASON_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(REASONS as u32, 0);

/// What the program says of each packet while somebody watches.
#[map]
pub static WATCHED: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// The record that is being written, per CPU: it is too large for the stack.
#[map]
pub static WATCH_RECORD: PerCpuArray<Seen> = PerCpuArray::with_max_entries(1, 0);

/// Records that the ring had no room for, one counter.
#[map]
pub static WATCH_LOST: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);

/// Adds one packet to a per-CPU counter.
#[inline(always)]
pub fn count(counters: &PerCpuArray<Counter>, index: u32, bytes: u64) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the map lives as long as the program, and the element is this CPU's: XDP runs with softirqs off, so
        // nothing else writes it meanwhile.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes;
        }
    }
}
