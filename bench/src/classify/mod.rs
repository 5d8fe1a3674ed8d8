//! What classification costs: over real captures beside nDPI's reader, and per packet of flows that are decided.

mod captures;
mod established;
pub mod instructions;
mod ndpi;
mod ours;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use softdpu::l7::Class;

use self::captures::{Merged, Packets};
use self::established::{Established, Transport};
use self::ndpi::Reader;
use self::ours::Ours;
use crate::clock::thread_cpu;
use crate::micro::{Effort, alternate};
use crate::report::{Bound, Section, Target};
use crate::stop;

pub use self::captures::folder;

#[derive(Clone, Debug)]
pub struct Options {
    pub effort: Effort,
    /// Where captures are; see [`folder`].
    pub captures: Option<PathBuf>,
    /// Loops over all packets per round and contender.
    pub loops: usize,
    /// Count instructions too.
    pub instructions: bool,
}

/// Flows that the table has room for: a worker's default.
const CAPACITY: u32 = 65_536;

/// # Errors
/// Where captures cannot be read, or memory cannot be had.
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let packets = options.captures.as_deref().map(Packets::read).transpose()?;
    let both = match &packets {
        Some(packets) => Some((packets, Merged::new(packets)?)),
        None => None,
    };
    let mut targets = Vec::new();
    let mut sections = vec![beside_ndpi(options, both.as_ref().map(|(p, m)| (*p, m)), &mut targets)?];
    sections.push(decided(options.effort, &mut targets)?);
    if options.instructions && !stop::asked() {
        let captures = both.as_ref().map(|(p, m)| (*p, m));
        sections.push(instructions::run(options.captures.as_deref(), captures)?);
    }
    Ok((sections, targets))
}

const OURS: (&str, &str) = ("softdpu", "softdpu, by the clock");
const OURS_CPU: (&str, &str) = ("softdpu-cpu", "softdpu, by CPU time");
const THEIRS: (&str, &str) = ("ndpireader", "ndpiReader, its own `nDPI throughput`");
const THEIRS_CPU: (&str, &str) = ("ndpireader-cpu", "ndpiReader, by CPU time, less start and reading");

fn beside_ndpi(options: &Options, captures: Option<(&Packets, &Merged)>, targets: &mut Vec<Target>) -> Result<Section> {
    let mut section = Section::new("classify", "classification of real captures from memory, one core", "Mpps");
    let mut ratios = (None, None);
    if let Some((packets, merged)) = captures {
        rounds(options, packets, merged, &mut section)?;
        ratios = (section.ratio(OURS.0, THEIRS.0), section.ratio(OURS_CPU.0, THEIRS_CPU.0));
    } else {
        section.missing(OURS.0, OURS.1, "no captures: --captures DIR, or SOFTDPU_CAPTURES");
    }
    targets.push(Target::new("classified packets/s, softdpu / ndpiReader's own figure", Bound::AtLeast, 3.0, ratios.0));
    targets.push(Target::new(
        "the same by CPU time, less ndpiReader's start and reading",
        Bound::AtLeast,
        3.0,
        ratios.1,
    ));
    Ok(section)
}

fn rounds(options: &Options, packets: &Packets, merged: &Merged, section: &mut Section) -> Result<()> {
    let reader = Reader::find();
    for (name, title) in [OURS, OURS_CPU, THEIRS, THEIRS_CPU] {
        section.declare(name, title);
    }
    section.notes.push(format!(
        "{} packets of {} captures, {:.0} bytes on average, {} packets without IP behind their link left out; the same \
         packets in the same order for both, {} loops per round and contender, each with empty tables.",
        packets.len(),
        packets.files,
        packets.mean_length(),
        packets.left_out,
        options.loops
    ));
    let mut told = false;
    for round in 0..options.effort.rounds {
        for turn in 0..2 {
            if stop::asked() {
                return Ok(());
            }
            match (&reader, (round + turn) % 2) {
                (_, 0) => our_turn(options.loops, packets, section),
                (Some(reader), _) => their_turn(options.loops, packets, merged, reader, section)?,
                (None, _) => {}
            }
        }
        if !told {
            told = true;
            say(packets, reader.as_ref(), merged, section)?;
        }
    }
    if reader.is_none() {
        section.missing(THEIRS.0, THEIRS.1, "not installed: apt-get install libndpi-bin");
    }
    Ok(())
}

/// The best loop counts: whatever else takes the core only ever adds. Of CPU time all loops together.
fn our_turn(loops: usize, packets: &Packets, section: &mut Section) {
    let (mut best, mut cpu) = (f64::INFINITY, 0.0);
    for _ in 0..loops {
        let mut ours = Ours::new(CAPACITY);
        let (start, before) = (Instant::now(), thread_cpu());
        ours.counted_pass(packets);
        cpu += (thread_cpu() - before) as f64;
        best = best.min(start.elapsed().as_nanos() as f64);
    }
    let n = packets.len() as f64;
    section.round(OURS.0, OURS.1, n / best * 1e3);
    section.round(OURS_CPU.0, OURS_CPU.1, n * loops as f64 / cpu * 1e3);
}

