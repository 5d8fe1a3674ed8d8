//! Encryption of tunnels: AEAD back ends, keys from files, ESP security associations, the anti-replay window.
//!
//! Everything here works on bytes and [`Frame`](crate::io::frame::Frame)s in place; nothing knows of rings, nodes or
//! plans. Order of reading: [`secret`] → [`aead`] → [`keyfile`] → [`esp`] (the wire format) → [`outer`] (the header in front) →
//! [`outbound`] and [`inbound`] (one security association each) → [`sadb`] (finding them).

pub mod aead;
pub mod ecn;
pub mod esp;
#[cfg(test)]
mod esp_tests;
pub mod inbound;
pub mod keyfile;
pub mod outbound;
pub mod outer;
pub mod replay;
pub mod sadb;
pub mod secret;
#[cfg(test)]
pub(crate) mod testing;

pub use aead::{Cipher, KeyMaterial};
pub use esp::{Inner, OpenError, Opened, SealError};
pub use inbound::{InboundConfig, InboundSa};
pub use outbound::{OutboundConfig, OutboundSa};
