//! Classic pcap files of Ethernet frames, read and written whole: captures of the tests are small.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

/// One frame of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Length on the wire; `bytes` may be fewer.
    pub length: u32,
    pub bytes: Vec<u8>,
}

/// Reads a capture in this machine's byte order.
///
/// # Errors
/// When it is no classic pcap of Ethernet frames, or is cut off within a record.
pub fn read(path: &Path) -> Result<Vec<Captured>> {
    let all = fs::read(path).with_context(|| path.display().to_string())?;
    parse(&all).with_context(|| path.display().to_string())
}

fn parse(all: &[u8]) -> Result<Vec<Captured>> {
    let word = |bytes: &[u8], at: usize| -> Result<u32> {
        let four = bytes.get(at..at + 4).context("cut off")?;
        Ok(u32::from_ne_bytes(four.try_into()?))
    };
    let scale = match word(all, 0)? {
        MAGIC_MICROS => 1000,
        MAGIC_NANOS => 1,
        other => anyhow::bail!("magic {other:#x} is no pcap"),
    };
    ensure!(word(all, 20)? == ETHERNET, "not Ethernet");
    let mut rest = &all[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (seconds, fraction) = (word(rest, 0)?, word(rest, 4)?);
        let (kept, length) = (word(rest, 8)? as usize, word(rest, 12)?);
        let bytes = rest.get(16..16 + kept).context("cut off")?.to_vec();
        rest = &rest[16 + kept..];
        frames.push(Captured { time: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * scale, length, bytes });
    }
    Ok(frames)
}

/// Writes frames, a millisecond apart.
///
/// # Errors
/// When the file cannot be written.
pub fn write<'a>(path: &Path, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let mut out = Vec::new();
    for word in [MAGIC_NANOS, 4 << 16 | 2, 0, 0, 262_144, ETHERNET] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    for (i, frame) in frames.into_iter().enumerate() {
        let (seconds, millis) = (1_700_000_000 + i as u32 / 1000, i as u32 % 1000);
        for word in [seconds, millis * 1_000_000, frame.len() as u32, frame.len() as u32] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend_from_slice(frame);
    }
    fs::write(path, out).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = crate::cleanup::RunDir::new("unit").unwrap();
        let path = folder.file("x.pcap");
        let frames: Vec<Vec<u8>> = (0u8..50).map(|n| vec![n; usize::from(n) * 7 + 1]).collect();
        write(&path, frames.iter().map(Vec::as_slice)).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read.len(), frames.len());
        assert!(read.iter().zip(&frames).all(|(got, put)| got.bytes == *put && got.length as usize == put.len()));
        assert!(read.windows(2).all(|pair| pair[0].time < pair[1].time));
    }

    #[test]
    fn cut_off_files_are_errors() {
        let folder = crate::cleanup::RunDir::new("unit").unwrap();
        let path = folder.file("x.pcap");
        write(&path, [[1u8, 2, 3].as_slice()]).unwrap();
        let all = fs::read(&path).unwrap();
        for cut in (0..all.len()).filter(|cut| *cut != 24) {
            assert!(parse(&all[..cut]).is_err(), "cut at {cut}");
        }
    }
}
