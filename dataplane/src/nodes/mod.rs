//! The work, one file per node, in the order a batch meets them.

pub mod parse;
pub mod open;
pub mod decompress;
pub mod flow;
pub mod classify;
pub mod policy;
pub mod route;
pub mod icmp;
pub mod fragment;
pub mod compress;
pub mod seal;
pub mod rewrite;
pub mod emit;
