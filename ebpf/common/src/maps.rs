//! Keys and values of the steer program's maps, in the byte layout both sides agree on.
//!
//! Rules are matched by bit vectors (Lakshman and Stiliadis, SIGCOMM '98): every dimension of a packet (source, destination,
//! both ports, protocol, port of arrival) is looked up on its own and names a class, a class is the bitmap of the rules
//! that agree in this dimension, and the lowest bit set in all six bitmaps is the first rule that matches. No packet walks
//! the list of rules.
//!
//! All tables exist twice. [`ActiveFlags::GENERATION`] says which half packets use; the other is written and then chosen
//! with a single store.

use crate::walk::WalkError;

/// Rules one generation can hold.
pub const MAX_RULES: usize = 1024;
/// 64-bit words of a rule bitmap.
pub const WORDS: usize = MAX_RULES / 64;
/// Distinct rule bitmaps one generation can hold, over all dimensions.
pub const MAX_CLASSES: usize = 16_384;
/// Prefixes each trie can hold, both generations and both families together.
pub const MAX_PREFIXES: u32 = 65_536;
/// Slots for ports (interfaces); the last is [`UNKNOWN_SLOT`].
pub const MAX_PORTS: usize = 64;
/// Slot of a port nobody registered: it has no socket, and only rules that name no port match there.
pub const UNKNOWN_SLOT: u32 = MAX_PORTS as u32 - 1;
/// Queues per port that can have a socket.
pub const MAX_QUEUES: usize = 64;
/// Generations of the rule tables: one in use, one being written.
pub const GENERATIONS: usize = 2;

/// The program's name, as the kernel shows it: a program left behind by a dead instance is known by it.
pub const PROGRAM_NAME: &str = "softdpu_steer";

/// Map names: the loader and the program must agree on them too.
pub mod names {
    pub const ACTIVE: &str = "ACTIVE";
    pub const TABLES: &str = "TABLES";
    pub const FROM: &str = "FROM";
    pub const TO: &str = "TO";
    pub const SLOTS: &str = "SLOTS";
    pub const SOCKETS: &str = "SOCKETS";
    pub const DEVICES: &str = "DEVICES";
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    pub const REASONS: &str = "REASONS";
    /// Read-only variable, not a map: 1 compiles the debug log in, 0 lets the verifier remove it.
    pub const DEBUG: &str = "DEBUG";
}

/// Bits of the single word in `ACTIVE`.
pub struct ActiveFlags;

impl ActiveFlags {
    /// Which half of the tables packets use: 0 or 1.
    pub const GENERATION: u32 = 1;
    /// The flow table has entries: look there first.
    pub const FLOWS: u32 = 2;
    /// There are rules.
    pub const RULES: u32 = 4;
    /// Packets whose headers cannot be walked are dropped, not passed: nothing a rule protects may leave as a malformed
    /// packet.
    pub const DROP_MALFORMED: u32 = 8;
    /// The flow table holds only as long as the socket is there whose key is in the bits from [`Self::LEASE_SHIFT`] on. The
    /// kernel takes a socket out when its process ends, however it ends: nothing stale is acted on.
    pub const LEASE: u32 = 16;
    pub const LEASE_SHIFT: u32 = 16;
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RuleAction {
    /// To the kernel's stack.
    #[default]
    Pass = 0,
    Drop = 1,
    /// To the worker that owns the queue the packet came in on.
    Worker = 2,
}

/// What a rule of action `worker` does where the queue has no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum OnLoss {
    #[default]
    Pass = 0,
    Drop = 1,
}

/// A rule as the program needs it: all that it matches on is in the bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Rule {
    /// [`RuleAction`].
    pub action: u8,
    /// [`OnLoss`].
    pub on_loss: u8,
}

/// Index of a class's bitmap in [`Tables::bitmaps`]. Class 0 is the empty bitmap.
pub type Class = u16;

/// Bitmap of rules: rule `i` is bit `i % 64` of word `i / 64`.
pub type Bitmap = [u64; WORDS];

