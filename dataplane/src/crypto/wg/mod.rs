//! WireGuard: its four messages, its handshake, its cookies and its transport sessions.
//!
//! Works on bytes and frames in place; knows of no socket, peer table or timer. Sources: J. A. Donenfeld, "WireGuard: Next
//! Generation Kernel Network Tunnel" (the revision of 2020; "the paper" below, with its section numbers), the Noise protocol
//! framework (revision 34), and the behaviour of the Linux kernel where the paper leaves a choice. Order of reading:
//! [`message`] (the wire format) → [`keys`] → [`noise`] (the handshake) → [`cookie`] and
//! [`limit`] (what protects it) → [`session`] (transport).

pub mod activity;
pub mod cookie;
mod error;
pub mod keys;
pub mod limit;
pub mod message;
pub mod noise;
#[cfg(test)]
mod noise_tests;
pub mod session;
#[cfg(test)]
mod session_tests;
mod symmetric;
pub mod timestamp;

pub use activity::Activity;
pub use keys::{Identity, PrivateKey, Psk, PublicKey, Remote};
pub use message::Message;
pub use noise::{Initiator, NoiseError, Opening, Responder, SessionKeys};
pub use session::Session;
pub use timestamp::Tai64n;

use std::time::Duration;

/// An initiator makes a new session when it sends with one of this age (the paper §6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session older than this neither seals nor opens (§6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long an initiator keeps trying (§6.4).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Between two attempts, and between a message without answer and the first of them (§6.4).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without sending anything, data received is answered with a keepalive (§6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The initiator makes a new session once it has sent this many packets (§6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// First counter that is never used, in either direction (§6.1).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// A peer's initiations closer together than this are a flood, or a replay of somebody's (as the Linux kernel: 50 per second).
pub const INITIATION_INTERVAL: Duration = Duration::from_millis(20);
