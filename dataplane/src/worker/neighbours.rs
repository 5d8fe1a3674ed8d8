//! The worker's side of neighbour resolution: asks the control thread, not more often than makes sense.

use crate::host::fib::PortId;
use crate::host::watch::AskQueue;
use std::net::IpAddr;
use std::sync::Arc;

/// A neighbour is asked for again after this time (nanoseconds): ARP's own retransmission is a second (RFC 1122 §2.3.2.1).
const AGAIN: u64 = 250_000_000;

/// The last neighbours asked for.
#[derive(Debug)]
pub struct Asks {
    queue: Arc<AskQueue>,
    recent: [Option<(PortId, IpAddr, u64)>; 16],
    at: usize,
}

impl Asks {
    pub fn new(queue: Arc<AskQueue>) -> Self {
        Self { queue, recent: [None; 16], at: 0 }
    }

    pub fn ask(&mut self, port: PortId, address: IpAddr, now: u64) {
        let known = |entry: &&mut Option<(PortId, IpAddr, u64)>| matches!(entry, Some((p, a, _)) if *p == port && *a == address);
        match self.recent.iter_mut().find(known) {
            Some(Some((_, _, asked))) if now < *asked + AGAIN => return,
            Some(entry) => *entry = Some((port, address, now)),
            None => {
                self.recent[self.at] = Some((port, address, now));
                self.at = (self.at + 1) % self.recent.len();
            }
        }
        self.queue.ask(port, address);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_question_per_neighbour_and_quarter_second() {
        let queue = AskQueue::new();
        let mut asks = Asks::new(queue.clone());
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        for (address, now) in [(a, 0), (a, 1000), (b, 1000), (a, AGAIN - 1), (a, AGAIN)] {
            asks.ask(1, address, now);
        }
        let asked: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(asked, [(1, a), (1, b), (1, a)]);
    }
}
