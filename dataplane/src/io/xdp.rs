//! A port on an AF_XDP socket: bursts in, bursts out, and the upkeep of the fill and completion rings.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::error::IoError;
use super::frame::Frame;
use super::pool::{FramePool, MAX_PARTS, PortId};
use super::port::{PortStats, Rings, SHORTEST};
use super::socket::{BindMode, CONTD, Desc, KernelStats, Socket, SocketSpec, ZeroCopy};

/// Free chunks that refilling leaves in the pool, for packets the graph makes itself.
const RESERVE: usize = 32;
/// Descriptors that one sendto takes in copy mode on kernels before 6.17.
const SMALLEST_BUDGET: u32 = 32;
/// Kicks without progress after which the rest waits for the next flush.
const STUCK: u32 = 2;
/// Empty polls between two wake-ups of a receive side that asks for them.
const WAKE_EVERY: u32 = 64;
/// How long `close` waits for packets under way.
const DRAIN: Duration = Duration::from_millis(20);
/// A zero-copy driver lets go of its buffers after the socket's close returned.
const TEARDOWN: Duration = Duration::from_millis(50);

/// How an AF_XDP port is to be opened.
#[derive(Debug, Clone)]
pub struct XdpSpec {
    pub socket: SocketSpec,
    /// Chunks kept with the kernel to receive into; at most twice the ring. 0: chosen from the pool's size.
    pub fill: u32,
}

impl XdpSpec {
    pub fn new(interface: &str, queue: u32) -> Self {
        Self { socket: SocketSpec::new(interface, queue), fill: 0 }
    }
}

/// One queue of one interface.
pub struct XdpPort {
    socket: Socket,
    id: PortId,
    interface: String,
    queue: u32,
    busy_poll: bool,
    /// Chunks to keep with the kernel, and how many must be missing before it is worth a refill.
    fill_target: u32,
    fill_step: u32,
    /// First parts of a packet whose last one has not come yet.
    partial: Option<Frame>,
    partial_parts: usize,
    /// In the middle of a packet that is thrown away.
    skipping: bool,
    idle: u32,
    stats: PortStats,
}

/// Opens a worker's ports on its pool. All share one UMEM, so a frame received on one goes out of another uncopied, and
/// therefore all have one mode: where one port cannot do zero-copy and none requires it, all use copy mode.
pub fn open_ports(pool: &mut FramePool, specs: &[XdpSpec]) -> Result<Vec<XdpPort>, IoError> {
    match open_all(pool, specs, false) {
        Err(e) if specs.len() > 1 && copy_may_help(&e, specs) => open_all(pool, specs, true),
        other => other,
    }
}

fn copy_may_help(error: &IoError, specs: &[XdpSpec]) -> bool {
    matches!(error, IoError::Socket { step: "bind", .. })
        && !matches!(error.errno(), Some(libc::EBUSY | libc::ENODEV | libc::EPERM))
        && specs.iter().any(|s| s.socket.zero_copy == ZeroCopy::Auto)
        && specs.iter().all(|s| s.socket.zero_copy != ZeroCopy::Require)
}

fn open_all(pool: &mut FramePool, specs: &[XdpSpec], copy: bool) -> Result<Vec<XdpPort>, IoError> {
    // A quarter of the chunks stays for the graph and for packets being sent.
    let share = pool.total() / 4 * 3 / specs.len().max(1) as u32;
    let mut ports = Vec::with_capacity(specs.len());
    for spec in specs {
        let mut spec = spec.clone();
        if copy {
            spec.socket.zero_copy = ZeroCopy::Never;
        }
        if spec.fill == 0 {
            spec.fill = share;
        }
        match XdpPort::open(pool, &spec) {
            Ok(port) => ports.push(port),
            Err(e) => {
                for port in ports {
                    port.close(pool);
                }
                return Err(e);
            }
        }
    }
    Ok(ports)
}

