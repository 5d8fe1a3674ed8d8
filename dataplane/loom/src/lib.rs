//! The same file that the dataplane compiles, so that loom checks what runs. Empty without `--cfg loom`.
#![cfg(loom)]

#[path = "../../src/io/ring.rs"]
pub mod ring;
