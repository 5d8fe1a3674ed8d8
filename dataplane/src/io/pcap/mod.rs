//! Ports that read packets from a capture file and write what is sent to another, so that the whole graph runs without
//! privileges and the same input gives the same output.

mod link;
mod reader;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use reader::{CaptureReader, Record};
pub use writer::CaptureWriter;

/// All packets of a capture as Ethernet frames, in order; those that are too short for their own link header are left out.
///
/// # Errors
/// The file cannot be read, or is no capture.
pub fn frames(path: &Path) -> Result<Vec<Vec<u8>>, IoError> {
    let mut reader = CaptureReader::open(path)?;
    let mut out = Vec::new();
    while reader.advance()? {
        if let Some((header, bytes)) = reader.current().as_ref().and_then(link::ethernet) {
            out.push([header.as_ref().map_or(&[][..], |h| h), bytes].concat());
        }
    }
    Ok(out)
}

use super::error::IoError;
use super::frame::Frame;
use super::pool::{FramePool, MAX_PORTS};
use super::port::{PortStats, SHORTEST};

/// Bursts after which a chunk's time is taken for a former packet's.
const FRESH: usize = 4;

/// The time of a replay, shared by its ports. It makes them take turns in the order of the captures' timestamps, and it
/// remembers each packet's time by its chunk, so that a packet is written with the time at which it was read.
#[derive(Clone)]
pub struct ReplayClock(Arc<Clock>);

struct Clock {
    /// Nanoseconds since 1970.
    now: AtomicU64,
    /// Time of the next packet of each reading port; `u64::MAX` where there is none.
    next: [AtomicU64; MAX_PORTS],
    ports: AtomicUsize,
    stamps: Box<[AtomicU64]>,
    /// Start times of the last bursts. A stamp before all of them is of a packet that is gone.
    bursts: [AtomicU64; FRESH],
    burst: AtomicUsize,
}

impl ReplayClock {
    /// For the ports of one pool.
    pub fn new(pool: &FramePool) -> Self {
        Self(Arc::new(Clock {
            now: AtomicU64::new(0),
            next: [const { AtomicU64::new(u64::MAX) }; MAX_PORTS],
            ports: AtomicUsize::new(0),
            stamps: (0..pool.total()).map(|_| AtomicU64::new(0)).collect(),
            bursts: [const { AtomicU64::new(0) }; FRESH],
            burst: AtomicUsize::new(0),
        }))
    }

    /// Time of the packet read last, in nanoseconds since 1970; 0 before the first.
    pub fn now(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }

    fn join(&self) -> Result<usize, IoError> {
        let slot = self.0.ports.fetch_add(1, Ordering::Relaxed);
        if slot < MAX_PORTS { Ok(slot) } else { Err(IoError::TooManyPorts) }
    }

    fn announce(&self, slot: usize, next: Option<u64>) {
        self.0.next[slot].store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Time of the earliest packet that another port has still to read.
    fn others(&self, slot: usize) -> u64 {
        let ports = self.0.ports.load(Ordering::Relaxed).min(MAX_PORTS);
        let others = self.0.next[..ports].iter().enumerate().filter(|(i, _)| *i != slot);
        others.map(|(_, t)| t.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX)
    }

    fn start_burst(&self, time: u64) {
        let n = self.0.burst.fetch_add(1, Ordering::Relaxed);
        self.0.bursts[n % FRESH].store(time, Ordering::Relaxed);
    }

    fn stamp(&self, frame: &Frame, time: u64) {
        self.0.now.fetch_max(time, Ordering::Relaxed);
        if let Some(stamp) = self.0.stamps.get(frame.index() as usize) {
            stamp.store(time, Ordering::Relaxed);
        }
    }

    /// The packet's own time where it was read from a capture lately, else now.
    fn time_of(&self, frame: &Frame) -> u64 {
        let oldest = self.0.bursts.iter().map(|t| t.load(Ordering::Relaxed)).min().unwrap_or(0);
        let stamp = self.0.stamps.get(frame.index() as usize).map_or(0, |s| s.swap(0, Ordering::Relaxed));
        if stamp > 0 && stamp >= oldest { stamp } else { self.now() }
    }
}

/// A port between two files, either of which may be missing.
pub struct PcapPort {
    reader: Option<CaptureReader>,
    writer: Option<CaptureWriter>,
    clock: ReplayClock,
    slot: usize,
    stats: PortStats,
    error: Option<IoError>,
    /// For packets in several parts.
    scratch: Vec<u8>,
}

impl PcapPort {
    /// Opens `read` (pcap or pcapng) and creates `write` (pcap, nanoseconds). An error names the file and, for a bad
    /// capture, the byte.
    pub fn open(read: Option<&Path>, write: Option<&Path>, clock: ReplayClock) -> Result<Self, IoError> {
        let mut port = Self {
            reader: read.map(CaptureReader::open).transpose()?,
            writer: write.map(CaptureWriter::create).transpose()?,
            slot: clock.join()?,
            clock,
            stats: PortStats::default(),
            error: None,
            scratch: Vec::new(),
        };
        port.advance();
        port.error.take().map_or(Ok(port), Err)
    }

