//! pcapng blocks (draft-ietf-opsawg-pcapng), little endian: section, interfaces, packets with comments, statistics.

/// Link types (pcap-linktypes registry).
pub const ETHERNET: u16 = 1;
/// IPv4 or IPv6, by the first nibble.
pub const RAW: u16 = 101;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const COMMENT: u16 = 1;
const END: u16 = 0;

/// Longest option value that fits with its padding.
const LONGEST: usize = 65_532;

/// An interface of the capture: a port, at a point.
#[derive(Clone, Debug)]
pub struct Interface {
    pub link: u16,
    pub snap: u32,
    pub name: String,
    pub description: String,
    /// In tcpdump's syntax; empty: none.
    pub filter: String,
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Length of the packet, of which `bytes` are the first.
    pub len: u32,
    pub bytes: &'a [u8],
    pub comment: &'a str,
    /// Towards this host: received, or opened.
    pub inbound: bool,
    /// The same packet at other interfaces has the same.
    pub id: u64,
    pub queue: u32,
}

/// Of one interface, since the capture began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub began: u64,
    pub now: u64,
    /// Packets seen, lost for want of room, and written.
    pub seen: Option<u64>,
    pub lost: u64,
    pub written: u64,
}

/// The beginning of a section.
pub fn section(to: &mut Vec<u8>, application: &str) {
    block(to, SECTION, |to| {
        to.extend(0x1a2b_3c4d_u32.to_le_bytes());
        to.extend([1, 0, 0, 0]);
        // How long it will be is not known.
        to.extend((-1_i64).to_le_bytes());
        option(to, 4, application.as_bytes());
        option(to, END, &[]);
    });
}

pub fn interface(to: &mut Vec<u8>, interface: &Interface) {
    block(to, INTERFACE, |to| {
        to.extend(interface.link.to_le_bytes());
        to.extend([0, 0]);
        to.extend(interface.snap.to_le_bytes());
        option(to, 2, interface.name.as_bytes());
        option(to, 3, interface.description.as_bytes());
        // Nanoseconds.
        option(to, 9, &[9]);
        if !interface.filter.is_empty() {
            // A leading zero: the text of a filter.
            option(to, 11, &[&[0], interface.filter.as_bytes()].concat());
        }
        option(to, END, &[]);
    });
}

pub fn packet(to: &mut Vec<u8>, packet: &Packet<'_>) {
    block(to, PACKET, |to| {
        to.extend(packet.interface.to_le_bytes());
        time(to, packet.time);
        to.extend((packet.bytes.len() as u32).to_le_bytes());
        to.extend(packet.len.to_le_bytes());
        padded(to, packet.bytes);
        option(to, COMMENT, packet.comment.as_bytes());
        option(to, 2, &u32::to_le_bytes(if packet.inbound { 1 } else { 2 }));
        option(to, 5, &packet.id.to_le_bytes());
        option(to, 6, &packet.queue.to_le_bytes());
        option(to, END, &[]);
    });
}

pub fn statistics(to: &mut Vec<u8>, of: &Statistics) {
    block(to, STATISTICS, |to| {
        to.extend(of.interface.to_le_bytes());
        time(to, of.now);
        for (code, at) in [(2, of.began), (3, of.now)] {
            let mut value = Vec::with_capacity(8);
            time(&mut value, at);
            option(to, code, &value);
        }
        if let Some(seen) = of.seen {
            option(to, 4, &seen.to_le_bytes());
        }
        option(to, 5, &of.lost.to_le_bytes());
        option(to, 8, &of.written.to_le_bytes());
        option(to, END, &[]);
    });
}

/// Upper half first.
fn time(to: &mut Vec<u8>, nanoseconds: u64) {
    to.extend(((nanoseconds >> 32) as u32).to_le_bytes());
    to.extend((nanoseconds as u32).to_le_bytes());
}

fn block(to: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = to.len();
    to.extend(kind.to_le_bytes());
    to.extend([0; 4]);
    body(to);
    let len = (to.len() - begin + 4) as u32;
    to[begin + 4..begin + 8].copy_from_slice(&len.to_le_bytes());
    to.extend(len.to_le_bytes());
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(LONGEST)];
    to.extend(code.to_le_bytes());
    to.extend((value.len() as u16).to_le_bytes());
    padded(to, value);
}

