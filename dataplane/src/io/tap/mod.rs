//! A port to the host's own kernel: a tap with offload headers. One system call moves up to 64 KiB each way; what a NIC does
//! about that (cutting, joining, checksums) is done here, so that the graph sees packets of the link's MTU.
//!
//! Nobody but the kernel is behind it. Addresses and neighbours are none of its business: every frame in either direction
//! is from and to the tap's own MAC.

mod coalesce;
pub mod device;
mod offload;
mod segment;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use coalesce::{Groups, Outgoing};
pub use device::TapQueue;
use offload::{Gso, Malformed, VNET_LEN, Vnet};
use segment::Cut;

use std::os::fd::{AsRawFd, RawFd};

use super::error::IoError;
use super::frame::Frame;
use super::pool::FramePool;
use super::port::{PortStats, SHORTEST};

/// Where the offload header is read to, so that IP headers are aligned: 8 + 10 + 14 = 32.
const START: usize = 8;
/// The longest IP packet, Ethernet header with two tags, offload header.
const BUFFER: usize = START + VNET_LEN + 22 + 65_535;
/// Packets read for one burst, where they are short ones.
const READS: usize = 64;
/// Pieces of one `writev`: the header, and 512 frames or the parts of one.
const PIECES: usize = 520;

/// One queue of a tap.
pub struct TapPort {
    queue: TapQueue,
    /// What was read last.
    buffer: Box<[u8]>,
    /// Bytes of the packet in `buffer`, from its Ethernet header on.
    length: usize,
    /// What is left to cut of it.
    cut: Option<Cut>,
    groups: Groups,
    pieces: Box<[libc::iovec]>,
    stats: PortStats,
}

// SAFETY: the pieces point to nothing between two calls; everything else is owned.
unsafe impl Send for TapPort {}

impl TapPort {
    pub fn new(queue: TapQueue) -> Self {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            queue,
            buffer: vec![0; BUFFER].into(),
            length: 0,
            cut: None,
            groups: Groups::new(),
            pieces: vec![none; PIECES].into(),
            stats: PortStats::default(),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.queue.file.as_raw_fd()
    }

