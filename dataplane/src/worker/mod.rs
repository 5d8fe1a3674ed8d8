//! The worker: one pinned thread that owns one queue of every port and everything its packets need. It shares nothing with
//! other workers; the control side hands it new plans and forwarding tables, and takes its counters.

mod aside;
pub mod build;
pub mod clock;
pub mod harness;
mod heap;
pub mod history;
pub mod idle;
pub mod instance;
mod name_watch;
pub mod neighbours;
pub mod notices;
pub mod reload;
pub mod replay;
pub mod runtime;
mod tiers;
pub mod turn;
mod watch_files;
pub mod watching;

pub use turn::{Shared, Worker};
