//! Benches of softdpu: side by side with the kernel and a bare AF_XDP loop, and in memory against bare libraries.
//! Everything that is compared is measured in one run, in turn (A B C A B C …), so that noise hits all alike.

pub mod absent;
pub mod aead;
pub mod applications;
pub mod bulk;
pub mod cases;
pub mod classify;
pub mod clock;
pub mod compare;
pub mod connect;
pub mod energy;
pub mod esp;
pub mod esp_many;
pub mod flows;
pub mod fresh;
pub mod functions;
pub mod gain;
pub mod graph;
pub mod hostile;
pub mod https;
pub mod idle;
pub mod instance;
pub mod instructions;
pub mod latency;
pub mod machine;
pub mod memory;
pub mod micro;
pub mod modelled;
pub mod offload;
pub mod page;
pub mod path;
pub mod reload;
pub mod report;
pub mod rules;
pub mod scale;
pub mod session;
pub mod stats;
pub mod steer;
pub mod tunnels;
pub mod udp;
pub mod veth;
pub mod wg;
pub mod wg_many;

pub use softdpu::rig::{bpf, net, progress, stop};
