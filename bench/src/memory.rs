//! Parts of the packet path in memory, ns per operation: header walk, ring, frame pool, flow look-up; and the graph as a
//! whole, by way of a closure per batch.

use anyhow::{Context, Result};

use softdpu::flow::{FlowConfig, FlowTable, Seed, Tick};
use softdpu::io::pool::FramePool;
use softdpu::io::ring::heap;
use softdpu::io::umem::Umem;
use softdpu_ebpf_common::walk::walk;

use crate::bpf::programs::{Traffic, ip_checksum};
use crate::micro::{Case, Effort, alternate};
use crate::net::topology;
use crate::report::Section;

const BATCH: usize = 64;

/// The packet of flow `n` of the rig's traffic.
pub fn packet(n: u32, length: usize) -> Vec<u8> {
    let mut p = Traffic {
        source_mac: topology::SOURCE_MAC,
        destination_mac: topology::NEAR_MAC,
        source: topology::SOURCE,
        destination: topology::SINK,
        source_port: (n % 50_000) as u16 + 10_000,
        destination_port: topology::PORT,
        flows: 1,
        length,
    }
    .packet();
    // More flows than ports: from several hosts.
    p[29] = p[29].wrapping_add((n / 50_000) as u8);
    p[24..26].fill(0);
    let sum = ip_checksum(&p[14..34]);
    p[24..26].copy_from_slice(&sum.to_be_bytes());
    p
}

/// Measures the parts.
///
/// # Errors
/// Where memory cannot be had.
pub fn parts(effort: Effort) -> Result<Section> {
    let mut section = Section::new("parts", "parts of the packet path in memory, per operation, one core", "ns");
    let short = packet(0, 60);
    let mut cases = vec![
        Case::new("walk", "header walk, IPv4 UDP", move |n| {
            for _ in 0..n {
                std::hint::black_box(walk(std::hint::black_box(&short[..])).is_ok());
            }
        }),
        ring_case(),
        pool_case()?,
        flow_case("flow-1", "flow look-up and count, 1 flow", 1)?,
        flow_case("flow-1k", "flow look-up and count, 1,000 flows", 1_000)?,
        flow_case("flow-100k", "flow look-up and count, 100,000 flows", 100_000)?,
    ];
    alternate(&mut section, &mut cases, effort);
    section
        .notes
        .push(format!("Batches of {BATCH}. Flow look-up: key, prefetch, look-up, count; flows in scattered order."));
    Ok(section)
}

pub(crate) fn ring_case<'a>() -> Case<'a> {
    let (mut producer, mut consumer) = heap::<u64>(2048, 0);
    let mut value = 0u64;
    Case::new("ring", "ring: put and take one descriptor", move |n| {
        let mut left = n;
        while left > 0 {
            let batch = producer.room(BATCH as u32).min(left.min(BATCH) as u32);
            for _ in 0..batch {
                std::hint::black_box(producer.put(value));
                value += 1;
            }
            producer.commit();
            let ready = consumer.ready(batch);
            for _ in 0..ready {
                std::hint::black_box(consumer.take());
            }
            consumer.release();
            left -= batch as usize;
        }
    })
}

pub(crate) fn pool_case<'a>() -> Result<Case<'a>> {
    let mut pool = FramePool::new(Umem::heap(4096, 2048).context("memory for frames")?);
    let mut held = Vec::with_capacity(BATCH);
    Ok(Case::new("pool", "frame pool: take and give back", move |n| {
        let mut left = n;
        while left > 0 {
            let batch = left.min(BATCH);
            held.extend((0..batch).map_while(|_| pool.alloc()));
            for frame in held.drain(..) {
                pool.free(frame);
            }
            left -= batch;
        }
    }))
}

pub(crate) fn flow_case<'a>(name: &str, title: &str, flows: u32) -> Result<Case<'a>> {
    let config = FlowConfig { capacity: flows.max(1024) * 2, ..FlowConfig::default() };
    let mut table = FlowTable::new(&config, Seed::fixed(1), Tick(1));
    let mut headers = Vec::with_capacity(flows as usize);
    for n in 0..flows {
        // An odd multiplier walks over all of them in an order that caches cannot guess.
        let n = (u64::from(n) * 7919 % u64::from(flows)) as u32;
        headers.push(walk(&packet(n, 60)[..]).map_err(|e| anyhow::anyhow!("walk: {e:?}"))?);
    }
    let mut at = 0;
    Ok(Case::new(name, title, move |n| {
        let mut prepared = [None; BATCH];
        let mut left = n;
        while left > 0 {
            let batch = left.min(BATCH);
            for slot in &mut prepared[..batch] {
                let p = table.prepare(&headers[at], &[], Tick(2)).ok();
                if let Some(p) = &p {
                    table.prefetch(p);
                }
                *slot = p;
                at = if at + 1 == headers.len() { 0 } else { at + 1 };
            }
            for p in prepared[..batch].iter_mut().flatten() {
                table.prefetch_flow(p);
            }
            for p in prepared[..batch].iter().flatten() {
                if let Ok(hit) = table.lookup_or_insert(p, Tick(2), |_, _| {}) {
                    table.touch(hit, p, 60, Tick(2));
                }
            }
            left -= batch;
        }
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packets_of_many_flows_differ_and_are_valid() {
        let mut seen = std::collections::HashSet::new();
        for n in [0, 1, 49_999, 50_000, 99_999] {
            let p = packet(n, 60);
            assert_eq!(ip_checksum(&p[14..34]), 0);
            let h = walk(&p[..]).unwrap();
            assert!(seen.insert((h.src, h.sport)));
        }
    }

    #[test]
    fn every_part_runs() {
        let section = parts(Effort::new(1, 1000)).unwrap();
        assert_eq!(section.contenders.len(), 6);
        assert!(section.contenders.iter().all(|c| c.rounds[0] > 0.0));
    }
}
