//! What is counted, and how it is told: per-worker counters, their sum, Prometheus text, logs.

pub mod counters;
pub mod export;
pub mod journal;
pub mod log;
pub mod prometheus;
pub mod snapshot;
