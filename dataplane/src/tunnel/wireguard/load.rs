//! Whether there are more handshakes than this host should spend its time on (the paper §5.3).

use std::net::IpAddr;

use crate::crypto::wg::limit::RateLimiter;

const SECOND_NS: u64 = 1_000_000_000;

/// What a device spends on strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// With more handshake messages than this within a second, senders must prove their address. One costs about 0.2 ms.
    pub free_per_second: u32,
    /// Most cookies a second; each is a packet to an address that may be forged, and costs some 10 us. A flood
    /// beyond it makes it likely that a true peer gets none and has to try again.
    pub cookies_per_second: u32,
    /// How many sources are told apart under load.
    pub sources: usize,
    /// Most peers of a device.
    pub peers: usize,
    /// Most allowed IPs of a device.
    pub allowed_ips: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { free_per_second: 500, cookies_per_second: 20_000, sources: 8192, peers: 1 << 16, allowed_ips: 1 << 20 }
    }
}

/// Counts handshake messages and cookies.
pub struct Load {
    limits: Limits,
    /// The second being counted began then.
    since: u64,
    messages: u32,
    cookies: u32,
    /// Under load until then.
    until: u64,
    sources: RateLimiter,
}

impl Load {
    pub fn new(limits: Limits) -> Self {
        Self { limits, since: 0, messages: 0, cookies: 0, until: 0, sources: RateLimiter::new(limits.sources) }
    }

    /// Counts a handshake message. True where its sender has to prove its address.
    pub fn message(&mut self, now: u64) -> bool {
        self.second(now);
        self.messages = self.messages.saturating_add(1);
        if self.messages > self.limits.free_per_second {
            self.pressure(now);
        }
        self.is_high(now)
    }

    /// There is load, whatever was counted here: a queue runs full. It lasts for a second.
    pub fn pressure(&mut self, now: u64) {
        self.until = now.saturating_add(SECOND_NS);
    }

    pub fn is_high(&self, now: u64) -> bool {
        now < self.until
    }

    /// Whether one more cookie may be sent in this second.
    pub fn cookie(&mut self, now: u64) -> bool {
        self.second(now);
        let may = self.cookies < self.limits.cookies_per_second;
        self.cookies += u32::from(may);
        may
    }

    /// Whether one more message of a source that proved its address may go on.
    pub fn source(&mut self, ip: IpAddr, now: u64) -> bool {
        self.sources.allow(ip, now)
    }

    fn second(&mut self, now: u64) {
        if now.saturating_sub(self.since) >= SECOND_NS {
            (self.since, self.messages, self.cookies) = (now, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_begins_and_ends() {
        let mut load = Load::new(Limits { free_per_second: 3, cookies_per_second: 2, ..Limits::default() });
        let now = 5 * SECOND_NS;
        assert_eq!([(); 5].map(|()| load.message(now)), [false, false, false, true, true]);
        assert_eq!([(); 3].map(|()| load.cookie(now)), [true, true, false]);
        assert!(load.message(now + SECOND_NS - 1) && !load.message(now + 3 * SECOND_NS));
        assert!(load.cookie(now + SECOND_NS));
        load.pressure(now + 9 * SECOND_NS);
        assert!(load.message(now + 9 * SECOND_NS));
    }
}
