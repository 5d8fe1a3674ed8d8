//! Writes Ethernet packets to a pcap file with nanosecond times.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use pcap_file::pcap::{PcapHeader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, PcapError, TsResolution};

use super::super::error::IoError;

/// What tcpdump writes as "no limit".
const SNAPLEN: u32 = 262_144;

pub struct CaptureWriter {
    path: PathBuf,
    out: PcapWriter<BufWriter<File>>,
}

impl CaptureWriter {
    /// Creates or empties the file.
    pub fn create(path: &Path) -> Result<Self, IoError> {
        let file = File::create(path).map_err(|source| IoError::File { path: path.to_owned(), source })?;
        let header = PcapHeader {
            snaplen: SNAPLEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let out = PcapWriter::with_header(BufWriter::new(file), header).map_err(|e| failed(path, e))?;
        Ok(Self { path: path.to_owned(), out })
    }

    /// `time`: nanoseconds since 1970.
    pub fn write(&mut self, time: u64, bytes: &[u8]) -> Result<(), IoError> {
        let len = bytes.len() as u32;
        let packet = RawPcapPacket {
            ts_sec: (time / 1_000_000_000) as u32,
            ts_frac: (time % 1_000_000_000) as u32,
            incl_len: len,
            orig_len: len,
            data: Cow::Borrowed(bytes),
        };
        self.out.write_raw_packet(&packet).map(drop).map_err(|e| failed(&self.path, e))
    }

    /// Writes out what is buffered.
    pub fn finish(self) -> Result<(), IoError> {
        let Self { path, out } = self;
        out.into_writer().flush().map_err(|source| IoError::File { path, source })
    }
}

fn failed(path: &Path, error: PcapError) -> IoError {
    let source = match error {
        PcapError::IoError(source) => source,
        other => std::io::Error::other(other),
    };
    IoError::File { path: path.to_owned(), source }
}
