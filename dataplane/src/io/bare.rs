//! Receive and send with nothing between: the limit that the worker's loop is measured against.

use std::sync::atomic::{AtomicBool, Ordering};

use super::frame::Frame;
use super::pool::FramePool;
use super::port::PortIo;

/// What is done to a packet on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    Nothing,
    /// Destination and source address of the Ethernet header change places.
    SwapMacs,
}

/// Moves packets between two ports, both ways, in batches of up to `batch`, until `stop` is set. Busy: never sleeps.
/// Returns how many packets were taken for sending.
pub fn forward_loop(
    a: &mut PortIo,
    b: &mut PortIo,
    pool: &mut FramePool,
    batch: usize,
    touch: Touch,
    stop: &AtomicBool,
) -> u64 {
    let mut frames = Vec::with_capacity(batch);
    let mut moved = 0;
    while !stop.load(Ordering::Relaxed) {
        moved += step(a, b, pool, &mut frames, touch);
        moved += step(b, a, pool, &mut frames, touch);
    }
    moved
}

/// One batch from `from` to `to`.
fn step(from: &mut PortIo, to: &mut PortIo, pool: &mut FramePool, frames: &mut Vec<Frame>, touch: Touch) -> u64 {
    let max = frames.capacity();
    let n = from.rx_burst(pool, frames, max);
    if n == 0 {
        // Completions, and what an earlier flush left in the ring.
        to.flush(pool);
        to.reap(pool);
        from.reap(pool);
        return 0;
    }
    if touch == Touch::SwapMacs {
        for frame in frames.iter_mut() {
            if let Some((to, from)) = frame.bytes_mut().get_mut(..12).map(|macs| macs.split_at_mut(6)) {
                to.swap_with_slice(from);
            }
        }
    }
    let lost = to.send(pool, frames);
    to.reap(pool);
    from.reap(pool);
    (n - lost) as u64
}
