//! A port on an AF_XDP socket: bursts in, bursts out, and the upkeep of the fill and completion rings.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::error::IoError;
use super::frame::Frame;
use super::pool::FramePool;
use super::port::{PortStats, Rings};
use super::queues::{Queues, lend};
use super::socket::{self, BindMode, KernelStats, Socket, SocketSpec, ZeroCopy};

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
    queues: Queues,
    interface: String,
    queue: u32,
    busy_poll: bool,
    /// Empty bursts since the last packet.
    idle: u32,
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
        let mut ways = socket::ways(&umem, &spec.socket)?.into_iter().peekable();
        let (socket, ends) = loop {
            let way = ways.next().expect("there is always one way, and none after the last");
            let opened = Socket::open(&umem, &spec.socket, way, |ring| {
                lend(pool, id, ring, fill_target);
            });
            match opened {
                Ok(opened) => break opened,
                Err(e) => {
                    pool.reclaim(id);
                    if ways.peek().is_none() || !socket::may_do_otherwise(&e) {
                        return Err(e);
                    }
                }
            }
        };
        let queues = Queues::new(ends, id, fill_target, socket.multi_buffer());
        Ok(Self { socket, queues, interface: interface.clone(), queue: *queue, busy_poll: *busy_poll, idle: 0 })
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
        &self.queues.stats
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        &mut self.queues.stats
    }

    pub fn kernel_stats(&self) -> io::Result<KernelStats> {
        self.socket.kernel_stats()
    }

    /// Appends up to `max` packets to `out`, never beyond its capacity. Returns how many. A packet of more than
    /// [`super::pool::MAX_PARTS`] parts is thrown away and counted in `rx_truncated`.
    #[inline]
    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        if let Some(n) = self.queues.receive(pool, out, max) {
            self.idle = 0;
            return n;
        }
        self.rx_idle();
        0
    }

    /// Nothing came. Drives the driver under busy poll, and wakes it where it waits for buffers it has by now.
    fn rx_idle(&mut self) {
        let asks = self.busy_poll || (self.idle.is_multiple_of(WAKE_EVERY) && self.queues.ends.fill.need_wakeup());
        self.idle = self.idle.wrapping_add(1);
        if asks {
            self.wake_rx();
        }
    }

    fn wake_rx(&mut self) {
        self.queues.stats.rx_wakeups += 1;
        let none = std::ptr::null_mut();
        // SAFETY: an empty, non-blocking receive: no memory is handed over.
        unsafe { libc::recvfrom(self.fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast()) };
    }

    /// Takes packets from the front of `frames` into the transmit ring, as many as fit; a chain goes whole or not at all.
    /// The rest stays in `frames`. Nothing leaves before [`Self::flush`]. Returns how many were taken.
    ///
    /// Packets that no ring could ever take (shorter than an Ethernet header, more than [`super::pool::MAX_PARTS`] parts, an empty
    /// part, or a chain where the kernel has no multi-buffer) are freed and counted in `tx_bad`.
    #[inline]
    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        self.queues.send(pool, frames)
    }

    /// Makes the kernel send what is in the ring: no system call where it does not ask for one, one per batch where it
    /// takes all at once, otherwise a bounded number. What is still there then (the link's queue is full) goes with the
    /// next flush: call it in every turn of the loop. Costs a comparison when nothing is under way.
    #[inline]
    pub fn flush(&mut self, pool: &mut FramePool) {
        if pool.held(self.queues.id).tx == 0 {
            return;
        }
        let left = self.queues.ends.tx.unconsumed();
        if left == 0 || !(self.busy_poll || self.queues.ends.tx.need_wakeup()) {
            return;
        }
        self.kick(pool, left);
    }

    /// Whether the transmit ring has packets that the kernel has not taken.
    pub fn unsent(&self) -> bool {
        self.queues.ends.tx.unconsumed() > 0
    }

    fn kick(&mut self, pool: &mut FramePool, mut left: u32) {
        let mut stuck = 0;
        for _ in 0..left.div_ceil(SMALLEST_BUDGET) + STUCK {
            self.queues.stats.kicks += 1;
            let none = std::ptr::null();
            // SAFETY: an empty, non-blocking send: no memory is handed over.
            let r = unsafe { libc::sendto(self.fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), 0) };
            if r < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    // Portion done, completion ring or send buffer full, driver busy: make room and come again.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => self.queues.stats.kick_again += 1,
                    _ => {
                        self.queues.stats.kick_errors += 1;
                        return;
                    }
                }
            }
            self.queues.complete(pool);
            let now = self.queues.ends.tx.unconsumed();
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
        if self.queues.reap(pool) && self.queues.ends.fill.need_wakeup() {
            self.wake_rx();
        }
    }

    /// How the chunks that this port holds are spread over its rings just now.
    pub fn rings(&self, pool: &FramePool) -> Rings {
        self.queues.rings(pool)
    }

    /// Closes the socket and takes all its chunks back. Waits up to 20 ms for packets under way, and in zero-copy mode
    /// 50 ms for the driver. Returns how many chunks came back from rings that would never have returned them.
    pub fn close(mut self, pool: &mut FramePool) -> u32 {
        let until = Instant::now() + DRAIN;
        while pool.held(self.queues.id).tx > 0 && Instant::now() < until {
            self.flush(pool);
            self.queues.complete(pool);
            std::thread::sleep(Duration::from_micros(200));
        }
        self.queues.drop_partial(pool);
        let (id, mode) = (self.queues.id, self.mode());
        drop(self);
        if mode == BindMode::ZeroCopy {
            std::thread::sleep(TEARDOWN);
        }
        pool.reclaim(id)
    }
}

#[cfg(test)]
#[path = "xdp_tests.rs"]
mod tests;
