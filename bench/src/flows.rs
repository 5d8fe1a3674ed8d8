//! The flow table at ten million flows: inserts, look-ups in batches, ageing of all at once, memory; and what a flood of new
//! flows costs those that are there already.
//!
//! Headers are made on the way, in an order that no cache guesses; making them is part of every figure.

mod ageing;

use std::time::Instant;

use anyhow::{Context, Result};

use softdpu::config;
use softdpu::flow::{FlowConfig, FlowTable, Prepared, Seed, Tick};
use softdpu::worker::harness::Harness;
use softdpu_ebpf_common::walk::{Headers, L3};
use softdpu_testbed::packet::syn_of;

use self::ageing::Ageing;
use crate::clock::thread_cpu;
use crate::memory::packet;
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};
use crate::stop;

/// Packets per batch.
const BATCH: usize = 256;
const SMALL: u32 = 10_000;

/// Measures a table of `flows` flows beside one that fits into the cache, and `flood` packets of as many sources.
///
/// # Errors
/// Where the policy or memory fails.
pub fn run(effort: Effort, flows: u32, flood: u32) -> Result<(Vec<Section>, Vec<Target>)> {
    let big = millions(flows);
    let mut speed =
        Section::new("flows", &format!("the flow table at {big} flows, batches of {BATCH}, one core"), "M/s");
    let before = resident();
    let mut table = FlowTable::new(&table_config(flows), Seed::fixed(1), Tick(1));
    let per_flow = table.memory() as f64 / f64::from(flows);
    // Filling and ageing take turns on one and the same table: it is new each time, as its entries are all free again.
    let mut now = Tick(1);
    let mut ageing = Ageing::new();
    for round in 0..effort.rounds.clamp(1, 5) {
        if stop::asked() {
            break;
        }
        let seconds = fill(&mut table, flows, now)?;
        speed.round("insert", &format!("insert, empty to {big}"), f64::from(flows) / seconds / 1e6);
        if round == 0 {
            let resident = resident().saturating_sub(before) as f64 / f64::from(flows);
            speed.notes.push(format!(
                "Memory: {per_flow:.1} B per flow by the table's own account, {resident:.1} by the kernel's (RSS)."
            ));
        }
        now = ageing.round(&mut table, flows, now)?;
    }
    let (age, longest) = ageing.section(&big);
    fill(&mut table, flows, now)?;
    let mut small = FlowTable::new(&table_config(SMALL), Seed::fixed(1), now);
    fill(&mut small, SMALL, now)?;
    let mut look =
        Section::new("flow-look-ups", &format!("look-ups at {big} flows, batches of {BATCH}, one core"), "ns");
    let mut cases = vec![
        look_up("look-up-small", &format!("look-up, {SMALL} flows"), &mut small, SMALL, now),
        look_up("look-up", &format!("look-up, {big} flows"), &mut table, flows, now),
    ];
    alternate(&mut look, &mut cases, effort);
    drop(cases);
    let ratio = look.ratio("look-up", "look-up-small");
    let mut cases = vec![
        count("count-small", &format!("look-up and count, {SMALL} flows"), &mut small, SMALL, now),
        count("count", &format!("look-up and count, {big} flows"), &mut table, flows, now),
    ];
    alternate(&mut look, &mut cases, effort);
    drop(cases);
    look.ratio("count", "count-small");
    drop((table, small));
    let (flooded, kept) = flooded(effort, flood)?;
    let rate = |name: &str| look.median(name).map(|ns| 1e3 / ns);
    let targets = vec![
        Target::new(format!("bytes per flow at {big}"), Bound::AtMost, 128.0, Some(per_flow)),
        Target::new(format!("look-ups at {big} flows, M/s"), Bound::AtLeast, 10.0, rate("look-up")),
        Target::new(format!("look-up and count at {big} flows, M/s"), Bound::AtLeast, 10.0, rate("count")),
        Target::new(format!("inserts up to {big} flows, M/s"), Bound::AtLeast, 2.0, speed.median("insert")),
        Target::new(format!("longest call for ageing at {big} flows, µs of CPU time"), Bound::AtMost, 100.0, longest),
        Target::new(format!("look-up at {big} flows / {SMALL} flows"), Bound::AtMost, 10.0, ratio),
        Target::new("rate of old flows in a flood / without", Bound::AtLeast, 0.9, kept),
    ];
    Ok((vec![speed, look, age, flooded], targets))
}

fn millions(n: u32) -> String {
    if n >= 1_000_000 { format!("{} million", n / 1_000_000) } else { n.to_string() }
}

