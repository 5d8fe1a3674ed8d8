//! Frames in and out. Knows rings, sockets and files; knows nothing of what a packet means.

pub mod bare;
pub mod error;
pub mod fault;
pub mod frame;
pub mod loopback;
pub mod nic;
pub mod pcap;
pub mod pool;
pub mod port;
mod queues;
pub mod ring;
pub mod socket;
pub mod steer;
pub mod tap;
pub mod umem;
pub mod xdp;

#[cfg(test)]
pub(crate) mod testbed;