    /// Goes to the next packet and tells the other ports its time.
    fn advance(&mut self) {
        let Some(reader) = self.reader.as_mut() else { return };
        match reader.advance() {
            Ok(true) => self.clock.announce(self.slot, reader.current().map(|r| r.time)),
            end => {
                self.clock.announce(self.slot, None);
                self.reader = None;
                self.error = end.err().or(self.error.take());
            }
        }
    }

    /// Reads packets as long as none of another port on the same clock is earlier.
    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = max.min(out.capacity() - out.len());
        let others = self.clock.others(self.slot);
        let mut n = 0;
        while n < max {
            let Some(record) = self.reader.as_ref().and_then(CaptureReader::current) else { break };
            if record.time > others {
                break;
            }
            let time = record.time;
            match link::ethernet(&record) {
                None => self.stats.rx_bad += 1,
                Some((header, payload)) => {
                    self.scratch.clear();
                    let bytes = match header {
                        None => payload,
                        Some(header) => {
                            self.scratch.extend_from_slice(&header);
                            self.scratch.extend_from_slice(payload);
                            &self.scratch
                        }
                    };
                    if let Some(frame) = pool.scatter(bytes) {
                        if n == 0 {
                            self.clock.start_burst(time);
                        }
                        self.clock.stamp(&frame, time);
                        self.stats.rx_bytes += frame.total_len() as u64;
                        self.stats.rx_chains += u64::from(frame.is_chain());
                        out.push(frame);
                        n += 1;
                    } else if bytes.len() > pool.umem().part_capacity() * pool.total() as usize / 2 {
                        // Would never fit.
                        self.stats.rx_truncated += 1;
                    } else {
                        // A file can wait until chunks are free.
                        break;
                    }
                }
            }
            self.advance();
        }
        self.stats.rx_packets += n as u64;
        n
    }

    /// Writes all of `frames`; without a file they are only counted.
    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        let n = frames.len();
        for frame in frames.drain(..) {
            let len = frame.total_len();
            if len < SHORTEST || !self.write(pool, &frame) {
                self.stats.tx_bad += 1;
            } else {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += len as u64;
                self.stats.tx_chains += u64::from(frame.is_chain());
            }
            pool.free(frame);
        }
        n
    }

    fn write(&mut self, pool: &FramePool, frame: &Frame) -> bool {
        let Some(writer) = self.writer.as_mut() else { return true };
        let time = self.clock.time_of(frame);
        self.scratch.clear();
        let bytes = if frame.is_chain() {
            pool.parts(frame).for_each(|part| self.scratch.extend_from_slice(part));
            &self.scratch
        } else {
            frame.bytes()
        };
        match writer.write(time, bytes) {
            Ok(()) => true,
            Err(e) => {
                // A full disk: the first error is kept, the rest of the packets are only counted.
                self.writer = None;
                self.error.get_or_insert(e);
                false
            }
        }
    }

    /// Nothing to do: files are written as they come and flushed at the end.
    pub fn flush(&mut self, _pool: &mut FramePool) {}

    /// Nothing to do: there are no rings.
    pub fn reap(&mut self, _pool: &mut FramePool) {}

    /// Whether all packets were read, or reading failed (see [`Self::error`]).
    pub fn exhausted(&self) -> bool {
        self.reader.is_none()
    }

    /// What went wrong while reading or writing, if anything.
    pub fn error(&self) -> Option<&IoError> {
        self.error.as_ref()
    }

    pub fn clock(&self) -> &ReplayClock {
        &self.clock
    }

    pub fn stats(&self) -> &PortStats {
        &self.stats
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        &mut self.stats
    }

    /// Writes out what is buffered. Returns the first error of the port's life.
    pub fn close(mut self) -> Result<(), IoError> {
        self.clock.announce(self.slot, None);
        let flushed = self.writer.map_or(Ok(()), CaptureWriter::finish);
        self.error.take().map_or(flushed, Err)
    }
}

#[cfg(test)]
mod tests;
