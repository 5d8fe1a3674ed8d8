//! The same files that the dataplane compiles, so that loom checks what runs. Empty without `--cfg loom`.
#![cfg(loom)]

#[path = "../../src/crypto/replay.rs"]
pub mod replay;
#[path = "../../src/io/ring.rs"]
pub mod ring;