pub(crate) fn table_config(capacity: u32) -> FlowConfig {
    FlowConfig { capacity, unproven_percent: 100, ..FlowConfig::default() }
}

/// Flow `n` of `all`: an odd multiplier walks over all of them in an order that caches cannot guess.
pub(crate) fn headers(n: u32, all: u32) -> Headers {
    let n = (u64::from(n) * 2_654_435_761 % u64::from(all)) as u32;
    let (mut src, mut dst) = ([0; 16], [0; 16]);
    src[..4].copy_from_slice(&(0x0a00_0000 + n).to_be_bytes());
    dst[..4].copy_from_slice(&[192, 0, 2, 1]);
    Headers { src, dst, sport: 1024 + (n >> 16) as u16, dport: 53, l3: L3::V4, proto: 17, ..Headers::default() }
}

/// Seconds that all flows took.
fn fill(table: &mut FlowTable, flows: u32, now: Tick) -> Result<f64> {
    let mut prepared = vec![Prepared::default(); BATCH];
    let start = Instant::now();
    let mut at = 0;
    while at < flows {
        let n = (flows - at).min(BATCH as u32) as usize;
        prepare(table, &mut prepared[..n], &mut at, flows, now);
        for p in &prepared[..n] {
            let hit = table.lookup_or_insert(p, now, |_, _| {}).context("the table has room for all")?;
            table.touch(hit, p, 60, now);
        }
    }
    let spent = start.elapsed().as_secs_f64();
    // The multiplier has no factor in common with what is asked for, so all differ.
    anyhow::ensure!(table.len() == flows as usize, "{} of {flows} flows", table.len());
    Ok(spent)
}

/// Hashes a batch and asks for its memory, as the node does.
#[inline(always)]
fn prepare(table: &mut FlowTable, to: &mut [Prepared], at: &mut u32, all: u32, now: Tick) {
    for p in to.iter_mut() {
        // Neither a fragment nor TCP: it has a key.
        let _ = table.prepare_into(softdpu::flow::Net::OUTSIDE, &headers(*at, all), &[], now, p);
        table.prefetch(p);
        *at += 1;
    }
}

/// How many look-ups ahead a flow's own lines are asked for, as in the node.
const AHEAD: usize = 16;

fn look_up<'a>(name: &str, title: &str, table: &'a mut FlowTable, all: u32, now: Tick) -> Case<'a> {
    batches(name, title, table, all, now, |table, p| assert!(table.lookup(p).is_some()))
}

fn count<'a>(name: &str, title: &str, table: &'a mut FlowTable, all: u32, now: Tick) -> Case<'a> {
    batches(name, title, table, all, now, move |table, p| {
        if let Ok(hit) = table.lookup_or_insert(p, now, |_, _| {}) {
            table.touch(hit, p, 60, now);
        }
    })
}

/// Batches over all flows: hashed, asked for, and `each` of them.
fn batches<'a>(
    name: &str,
    title: &str,
    table: &'a mut FlowTable,
    all: u32,
    now: Tick,
    each: impl Fn(&mut FlowTable, &Prepared) + 'a,
) -> Case<'a> {
    let mut prepared = vec![Prepared::default(); BATCH];
    let mut at = 0u32;
    Case::new(name, title, move |n| {
        let mut left = n;
        while left > 0 {
            let batch = left.min(BATCH);
            if at + batch as u32 > all {
                at = 0;
            }
            let prepared = &mut prepared[..batch];
            prepare(table, prepared, &mut at, all, now);
            for p in prepared.iter_mut().take(AHEAD) {
                table.prefetch_flow(p);
            }
            for i in 0..batch {
                if let Some(p) = prepared.get_mut(i + AHEAD) {
                    table.prefetch_flow(p);
                }
                each(table, &prepared[i]);
            }
            left -= batch;
        }
    })
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 4096
}

pub(crate) const POLICY: &str = r#"
[workers]
count = 1
batch = 64
frames = 4096

[flows]
capacity = 1_000_000

[[port]]
name = "near"
kind = "loopback"
loop_to = "far"

[[port]]
name = "far"
kind = "loopback"
loop_to = "near"

[[steer]]
name = "all"
action = "worker"

[[rule]]
name = "all"
action = "forward"
"#;

/// Old flows, decided and answered, in the order of their packets.
pub(crate) const OLD: u32 = 1024;
/// Packets of each kind put on the wire at a time.
pub(crate) const TURN: u32 = 256;

