//! One interface for all kinds of port, without dynamic dispatch: what the worker's loop calls.
//!
//! A turn of the loop is: `rx_burst` each port, walk the graph, `send` each port its packets, `reap` each port. All of it
//! may be called with nothing to do and then costs a few comparisons.

use std::os::fd::RawFd;

use super::error::IoError;
use super::fault::FaultPort;
use super::frame::Frame;
use super::loopback::LoopbackPort;
use super::pcap::PcapPort;
use super::pool::FramePool;
use super::socket::KernelStats;
use super::tap::TapPort;
use super::xdp::XdpPort;

/// Shortest packet that a port sends: an Ethernet header.
pub const SHORTEST: usize = 14;

/// Tries that [`PortIo::send`] makes before it gives packets up.
const SEND_TRIES: u32 = 4;

/// What a port has done since it was opened. Written by its worker alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Packets received of more than one part.
    pub rx_chains: u64,
    /// Packets thrown away because they had too many parts, or found too few free chunks.
    pub rx_truncated: u64,
    /// Receive descriptors, or offload headers of a tap, that made no sense. Zero unless something is broken.
    pub rx_bad: u64,
    /// Packets taken to be sent.
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_chains: u64,
    /// Packets given up because the port stayed full.
    pub tx_full: u64,
    /// Packets that cannot be sent: too short, too many parts; and completions that made no sense.
    pub tx_bad: u64,
    /// Packets that the kernel did not take: the tap is down or gone.
    pub tx_refused: u64,
    pub completions: u64,
    /// System calls that asked the kernel to send.
    pub kicks: u64,
    /// Kicks answered with "come again".
    pub kick_again: u64,
    /// Kicks that failed: link down, interface gone.
    pub kick_errors: u64,
    /// System calls that drove or woke the receive side.
    pub rx_wakeups: u64,
    /// Refills that found too few free chunks.
    pub fill_short: u64,
}

/// Where the chunks that a port holds are. All zero for ports without rings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rings {
    pub fill: u32,
    pub kernel_rx: u32,
    pub rx: u32,
    /// In the transmit ring or with the driver.
    pub tx: u32,
    pub completion: u32,
}

/// A port of any kind. Large, but a worker has few and never moves them.
#[allow(clippy::large_enum_variant)]
pub enum PortIo {
    Xdp(XdpPort),
    Tap(TapPort),
    Pcap(PcapPort),
    Loopback(LoopbackPort),
    /// Another port with faults put in, for tests.
    Fault(Box<FaultPort>),
}

macro_rules! each {
    ($port:expr, $p:ident => $call:expr) => {
        match $port {
            PortIo::Xdp($p) => $call,
            PortIo::Tap($p) => $call,
            PortIo::Pcap($p) => $call,
            PortIo::Loopback($p) => $call,
            PortIo::Fault($p) => $call,
        }
    };
}

impl PortIo {
    /// Appends up to `max` packets to `out`, never beyond its capacity (it does not grow). Returns how many.
    #[inline]
    pub fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        each!(self, p => p.rx_burst(pool, out, max))
    }

    /// Takes packets from the front of `frames` as far as there is room, chains whole or not at all; the rest stays.
    /// Returns how many were taken. They leave with [`Self::flush`].
    #[inline]
    pub fn tx_burst(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        each!(self, p => p.tx_burst(pool, frames))
    }

    /// Sends what was taken; at most one system call per batch where the kernel allows it.
    #[inline]
    pub fn flush(&mut self, pool: &mut FramePool) {
        each!(self, p => p.flush(pool))
    }

    /// Chunks of sent packets go back to the pool; the receive side gets new ones.
    #[inline]
    pub fn reap(&mut self, pool: &mut FramePool) {
        each!(self, p => p.reap(pool))
    }

    /// `tx_burst` and one `flush`, tried again up to three times while the port is full. What is left then is freed and
    /// counted in `tx_full`: a queue that stays full must not hold up the other ports. `frames` is empty afterwards.
    /// Returns how many packets were given up.
    pub fn send(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        for _ in 0..SEND_TRIES {
            self.tx_burst(pool, frames);
            self.flush(pool);
            if frames.is_empty() {
                return 0;
            }
        }
        let lost = frames.len();
        for frame in frames.drain(..) {
            pool.free(frame);
        }
        self.stats_mut().tx_full += lost as u64;
        lost
    }

    /// What to poll for readability while idle. `None` for ports without a descriptor.
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Xdp(p) => Some(p.fd()),
            Self::Tap(p) => Some(p.fd()),
            Self::Fault(p) => p.inner().fd(),
            Self::Pcap(_) | Self::Loopback(_) => None,
        }
    }

    /// The kernel's own counts of the port's socket; all zero for ports without one.
    pub fn kernel_stats(&self) -> KernelStats {
        match self {
            Self::Xdp(p) => p.kernel_stats().unwrap_or_default(),
            Self::Fault(p) => p.inner().kernel_stats(),
            Self::Tap(_) | Self::Pcap(_) | Self::Loopback(_) => KernelStats::default(),
        }
    }

    /// Whether packets taken by [`Self::tx_burst`] have not left the ring yet: a worker must not sleep on them.
    pub fn unsent(&self) -> bool {
        match self {
            Self::Xdp(p) => p.unsent(),
            Self::Fault(p) => p.inner().unsent(),
            Self::Tap(_) | Self::Pcap(_) | Self::Loopback(_) => false,
        }
    }

    /// Whether no packet will ever come again: the capture was read to its end.
    pub fn exhausted(&self) -> bool {
        match self {
            Self::Pcap(p) => p.exhausted(),
            Self::Fault(p) => p.exhausted(),
            Self::Xdp(_) | Self::Tap(_) | Self::Loopback(_) => false,
        }
    }

    pub fn stats(&self) -> &PortStats {
        each!(self, p => p.stats())
    }

    pub(super) fn stats_mut(&mut self) -> &mut PortStats {
        each!(self, p => p.stats_mut())
    }

    /// Number of the queue of the interface, where there is one.
    pub fn queue(&self) -> Option<u32> {
        match self {
            Self::Xdp(p) => Some(p.queue()),
            Self::Fault(p) => p.inner().queue(),
            Self::Tap(_) | Self::Pcap(_) | Self::Loopback(_) => None,
        }
    }

    pub fn rings(&self, pool: &FramePool) -> Rings {
        match self {
            Self::Xdp(p) => p.rings(pool),
            Self::Fault(p) => p.inner().rings(pool),
            Self::Tap(_) | Self::Pcap(_) | Self::Loopback(_) => Rings::default(),
        }
    }

    /// Closes the port; all chunks it holds go back to the pool. An error is a capture that could not be read or written
    /// to its end.
    pub fn close(self, pool: &mut FramePool) -> Result<(), IoError> {
        match self {
            Self::Xdp(p) => {
                p.close(pool);
                Ok(())
            }
            Self::Fault(p) => p.close(pool),
            Self::Tap(p) => p.close(),
            Self::Pcap(p) => p.close(),
            Self::Loopback(_) => Ok(()),
        }
    }
}