fn their_turn(loops: usize, packets: &Packets, merged: &Merged, reader: &Reader, section: &mut Section) -> Result<()> {
    // Its figure counts packets of IP only, and has walked all of them.
    let all = |said: &ndpi::Said| said.per_second * packets.len() as f64 / said.ip_packets.max(1.0);
    let best = reader.loops(&merged.path, loops)?.iter().map(all).fold(0.0, f64::max);
    let (whole, without) = (reader.cpu(&merged.path, loops, false)?, reader.cpu(&merged.path, loops, true)?);
    section.round(THEIRS.0, THEIRS.1, best / 1e6);
    section.round(THEIRS_CPU.0, THEIRS_CPU.1, (packets.len() * loops) as f64 / (whole - without) / 1e6);
    Ok(())
}

/// What the figures mean.
fn say(packets: &Packets, reader: Option<&Reader>, merged: &Merged, section: &mut Section) -> Result<()> {
    let mut ours = Ours::new(CAPACITY);
    ours.counted_pass(packets);
    let (by_class, without) = ours.tally();
    let flows: u64 = by_class.iter().sum();
    section.notes.push(format!(
        "softdpu: header walk, flow table, TCP state, recognisers, flows within flows; {flows} flows, {} of them with a class, \
         {without} packets without a flow. Packets are in memory, in batches of {}.",
        flows - by_class[Class::place(Class::Unknown as u16)],
        ours::BATCH
    ));
    if let Some(reader) = reader {
        let said = reader.loops(&merged.path, 1)?;
        section.notes.push(format!(
            "{}, of one file in memory ({} flows). Its own figure is by the clock, from the first packet to the last, and has \
             libpcap's reading in it; best loop of each round, as for softdpu. The CPU time is of the whole program, less that of \
             the same run with a filter that no packet passes.",
            reader.version(),
            said.first().map_or(0.0, |said| said.flows)
        ));
    }
    Ok(())
}

/// Flows per case.
const FLOWS: [u32; 3] = [1, 1_000, 100_000];

fn decided(effort: Effort, targets: &mut Vec<Target>) -> Result<Section> {
    let mut section =
        Section::new("classify-decided", "packets of decided flows through the worker's nodes, 64 B, one core", "ns");
    let mut cases = Vec::new();
    for (transport, name, title) in [(Transport::Tcp, "tcp", "TCP"), (Transport::Udp, "udp", "UDP")] {
        for flows in FLOWS {
            let ready = Established::new(transport, flows)?;
            cases.extend(established::cases(ready, &format!("{name}-{flows}"), &format!("{title}, {flows} flows")));
        }
    }
    alternate(&mut section, &mut cases, effort);
    section.notes.push("Batches of 64. Packets of many flows in an order that no cache guesses.".into());
    section.notes.push(
        "`flow` and `classify` are what classification adds to a packet; `parse` a worker needs in any case (its checksums \
         included)."
            .into(),
    );
    for flows in FLOWS {
        let seen = |transport| section.median(&format!("{transport}-{flows}"));
        let slower = seen("tcp").zip(seen("udp")).map(|(a, b)| a.max(b));
        let title = format!("packets of {flows} decided flows: flow and classify, ns");
        targets.push(Target::new(title, Bound::AtMost, 40.0, slower));
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The classes are those that `softdpu classify` finds in the same packets.
    #[test]
    fn finds_what_softdpu_classify_finds() {
        let Some(folder) = folder(None) else {
            println!("skipped: no captures (set SOFTDPU_CAPTURES)");
            return;
        };
        let packets = Packets::read(&folder).unwrap();
        let merged = Merged::new(&packets).unwrap();
        let mut ours = Ours::new(1 << 16);
        ours.counted_pass(&packets);
        let (by_class, without) = ours.tally();
        let (rows, summary, result) = softdpu::cli::classify::classify_file(&merged.path);
        result.unwrap();
        assert_eq!(summary.packets as usize, packets.len());
        let mut wanted = vec![0; Class::ALL.len()];
        for row in &rows {
            wanted[Class::NAMES.iter().position(|name| *name == row.protocol).unwrap()] += 1;
        }
        let counts = Class::NAMES.iter().zip(by_class.iter().zip(&wanted));
        let differ: Vec<_> = counts.filter(|(_, (ours, wanted))| ours != wanted).collect();
        assert!(differ.is_empty(), "class, ours, wanted: {differ:?}");
        assert_eq!(without, summary.skipped);
    }

    #[test]
    fn decided_flows_are_timed() {
        let mut targets = Vec::new();
        let section = decided(Effort::new(1, 1000), &mut targets).unwrap();
        assert_eq!(section.contenders.len(), 12);
        assert!(targets.iter().all(|t| t.seen.is_some()));
    }
}
