//! Reads pcap and pcapng files packet by packet, whatever their size, and says where in the file something is wrong.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{PcapNgParser, RawBlock};
use pcap_file::{Endianness, PcapError, TsResolution};

/// One packet as captured.
#[derive(Debug)]
pub struct Captured<'a> {
    /// Number of the link type (the LINKTYPE_ registry).
    pub link: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Bytes it had on the wire; `data` may be fewer.
    pub original: u32,
    pub data: &'a [u8],
}

/// Largest piece (packet or block) that is believed.
const MAX_PIECE: usize = 64 << 20;

/// Calls `f` with each packet of a capture file, in order.
///
/// # Errors
/// The file cannot be read, is neither pcap nor pcapng, or is damaged; the message says at which byte.
pub fn for_each(path: &Path, mut f: impl FnMut(Captured)) -> anyhow::Result<()> {
    let mut source = Source::open(path)?;
    source.fill(4)?;
    match source.rest() {
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => pcapng(&mut source, &mut f),
        [0xa1, 0xb2, 0xc3, 0xd4, ..]
        | [0xd4, 0xc3, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0x3c, 0x4d, ..]
        | [0x4d, 0x3c, 0xb2, 0xa1, ..] => pcap(&mut source, &mut f),
        [] => bail!("empty file"),
        _ => bail!("byte 0: neither pcap nor pcapng"),
    }
}

fn pcap(source: &mut Source, f: &mut impl FnMut(Captured)) -> anyhow::Result<()> {
    let mut parser = None;
    source.step(|d| {
        let (rest, p) = PcapParser::new(d)?;
        parser = Some(p);
        Ok(rest.len())
    })?;
    let Some(parser) = parser else { return Ok(()) };
    let header = parser.header();
    let fraction = match header.ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    while !source.is_done()? {
        source.step(|d| {
            let (rest, p) = parser.next_raw_packet(d)?;
            let time = u64::from(p.ts_sec) * 1_000_000_000 + u64::from(p.ts_frac) * fraction;
            f(Captured { link: header.datalink.into(), time, original: p.orig_len, data: &p.data });
            Ok(rest.len())
        })?;
    }
    Ok(())
}

fn pcapng(source: &mut Source, f: &mut impl FnMut(Captured)) -> anyhow::Result<()> {
    let mut parser = None;
    source.step(|d| {
        let (rest, p) = PcapNgParser::new(d)?;
        parser = Some(p);
        Ok(rest.len())
    })?;
    let Some(mut parser) = parser else { return Ok(()) };
    while !source.is_done()? {
        source.step(|d| {
            let (rest, block) = parser.next_raw_block(d)?;
            let len = rest.len();
            if let Some(packet) = packet_block(&parser, &block)? {
                f(packet);
            }
            Ok(len)
        })?;
    }
    Ok(())
}

/// The packet in a block: enhanced (6), simple (3) or the obsolete one (2). `None` for other blocks.
fn packet_block<'a>(parser: &PcapNgParser, block: &'a RawBlock) -> Result<Option<Captured<'a>>, PcapError> {
    let short = || PcapError::InvalidField("packet block too short");
    let big = parser.section().endianness == Endianness::Big;
    let word = |at: usize| {
        let b = block.body.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or_else(short)?;
        Ok::<u32, PcapError>(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    };
    let (interface, start, time, captured, original) = match block.type_ {
        6 => (word(0)?, 20, u64::from(word(4)?) << 32 | u64::from(word(8)?), word(12)?, word(16)?),
        2 => {
            let first = word(0)?;
            let interface = if big { first >> 16 } else { first & 0xffff };
            (interface, 20, u64::from(word(4)?) << 32 | u64::from(word(8)?), word(12)?, word(16)?)
        }
        3 => {
            let room = block.body.len().saturating_sub(4) as u32;
            (0, 4, 0, word(0)?.min(room), word(0)?)
        }
        _ => return Ok(None),
    };
    let about = parser.interfaces().get(interface as usize).ok_or(PcapError::InvalidInterfaceId(interface))?;
    let resolution = about.options.iter().find_map(|o| match o {
        InterfaceDescriptionOption::IfTsResol(r) => Some(*r),
        _ => None,
    });
    let data = block.body.get(start..start + captured as usize).ok_or_else(short)?;
    Ok(Some(Captured {
        link: about.linktype.into(),
        time: nanoseconds(time, resolution.unwrap_or(6)),
        original: original.max(captured),
        data,
    }))
}

