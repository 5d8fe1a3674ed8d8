//! The kernel's IPsec tables, mirrored over `NETLINK_XFRM`: what `ip xfrm`, strongSwan or Libreswan installs there is what
//! softdpu runs.
//!
//! * [`model`]: states (SAs) and policies as types.
//! * [`layout`], [`message`], [`request`]: the bytes of `linux/xfrm.h`, read and written.
//! * [`tables`]: what the messages add up to.
//! * [`mirror`]: the task that keeps them true and hands them on.
//! * [`spd`]: the policy look-up that workers do.
//! * [`report`]: what is told back, so that the key daemon rekeys and the kernel can take over.

mod inbound;
pub mod layout;
pub mod message;
pub mod mirror;
pub mod model;
pub mod parts;
pub mod replay;
pub mod report;
pub mod request;
pub mod run;
pub mod selector;
pub mod socket;
pub mod spd;
pub mod tables;

#[cfg(test)]
pub(crate) mod testing;
