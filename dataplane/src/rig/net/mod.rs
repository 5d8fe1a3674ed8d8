//! Hosts for the rig: nameless namespaces, links between them, and which core does their work.

pub mod cores;
pub mod generator;
pub mod namespace;
pub mod topology;
