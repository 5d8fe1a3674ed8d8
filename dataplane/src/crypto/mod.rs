//! Encryption of tunnels: AEAD back ends, keys from files, ESP security associations, the anti-replay window.
//!
//! Everything here works on bytes and [`Frame`](crate::io::frame::Frame)s in place; nothing knows of rings, nodes or
//! plans. Order of reading: [`secret`] → [`aead`] → [`keyfile`] → [`esp`] (the wire format) → [`outer`] (the header in front) →
//! [`transport`] (no header in front, but the packet's own) → [`outbound`] and [`inbound`] (one security association
//! each), their [`lifetime`] and [`replay`] window → [`sadb`] (finding them).

pub mod aead;
pub mod ecn;
pub mod esp;
#[cfg(test)]
mod esp_mode_tests;
#[cfg(test)]
mod esp_tests;
pub mod inbound;
pub mod keyfile;
pub mod lifetime;
pub mod outbound;
pub mod outer;
pub mod replay;
pub mod sadb;
pub mod secret;
mod start;
#[cfg(test)]
pub(crate) mod testing;
mod transport;
pub mod wg;

pub use aead::{Cipher, KeyMaterial};
pub use esp::{Inner, OpenError, Opened, SealError};
pub use inbound::{InboundConfig, InboundOptions, InboundSa};
pub use outbound::{OutboundConfig, OutboundOptions, OutboundSa};

/// Asks for the cache lines that `value` itself is in; of values that begin a line all of them, of others perhaps not the last.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<T>().div_ceil(64) {
        // SAFETY: a prefetch within `value`; it reads nothing.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(line * 64));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for the cache line that `value` begins in.
#[inline]
pub(crate) fn prefetch_line<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of memory that `value` is in; it reads nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
