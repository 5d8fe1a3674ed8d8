//! Flows: one entry for both directions of a 5-tuple (plus VLAN tags and VNI), with one verdict.
//!
//! Everything here belongs to one worker: no lock, and no allocation after [`FlowTable::new`]. The packet path is
//! [`FlowTable::prepare`] → [`FlowTable::prefetch`] → [`FlowTable::lookup_or_insert`] → [`FlowTable::touch`]; between
//! two batches the worker calls [`FlowTable::expire`].

mod bucket;
pub mod entry;
pub mod fragments;
pub mod key;
pub mod table;
pub mod tcp;
pub mod timers;

pub use entry::{Flow, FlowIdx};
pub use key::{Direction, FlowKey, Seed};
pub use table::{FlowConfig, FlowTable, Hit, Prepared, Refusal};
pub use tcp::L4State;
pub use timers::{Tick, Timeouts};

#[cfg(test)]
mod table_tests;
