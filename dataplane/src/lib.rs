//! softdpu: a DPU in software. The modules stand in the order a packet meets them; ARCHITECTURE.md walks one packet.

pub mod cases;
pub mod cli;
pub mod compress;
pub mod config;
pub mod control;
pub mod crypto;
pub mod doctor;
pub mod flow;
pub mod graph;
pub mod host;
pub mod io;
pub mod l7;
pub mod nodes;
pub mod offload;
pub mod plan;
pub mod rig;
pub mod telemetry;
pub mod tune;
pub mod tunnel;
pub mod watch;
pub mod wire;
pub mod worker;
