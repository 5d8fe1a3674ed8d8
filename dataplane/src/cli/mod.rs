//! (see ARCHITECTURE.md)
pub mod classify;
