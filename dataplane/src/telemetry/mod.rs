//! What is counted, and how it is told: per-worker counters, their sum, Prometheus text, logs, `softdpu top`.

pub mod counters;
pub mod export;
pub mod figures;
pub mod intents;
pub mod journal;
pub mod log;
pub mod prometheus;
pub mod snapshot;
pub mod top;
