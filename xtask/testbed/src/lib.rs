//! What the demo and the end-to-end tests stand on: hosts made of network namespaces, processes in them, captures of
//! what passes between them, and traffic to send.
//!
//! Everything made here is a guard: it goes away when dropped, on panic, on Ctrl-C and, where the process was killed
//! outright, at the next start (see [`cleanup`]).

pub mod account;
pub mod bpf;
pub mod capture;
pub mod cleanup;
pub mod edge;
pub mod example;
pub mod garbage;
pub mod generator;
pub mod hostile;
pub mod interop;
pub mod nat;
pub mod netns;
pub mod packet;
pub mod pcap;
pub mod peers;
pub mod policy;
pub mod process;
pub mod screen;
pub mod status;
pub mod topology;

/// Whether this process may make namespaces.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
