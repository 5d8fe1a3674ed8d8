//! ESP behind NATs (RFC 3948, RFC 7296 §2.23): when to send a keepalive, what it is, and when a peer has moved. Decisions
//! only; the control side has the socket and the clock.

use std::net::SocketAddr;

/// The whole UDP payload of a keepalive (RFC 3948 §2.3). Not authenticated, and never a reason to do anything.
pub const KEEPALIVE: [u8; 1] = [0xff];
/// RFC 3948 §4: nanoseconds without a packet after which one is sent.
pub const DEFAULT_INTERVAL: u64 = 20_000_000_000;

/// When to send keepalives to one peer. Only the side behind the NAT does: its NAT forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    /// Nanoseconds; 0: never.
    pub interval: u64,
}

impl Default for Keepalives {
    fn default() -> Self {
        Self { interval: DEFAULT_INTERVAL }
    }
}

impl Keepalives {
    /// Whether one is due. `sent`: when the last packet of any kind went to the peer (keepalives too), monotonic nanoseconds
    /// like `now`.
    pub fn due(self, now: u64, sent: u64) -> bool {
        self.deadline(sent).is_some_and(|at| now >= at)
    }

    /// When to look again. `None`: never.
    pub fn deadline(self, sent: u64) -> Option<u64> {
        (self.interval != 0).then(|| sent.saturating_add(self.interval))
    }
}

/// Where a peer is now, if that is not where it was: the outer source of an authentic packet of ESP in UDP from elsewhere.
///
/// `newest`: its sequence number is the highest so far; an old packet that was held up, or one captured and sent again from
/// elsewhere, must not move the peer back. `behind_nat`: we are, and then do not follow (RFC 7296 §2.23): whoever can rewrite
/// addresses on our side could send our packets anywhere. The family never changes: the outer header is another then.
pub fn moved(known: SocketAddr, seen: SocketAddr, newest: bool, behind_nat: bool) -> Option<SocketAddr> {
    let valid = seen.port() != 0 && !seen.ip().is_unspecified() && !seen.ip().is_multicast();
    let same_family = known.is_ipv4() == seen.is_ipv4();
    let elsewhere = (known.ip(), known.port()) != (seen.ip(), seen.port());
    (elsewhere && newest && !behind_nat && valid && same_family).then_some(seen)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn one_keepalive_per_idle_interval() {
        let keepalives = Keepalives::default();
        let (mut sent, mut count) = (100 * SECOND, 0);
        for now in (100..=200).map(|s| s * SECOND) {
            if keepalives.due(now, sent) {
                (sent, count) = (now, count + 1);
            }
        }
        assert_eq!(count, 5);
        assert!(!keepalives.due(119 * SECOND, 100 * SECOND), "data keeps the NAT awake too");
        assert_eq!(keepalives.deadline(100 * SECOND), Some(120 * SECOND));
        assert!(!Keepalives { interval: 0 }.due(u64::MAX, 0));
        assert_eq!(keepalives.deadline(u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn a_peer_moves_only_with_its_newest_packet() {
        let known: SocketAddr = "198.51.100.7:4500".parse().unwrap();
        let port: SocketAddr = "198.51.100.7:31000".parse().unwrap();
        let other: SocketAddr = "203.0.113.9:4500".parse().unwrap();
        assert_eq!(moved(known, port, true, false), Some(port));
        assert_eq!(moved(known, other, true, false), Some(other));
        assert_eq!(moved(known, known, true, false), None);
        assert_eq!(moved(known, other, false, false), None, "an old packet");
        assert_eq!(moved(known, other, true, true), None, "the NAT is ours");
        for nonsense in ["203.0.113.9:0", "0.0.0.0:4500", "224.0.0.1:4500", "[2001:db8::1]:4500"] {
            assert_eq!(moved(known, nonsense.parse().unwrap(), true, false), None, "{nonsense}");
        }
    }
}
