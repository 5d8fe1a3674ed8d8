//! What the program says of each packet while `softdpu trace` runs: records in a ring that user space reads.
//!
//! Another program of the same object says it, `softdpu_watch`: the steer program with a record around it. It is in the steer program's
//! place on the interfaces for as long as somebody watches, so that packets nobody watches pay nothing.

/// Bytes kept of a frame, from its first on.
pub const SNAP: usize = 128;
/// Records that wait to be read, together, in bytes: some 3,400.
pub const RING_BYTES: u32 = 1 << 20;
/// In [`Seen::rule`]: no rule decided.
pub const NO_RULE: u32 = u32::MAX;
/// In [`Seen::device`]: the flow table did not send it out.
pub const NO_DEVICE: u32 = u32::MAX;

/// In [`Seen::entry`]: the flow table does not have the flow.
pub const NO_ENTRY: u32 = u32::MAX;

/// What [`Seen::entry`] says of an entry.
#[inline(always)]
pub const fn entry(action: u8, options: u8) -> u32 {
    action as u32 | (options as u32) << 8
}

/// Map and program names.
pub mod names {
    /// As the kernel has it, at most 15 bytes.
    pub const PROGRAM: &str = "softdpu_watch";
    pub const RING: &str = "WATCHED";
    pub const LOST: &str = "WATCH_LOST";
}

/// One packet, as the program met it and as it left it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Seen {
    /// Monotonic nanoseconds (`bpf_ktime_get_ns`).
    pub time: u64,
    /// Interface index and queue it came by.
    pub interface: u32,
    pub queue: u32,
    /// Of the whole frame, bytes.
    pub len: u32,
    /// `XDP_*`.
    pub action: u32,
    /// [`crate::maps::Reason`].
    pub reason: u32,
    /// Place of the rule among those of its generation, or [`NO_RULE`].
    pub rule: u32,
    pub generation: u32,
    /// Slot of the port to leave by, as the flow table says, or [`NO_DEVICE`].
    pub device: u32,
    /// What the flow table is to do with the flow: [`crate::flows::FlowAction`], above it [`crate::flows::Options`]. Or [`NO_ENTRY`].
    pub entry: u32,
    /// How many of the bytes below are the frame's.
    pub kept: u32,
    pub before: [u8; SNAP],
    pub after: [u8; SNAP],
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers and arrays of integers only, no padding, any bit pattern valid.
    unsafe impl aya::Pod for super::Seen {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_no_padding() {
        assert_eq!(size_of::<Seen>(), 8 + 10 * 4 + 2 * SNAP);
        assert_eq!(align_of::<Seen>(), 8);
        assert!(names::PROGRAM.len() <= 15);
    }
}
