//! WireGuard's control side: peers, timers, allowed IPs, the configuration socket. Workers carry the packets.
//!
//! [`device::Device`] knows no socket and no clock: [`serve`] gives it both. What workers need of it is immutable and shared:
//! [`peer::PeerView`]s and an [`allowed::AllowedTable`]. Sources: J. A. Donenfeld, "WireGuard: Next Generation Kernel Network
//! Tunnel" ("the paper" below, with its section numbers), wireguard.com/xplatform for the configuration protocol, and
//! the behaviour of the Linux kernel where these leave a choice. Order of reading: [`allowed`] → [`timers`] → [`peer`] →
//! [`device`], `due` (time) and [`receive`] (messages) → [`uapi`] (text) → [`config`] (what it does) → [`uapi_server`] → [`udp`] → `pace` → [`serve`].

pub mod allowed;
pub mod config;
pub mod device;
mod due;
pub mod load;
mod pace;
pub mod peer;
pub mod receive;
pub mod serve;
pub mod timers;
pub mod uapi;
pub mod uapi_server;
#[cfg(test)]
mod uapi_tests;
pub mod udp;

pub use device::{Action, Device, Now};
pub use load::Limits;
pub use peer::{Endpoint, PeerView, Sessions};

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod sim;