impl XdpPort {
    /// Opens one port. A pool's first port fixes the mode of the rest: see [`open_ports`] for several.
    pub fn open(pool: &mut FramePool, spec: &XdpSpec) -> Result<Self, IoError> {
        let SocketSpec { interface, queue, ring, busy_poll, .. } = &spec.socket;
        let id = pool.register(&format!("{interface}/{queue}"))?;
        let wanted = if spec.fill == 0 { pool.total() / 2 } else { spec.fill };
        let fill_target = wanted.clamp(1, ring * 2);
        let umem = pool.umem().clone();
        let opened = Socket::open(&umem, &spec.socket, |ring| {
            lend(pool, id, ring, fill_target);
        });
        let socket = match opened {
            Ok(socket) => socket,
            Err(e) => {
                pool.reclaim(id);
                return Err(e);
            }
        };
        Ok(Self {
            socket,
            id,
            interface: interface.clone(),
            queue: *queue,
            busy_poll: *busy_poll,
            fill_target,
            fill_step: (fill_target / 4).clamp(1, 64),
            partial: None,
            partial_parts: 0,
            skipping: false,
            idle: 0,
            stats: PortStats::default(),
        })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The mode in force, as the kernel reports it.
    pub fn mode(&self) -> BindMode {
        self.socket.mode()
    }

    pub fn multi_buffer(&self) -> bool {
        self.socket.multi_buffer()
    }

    pub fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    pub fn stats(&self) -> &PortStats {
        &self.stats
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        &mut self.stats
    }

    pub fn kernel_stats(&self) -> io::Result<KernelStats> {
        self.socket.kernel_stats()
    }

    /// Appends up to `max` packets to `out`, never beyond its capacity. Returns how many.
    #[inline]
    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = max.min(out.capacity() - out.len());
        let before = out.len();
        let mut bytes = 0;
        while out.len() - before < max {
            let Some(desc) = self.socket.rx.take() else { break };
            let Some(frame) = pool.received(self.id, desc.addr, desc.len) else {
                self.stats.rx_bad += 1;
                continue;
            };
            if desc.options & CONTD == 0 && self.partial.is_none() && !self.skipping {
                bytes += frame.len();
                out.push(frame);
            } else if let Some(packet) = self.chain(pool, frame, desc.options & CONTD == 0) {
                bytes += packet.total_len();
                out.push(packet);
            }
        }
        let n = out.len() - before;
        if self.socket.rx.release() == 0 {
            self.rx_idle();
            return 0;
        }
        self.idle = 0;
        self.stats.rx_packets += n as u64;
        self.stats.rx_bytes += bytes as u64;
        n
    }

    /// Adds a part; returns the packet when it was the last one.
    #[cold]
    fn chain(&mut self, pool: &mut FramePool, part: Frame, last: bool) -> Option<Frame> {
        if self.skipping {
            pool.free(part);
            self.skipping = !last;
            return None;
        }
        let head = match self.partial.take() {
            Some(mut head) => {
                pool.append(&mut head, part);
                head
            }
            None => part,
        };
        self.partial_parts += 1;
        if self.partial_parts > MAX_PARTS {
            pool.free(head);
            self.partial_parts = 0;
            self.skipping = !last;
            self.stats.rx_truncated += 1;
            return None;
        }
        if last {
            self.partial_parts = 0;
            self.stats.rx_chains += 1;
            return Some(head);
        }
        self.partial = Some(head);
        None
    }

    /// Nothing came. Drives the driver under busy poll, and wakes it where it waits for buffers it has by now.
    fn rx_idle(&mut self) {
        let asks = self.busy_poll || (self.idle % WAKE_EVERY == 0 && self.socket.fill.need_wakeup());
        self.idle = self.idle.wrapping_add(1);
        if asks {
            self.wake_rx();
        }
    }

    fn wake_rx(&mut self) {
        self.stats.rx_wakeups += 1;
        let none = std::ptr::null_mut();
        // SAFETY: an empty, non-blocking receive: no memory is handed over.
        unsafe { libc::recvfrom(self.fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast()) };
    }

