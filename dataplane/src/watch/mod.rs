//! Looking at packets on their way: `softdpu trace` (every node and its edits) and `softdpu capture` (pcapng).
//!
//! The control side makes a [`Session`] with all its memory and gives it to the workers, which copy what they see into records
//! from a bounded pool and queue them; what there is no record for is lost for the watcher, never for the traffic, and counted.
//! Nothing is allocated or locked on the packet path. A worker that is not watching has one branch per batch.

pub mod driver;
pub mod feed;
pub mod filter;
pub mod names;
pub mod pcapng;
pub mod record;
pub mod request;
pub mod session;
pub mod steered;
pub mod step;
pub mod way;
pub mod worker;

pub use feed::Feed;
pub use record::{End, Point, Record};
pub use request::WatchRequest;
pub use session::{Session, What};
pub use worker::Watch;
