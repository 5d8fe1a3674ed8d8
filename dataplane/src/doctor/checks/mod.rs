//! The checks, a file per family. To add one: a function, and a row in the table of its family; the page
//! `docs/troubleshooting.md` follows.

mod cpu;
mod kernel;
mod network;
mod offloads;
mod ports;
mod process;
mod queues;
#[cfg(test)]
mod tests;

use super::Family;

/// All checks, in the order they are made and shown.
pub const CHECKS: &[Family] = &[
    Family { name: "Kernel", checks: kernel::CHECKS },
    Family { name: "Process", checks: process::CHECKS },
    Family { name: "Processors", checks: cpu::CHECKS },
    Family { name: "Ports", checks: ports::CHECKS },
    Family { name: "Queues and rings", checks: queues::CHECKS },
    Family { name: "Offloads", checks: offloads::CHECKS },
    Family { name: "Network", checks: network::CHECKS },
];
