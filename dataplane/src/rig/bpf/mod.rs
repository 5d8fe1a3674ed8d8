//! Small BPF programs of the rig, written as instructions and loaded with `bpf(2)`: what they need is a dozen instructions
//! each, and hand assembly spares the bench a second toolchain.

pub mod asm;
pub mod programs;
pub mod replay;
pub mod sys;
