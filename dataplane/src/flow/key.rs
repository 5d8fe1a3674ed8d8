//! What makes two packets the same flow, and the keyed hash of it.

use std::hash::{BuildHasher, Hasher};

use softdpu_ebpf_common::walk::{Headers, L3};

/// Which side of a flow a packet came from. As an index: initiator 0, responder 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    FromInitiator = 0,
    FromResponder = 1,
}

impl Direction {
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn other(self) -> Self {
        match self {
            Self::FromInitiator => Self::FromResponder,
            Self::FromResponder => Self::FromInitiator,
        }
    }
}

/// Bit of the VLAN word that says IPv6: `32.1.13.184` and `2001:db8::` have the same first bytes.
const V6: u32 = 1 << 31;

/// The network that a flow's addresses are of: the one outside, or an overlay's.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Net(u32);

impl Net {
    pub const OUTSIDE: Self = Self(0);

    /// Network `id` (24 bits) of the overlays of one kind. `kind`: 1 to 15.
    pub fn new(kind: u8, id: u32) -> Self {
        Self(u32::from(kind & 15).max(1) << 24 | id & 0xff_ffff)
    }

    /// 0: outside.
    pub fn kind(self) -> u8 {
        (self.0 >> 24) as u8
    }

    pub fn id(self) -> u32 {
        self.0 & 0xff_ffff
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Net({}, {})", self.kind(), self.id())
    }
}

/// The canonical key: one end is `low`, the other `high`, by an order that only matters in being one, so both directions
/// have the same key.
///
/// Five double words and a word, in bytes so that the key needs no alignment: low address, high address, ports with network
/// number and protocol, VLAN tags with the family and the kind of network.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct FlowKey {
    words: [[u8; 8]; 5],
    tags: [u8; 4],
}

impl FlowKey {
    /// The key of a packet, and whether its source is the `high` end. `ports`: source and destination, which for a later
    /// fragment are those of its first.
    ///
    /// Without a branch: which end is low is as good as random from packet to packet.
    #[inline(always)]
    pub fn of(h: &Headers, ports: (u16, u16), network: Net) -> (Self, bool) {
        let (src, dst) = (halves(&h.src), halves(&h.dst));
        let (sport, dport) = (u64::from(ports.0), u64::from(ports.1));
        let number = |e: (u64, u64)| u128::from(e.0) << 64 | u128::from(e.1);
        let (s, d) = (number(src), number(dst));
        let swapped = (s > d) | ((s == d) & (sport > dport));
        let mask = 0u64.wrapping_sub(u64::from(swapped));
        let pick = |a: u64, b: u64| a ^ (a ^ b) & mask;
        let family = if h.l3 == L3::V6 { V6 } else { 0 };
        let net = u64::from(network.id()) << 8 | u64::from(h.proto);
        let words = [
            pick(src.0, dst.0),
            pick(src.1, dst.1),
            pick(dst.0, src.0),
            pick(dst.1, src.1),
            pick(sport, dport) << 48 | pick(dport, sport) << 32 | net,
        ];
        let tags = family
            | u32::from(network.kind()) << 24
            | u32::from(h.vlan[0] & 0xfff) << 12
            | u32::from(h.vlan[1] & 0xfff);
        (Self { words: words.map(u64::to_ne_bytes), tags: tags.to_ne_bytes() }, swapped)
    }

    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        u64::from_ne_bytes(self.words[i])
    }

    #[inline(always)]
    fn tags(&self) -> u32 {
        u32::from_ne_bytes(self.tags)
    }

    pub fn is_v6(&self) -> bool {
        self.tags() & V6 != 0
    }

    /// IANA protocol number.
    #[inline]
    pub fn proto(&self) -> u8 {
        self.word(4) as u8
    }

    pub fn net(&self) -> Net {
        Net(self.tags() & 0x0f00_0000 | self.word(4) as u32 >> 8)
    }

    /// Outer and inner VID, 0 where there is none.
    pub fn vlan(&self) -> [u16; 2] {
        [(self.tags() >> 12) as u16 & 0xfff, self.tags() as u16 & 0xfff]
    }

    /// Address (IPv4 in the first four bytes) and port of the `low` end.
    pub fn low(&self) -> ([u8; 16], u16) {
        (join(self.words[0], self.words[1]), (self.word(4) >> 48) as u16)
    }

    /// Address (IPv4 in the first four bytes) and port of the `high` end.
    pub fn high(&self) -> ([u8; 16], u16) {
        (join(self.words[2], self.words[3]), (self.word(4) >> 32) as u16)
    }

    /// Keyed 64-bit hash: multiply and fold, three products side by side and one to mix them.
    #[inline(always)]
    pub fn hash(&self, seed: &Seed) -> u64 {
        let s = &seed.0;
        let a = fold(self.word(0) ^ s[0], self.word(1) ^ s[1]);
        let b = fold(self.word(2) ^ s[2], self.word(3) ^ s[3]);
        let c = fold(self.word(4) ^ s[4], u64::from(self.tags()) ^ s[5]);
        fold(a ^ c.rotate_left(23) ^ s[6], b ^ c ^ s[7])
    }
}

