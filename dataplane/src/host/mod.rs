//! What the host is: its links, addresses, routes and neighbours, as the kernel tells them.

pub mod ethtool;
pub mod fib;
pub mod icmp_errors;
pub mod inventory;
pub mod lpm;
pub mod netlink;
pub mod netns;
pub mod nic;
pub mod probe;
pub mod tap;
pub mod watch;
pub mod xdp_features;
