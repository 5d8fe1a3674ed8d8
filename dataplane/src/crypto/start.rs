//! Where an outbound association's numbers begin, and the clock that keeps them from coming twice.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::esp::SaError;

/// 2025-01-01T00:00:00Z. A clock that says less was never set.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_735_689_600);

/// Where the sequence numbers and the IVs begin.
///
/// A nonce used twice under one key breaks AES-GCM and ChaCha20-Poly1305 altogether. Keys from files outlive the
/// process, so a counter that began at 1 at each start would do just that (RFC 4106 §2 forbids it). Both `Clock` forms
/// begin at the nanoseconds since 1970: no association sends a packet per nanosecond, so each start is beyond
/// whatever an earlier one used, as long as the clock is not set back between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Sequence numbers from the clock, IV equal to the sequence number. For a peer that takes the high half from the
    /// IV ([`Sequence::InIv`](super::inbound::Sequence::InIv)): it then follows a restart at once, where counting from
    /// 1 again would look like a replay. Extended numbers only; without them it is [`Start::ClockIv`].
    Clock,
    /// Sequence numbers from 1, IV = clock + sequence number. For any peer.
    ClockIv,
    /// For the mirror of an association that another (the kernel) has used up to this number: sequence numbers go on
    /// behind it, IV = clock + sequence number, so that a mirror that begins again repeats none.
    After { seq: u64 },
    /// As given: for keys that are fresh by themselves (a key exchange) and for tests.
    At { seq: u64, iv_offset: u64 },
}

impl Start {
    /// The first sequence number, and what is added to each to make its IV.
    pub(super) fn resolve(self, extended: bool) -> Result<(u64, u64), SaError> {
        Ok(match self {
            Start::At { seq, iv_offset } => (seq.max(1), iv_offset),
            Start::After { seq } => (seq.saturating_add(1), clock()?),
            Start::Clock if extended => (clock()?, 0),
            Start::Clock | Start::ClockIv => (1, clock()?),
        })
    }
}

/// Nanoseconds since 1970, and within one process never less than before, whatever happens to the clock.
fn clock() -> Result<u64, SaError> {
    static ANCHOR: OnceLock<(Duration, Instant)> = OnceLock::new();
    let (wall, at) = match ANCHOR.get() {
        Some(anchor) => anchor,
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if now < CLOCK_FLOOR {
                return Err(SaError::ClockNotSet);
            }
            ANCHOR.get_or_init(|| (now, Instant::now()))
        }
    };
    // 64 bits of nanoseconds reach to the year 2554.
    Ok((*wall + at.elapsed()).as_nanos() as u64)
}
