//! How many handshakes per source address, under load: a token bucket each, as many per second as the Linux kernel allows.
//!
//! To be asked only for messages that proved their address ([`Proof::Address`](super::cookie::Proof)): otherwise
//! forged addresses fill the table and starve real ones.

use std::collections::HashMap;
use std::net::IpAddr;

/// Handshake messages per second and source, and how many at once.
const PER_SECOND: u64 = 20;
const BURST: u64 = 5;
const COST_NS: u64 = 1_000_000_000 / PER_SECOND;
const FULL_NS: u64 = COST_NS * BURST;
/// A bucket that was full this long ago is nobody's any more.
const IDLE_NS: u64 = 1_000_000_000;

/// An IPv4 address, or the /64 of an IPv6 address: a host with one has the others of it, too.
fn source(ip: IpAddr) -> u64 {
    match ip {
        // No IPv6 network begins with 16 bits of zeros (RFC 4291 §2.4 keeps them), so the two kinds do not meet.
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => u32::from(ip).into(),
            None => (u128::from(ip) >> 64) as u64,
        },
    }
}

struct Bucket {
    /// Nanoseconds of credit, at most [`FULL_NS`].
    credit: u64,
    at: u64,
}

/// The buckets of all sources, at most as many as asked for.
pub struct RateLimiter {
    buckets: HashMap<u64, Bucket>,
    capacity: usize,
    /// When idle ones were last thrown out.
    swept: u64,
}

impl RateLimiter {
    /// `capacity`: how many sources at once; about 40 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self { buckets: HashMap::new(), capacity: capacity.max(1), swept: 0 }
    }

    /// Whether a handshake message from `ip` may go on. `now` is monotonic nanoseconds. Where the table is full of busy sources, a
    /// new one may not.
    pub fn allow(&mut self, ip: IpAddr, now: u64) -> bool {
        if now.saturating_sub(self.swept) >= IDLE_NS {
            self.swept = now;
            self.buckets.retain(|_, b| now.saturating_sub(b.at) < IDLE_NS);
        }
        let source = source(ip);
        if let Some(bucket) = self.buckets.get_mut(&source) {
            bucket.credit = FULL_NS.min(bucket.credit.saturating_add(now.saturating_sub(bucket.at)));
            bucket.at = now;
            if bucket.credit < COST_NS {
                return false;
            }
            bucket.credit -= COST_NS;
            return true;
        }
        if self.buckets.len() >= self.capacity {
            return false;
        }
        self.buckets.insert(source, Bucket { credit: FULL_NS - COST_NS, at: now });
        true
    }

    /// Sources remembered.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SECOND: u64 = 1_000_000_000;

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut limiter = RateLimiter::new(10);
        let mut now = 7 * SECOND;
        assert_eq!((0..100).filter(|_| limiter.allow(v4(1), now)).count(), 5);
        let mut allowed = 0;
        for _ in 0..10_000 {
            now += SECOND / 1000;
            allowed += usize::from(limiter.allow(v4(1), now));
        }
        assert_eq!(allowed, 200, "ten seconds at 20 per second");
        assert!(limiter.allow(v4(2), now), "another source is not concerned");
        assert_eq!((0..100).filter(|_| limiter.allow(v4(1), now + 10 * SECOND)).count(), 5, "credit is bounded");
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut limiter = RateLimiter::new(1000);
        let now = 5 * SECOND;
        assert_eq!((0..5000).filter(|n| limiter.allow(v4(*n), now)).count(), 1000);
        assert_eq!(limiter.len(), 1000);
        assert!(limiter.allow(v4(1), now), "those that are in go on");
        assert!(limiter.allow(v4(70_000), now + SECOND));
        assert_eq!(limiter.len(), 1);
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        let mut limiter = RateLimiter::new(1000);
        let host = |net: u16, n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, n));
        assert_eq!((0..100).filter(|n| limiter.allow(host(1, *n), SECOND)).count(), 5);
        assert!(limiter.allow(host(2, 0), SECOND));
        let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert_eq!((0..9).filter(|_| limiter.allow(mapped, SECOND)).count(), 5);
        assert!(!limiter.allow(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), SECOND));
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_is_no_panic() {
        let mut limiter = RateLimiter::new(2);
        for now in [u64::MAX, 0, u64::MAX, 5] {
            let _ = limiter.allow(v4(1), now);
        }
    }
}
