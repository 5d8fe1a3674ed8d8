//! Reads pcap and pcapng through a window, so that a large capture takes little memory and every error knows its byte.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::PcapNgParser;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{Endianness, PcapError, TsResolution};

use super::super::error::IoError;
use super::link;

/// Bytes read at a time, and the longest record or block that is believed.
const CHUNK: usize = 256 << 10;
const LONGEST: usize = 16 << 20;

const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const PACKET_BLOCK: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// One captured packet.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Nanoseconds since 1970; 0 where the format has none.
    pub time: u64,
    /// Link type, as in the file.
    pub link: u32,
    /// Length on the wire; `bytes` may be less.
    pub wire_len: u32,
    /// From the link header on.
    pub bytes: &'a [u8],
}

enum Format {
    Pcap(PcapParser),
    Ng(Box<PcapNgParser>),
}

/// Where the current record is in the window.
struct Found {
    time: u64,
    link: u32,
    wire_len: u32,
    place: Range<usize>,
}

/// A capture being read.
pub struct CaptureReader {
    path: PathBuf,
    file: Box<dyn Read + Send>,
    ended: bool,
    window: Vec<u8>,
    /// Window bytes already parsed.
    at: usize,
    /// File offset of the window's first byte.
    base: u64,
    format: Format,
    current: Option<Found>,
}

impl CaptureReader {
    pub fn open(path: &Path) -> Result<Self, IoError> {
        let file = File::open(path).map_err(|source| IoError::File { path: path.to_owned(), source })?;
        Self::new(path, Box::new(file))
    }

    /// Reads from anything; `path` is for messages.
    pub fn new(path: &Path, file: Box<dyn Read + Send>) -> Result<Self, IoError> {
        let mut source = Window { path, file, ended: false, bytes: Vec::new() };
        loop {
            let parsed = match source.bytes.get(..4) {
                Some(magic) if magic == PCAPNG_MAGIC => {
                    PcapNgParser::new(&source.bytes).map(|(rest, p)| (rest.len(), Format::Ng(Box::new(p))))
                }
                Some(_) => PcapParser::new(&source.bytes).map(|(rest, p)| (rest.len(), Format::Pcap(p))),
                None => Err(PcapError::IncompleteBuffer),
            };
            let (rest, format) = match parsed {
                Ok(found) => found,
                Err(PcapError::IncompleteBuffer) if source.more()? => continue,
                Err(PcapError::IncompleteBuffer) => {
                    return Err(source.bad(format!("{} bytes are too few for a capture", source.bytes.len())));
                }
                Err(e) => return Err(source.bad(format!("not a capture: {e}"))),
            };
            if let Format::Pcap(p) = &format {
                let link = u32::from(p.header().datalink);
                if !link::supported(link) {
                    return Err(source.bad(format!("link type {link} has no Ethernet or IP packets")));
                }
            }
            let at = source.bytes.len() - rest;
            let Window { file, ended, bytes, .. } = source;
            return Ok(Self { path: path.to_owned(), file, ended, window: bytes, at, base: 0, format, current: None });
        }
    }

    /// File offset of the next record or block.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The record that [`Self::advance`] found.
    pub fn current(&self) -> Option<Record<'_>> {
        let found = self.current.as_ref()?;
        let bytes = self.window.get(found.place.clone())?;
        Some(Record { time: found.time, link: found.link, wire_len: found.wire_len, bytes })
    }

    /// Goes to the next packet. `false` at the end of the file. After an error the rest cannot be read.
    pub fn advance(&mut self) -> Result<bool, IoError> {
        self.current = None;
        loop {
            if self.at == self.window.len() && !self.fill()? {
                return Ok(false);
            }
            let rest = &self.window[self.at..];
            let step = match &mut self.format {
                Format::Pcap(parser) => pcap_step(parser, rest),
                Format::Ng(parser) => ng_step(parser, rest),
            };
            match step {
                Ok((used, found)) => {
                    let start = self.at;
                    self.at += used;
                    if let Some(mut found) = found {
                        found.place = found.place.start + start..found.place.end + start;
                        self.current = Some(found);
                        return Ok(true);
                    }
                }
                Err(Trouble::Short) => {
                    let have = self.window.len() - self.at;
                    if have > LONGEST {
                        return Err(self.bad(format!("a record of more than {LONGEST} bytes")));
                    }
                    if !self.fill()? {
                        return Err(self.bad(format!("the file ends within a record ({have} bytes of it are there)")));
                    }
                }
                Err(Trouble::Bad(reason)) => return Err(self.bad(reason)),
            }
        }
    }

    fn bad(&self, reason: String) -> IoError {
        IoError::Capture { path: self.path.clone(), offset: self.offset(), reason }
    }

    /// Drops what was parsed and reads on. `false` at the end of the file.
    fn fill(&mut self) -> Result<bool, IoError> {
        self.window.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
        more(&mut self.window, &mut self.file, &mut self.ended)
            .map_err(|source| IoError::File { path: self.path.clone(), source })
    }
}

