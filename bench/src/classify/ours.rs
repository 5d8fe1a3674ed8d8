//! softdpu's classification over captured packets, in batches, as its nodes `flow` and `classify` do it: header walk, key,
//! look-up with prefetches, TCP state, recognisers, flows within flows.

use softdpu::cli::classify::headers;
use softdpu::flow::{Flow, FlowConfig, FlowIdx, FlowTable, Hit, Net, Prepared, Seed, Tick, Timeouts};
use softdpu::l7::{Class, Inspector, L7Config};
use softdpu::wire::overlay;
use softdpu::worker::turn::MOST_AGED;
use softdpu_ebpf_common::walk::Headers;
use std::time::Duration;

use super::captures::Packets;

/// As a worker's by default.
pub const BATCH: usize = 64;
/// How many packets ahead of the look-up a flow's own cache lines are asked for: as a worker does it.
const AHEAD: usize = 16;
/// No flow ends by a capture's pauses, as with `softdpu classify` (and as with others' programs that read files).
const IDLE: Duration = Duration::from_secs(120 * 86_400);

/// A worker's table and inspector, empty at the beginning.
pub struct Ours {
    table: FlowTable,
    inspector: Inspector,
    prepared: [Prepared; BATCH],
    headers: [Headers; BATCH],
    keyed: [bool; BATCH],
    padded: Vec<u8>,
    tally: Tally,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flows by their class's place, of those that have ended.
    ended: Vec<u64>,
    /// Packets without a flow: not IP, malformed, fragments without their first.
    pub without: u64,
}

impl Ours {
    /// With room for `flows`.
    pub fn new(flows: u32) -> Self {
        let config = FlowConfig { capacity: flows, timeouts: Timeouts::all(IDLE), unproven_percent: 100 };
        Self {
            table: FlowTable::new(&config, Seed::fixed(1), Tick(0)),
            inspector: Inspector::new(&L7Config::default()),
            prepared: [Prepared::default(); BATCH],
            headers: [Headers::default(); BATCH],
            keyed: [false; BATCH],
            padded: Vec::with_capacity(1 << 16),
            tally: Tally { ended: vec![0; Class::ALL.len()], without: 0 },
        }
    }

    /// All packets, in order. Not inlined: what counts instructions finds it by name.
    #[inline(never)]
    pub fn counted_pass(&mut self, packets: &Packets) {
        let mut at = 0;
        while at < packets.len() {
            let n = (packets.len() - at).min(BATCH);
            self.batch(packets, at, n);
            at += n;
        }
    }

    fn batch(&mut self, packets: &Packets, at: usize, n: usize) {
        let Self { table, inspector, prepared, headers: walked, keyed, padded, tally } = self;
        let now = Tick::from_nanos(packets.get(at).time);
        for i in 0..n {
            let p = packets.get(at + i);
            keyed[i] = match headers(&p, padded) {
                Some(h) => {
                    walked[i] = h;
                    table.prepare_into(Net::OUTSIDE, &walked[i], p.data, now, &mut prepared[i]).is_ok()
                }
                None => false,
            };
            if keyed[i] {
                table.prefetch(&prepared[i]);
            }
        }
        for i in (0..n.min(AHEAD)).filter(|i| keyed[*i]) {
            table.prefetch_flow(&mut prepared[i]);
        }
        for i in 0..n {
            if i + AHEAD < n && keyed[i + AHEAD] {
                table.prefetch_flow(&mut prepared[i + AHEAD]);
            }
            if !keyed[i] {
                tally.without += 1;
                continue;
            }
            let p = packets.get(at + i);
            let h = &walked[i];
            let bytes = p.original.max(p.data.len() as u32);
            let Some(Hit { idx, dir, new }) = find(table, inspector, tally, &prepared[i], bytes, now) else { continue };
            let flow = table.get_mut(idx);
            if new {
                flow.set_carries(overlay::carries(h));
            }
            if !flow.is_decided() {
                inspector.inspect(idx, flow, dir, h, p.data, now);
            }
            if flow.carries() {
                inside(table, inspector, tally, h, p.data, now);
            }
        }
        table.expire(now, MOST_AGED, |idx, flow| end(idx, flow, inspector, tally));
    }

    /// Flows by class, in the order of [`Class::ALL`], and packets without a flow.
    pub fn tally(&self) -> (Vec<u64>, u64) {
        let mut flows = self.tally.ended.clone();
        self.table.iter().for_each(|(_, flow)| flows[Class::place(flow.class)] += 1);
        (flows, self.tally.without)
    }
}

#[inline(always)]
fn find(
    table: &mut FlowTable,
    inspector: &mut Inspector,
    tally: &mut Tally,
    key: &Prepared,
    bytes: u32,
    now: Tick,
) -> Option<Hit> {
    let hit = table.lookup_or_insert(key, now, |idx, flow| end(idx, flow, inspector, tally)).ok()?;
    table.touch(hit, key, bytes, now);
    // Fragments that had come before their first have their flow now.
    tally.without -= u64::from(key.early().packets);
    Some(hit)
}

#[cold]
fn inside(
    table: &mut FlowTable,
    inspector: &mut Inspector,
    tally: &mut Tally,
    outer: &Headers,
    bytes: &[u8],
    now: Tick,
) {
    let mut outer = *outer;
    for _ in 0..overlay::DEPTH {
        let Some(inner) = overlay::inner(bytes, &outer) else { return };
        let h = inner.headers;
        let net = Net::new(inner.kind as u8, inner.id);
        let Ok(key) = table.prepare_in(net, &h, bytes, now) else { return };
        let length = u32::from(h.end - h.l3_off);
        let Some(hit) = find(table, inspector, tally, &key, length, now) else { return };
        let flow = table.get_mut(hit.idx);
        if !flow.is_decided() {
            inspector.inspect(hit.idx, flow, hit.dir, &h, bytes, now);
        }
        outer = h;
    }
}

fn end(idx: FlowIdx, flow: &Flow, inspector: &mut Inspector, tally: &mut Tally) {
    tally.ended[Class::place(flow.class)] += 1;
    inspector.release(idx, flow);
}
