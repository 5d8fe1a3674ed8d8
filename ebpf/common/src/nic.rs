//! The table that a device has: what the program for SmartNICs and user space share.
//!
//! A hash map and an array of the kernel's, written and read by system calls: other kinds of maps, and flags of maps, no
//! device takes. Counters are not in the entries, so that they can be read once more after an entry is gone.

use crate::flows;

/// Map and program names.
pub mod names {
    pub const PROGRAM: &str = "softdpu_nic";
    pub const FLOWS: &str = "NIC_FLOWS";
    pub const COUNTS: &str = "NIC_COUNTS";
}

/// One direction of a flow. IPv4's addresses are both in the first word, the rest of them is zero.
pub type Key = [u64; 5];

/// In the last word of a key.
const V6: u64 = 1 << 41;

/// What becomes of the packets of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Entry {
    /// Index into `NIC_COUNTS`.
    pub counter: u32,
    /// Destination MAC they come with, in memory order; what comes with another is for another station, and the host's.
    pub station: [u16; 3],
    /// [`Action`]; one that the program does not know leaves the packet to the host.
    pub action: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Action {
    Drop = 1,
}

/// IP packets and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// The last word of a key. `ports`: four bytes as they stand in the packet, in memory order.
#[inline(always)]
pub const fn last_word(ports: u32, protocol: u8, v6: bool) -> u64 {
    flows::last_word(ports, protocol) | if v6 { V6 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding_and_families_differ() {
        assert_eq!((size_of::<Entry>(), size_of::<Count>(), size_of::<Key>()), (12, 16, 40));
        assert_ne!(last_word(1, 6, true), last_word(1, 6, false));
    }
}