    /// Takes packets from the front of `frames` into the transmit ring, as many as fit; a chain goes whole or not at all.
    /// The rest stays in `frames`. Nothing leaves before [`Self::flush`]. Returns how many were taken.
    ///
    /// Packets that no ring could ever take (shorter than an Ethernet header, more than [`MAX_PARTS`] parts, an empty
    /// part, or a chain where the kernel has no multi-buffer) are freed and counted in `tx_bad`.
    #[inline]
    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        if frames.is_empty() {
            return 0;
        }
        let mut room = self.socket.tx.room(self.socket.tx.size()) as usize;
        let mut fit = 0;
        for frame in frames.iter() {
            let parts = if frame.is_chain() { pool.part_count(frame).min(MAX_PARTS) } else { 1 };
            if parts > room {
                break;
            }
            room -= parts;
            fit += 1;
        }
        let mut bytes = 0;
        let mut bad = 0;
        let base = pool.umem().base().as_ptr() as u64;
        for frame in frames.drain(..fit) {
            let len = frame.total_len();
            if frame.is_chain() {
                if self.put_chain(pool, frame) {
                    bytes += len;
                } else {
                    bad += 1;
                }
            } else if len < SHORTEST {
                pool.free(frame);
                bad += 1;
            } else {
                let addr = frame.chunk_ptr() as u64 - base + frame.offset() as u64;
                if self.socket.tx.put(Desc { addr, len: len as u32, options: 0 }) {
                    pool.lend_to_tx(self.id, frame.into_index());
                    bytes += len;
                } else {
                    pool.free(frame);
                    bad += 1;
                }
            }
        }
        self.socket.tx.commit();
        self.stats.tx_packets += (fit - bad) as u64;
        self.stats.tx_bytes += bytes as u64;
        self.stats.tx_bad += bad as u64;
        fit
    }

    /// Writes a chain's descriptors. `false` (freed) where it cannot be sent.
    #[cold]
    fn put_chain(&mut self, pool: &mut FramePool, frame: Frame) -> bool {
        let mut parts = [(0u32, 0u32, 0u32); MAX_PARTS];
        let mut n = 0;
        let mut good = self.multi_buffer() && frame.total_len() >= SHORTEST;
        for part in pool.places(&frame) {
            // The kernel skips an empty descriptor without ever completing it.
            good &= n < MAX_PARTS && part.2 > 0;
            if !good {
                break;
            }
            parts[n] = part;
            n += 1;
        }
        if !good || (self.socket.tx.room(n as u32) as usize) < n {
            pool.free(frame);
            return false;
        }
        frame.into_index();
        let size = u64::from(pool.chunk_size());
        for (i, (index, off, len)) in parts.iter().take(n).copied().enumerate() {
            let options = if i + 1 < n { CONTD } else { 0 };
            // Room was checked above for all parts.
            let put = self.socket.tx.put(Desc { addr: u64::from(index) * size + u64::from(off), len, options });
            debug_assert!(put);
            pool.lend_to_tx(self.id, index);
        }
        self.stats.tx_chains += 1;
        true
    }

    /// Makes the kernel send what is in the ring: no system call where it does not ask for one, one per batch where it
    /// takes all at once, otherwise a bounded number. What is still there then (the link's queue is full) goes with the
    /// next flush: call it in every turn of the loop. Costs a comparison when nothing is under way.
    #[inline]
    pub fn flush(&mut self, pool: &mut FramePool) {
        if pool.held(self.id).tx == 0 {
            return;
        }
        let left = self.socket.tx.unconsumed();
        if left == 0 || !(self.busy_poll || self.socket.tx.need_wakeup()) {
            return;
        }
        self.kick(pool, left);
    }

    /// Whether the transmit ring has packets that the kernel has not taken.
    pub fn unsent(&self) -> bool {
        self.socket.tx.unconsumed() > 0
    }

    fn kick(&mut self, pool: &mut FramePool, mut left: u32) {
        let mut stuck = 0;
        for _ in 0..left.div_ceil(SMALLEST_BUDGET) + STUCK {
            self.stats.kicks += 1;
            let none = std::ptr::null();
            // SAFETY: an empty, non-blocking send: no memory is handed over.
            let r = unsafe { libc::sendto(self.fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), 0) };
            if r < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    // Portion done, completion ring or send buffer full, driver busy: make room and come again.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => self.stats.kick_again += 1,
                    _ => {
                        self.stats.kick_errors += 1;
                        return;
                    }
                }
            }
            self.complete(pool);
            let now = self.socket.tx.unconsumed();
            if now == 0 || (r >= 0 && self.mode() == BindMode::ZeroCopy) {
                return;
            }
            stuck = if now == left { stuck + 1 } else { 0 };
            if stuck == STUCK {
                return;
            }
            left = now;
        }
    }

    /// Completed packets' chunks go back to the pool, and the fill ring is filled up. Call it in every turn of the loop;
    /// it costs two comparisons when there is nothing to do.
    #[inline]
    pub fn reap(&mut self, pool: &mut FramePool) {
        let held = pool.held(self.id);
        let missing = self.fill_target.saturating_sub(held.fill);
        if held.tx > 0 {
            self.complete(pool);
        }
        if missing >= self.fill_step {
            self.refill(pool, missing);
        }
    }

    fn complete(&mut self, pool: &mut FramePool) {
        let mut bad = 0;
        while let Some(addr) = self.socket.completion.take() {
            bad += u64::from(!pool.completed(self.id, addr));
        }
        self.stats.tx_bad += bad;
        self.stats.completions += u64::from(self.socket.completion.release());
    }

    fn refill(&mut self, pool: &mut FramePool, missing: u32) {
        let spare = pool.available().saturating_sub(RESERVE).min(missing as usize) as u32;
        if spare < missing {
            self.stats.fill_short += 1;
        }
        if lend(pool, self.id, &mut self.socket.fill, spare) > 0 && self.socket.fill.need_wakeup() {
            self.wake_rx();
        }
    }

    /// How the chunks that this port holds are spread over its rings just now.
    pub fn rings(&self, pool: &FramePool) -> Rings {
        let held = pool.held(self.id);
        let fill = self.socket.fill.unconsumed();
        let rx = self.socket.rx.waiting();
        let completion = self.socket.completion.waiting();
        Rings {
            fill,
            kernel_rx: held.fill.saturating_sub(fill + rx),
            rx,
            tx: held.tx.saturating_sub(completion),
            completion,
        }
    }

    /// Closes the socket and takes all its chunks back. Waits up to 20 ms for packets under way, and in zero-copy mode
    /// 50 ms for the driver. Returns how many chunks came back from rings that would never have returned them.
    pub fn close(mut self, pool: &mut FramePool) -> u32 {
        let until = Instant::now() + DRAIN;
        while pool.held(self.id).tx > 0 && Instant::now() < until {
            self.flush(pool);
            self.complete(pool);
            std::thread::sleep(Duration::from_micros(200));
        }
        if let Some(frame) = self.partial.take() {
            pool.free(frame);
        }
        let (id, mode) = (self.id, self.mode());
        drop(self);
        if mode == BindMode::ZeroCopy {
            std::thread::sleep(TEARDOWN);
        }
        pool.reclaim(id)
    }
}

/// Puts up to `want` free chunks into a fill ring. Returns how many.
fn lend(pool: &mut FramePool, id: PortId, ring: &mut super::ring::Producer<u64>, want: u32) -> u32 {
    for _ in 0..want.min(ring.room(want)) {
        let Some(addr) = pool.lend_to_fill(id) else { break };
        // Room was checked above.
        let put = ring.put(addr);
        debug_assert!(put);
    }
    ring.commit()
}

#[cfg(test)]
#[path = "xdp_tests.rs"]
mod tests;