impl PartialEq for FlowKey {
    /// All words at once: keys that share a tag are nearly always equal.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let differ = (0..5).fold(0, |d, i| d | (self.word(i) ^ other.word(i)));
        differ | u64::from(self.tags() ^ other.tags()) == 0
    }
}

impl Eq for FlowKey {}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, high] = [self.low(), self.high()].map(|(a, p)| Endpoint::new(a, p, self.is_v6()));
        write!(f, "{}/{low}-{high}", self.proto())
    }
}

/// Secret of the hash, so that nobody outside can aim flows at one bucket. Not printable.
#[derive(Clone)]
pub struct Seed([u64; 8]);

impl Seed {
    /// From the operating system's randomness (by way of the standard library's hash keys).
    pub fn random() -> Self {
        let state = std::collections::hash_map::RandomState::new();
        Self(std::array::from_fn(|i| {
            let mut h = state.build_hasher();
            h.write_usize(i);
            h.finish() | 1
        }))
    }

    /// The same every time: for tests and benches.
    pub fn fixed(n: u64) -> Self {
        let mut x = n;
        Self(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            fold(x, 0xd6e8_feb8_6659_fd93) | 1
        }))
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    p as u64 ^ (p >> 64) as u64
}

#[inline(always)]
fn halves(a: &[u8; 16]) -> (u64, u64) {
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = *a;
    (u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]))
}

fn join(a: [u8; 8], b: [u8; 8]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&a);
    out[8..].copy_from_slice(&b);
    out
}

/// One end of a flow, written `192.0.2.1:80` or `[2001:db8::1]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub addr: std::net::IpAddr,
    pub port: u16,
}

impl Endpoint {
    /// `addr` as in [`Headers`]: IPv4 in the first four bytes.
    pub fn new(addr: [u8; 16], port: u16, v6: bool) -> Self {
        let addr = if v6 {
            std::net::IpAddr::from(addr)
        } else {
            std::net::IpAddr::from([addr[0], addr[1], addr[2], addr[3]])
        };
        Self { addr, port }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(src: [u8; 16], dst: [u8; 16], ports: (u16, u16), l3: L3, vlan: [u16; 2], proto: u8) -> Headers {
        Headers { src, dst, sport: ports.0, dport: ports.1, l3, vlan, proto, ..Headers::default() }
    }

    proptest! {
        #[test]
        fn both_directions_share_a_key(src: [u8; 16], dst: [u8; 16], s: u16, d: u16, vlan in [0u16..4096, 0u16..4096],
                                       proto: u8, kind in 1u8..16, id in 0u32..1 << 24) {
            let there = headers(src, dst, (s, d), L3::V6, vlan, proto);
            let back = headers(dst, src, (d, s), L3::V6, vlan, proto);
            let (a, sa) = FlowKey::of(&there, (s, d), Net::new(kind, id));
            let (b, sb) = FlowKey::of(&back, (d, s), Net::new(kind, id));
            prop_assert_eq!(a, b);
            prop_assert!(sa != sb || (src, s) == (dst, d));
            let (from, to) = if sa { (a.high(), a.low()) } else { (a.low(), a.high()) };
            prop_assert_eq!((from, to), ((src, s), (dst, d)));
            prop_assert_eq!((a.proto(), a.net(), a.vlan(), a.is_v6()), (proto, Net::new(kind, id), vlan, true));
        }
    }

    #[test]
    fn family_vlan_and_network_tell_flows_apart() {
        let mut a = [0; 16];
        a[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        let v4 = headers(a, [9; 16], (1, 2), L3::V4, [0, 0], 17);
        let base = FlowKey::of(&v4, (1, 2), Net::OUTSIDE).0;
        let other = |h: Headers, net| FlowKey::of(&h, (1, 2), net).0;
        assert_ne!(base, other(Headers { l3: L3::V6, ..v4 }, Net::OUTSIDE));
        assert_ne!(base, other(Headers { vlan: [7, 0], ..v4 }, Net::OUTSIDE));
        assert_ne!(base, other(Headers { vlan: [0, 7], ..v4 }, Net::OUTSIDE));
        assert_ne!(base, other(v4, Net::new(1, 0)));
        assert_ne!(other(v4, Net::new(1, 7)), other(v4, Net::new(2, 7)));
        assert_ne!(base, other(Headers { proto: 6, ..v4 }, Net::OUTSIDE));
    }

    #[test]
    fn hash_spreads_and_depends_on_the_seed() {
        let (s1, s2) = (Seed::fixed(1), Seed::fixed(2));
        let mut buckets = [0u32; 256];
        for i in 0..65536u32 {
            let mut src = [0; 16];
            src[..4].copy_from_slice(&i.to_be_bytes());
            let key = FlowKey::of(&headers(src, [1; 16], (1024, 80), L3::V4, [0, 0], 6), (1024, 80), Net::OUTSIDE).0;
            assert_ne!(key.hash(&s1), key.hash(&s2));
            buckets[(key.hash(&s1) >> 56) as usize] += 1;
        }
        // 256 expected in each, standard deviation 16.
        assert!(buckets.iter().all(|n| (156..356).contains(n)), "{buckets:?}");
    }
}