/// `if_tsresol`: the top bit chooses powers of two, else powers of ten.
fn nanoseconds(units: u64, resolution: u8) -> u64 {
    let (base, exponent) = if resolution & 0x80 == 0 { (10u128, resolution) } else { (2, resolution & 0x7f) };
    let per_second = base.checked_pow(u32::from(exponent)).unwrap_or(u128::MAX);
    (u128::from(units).saturating_mul(1_000_000_000) / per_second) as u64
}

/// A file read through a window that grows to the largest piece in it.
struct Source {
    file: File,
    window: Vec<u8>,
    at: usize,
    /// File offset of the window's start.
    base: u64,
    ended: bool,
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).context("cannot be opened")?;
        Ok(Self { file, window: Vec::new(), at: 0, base: 0, ended: false })
    }

    fn rest(&self) -> &[u8] {
        &self.window[self.at..]
    }

    fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Reads until there are `want` bytes ahead or the file has ended.
    fn fill(&mut self, want: usize) -> anyhow::Result<()> {
        if self.rest().len() >= want || self.ended {
            return Ok(());
        }
        self.window.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
        let missing = want.max(1 << 18) - self.window.len();
        let got = Read::by_ref(&mut self.file).take(missing as u64).read_to_end(&mut self.window);
        let got = got.with_context(|| format!("byte {}: cannot be read", self.base))?;
        self.ended = got < missing;
        Ok(())
    }

    fn is_done(&mut self) -> anyhow::Result<bool> {
        self.fill(1)?;
        Ok(self.rest().is_empty())
    }

    /// Takes one piece: `parse` gives how many bytes it left over.
    fn step(&mut self, mut parse: impl FnMut(&[u8]) -> Result<usize, PcapError>) -> anyhow::Result<()> {
        loop {
            let have = self.rest().len();
            match parse(&self.window[self.at..]) {
                Ok(left) => {
                    self.at += have - left;
                    return Ok(());
                }
                Err(PcapError::IncompleteBuffer) if !self.ended && have < MAX_PIECE => self.fill(have * 2 + 64)?,
                Err(PcapError::IncompleteBuffer) if have < MAX_PIECE => {
                    bail!("byte {}: the file ends in the middle of a packet", self.offset())
                }
                Err(PcapError::IncompleteBuffer) => bail!("byte {}: a packet of more than 64 MiB", self.offset()),
                Err(e) => bail!("byte {}: {e}", self.offset()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn resolutions_of_pcapng() {
        assert_eq!(nanoseconds(1_500_000, 6), 1_500_000_000);
        assert_eq!(nanoseconds(1_500_000_000, 9), 1_500_000_000);
        assert_eq!(nanoseconds(3 << 9, 0x80 | 10), 1_500_000_000);
        assert_eq!(nanoseconds(5, 0xff), 0);
    }

    #[test]
    fn says_where_a_file_breaks_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        let mut packet = vec![0; 16];
        packet[8] = 3;
        packet[12] = 3;
        packet.extend(b"abc");
        file.extend(&packet);
        file.extend(&packet[..10]);
        std::fs::write(&path, &file).unwrap();
        let mut seen = Vec::new();
        let e = for_each(&path, |p| seen.push(p.data.to_vec())).unwrap_err().to_string();
        assert_eq!(seen, [b"abc"]);
        assert_eq!(e, "byte 43: the file ends in the middle of a packet");
        std::fs::write(&path, b"hello").unwrap();
        assert!(for_each(&path, |_| ()).unwrap_err().to_string().contains("neither pcap nor pcapng"));
    }
}
