//! Flows: one entry for both directions of a 5-tuple (plus VLAN tags and overlay network), with one verdict.
//!
//! Everything here belongs to one worker: no lock, and no allocation after [`FlowTable::new`]. The packet path is
//! [`FlowTable::prepare`] → [`FlowTable::prefetch`] → [`FlowTable::lookup_or_insert`] → [`FlowTable::touch`]; between
//! two batches the worker calls [`FlowTable::expire`].

pub mod entry;
mod fragments;
mod index;
pub mod key;
mod marks;
mod memory;
pub(crate) use memory::prefetch;
pub mod table;
pub mod tcp;
pub mod timers;
mod young;

pub use entry::{Flow, FlowIdx, Tier};
pub use key::{Direction, Endpoint, FlowKey, Net, Seed};
pub use table::{FlowConfig, FlowTable, Hit, Prepared, Pressure, Refusal};
pub use tcp::{L4State, Standing};
pub use timers::{Tick, Timeouts};

#[cfg(test)]
mod table_tests;