/// The file before its format is known.
struct Window<'a> {
    path: &'a Path,
    file: Box<dyn Read + Send>,
    ended: bool,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn more(&mut self) -> Result<bool, IoError> {
        if self.bytes.len() > LONGEST {
            return Ok(false);
        }
        more(&mut self.bytes, &mut self.file, &mut self.ended)
            .map_err(|source| IoError::File { path: self.path.to_owned(), source })
    }

    fn bad(&self, reason: String) -> IoError {
        IoError::Capture { path: self.path.to_owned(), offset: 0, reason }
    }
}

/// Appends up to [`CHUNK`] bytes. `false` where none came.
fn more(window: &mut Vec<u8>, file: &mut Box<dyn Read + Send>, ended: &mut bool) -> std::io::Result<bool> {
    if *ended {
        return Ok(false);
    }
    let before = window.len();
    file.take(CHUNK as u64).read_to_end(window)?;
    *ended = window.len() == before;
    Ok(!*ended)
}

enum Trouble {
    /// The window ends within the record.
    Short,
    Bad(String),
}

impl From<PcapError> for Trouble {
    fn from(e: PcapError) -> Self {
        match e {
            PcapError::IncompleteBuffer => Self::Short,
            other => Self::Bad(other.to_string()),
        }
    }
}

/// Bytes used, and the packet if the block was one. Places are relative to `rest`.
type Step = Result<(usize, Option<Found>), Trouble>;

fn pcap_step(parser: &PcapParser, rest: &[u8]) -> Step {
    // Raw: captures whose lengths exceed the header's snaplen are common, and harmless.
    let (after, packet) = parser.next_raw_packet(rest)?;
    let used = rest.len() - after.len();
    let header = parser.header();
    let unit = if header.ts_resolution == TsResolution::NanoSecond { 1 } else { 1_000 };
    let time = u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * unit;
    let place = used - packet.data.len()..used;
    Ok((used, Some(Found { time, link: header.datalink.into(), wire_len: packet.orig_len, place })))
}

fn ng_step(parser: &mut PcapNgParser, rest: &[u8]) -> Step {
    let (after, block) = parser.next_raw_block(rest)?;
    let used = rest.len() - after.len();
    let big = parser.section().endianness == Endianness::Big;
    let body = &block.body;
    // The body stands behind type and length.
    let place = |at: usize, len: usize| match body.get(at..).and_then(|b| b.get(..len)) {
        Some(_) => Ok(8 + at..8 + at + len),
        None => Err(Trouble::Bad(format!("a packet of {len} bytes in a block of {}", body.len()))),
    };
    let u32_at = |at: usize| -> Result<u32, Trouble> {
        let bytes = body.get(at..at + 4).and_then(|b| b.try_into().ok());
        let bytes: [u8; 4] = bytes.ok_or_else(|| Trouble::Bad(format!("a packet block of {} bytes", body.len())))?;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let interface = |id: u32| {
        let found = parser.interfaces().get(id as usize);
        found.ok_or_else(|| Trouble::Bad(format!("a packet of interface {id}, which the file does not describe")))
    };
    let found = match block.type_ {
        ENHANCED_PACKET | PACKET_BLOCK => {
            let first = u32_at(0)?;
            let id = match (block.type_, big) {
                (ENHANCED_PACKET, _) => first,
                (_, true) => first >> 16,
                (_, false) => first & 0xffff,
            };
            let interface = interface(id)?;
            let ticks = u64::from(u32_at(4)?) << 32 | u64::from(u32_at(8)?);
            let place = place(20, u32_at(12)? as usize)?;
            Found { time: nanoseconds(interface, ticks), link: interface.linktype.into(), wire_len: u32_at(16)?, place }
        }
        SIMPLE_PACKET => {
            let interface = interface(0)?;
            let wire_len = u32_at(0)?;
            let snaplen = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
            let place = place(4, wire_len.min(snaplen) as usize)?;
            Found { time: 0, link: interface.linktype.into(), wire_len, place }
        }
        _ => return Ok((used, None)),
    };
    if !link::supported(found.link) {
        return Err(Trouble::Bad(format!("link type {} has no Ethernet or IP packets", found.link)));
    }
    Ok((used, Some(found)))
}

/// Ticks in the interface's resolution (`if_tsresol`, default microseconds) and offset.
fn nanoseconds(interface: &InterfaceDescriptionBlock<'_>, ticks: u64) -> u64 {
    let (mut resolution, mut offset) = (6u8, 0u64);
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(r) => resolution = *r,
            InterfaceDescriptionOption::IfTsOffset(o) => offset = *o,
            _ => {}
        }
    }
    let exponent = u32::from(resolution & 0x7f);
    let per_second = if resolution & 0x80 != 0 { 1u128.checked_shl(exponent) } else { 10u128.checked_pow(exponent) };
    let nanos = match per_second {
        Some(n) if n > 0 => u128::from(ticks) * 1_000_000_000 / n,
        _ => 0,
    };
    let total = nanos + u128::from(offset) * 1_000_000_000;
    u64::try_from(total).unwrap_or(u64::MAX - 1)
}
