//! Captures as one list of packets in memory, and the same packets as one file for programs that read files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use softdpu::cli::classify::capture::{self, Captured};
use softdpu::cli::classify::{ETHERNET, link_header};

/// One packet; its bytes are in [`Packets::bytes`].
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Nanoseconds since the first packet.
    time: u64,
    at: usize,
    len: u32,
    original: u32,
}

/// Damaged captures jump by years, in nanoseconds: more than this is left out.
const LONGEST_PAUSE: u64 = 3_600_000_000_000;

/// Packets of many captures, one after the other, as Ethernet frames.
#[derive(Debug, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    places: Vec<Place>,
    pub files: usize,
    /// Packets of link types that have no IP behind them, which no Ethernet frame can be made of.
    pub left_out: usize,
}

/// The folder of captures: the one named, else `SOFTDPU_CAPTURES`, else `shared/captures` beside the checkout.
pub fn folder(named: Option<&Path>) -> Option<PathBuf> {
    let variable = || std::env::var_os("SOFTDPU_CAPTURES").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    let folder = named.map(Path::to_path_buf).or_else(variable).unwrap_or_else(beside);
    folder.is_dir().then_some(folder)
}

impl Packets {
    /// Reads each capture in the folder, by name. Of one that is damaged, what is before the damage.
    ///
    /// # Errors
    /// The folder cannot be read or has no packets.
    pub fn read(folder: &Path) -> Result<Self> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "pcap" || e == "pcapng" || e == "cap"));
        files.sort();
        let mut all = Self { files: files.len(), ..Self::default() };
        for path in &files {
            all.add(path);
        }
        ensure!(!all.places.is_empty(), "{}: no packets", folder.display());
        Ok(all)
    }

    /// A capture's packets behind those that are there: its clock goes on where the last one's stopped.
    fn add(&mut self, path: &Path) {
        let mut time = self.places.last().map_or(0, |last| last.time);
        let mut before = None;
        // A damaged end is no reason to leave the beginning out; `softdpu classify` says what is wrong with it.
        let _ = capture::for_each(path, |packet| {
            let pause = before.map_or(0, |before| packet.time.saturating_sub(before));
            before = Some(packet.time);
            time += pause.min(LONGEST_PAUSE);
            self.push(&packet, time);
        });
    }

    fn push(&mut self, packet: &Captured, time: u64) {
        let at = self.bytes.len();
        let original = packet.original.max(packet.data.len() as u32);
        if packet.link == ETHERNET {
            self.bytes.extend_from_slice(packet.data);
            self.places.push(Place { time, at, len: packet.data.len() as u32, original });
            return;
        }
        let ip = link_header(packet.link, packet.data).and_then(|l3| packet.data.get(l3..));
        let ethertype = match ip.and_then(<[u8]>::first).map(|first| first >> 4) {
            Some(4) => 0x0800u16,
            Some(6) => 0x86dd,
            _ => {
                self.left_out += 1;
                return;
            }
        };
        let ip = ip.unwrap_or_default();
        self.bytes.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        self.bytes.extend_from_slice(&ethertype.to_be_bytes());
        self.bytes.extend_from_slice(ip);
        let cut = packet.data.len() - ip.len();
        self.places.push(Place { time, at, len: ip.len() as u32 + 14, original: original - cut as u32 + 14 });
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// In order.
    #[inline]
    pub fn get(&self, n: usize) -> Captured<'_> {
        let Place { time, at, len, original } = self.places[n];
        Captured { link: ETHERNET, time, original, data: &self.bytes[at..at + len as usize] }
    }

    pub fn mean_length(&self) -> f64 {
        self.bytes.len() as f64 / self.places.len() as f64
    }

    /// Writes them as one classic pcap file, times in microseconds.
    ///
    /// # Errors
    /// The file cannot be written.
    fn write(&self, path: &Path) -> Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        let header: [u32; 6] = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 1 << 18, ETHERNET];
        header.iter().try_for_each(|word| out.write_all(&word.to_ne_bytes()))?;
        for n in 0..self.len() {
            let p = self.get(n);
            // Not the year 1970, which some programs take for no time at all.
            let (seconds, micros) = (1_600_000_000 + p.time / 1_000_000_000, p.time % 1_000_000_000 / 1000);
            for word in [seconds as u32, micros as u32, p.data.len() as u32, p.original] {
                out.write_all(&word.to_ne_bytes())?;
            }
            out.write_all(p.data)?;
        }
        out.flush()?;
        Ok(())
    }
}

/// The packets as a file in memory, removed when dropped.
#[derive(Debug)]
pub struct Merged {
    pub path: PathBuf,
}

impl Merged {
    /// # Errors
    /// The file cannot be written.
    pub fn new(packets: &Packets) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let merged = Self { path: folder.join(format!("softdpu-bench-{}.pcap", std::process::id())) };
        packets.write(&merged.path).with_context(|| merged.path.display().to_string())?;
        Ok(merged)
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let mut packets = Packets::default();
        let mut ip = vec![0x45; 40];
        packets.push(&Captured { link: ETHERNET, time: 0, original: 70, data: &[7; 60] }, 0);
        packets.push(&Captured { link: 101, time: 0, original: 40, data: &ip }, 1_500_000_000);
        ip[0] = 0x10;
        packets.push(&Captured { link: 101, time: 0, original: 40, data: &ip }, 1_600_000_000);
        assert_eq!((packets.len(), packets.left_out), (2, 1));
        let merged = Merged::new(&packets).unwrap();
        let mut seen = Vec::new();
        capture::for_each(&merged.path, |p| seen.push((p.link, p.original, p.data.len(), p.time))).unwrap();
        assert_eq!(seen, [(1, 70, 60, 1_600_000_000_000_000_000), (1, 54, 54, 1_600_000_001_500_000_000)]);
        let path = merged.path.clone();
        drop(merged);
        assert!(!path.exists());
    }
}
