//! Flows that need no worker go down into the driver's table, and come back up when something changes.
//!
//! ```text
//!  worker ── Ask (proposal, end) ──► thread ── insert, remove ──► table in the driver (io::steer::flows)
//!     ▲                                │  ▲
//!     └── Note (placed, counts, left) ─┘  └── routes changed · keys about to change · `softdpu demote` · stop
//! ```
//!
//! The node `offload` proposes a flow once its verdict is settled and nothing is left for a worker to do (`candidate`). The
//! thread puts both directions into the table and says so; from then on it reads their counters once a second and tells the
//! worker, whose flow goes on ageing and counting as if it had seen the packets. Every packet is counted once: by the entry,
//! or by the worker.
//!
//! A flow that a rule drops is proposed to the device it comes by, where that takes such ([`nic`]), else to the driver.
//!
//! A flow that a rule protects is never proposed. Before a snapshot of keys that may protect other flows is in force, the
//! [`Gate`] takes all entries out, and nothing gets in until workers have the new one.

pub mod candidate;
mod flow_name;
pub mod lane;
pub mod nic;
pub mod reason;
mod reason_docs;
mod table;
pub mod thread;
mod told;

pub use flow_name::FlowName;
pub use lane::{Ask, Back, Client, Counts, FlowRef, Lane, Note, What};
pub use nic::NicMode;
pub use reason::Reason;
pub use table::Gate;
pub use thread::{Lanes, Offload, Setting, Unparker};
