//! Frames in and out. Knows rings, sockets and files; knows nothing of what a packet means.

pub mod frame;
pub mod steer;
pub mod umem;
