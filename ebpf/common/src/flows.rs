//! The flow table of the driver: a hash table of our own in memory that the XDP program and user space share.
//!
//! Not a hash map of the kernel's, for three reasons. An IPv4 packet's entry is one cache line, key, action and counter
//! together: with a million flows a packet costs one miss, not two. The hash is three multiplications instead of jhash over
//! 40 bytes. And user space writes and reads entries where they are, without a system call.
//!
//! A key has a home, `hash & mask`. Its entry is in the home or in one of the [`WINDOW`] - 1 places behind it; the home's
//! [`Tail::near`] says in which of them are entries of this home. One writer, any number of readers:
//!
//! - to add: everything else first, then the key with [`LIVE`] in one store, then the home's bit;
//! - to take away: the key's word with [`LIVE`] to 0, then the home's bit. A reader that came before may still count into
//!   the entry, so its place is not used again before a grace period is over; only then its counter is final.

/// Places an entry may be in, from its home on.
pub const WINDOW: usize = 64;
/// In the last word of a key: the entry is one.
pub const LIVE: u64 = 1 << 40;

/// Map and variable names.
pub mod names {
    pub const FLOWS4: &str = "FLOWS4";
    pub const FLOWS6: &str = "FLOWS6";
    pub const EXTRAS: &str = "EXTRAS";
    pub const MIRRORS: &str = "MIRRORS";
    /// Read-only variables: both families' places less one, and the secret of the hash.
    pub const MASK: &str = "FLOW_MASK";
    pub const SEED: [&str; 2] = ["FLOW_SEED_A", "FLOW_SEED_B"];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum FlowAction {
    /// To the kernel's stack.
    #[default]
    Pass = 0,
    Drop = 1,
    /// Rewrite the MAC addresses, count the TTL down, out by `DEVICES[device]`.
    Forward = 2,
}

/// Bits of [`Tail::options`].
pub struct Options;

impl Options {
    /// DSCP from [`Tail::tos`].
    pub const MARK: u8 = 1;
    /// Token bucket, of [`Tail::extra`].
    pub const METER: u8 = 2;
    /// One of [`Extra::every`] packets goes to the rules.
    pub const SAMPLE: u8 = 4;
    /// Counted under [`Extra::mirror`] too.
    pub const MIRROR: u8 = 8;
    /// The device to leave by takes frames of one buffer only: others go to the rules.
    pub const LINEAR: u8 = 16;
}

/// What is remembered of one direction of a flow, behind its key. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Tail {
    /// Packets and IP bytes, see [`unpack`]. Added to with one atomic instruction: exact, however many CPUs see the flow.
    pub counter: u64,
    /// Of the place, not of the entry in it: bit `i` is an entry of this home at home + `i`.
    pub near: u64,
    /// Index into `EXTRAS`, where an option needs it.
    pub extra: u16,
    /// Index into `DEVICES`: the slot of the port to leave by.
    pub device: u16,
    /// Largest IP packet the outgoing port takes, bytes; larger ones go to the rules.
    pub mtu: u16,
    /// [`FlowAction`].
    pub action: u8,
    /// TCP flags seen here.
    pub seen: u8,
    /// DSCP to mark with, in the upper six bits.
    pub tos: u8,
    /// [`Options`].
    pub options: u8,
    /// Destination MAC they come with; what comes with another is for another station, and the rules'.
    pub station: [u16; 3],
    /// Destination and source MAC as they are to leave, in memory order.
    pub macs: [u32; 3],
    /// How far TCP has come in this direction, see [`numbers_on`].
    pub numbers: u32,
}

/// One direction of an IPv4 flow: a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Entry4 {
    pub key: [u64; 2],
    pub tail: Tail,
}

/// One direction of an IPv6 flow: two cache lines, of which a packet that only passes through reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Entry6 {
    pub key: [u64; 5],
    pub tail: Tail,
    pub reserved: [u64; 5],
}

/// What few flows have: meter, sample, mirror counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Extra {
    /// When the bucket will be full again, monotonic nanoseconds (the virtual scheduling algorithm of ITU-T I.371).
    pub full_at: u64,
    /// Nanoseconds that one byte takes, in 1/2^16.
    pub per_byte: u64,
    /// Nanoseconds' worth of burst.
    pub burst: u64,
    /// Packets that the meter dropped. They are in the entry's counter too.
    pub over: u64,
    /// Packets met, of which every so many goes to the rules.
    pub met: u64,
    pub every: u32,
    /// Index into `MIRRORS`.
    pub mirror: u32,
}

/// Packets in the low 28 bits, bytes above. A difference of two readings tells both apart, as long as fewer than 2^28
/// packets and 2^36 bytes came between them: [`unpack`].
#[inline(always)]
pub const fn packed(bytes: u64) -> u64 {
    (bytes << 28) | 1
}

/// Packets and bytes of the difference of two readings (`later.wrapping_sub(earlier)`).
#[inline(always)]
pub const fn unpack(difference: u64) -> (u64, u64) {
    (difference & ((1 << 28) - 1), difference >> 28)
}

