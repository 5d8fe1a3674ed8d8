//! The worker's clock: monotonic nanoseconds since the process started, read once per batch.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process, plus one second: 0 is never "now".
#[inline]
pub fn now() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1_000_000_000
}
