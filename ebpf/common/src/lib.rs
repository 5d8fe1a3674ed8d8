//! What the XDP program and user space share: the header walk, map keys and values, verdicts.
#![no_std]
#![cfg_attr(not(test), warn(clippy::std_instead_of_core))]

pub mod flows;
pub mod maps;
pub mod nic;
pub mod walk;
pub mod watch;
