//! ESP with many security associations, visited at random, against one: what the misses cost, and what one takes in memory.
//!
//! Both sides run the same steps on batches of packets: find the association by its SPI, ask for its memory some packets ahead,
//! seal or open. Only the number of associations differs.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use softdpu::crypto::aead::{Cipher, KeyMaterial};
use softdpu::crypto::esp::{Inner, NEXT_IPV4};
use softdpu::crypto::inbound::{InboundConfig, InboundOptions, InboundSa, Sequence};
use softdpu::crypto::outbound::{OutboundConfig, OutboundOptions, OutboundSa, Start};
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::crypto::sadb::SpiIndex;
use softdpu::crypto::secret;
use softdpu::io::frame::HEADROOM;
use softdpu_ebpf_common::walk::walk;
use std::sync::Arc;

use crate::esp::{BATCH, Frames, LINK, Memory};
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};

const LENGTHS: [usize; 2] = [64, 1400];
const CIPHER: Cipher = Cipher::Aes128Gcm;
/// SPIs as a daemon gives them: scattered.
const FIRST_SPI: u32 = 0xc000_0000;
/// As the policy's default.
const WINDOW: u32 = 1024;
/// Packets ahead that an association is asked for; its key and window half as many. As the nodes do.
const AHEAD: usize = 8;

/// Measures `many` associations against one.
///
/// # Errors
/// Where an association cannot be made: a mistake, not a circumstance.
pub fn run(effort: Effort, many: usize) -> Result<(Section, Vec<Target>)> {
    let title = format!("ESP over {many} associations at random and over one, per packet, one core, {CIPHER}");
    let mut section = Section::new("esp-many", &title, "ns");
    let mut targets = Vec::new();
    let before = secret::usage().used;
    let (one, all) = (Table::new(1)?, Table::new(many)?);
    let key = (secret::usage().used - before) / (2 * (many + 1));
    for length in LENGTHS {
        let mut frames = Frames::new();
        let memory = frames.memory();
        for way in ["seal", "open"] {
            let (few, lots) = (format!("{way}-1-{length}"), format!("{way}-{many}-{length}"));
            let mut cases = if way == "seal" {
                [seal_case(&few, &one, length, memory), seal_case(&lots, &all, length, memory)]
            } else {
                [open_case(&few, &one, length, memory), open_case(&lots, &all, length, memory)]
            };
            alternate(&mut section, &mut cases, effort);
            drop(cases);
            // Time of one over time of many is rate of many over rate of one.
            let ratio = section.ratio(&few, &lots);
            let title = format!("ESP {way} at {length} B, packets/s over {many} associations / over one");
            targets.push(Target::new(title, Bound::AtLeast, 0.8, ratio));
        }
        drop(frames);
    }
    section.notes.push(format!(
        "Memory of one association: inbound {} B (window of {WINDOW}), outbound {} B, and {key} B of key in secret pages for each.",
        all.inbound[0].footprint(),
        all.outbound[0].footprint(),
    ));
    section.notes.push(format!("Batches of {BATCH} packets, each of an association drawn at random."));
    Ok((section, targets))
}

/// Pairs of associations that speak to each other.
struct Table {
    outbound: Vec<Arc<OutboundSa>>,
    inbound: Vec<Arc<InboundSa>>,
    index: SpiIndex,
    spis: Vec<u32>,
}

impl Table {
    fn new(count: usize) -> Result<Self> {
        let spis: Vec<u32> = (0..count as u32).map(|i| FIRST_SPI + i.wrapping_mul(0x0001_2345) % 0x1fff_ffff).collect();
        let mut table = Self { outbound: vec![], inbound: vec![], index: SpiIndex::new(&spis)?, spis: spis.clone() };
        // As the publisher of a daemon does.
        softdpu::tunnel::large_pages::for_heap_of(count);
        for (i, spi) in spis.into_iter().enumerate() {
            let mut bytes = vec![0x33; CIPHER.material_len()];
            bytes[..4].copy_from_slice(&(i as u32).to_be_bytes());
            let material = KeyMaterial::new(CIPHER, &bytes).context("key length")?;
            let endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
            table.outbound.push(Arc::new(OutboundSa::new(&OutboundConfig {
                spi,
                material: &material,
                endpoints,
                encapsulation: Encapsulation::None,
                extended: true,
                start: Start::At { seq: 1, iv_offset: 0 },
                options: OutboundOptions::default(),
            })?));
            table.inbound.push(Arc::new(InboundSa::new(&InboundConfig {
                spi,
                material: &material,
                sequence: Sequence::Extended,
                window: WINDOW,
                options: InboundOptions::default(),
            })?));
        }
        Ok(table)
    }

