//! The work, one file per node, in the order a batch meets them.

mod ahead;
pub(crate) mod application;
pub mod classify;
pub mod compress;
pub mod connections;
pub mod decompress;
pub mod emit;
pub mod flow;
pub mod fragment;
pub mod icmp;
mod mirror;
pub mod mss;
pub mod offload;
pub mod open;
mod open_wg;
pub mod outer_fragment;
pub mod parse;
pub mod policy;
pub mod reassemble;
pub mod relay;
pub mod rewrite;
pub mod route;
pub mod seal;
pub mod select;
pub mod treat;
mod xfrm;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod xfrm_tests;
