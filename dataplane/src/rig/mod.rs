//! A rig to measure with on one machine: hosts made of nameless namespaces, a generator that outruns what it feeds, and what
//! becomes of the figures. `softdpu tune` and the benches stand on it; nothing of it runs beside a dataplane in service.

pub mod bpf;
pub mod instance;
pub mod net;
pub mod progress;
pub mod stats;
pub mod stop;