    /// A batch of associations at random, by SPI.
    fn draw(&self, random: &mut u64) -> [u32; BATCH] {
        std::array::from_fn(|_| {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.spis[(*random >> 33) as usize % self.spis.len()]
        })
    }
}

fn put_packet(memory: Memory, i: usize, length: usize) {
    memory.with_bytes(i, HEADROOM..HEADROOM + LINK + 20, |bytes| {
        bytes.fill(0);
        bytes[LINK] = 0x45;
        bytes[LINK + 2..LINK + 4].copy_from_slice(&(length as u16).to_be_bytes());
    });
}

fn seal_batch(table: &Table, spis: &[u32; BATCH], length: usize, memory: Memory, now: u64) {
    let inner = Inner { place: LINK..LINK + length, next_header: NEXT_IPV4, tos: 0 };
    let found = spis.map(|spi| table.index.find(spi).map(|at| &*table.outbound[at]));
    let ahead = |n: usize| found.get(n).copied().flatten();
    (0..AHEAD).filter_map(ahead).for_each(OutboundSa::prefetch);
    (0..AHEAD / 2).filter_map(ahead).for_each(OutboundSa::prefetch_deep);
    for (i, sa) in found.into_iter().enumerate() {
        ahead(i + AHEAD).into_iter().for_each(OutboundSa::prefetch);
        ahead(i + AHEAD / 2).into_iter().for_each(OutboundSa::prefetch_deep);
        let sealed =
            memory.with_frame(i, HEADROOM, LINK + length, |f| sa.map(|sa| sa.sealer_at(1, now).seal(f, &inner)));
        assert_eq!(sealed, Some(Ok(())));
    }
}

fn seal_case<'a>(name: &str, table: &'a Table, length: usize, memory: Memory) -> Case<'a> {
    let (mut random, mut now) = (7, 1);
    let prepare = move |spis: &mut [u32; BATCH]| {
        *spis = table.draw(&mut random);
        (0..BATCH).for_each(|i| put_packet(memory, i, length));
    };
    let run = move |spis: &mut [u32; BATCH]| {
        now += 1;
        seal_batch(table, spis, length, memory, now);
    };
    let title = format!("seal, {} associations, {length} B", table.spis.len());
    Case::batches(name, title, BATCH, [0; BATCH], prepare, run)
}

fn open_case<'a>(name: &str, table: &'a Table, length: usize, memory: Memory) -> Case<'a> {
    let (mut random, mut now) = (9, 1);
    let mut headers = None;
    let whole = LINK + 20 + 16 + (length + 2).next_multiple_of(4) + 16;
    let prepare = move |(spis, headers_of): &mut ([u32; BATCH], _)| {
        *spis = table.draw(&mut random);
        (0..BATCH).for_each(|i| put_packet(memory, i, length));
        seal_batch(table, spis, length, memory, 1);
        let front = HEADROOM + LINK - (LINK + 20 + 16);
        headers = headers.or_else(|| memory.with_bytes(0, front..front + whole, |bytes| walk(&*bytes).ok()));
        *headers_of = headers;
    };
    let run = move |(spis, headers): &mut ([u32; BATCH], Option<_>)| {
        now += 1;
        let front = HEADROOM + LINK - (LINK + 20 + 16);
        let found = spis.map(|spi| table.index.find(spi).map(|at| &*table.inbound[at]));
        let ahead = |n: usize| found.get(n).copied().flatten();
        (0..AHEAD).filter_map(ahead).for_each(InboundSa::prefetch);
        (0..AHEAD / 2).filter_map(ahead).for_each(InboundSa::prefetch_deep);
        for (i, sa) in found.into_iter().enumerate() {
            ahead(i + AHEAD).into_iter().for_each(InboundSa::prefetch);
            ahead(i + AHEAD / 2).into_iter().for_each(InboundSa::prefetch_deep);
            let opened = memory.with_frame(i, front, whole, |f| {
                sa.zip(headers.as_ref()).is_some_and(|(sa, headers)| sa.opener_at(now).open(f, headers).is_ok())
            });
            assert!(opened);
        }
    };
    let title = format!("open, {} associations, {length} B", table.spis.len());
    Case::batches(name, title, BATCH, ([0; BATCH], None), prepare, run)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_ways_work_on_valid_packets() {
        let (section, targets) = run(Effort::new(1, 1000), 50).unwrap();
        assert_eq!((section.contenders.len(), targets.len()), (8, 4));
        assert!(section.contenders.iter().all(|c| c.rounds[0] > 0.0));
    }
}