/// One generation of all rule tables but the two prefix tries. About 2.3 MiB, so never on a stack (`Copy` is what a map's
/// value has to be).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tables {
    /// Words of the bitmaps in use: `ceil(rules / 64)`.
    pub words: u32,
    /// [`Dimensions`] that at least one rule looks at; the others need no lookup.
    pub dimensions: u32,
    /// Class of an address no prefix covers.
    pub from_none: Class,
    pub to_none: Class,
    /// Class of a packet that has no ports (ICMP): the rules that ask for none.
    pub sport_none: Class,
    pub dport_none: Class,
    /// Class of a later fragment: the rules that ask for no port, and those that take fragments on trust.
    pub sport_fragment: Class,
    pub dport_fragment: Class,
    /// Class of every rule there is, for dimensions no rule looks at.
    pub all: Class,
    pub reserved: u16,
    /// By port slot.
    pub slots: [Class; MAX_PORTS],
    /// By protocol number; [`ESP_IN_UDP`] for ESP in UDP.
    pub protocols: [Class; PROTOCOLS],
    pub rules: [Rule; MAX_RULES],
    pub sports: [Class; 65_536],
    pub dports: [Class; 65_536],
    pub bitmaps: [Bitmap; MAX_CLASSES],
}

/// Entries of [`Tables::protocols`].
pub const PROTOCOLS: usize = 512;
/// "Protocol" of ESP in UDP (RFC 3948): matched by rules for UDP and by rules for ESP.
pub const ESP_IN_UDP: usize = 256;

/// Bits of [`Tables::dimensions`].
pub struct Dimensions;

impl Dimensions {
    pub const FROM: u32 = 1;
    pub const TO: u32 = 2;
    pub const SPORT: u32 = 4;
    pub const DPORT: u32 = 8;
    pub const PROTOCOL: u32 = 16;
    pub const PORT: u32 = 32;
}

/// Data of a prefix trie's key, behind the prefix length. The tag's 32 bits count into the prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Prefix {
    /// Big endian, from [`Prefix::tag`]: generation and family are part of the prefix, so one trie holds them all.
    pub tag: u32,
    /// IPv4 addresses are the first four bytes, the rest zero.
    pub address: [u8; 16],
}

impl Prefix {
    /// Bits of the tag, to be added to the address's prefix length.
    pub const TAG_BITS: u32 = 32;

    #[inline(always)]
    pub const fn tag(generation: u32, v6: bool) -> u32 {
        ((generation << 1) | v6 as u32).to_be()
    }
}

/// Key of the XSKMAP: the socket of one queue of one port.
#[inline(always)]
pub const fn socket_key(slot: u32, queue: u32) -> u32 {
    slot * MAX_QUEUES as u32 + queue
}

/// Packets and bytes (Ethernet header included), one per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal $text:literal,)*) => {
        /// What became of a packet in the steer program. Every packet is counted under exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $name = $code,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// Stable name, for counters and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// To the worker's socket.
    Worker = 0 "worker",
    /// A rule says pass.
    RulePass = 1 "rule_pass",
    /// A rule says drop.
    RuleDrop = 2 "rule_drop",
    /// No rule matches: passed.
    NoRule = 3 "no_rule",
    /// Neither IPv4 nor IPv6: passed.
    NotIp = 4 "not_ip",
    /// ICMPv6 133 to 137 with hop limit 255 (RFC 4861): passed, whatever the rules say.
    NeighbourDiscovery = 5 "neighbour_discovery",
    /// The rule says worker, the queue has no socket, `on_loss` is pass.
    NoSocketPass = 6 "no_socket_pass",
    /// The rule says worker, the queue has no socket, `on_loss` is drop.
    NoSocketDrop = 7 "no_socket_drop",
    /// Walk error: passed, or dropped where the loader said so; likewise the next four.
    Truncated = 8 "truncated",
    BadIpHeader = 9 "bad_ip_header",
    TooManyExtensions = 10 "too_many_extensions",
    BadTransport = 11 "bad_transport",
    TooManyTags = 12 "too_many_tags",
    /// Flow table: sent out by another port.
    FlowForward = 13 "flow_forward",
    FlowPass = 14 "flow_pass",
    FlowDrop = 15 "flow_drop",
    /// Flow table says forward, `DEVICES` has no such port: dropped.
    FlowNoDevice = 16 "flow_no_device",
    /// A map the program was loaded with is not there. Cannot happen; dropped.
    Internal = 17 "internal",
    /// Flow table: over the flow's meter, dropped.
    FlowMeter = 18 "flow_meter",
}

/// Entries of `REASONS`.
pub const REASONS: usize = 19;