    /// Appends up to `max` packets to `out`, never beyond its capacity. A long packet that does not fit is taken up again by the
    /// next call. With too few free chunks nothing is read: packets wait in the kernel.
    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = max.min(out.capacity() - out.len());
        let before = out.len();
        let mut reads = 0;
        while out.len() - before < max {
            if self.cut.is_some() {
                if !self.segment(pool, out) {
                    break;
                }
            } else if reads == READS || !self.read(pool, out) {
                break;
            } else {
                reads += 1;
            }
        }
        let taken = &out[before..];
        self.stats.rx_packets += taken.len() as u64;
        self.stats.rx_bytes += taken.iter().map(|frame| frame.total_len() as u64).sum::<u64>();
        taken.len()
    }

    /// Reads one packet: a complete one goes to `out`, a long one becomes the next to be cut. `false`: there is none.
    fn read(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>) -> bool {
        if pool.available() < super::pool::MAX_PARTS {
            self.stats.fill_short += 1;
            return false;
        }
        let fd = self.fd();
        let space = &mut self.buffer[START..];
        // SAFETY: the kernel writes at most the length that is given.
        let got = unsafe { libc::read(fd, space.as_mut_ptr().cast(), space.len()) };
        let Some(length) = usize::try_from(got).ok().filter(|got| *got > VNET_LEN) else {
            return false;
        };
        self.length = length - VNET_LEN;
        if self.begin(pool, out).is_err() {
            self.stats.rx_bad += 1;
        }
        true
    }

    fn begin(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>) -> Result<(), Malformed> {
        let (head, packet) = self.buffer[START..][..VNET_LEN + self.length].split_at_mut(VNET_LEN);
        let vnet = Vnet::read(head.first_chunk().ok_or(Malformed)?)?;
        if vnet.gso != Gso::None {
            self.cut = Some(Cut::new(packet, &vnet)?);
            return Ok(());
        }
        segment::complete(packet, &vnet)?;
        let frame = pool.scatter(packet).ok_or(Malformed)?;
        self.stats.rx_chains += u64::from(frame.is_chain());
        out.push(frame);
        Ok(())
    }

    /// Cuts one segment off. `false`: no chunk is free.
    #[inline]
    fn segment(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>) -> bool {
        let Some(cut) = &mut self.cut else { return true };
        let packet = &self.buffer[START + VNET_LEN..][..self.length];
        let length = cut.next_len();
        if length > pool.umem().part_capacity() {
            return self.long_segment(pool, out);
        }
        let Some(mut frame) = pool.alloc() else {
            self.stats.fill_short += 1;
            return false;
        };
        if frame.grow_back(length) {
            cut.next(packet, frame.bytes_mut());
        }
        if cut.is_done() {
            self.cut = None;
        }
        out.push(frame);
        true
    }

    /// One that takes several chunks.
    #[cold]
    fn long_segment(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>) -> bool {
        let Some(cut) = &mut self.cut else { return true };
        let mut whole = [0; 65_536 + 128];
        let length = cut.next_len();
        let mut ahead = *cut;
        ahead.next(&self.buffer[START + VNET_LEN..][..self.length], &mut whole[..length]);
        let Some(frame) = pool.scatter(&whole[..length]) else {
            self.stats.fill_short += 1;
            return false;
        };
        self.cut = (!ahead.is_done()).then_some(ahead);
        self.stats.rx_chains += u64::from(frame.is_chain());
        out.push(frame);
        true
    }

    /// Writes all of `frames`: segments that follow each other as one packet. What the kernel does not take is freed and counted in
    /// `tx_refused`. Returns how many there were.
    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        let Self { queue, groups, pieces, stats, .. } = self;
        let fd = queue.file.as_raw_fd();
        groups.walk(frames, |groups, frames, outgoing| write(fd, pool, groups, frames, outgoing, pieces, stats));
        let count = frames.len();
        for frame in frames.drain(..) {
            pool.free(frame);
        }
        count
    }

    /// Nothing to do: packets are with the kernel when `tx_burst` returns.
    pub fn flush(&mut self, _pool: &mut FramePool) {}

    /// Nothing to do: there are no rings.
    pub fn reap(&mut self, _pool: &mut FramePool) {}

    pub fn stats(&self) -> &PortStats {
        &self.stats
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        &mut self.stats
    }

    /// # Errors
    /// None so far.
    pub fn close(self) -> Result<(), IoError> {
        Ok(())
    }
}

/// One packet, of one frame or of a group's, with one system call and without a copy of ours.
fn write(
    fd: RawFd,
    pool: &FramePool,
    groups: &Groups,
    frames: &[Frame],
    outgoing: Outgoing,
    pieces: &mut [libc::iovec],
    stats: &mut PortStats,
) {
    let Outgoing { first, count, head, vnet } = outgoing;
    let header = vnet.write();
    let mut used = 0;
    let mut bytes = 0;
    let mut add = |part: &[u8]| {
        if let Some(piece) = pieces.get_mut(used) {
            *piece = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
            used += 1;
            bytes += part.len();
        }
    };
    add(&header);
    if count == 1 {
        if frames[first].total_len() < SHORTEST {
            stats.tx_bad += 1;
            return;
        }
        pool.parts(&frames[first]).for_each(&mut add);
    } else {
        add(frames[first].bytes());
        let mut at = first;
        for _ in 1..count {
            at = groups.next(at);
            add(&frames[at].bytes()[head..]);
        }
    }
    // SAFETY: `used` pieces were written just now, each of bytes that are borrowed until here; the kernel only reads them.
    let sent = unsafe { libc::writev(fd, pieces.as_ptr(), used as libc::c_int) };
    stats.kicks += 1;
    if usize::try_from(sent) == Ok(bytes) {
        stats.tx_packets += count as u64;
        stats.tx_bytes += (bytes - VNET_LEN + (count - 1) * head) as u64;
    } else {
        stats.tx_refused += count as u64;
    }
}
