//! Headers as they stand on the wire: in-place edits and checksums. Knows nothing of frames, nodes or policy.

pub mod checksum;
pub mod ethernet;
pub mod fragment;
pub mod icmp;
pub mod ip;
pub mod mss;
pub mod natt;
pub mod outer_fragment;
pub mod overlay;
pub mod plain;
pub mod pmtu;
pub mod prefix;
pub mod reassembly;
