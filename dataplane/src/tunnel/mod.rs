//! Tunnels seen from the control side: where their keys come from, and how workers get them.
//!
//! Whatever the source (key files, WireGuard handshakes, the kernel's XFRM), it ends as one immutable [`keys::Keys`] that
//! the [`publisher`] hands to all workers. Workers tell what they cannot do themselves through [`events`].

pub mod control;
pub mod esp;
pub mod events;
pub mod keepalive;
pub mod keys;
pub mod large_pages;
pub mod lifetimes;
pub mod pmtu;
pub mod publisher;
pub mod steering;
pub mod wg_part;
pub mod wireguard;
pub mod xfrm;