impl Reason {
    #[inline(always)]
    pub const fn of(error: WalkError) -> Reason {
        match error {
            WalkError::Truncated => Reason::Truncated,
            WalkError::BadIpHeader => Reason::BadIpHeader,
            WalkError::TooManyExtensions => Reason::TooManyExtensions,
            WalkError::BadTransport => Reason::BadTransport,
            WalkError::TooManyTags => Reason::TooManyTags,
        }
    }
}

/// First rule set in all six bitmaps, or `None`. `words` is how many of them to look at, at most [`WORDS`].
#[inline(always)]
pub fn first_match(words: u32, bitmaps: [&Bitmap; 6]) -> Option<u32> {
    let [a, b, c, d, e, f] = bitmaps;
    for i in 0..WORDS {
        if i as u32 >= words {
            break;
        }
        let word = a[i] & b[i] & c[i] & d[i] & e[i] & f[i];
        if word != 0 {
            return Some(i as u32 * 64 + lowest_bit(word));
        }
    }
    None
}

/// Index of the lowest bit set; `word` is not 0. By halves: BPF has no instruction for it.
#[inline(always)]
const fn lowest_bit(mut word: u64) -> u32 {
    let mut at = 0;
    if word & 0xffff_ffff == 0 {
        at += 32;
        word >>= 32;
    }
    if word & 0xffff == 0 {
        at += 16;
        word >>= 16;
    }
    if word & 0xff == 0 {
        at += 8;
        word >>= 8;
    }
    if word & 0xf == 0 {
        at += 4;
        word >>= 4;
    }
    if word & 0x3 == 0 {
        at += 2;
        word >>= 2;
    }
    if word & 0x1 == 0 {
        at += 1;
    }
    at
}

impl Reason {
    /// What it means and what to do, where a packet counted under this reason was dropped. `malformed`: the program was told
    /// to drop what it cannot walk.
    pub const fn drop_help(self, malformed: bool) -> Option<&'static str> {
        match self {
            Reason::RuleDrop => Some("A steering rule with `action = \"drop\"`."),
            Reason::NoSocketDrop => {
                Some("For a worker that is not there, under a rule with `on_loss = \"drop\"`: nothing passes in clear.")
            }
            Reason::FlowDrop => Some("The flow table says drop."),
            Reason::FlowMeter => Some("Faster than the `meter` of the flow's rule allows."),
            Reason::FlowNoDevice => Some("The flow table names a port that is gone."),
            Reason::Internal => Some("A map of the XDP program was not there. Stays zero unless something is broken."),
            Reason::Truncated
            | Reason::BadIpHeader
            | Reason::TooManyExtensions
            | Reason::BadTransport
            | Reason::TooManyTags
                if malformed =>
            {
                Some(
                    "Malformed, so that no rule can be held against it; the policy has flows that must not leave in clear.",
                )
            }
            _ => None,
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($t:ty),*) => {$(
            // SAFETY: `repr(C)`, integers and arrays of integers only, no padding, any bit pattern valid.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(super::Prefix, super::Counter, super::Tables);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, size_of};

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Prefix>(), 20);
        assert_eq!(size_of::<Rule>(), 2);
        let fields = 4 * 2 + 2 * 8 + 2 * (MAX_PORTS + PROTOCOLS) + 2 * MAX_RULES + 4 * 65_536;
        assert_eq!(size_of::<Tables>(), fields + MAX_CLASSES * size_of::<Bitmap>());
        assert_eq!((align_of::<Tables>(), size_of::<Tables>() % 8), (8, 0));
    }

    #[test]
    fn reasons_are_dense_and_named_once() {
        assert_eq!(Reason::ALL.len(), REASONS);
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(Reason::ALL.iter().filter(|r| r.name() == reason.name()).count() == 1, "{reason:?}");
        }
    }

    #[test]
    fn lowest_bit_is_trailing_zeros() {
        for at in 0..64 {
            assert_eq!(lowest_bit(1 << at), at);
            assert_eq!(lowest_bit(u64::MAX << at), at);
        }
    }

    #[test]
    fn first_match_honours_words() {
        let all = [u64::MAX; WORDS];
        let mut one = [0; WORDS];
        one[3] = 1 << 5;
        assert_eq!(first_match(WORDS as u32, [&all, &all, &one, &all, &all, &all]), Some(197));
        assert_eq!(first_match(4, [&all, &all, &one, &all, &all, &all]), Some(197));
        assert_eq!(first_match(3, [&all, &all, &one, &all, &all, &all]), None);
        assert_eq!(first_match(0, [&all; 6]), None);
    }
}