/// How far ahead of what was last seen a segment may be, in units of 64 KiB: 8 MiB.
pub const FAR: u16 = 128;

/// How far a direction of TCP has come: the upper half of the sequence number that is to come next, and above it the upper half
/// of what was acknowledged. A segment moves both on, where both are in reach: who would drag them away has to guess both
/// (RFC 5961 §5).
#[inline(always)]
pub const fn numbers_on(numbers: u32, next: u32, ack: u32) -> u32 {
    let (s, a) = (numbers as u16, (numbers >> 16) as u16);
    let (s_now, a_now) = ((next >> 16) as u16, (ack >> 16) as u16);
    let (s_on, a_on) = (s_now.wrapping_sub(s), a_now.wrapping_sub(a));
    if s_on.wrapping_add(FAR) > 2 * FAR || a_on.wrapping_add(FAR) > 2 * FAR {
        return numbers;
    }
    let s = if s_on <= FAR { s_now } else { s };
    let a = if a_on <= FAR { a_now } else { a };
    s as u32 | (a as u32) << 16
}

/// The last word of a key: ports as they stand in the packet (four bytes, in memory order), protocol, and [`LIVE`].
#[inline(always)]
pub const fn last_word(ports: u32, protocol: u8) -> u64 {
    ports as u64 | (protocol as u64) << 32 | LIVE
}

/// Hash of an IPv4 key.
#[inline(always)]
pub const fn hash4(key: &[u64; 2], seed: [u64; 2]) -> u32 {
    finish(step(key[0] ^ seed[0]) ^ key[1] ^ seed[1])
}

/// Hash of an IPv6 key.
#[inline(always)]
pub const fn hash6(key: &[u64; 5], seed: [u64; 2]) -> u32 {
    let a = step(step(key[0] ^ seed[0]) ^ key[1]);
    let b = step(step(key[2] ^ seed[1]) ^ key[3]);
    finish(a ^ (b << 1) ^ key[4] ^ seed[1])
}

/// One odd multiplication, and the good upper half down to the lower.
#[inline(always)]
const fn step(word: u64) -> u64 {
    let product = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

#[inline(always)]
const fn finish(word: u64) -> u32 {
    (step(word).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers and arrays of integers only, no padding, any bit pattern valid.
    unsafe impl aya::Pod for super::Entry4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Entry6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Extra {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, size_of};

    #[test]
    fn layouts_are_whole_cache_lines() {
        assert_eq!((size_of::<Tail>(), size_of::<Entry4>(), size_of::<Entry6>()), (48, 64, 128));
        assert_eq!((align_of::<Entry4>(), size_of::<Extra>()), (8, 48));
    }

    #[test]
    fn differences_tell_packets_from_bytes_over_any_wrap() {
        let mut counter = u64::MAX - 12_345;
        let before = counter;
        for _ in 0..100_000 {
            counter = counter.wrapping_add(packed(1500));
        }
        assert_eq!(unpack(counter.wrapping_sub(before)), (100_000, 150_000_000));
        assert_eq!(unpack(0), (0, 0));
    }

    #[test]
    fn numbers_follow_a_connection_and_nobody_else() {
        let (mut numbers, mut seq, mut ack) = (0xfff0 | 0x1000 << 16, 0xfff0_0000u32, 0x1000_0000u32);
        for _ in 0..100_000 {
            (seq, ack) = (seq.wrapping_add(60_000), ack.wrapping_add(100));
            numbers = numbers_on(numbers, seq, ack);
            assert_eq!((numbers as u16, (numbers >> 16) as u16), ((seq >> 16) as u16, (ack >> 16) as u16));
        }
        // What is late, and what is made up: a right sequence number does not help with a wrong acknowledgement.
        assert_eq!(numbers_on(numbers, seq.wrapping_sub(1 << 20), ack), numbers);
        assert_eq!(numbers_on(numbers, seq.wrapping_add(1 << 20), ack ^ 0x8000_0000), numbers);
        assert_eq!(numbers_on(numbers, seq.wrapping_add(1 << 24), ack), numbers);
        // An acknowledgement that lags does not hold the sequence number back.
        assert_ne!(numbers_on(numbers, seq.wrapping_add(1 << 20), ack.wrapping_sub(1 << 20)), numbers);
    }

    #[test]
    fn neighbouring_flows_spread_over_the_table() {
        let seed = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
        let mut homes = [0u8; 4096];
        for port in 0..4096u32 {
            let key = [0x0200_000a_0100_000a, last_word((port as u16).to_be() as u32 | 0x5000_0000, 17)];
            homes[hash4(&key, seed) as usize & 4095] += 1;
        }
        assert!(*homes.iter().max().unwrap_or(&0) < 12, "crowded");
        assert!(homes.iter().filter(|n| **n == 0).count() < 1800, "a random hash leaves 1507 empty");
    }
}