/// Old flows' packets through the graph: alone, and in turn with SYNs that each have another source.
fn flooded(effort: Effort, flood: u32) -> Result<(Section, Option<f64>)> {
    let mut section =
        Section::new("flow-flood", "old flows in a flood of SYNs, graph in memory, per packet, one core", "ns");
    let policy = config::parse(POLICY, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")?;
    let mut harness = Harness::new(policy)?;
    let old = settled(&mut harness);
    let (mut sent, rounds) = (0u32, effort.rounds.max(2));
    for _ in 0..rounds {
        if stop::asked() {
            break;
        }
        let mut spent = [0.0, 0.0, 0.0];
        let turns = (flood / rounds as u32 / TURN).max(8);
        for turn in 0..turns {
            let from = (turn * TURN % OLD) as usize;
            let part = &old[from..from + TURN as usize];
            spent[0] += pass(&mut harness, 0, part);
        }
        for turn in 0..turns {
            let syns: Vec<Vec<u8>> = (0..TURN).map(|n| syn_of(sent + n, [10, 2, 0, 2], (7, 80))).collect();
            spent[1] += pass(&mut harness, 0, &syns);
            sent += TURN;
            let from = (turn * TURN % OLD) as usize;
            spent[2] += pass(&mut harness, 0, &old[from..from + TURN as usize]);
        }
        let each = f64::from(turns) * f64::from(TURN);
        section.round("alone", "an old flow's packet, without", spent[0] / each);
        section.round("flooded", "an old flow's packet, in turn with as many SYNs", spent[2] / each);
        section.round("syn", "a SYN of a new source", spent[1] / each);
    }
    section.ratio("flooded", "alone");
    let flows = &harness.worker.flows;
    let kept = flows.iter().filter(|(_, f)| f.is_proven()).count();
    anyhow::ensure!(kept == OLD as usize, "{kept} of {OLD} old flows are left");
    let p = flows.pressure();
    section.notes.push(format!(
        "{sent} sources; {} of {} flows at the end, {kept} of {OLD} old ones; {} made way, {} refused.",
        flows.len(),
        flows.capacity(),
        p.evicted_unproven + p.evicted_full,
        p.refused_unproven + p.refused_full
    ));
    section.notes.push(
        "Of both, the in-memory ports' copies are part. Turns without packets of the other kind are timed apart."
            .into(),
    );
    let rate = match (section.median("alone"), section.median("flooded")) {
        (Some(alone), Some(flooded)) => Some(alone / flooded),
        _ => None,
    };
    Ok((section, rate))
}

/// Opens the old flows, until each is decided and answered. Their clients' packets.
pub(crate) fn settled(harness: &mut Harness) -> Vec<Vec<u8>> {
    let old: Vec<Vec<u8>> = (0..OLD).map(|n| packet(n, 60)).collect();
    let answers: Vec<Vec<u8>> = old.iter().map(|p| answer(p)).collect();
    for _ in 0..16 {
        for (port, packets) in [(0, &old), (1, &answers)] {
            for part in packets.chunks(TURN as usize) {
                pass(harness, port, part);
            }
        }
    }
    old
}

/// Nanoseconds of CPU time for these packets, received and sent by the worker.
pub(crate) fn pass(harness: &mut Harness, port: usize, packets: &[Vec<u8>]) -> f64 {
    for p in packets {
        assert!(harness.send(port, p), "the wire holds a turn");
    }
    let start = thread_cpu();
    let mut done = 0;
    while done < packets.len() {
        harness.now += 10_000;
        done += harness.worker.turn(harness.now);
    }
    let spent = (thread_cpu() - start) as f64;
    for port in 0..2 {
        while harness.receive(port).is_some() {}
    }
    spent
}

/// The same packet from its receiver.
pub(crate) fn answer(p: &[u8]) -> Vec<u8> {
    let mut a = p.to_vec();
    for i in 0..4 {
        a.swap(26 + i, 30 + i);
    }
    a.swap(34, 36);
    a.swap(35, 37);
    a
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_parts_run() {
        let (sections, targets) = run(Effort::new(1, 1000), 20_000, 4096).unwrap();
        assert!(sections.iter().flat_map(|s| &s.contenders).all(|c| c.rounds.iter().all(|r| *r > 0.0)));
        assert!(targets.iter().all(|t| t.seen.is_some()));
    }

    #[test]
    fn flows_differ() {
        let all: std::collections::HashSet<_> = (0..5000).map(|n| headers(n, 5000).src).collect();
        assert_eq!(all.len(), 5000);
    }
}