fn padded(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(bytes);
    // Blocks begin at multiples of four, wherever in `to`.
    to.resize(to.len() + (4 - bytes.len() % 4) % 4, 0);
}

/// Packets lost, as a block of statistics says.
pub fn lost(block: &[u8]) -> u64 {
    let mut rest = block.get(20..).unwrap_or_default();
    while let Some((&[code, _, len, more], behind)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([len, more]));
        match behind.first_chunk() {
            Some(value) if code == 5 && len == 8 => return u64::from_le_bytes(*value),
            _ => rest = behind.get(len.next_multiple_of(4)..).unwrap_or_default(),
        }
    }
    0
}

/// Cuts a stream of blocks into whole ones.
#[derive(Debug, Default)]
pub struct Blocks {
    rest: Vec<u8>,
}

/// What a block is, as far as whoever writes files has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Section or interface: at the head of each file.
    Head,
    Packet,
    Statistics,
}

impl Blocks {
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole block.
    ///
    /// # Errors
    /// It is none.
    pub fn next_block(&mut self) -> Result<Option<(Kind, Vec<u8>)>, &'static str> {
        const MOST: usize = 1 << 20;
        let Some(head) = self.rest.first_chunk::<8>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, len) = (word(0), word(4) as usize);
        if !(12..=MOST).contains(&len) || len % 4 != 0 {
            return Err("a block of impossible length");
        }
        let kind = match kind {
            SECTION | INTERFACE => Kind::Head,
            PACKET => Kind::Packet,
            STATISTICS => Kind::Statistics,
            _ => return Err("a block of unknown type"),
        };
        if self.rest.len() < len {
            return Ok(None);
        }
        let block: Vec<u8> = self.rest.drain(..len).collect();
        Ok(Some((kind, block)))
    }

    /// Whether a block has begun that has not ended.
    pub fn is_torn(&self) -> bool {
        !self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    fn sample() -> Vec<u8> {
        let mut file = Vec::new();
        section(&mut file, "softdpu");
        let of = Interface {
            link: ETHERNET,
            snap: 100,
            name: "uplink/rx".into(),
            description: "as received".into(),
            filter: "tcp".into(),
        };
        interface(&mut file, &of);
        let time = 1_700_000_000_123_456_789;
        let of =
            Packet { interface: 0, time, len: 9, bytes: &[7; 5], comment: "rule=a", inbound: true, id: 3, queue: 1 };
        packet(&mut file, &of);
        statistics(&mut file, &Statistics { now: time, began: time, lost: 4, written: 1, ..Statistics::default() });
        file
    }

    #[test]
    fn another_reader_reads_it() {
        let file = sample();
        let mut reader = PcapNgReader::new(&file[..]).unwrap();
        let (mut packets, mut statistics) = (0, 0);
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(of) => assert_eq!((of.snaplen, of.options.len()), (100, 4)),
                Block::EnhancedPacket(of) => {
                    assert_eq!((&*of.data, of.original_len, of.options.len()), (&[7u8; 5][..], 9, 4));
                    packets += 1;
                }
                Block::InterfaceStatistics(of) => {
                    assert_eq!(of.options.len(), 4);
                    statistics += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((packets, statistics), (1, 1));
    }

    #[test]
    fn a_stream_in_pieces_is_the_same_blocks() {
        let file = sample();
        for size in 1..file.len() {
            let (mut blocks, mut kinds, mut whole) = (Blocks::default(), Vec::new(), Vec::new());
            for piece in file.chunks(size) {
                blocks.push(piece);
                while let Some((kind, block)) = blocks.next_block().unwrap() {
                    if kind == Kind::Statistics {
                        assert_eq!(lost(&block), 4);
                    }
                    kinds.push(kind);
                    whole.extend(block);
                }
            }
            assert!(!blocks.is_torn());
            assert_eq!(kinds, [Kind::Head, Kind::Head, Kind::Packet, Kind::Statistics]);
            assert_eq!(whole, file);
        }
        let mut blocks = Blocks::default();
        blocks.push(&[6, 0, 0, 0, 13, 0, 0, 0]);
        assert!(blocks.next_block().is_err());
    }
}
