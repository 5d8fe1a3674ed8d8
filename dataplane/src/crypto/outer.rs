//! The header in front of a tunnel's packets: link place, IP and perhaps UDP. Built once per association or session,
//! patched per packet. ESP and WireGuard both stand behind it; it knows nothing of either.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::esp::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Inner, LINK_LEN, NEXT_IPV4, PROTO_ESP, PROTO_UDP, SealError, UDP_LEN, write_link,
};

/// TTL or hop limit of the outer header; the inner one's is not copied (RFC 4301 §5.1.2).
const OUTER_TTL: u8 = 64;
/// The lengths an outer header can have; the longest is IPv6 with UDP.
const V4: usize = LINK_LEN + 20;
const V4_UDP: usize = V4 + UDP_LEN;
const V6: usize = LINK_LEN + 40;
const V6_UDP: usize = V6 + UDP_LEN;
/// The most an [`Outer`] needs in front of a packet.
pub const MAX_OUTER: usize = V6_UDP;

/// The two ends of a tunnel, this host's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoints {
    V4 { local: Ipv4Addr, remote: Ipv4Addr },
    V6 { local: Ipv6Addr, remote: Ipv6Addr },
}

/// What the outer IP header carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// ESP itself (protocol 50).
    None,
    /// UDP: ESP that must pass a NAT (RFC 3948; usually both [`NAT_T_PORT`](super::esp::NAT_T_PORT)), or WireGuard.
    Udp { source: u16, destination: u16 },
}

/// The outer "don't fragment" bit over IPv4 (RFC 4301 §8.1). IPv6 routers never fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Df {
    #[default]
    Set,
    /// As the inner packet has it; set for inner IPv6, and where the inner header cannot be seen (IPComp).
    Copy,
    /// Routers may fragment, and the peer must put together again.
    Clear,
}

impl Df {
    /// For this packet, which is in `buf`.
    #[inline]
    pub(super) fn of(self, inner: &Inner, buf: &[u8]) -> bool {
        match self {
            Df::Set => true,
            Df::Clear => false,
            Df::Copy => {
                inner.next_header != NEXT_IPV4
                    || inner.place.len() < 20
                    || buf.get(inner.place.start + 6).is_none_or(|flags| flags & 0x40 != 0)
            }
        }
    }
}

/// The outer packet would be longer than its IP header can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl From<TooLong> for SealError {
    fn from(_: TooLong) -> Self {
        SealError::TooLong
    }
}

/// Link place, outer IP header, UDP header where there is one, in wire order.
///
/// UDP over IPv4 has checksum 0 (RFC 3948 §2.1). UDP over IPv6 has a computed one: the zero of RFC 6935 is dropped by
/// receivers that were not told of it.
///
/// Laid out so that over IPv4, with what stands in front of it in an association or a way, little of a cache line is left over.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Outer {
    /// Of the IPv4 header with length, TOS, ID, flags and checksum zero; of the pseudo-header without the length for
    /// IPv6 UDP.
    sum: u16,
    len: u8,
    udp: bool,
    v6: bool,
    bytes: [u8; MAX_OUTER],
}

impl Outer {
    pub fn new(endpoints: Endpoints, encapsulation: Encapsulation) -> Self {
        Self::with_ttl(endpoints, encapsulation, OUTER_TTL)
    }

    /// As [`Self::new`], with this TTL or hop limit in place of 64.
    pub fn with_ttl(endpoints: Endpoints, encapsulation: Encapsulation, ttl: u8) -> Self {
        let mut bytes = [0; MAX_OUTER];
        let (udp, proto) = match encapsulation {
            Encapsulation::None => (false, PROTO_ESP),
            Encapsulation::Udp { .. } => (true, PROTO_UDP),
        };
        let ip = &mut bytes[LINK_LEN..];
        let (v6, ip_len, sum) = match endpoints {
            Endpoints::V4 { local, remote } => {
                ip[0] = 0x45;
                ip[8] = ttl;
                ip[9] = proto;
                ip[12..16].copy_from_slice(&local.octets());
                ip[16..20].copy_from_slice(&remote.octets());
                (false, 20, sum(&ip[..20]))
            }
            Endpoints::V6 { local, remote } => {
                ip[0] = 0x60;
                ip[6] = proto;
                ip[7] = ttl;
                ip[8..24].copy_from_slice(&local.octets());
                ip[24..40].copy_from_slice(&remote.octets());
                (true, 40, u64::from(proto) + sum(&ip[8..40]))
            }
        };
        write_link(&mut bytes, if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
        let mut len = LINK_LEN + ip_len;
        if let Encapsulation::Udp { source, destination } = encapsulation {
            bytes[len..len + 2].copy_from_slice(&source.to_be_bytes());
            bytes[len + 2..len + 4].copy_from_slice(&destination.to_be_bytes());
            len += UDP_LEN;
        }
        Self { sum: fold(sum), len: len as u8, udp, v6, bytes }
    }

    /// Bytes in front of what is carried, the link place of [`LINK_LEN`] included.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Bytes from the start of it to the end of what an outer IPv4 header needs.
    pub(crate) const V4_NEEDS: usize = std::mem::offset_of!(Self, bytes) + V4_UDP;

    /// Its last byte that is written: in the last cache line that is needed.
    #[inline]
    pub(crate) fn end(&self) -> &u8 {
        &self.bytes[if self.v6 { V6_UDP } else { V4_UDP } - 1]
    }

    /// The same without the link place: what counts against an MTU.
    pub fn wire_len(&self) -> usize {
        self.len() - LINK_LEN
    }

    /// Whether the outer header is IPv6.
    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// Source and destination port, where there is a UDP header.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let &[.., a, b, c, d, _, _, _, _] = &self.bytes[..self.len()] else { return None };
        self.udp.then_some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// Whether an outer packet of `wire` bytes, IP header included, can be said in its length fields.
    ///
    /// # Errors
    /// [`TooLong`].
    #[inline]
    pub fn check_len(&self, wire: usize) -> Result<(), TooLong> {
        let limit = if self.v6 { 40 + 0xffff } else { 0xffff };
        if wire > limit { Err(TooLong) } else { Ok(()) }
    }

    /// Writes all of it into the first [`Self::len`] bytes of `place`, which has as many. `wire` is the outer packet's
    /// whole length, IP header included, which [`Self::check_len`] has found good; `tos` is the DSCP and ECN byte.
    ///
    /// Over IPv4 the packet must not be fragmented: ID 0 with DF set, an atomic datagram (RFC 6864 §4.1).
    #[inline]
    pub fn write(&self, place: &mut [u8], wire: usize, tos: u8) {
        self.write_with(place, wire, tos, None);
    }

    /// As [`Self::write`]. With an `id`, DF is clear and routers may fragment the packet; the ID must then not come
    /// again while parts of it may still be under way (RFC 6864 §4.3). IPv6 has neither, and ignores it.
    #[inline]
    pub fn write_with(&self, place: &mut [u8], wire: usize, tos: u8, id: Option<u16>) {
        match self.len() {
            V4 => copy::<V4>(place, &self.bytes),
            V4_UDP => copy::<V4_UDP>(place, &self.bytes),
            V6 => copy::<V6>(place, &self.bytes),
            _ => copy::<V6_UDP>(place, &self.bytes),
        }
        let ip = &mut place[LINK_LEN..];
        let ip_len = if self.v6 {
            ip[0] = 0x60 | tos >> 4;
            ip[1] = tos << 4;
            ip[4..6].copy_from_slice(&((wire - 40) as u16).to_be_bytes());
            40
        } else {
            let (id, flags) = id.map_or((0, 0x4000), |id| (id, 0));
            ip[1] = tos;
            ip[2..4].copy_from_slice(&(wire as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[6..8].copy_from_slice(&u16::to_be_bytes(flags));
            let sum = fold(u64::from(self.sum) + u64::from(tos) + wire as u64 + u64::from(id) + u64::from(flags));
            ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
            20
        };
        if self.udp {
            ip[ip_len + 4..ip_len + 6].copy_from_slice(&((wire - ip_len) as u16).to_be_bytes());
        }
    }

    /// Last step, over the finished frame (link place first, nothing behind the packet): the UDP checksum that IPv6
    /// needs.
    #[inline]
    pub fn finish(&self, frame: &mut [u8]) {
        if !(self.udp && self.v6) {
            return;
        }
        let udp = &mut frame[LINK_LEN + 40..];
        let mut checksum = !fold(u64::from(self.sum) + udp.len() as u64 + sum(udp));
        if checksum == 0 {
            checksum = 0xffff; // zero would say "none" (RFC 8200 §8.1)
        }
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Copies the first `N` bytes: of a length known to the compiler, so that it is a few moves and no call.
#[inline]
fn copy<const N: usize>(to: &mut [u8], from: &[u8; MAX_OUTER]) {
    to[..N].copy_from_slice(&from[..N]);
}

/// The sum of `data` as big-endian 16-bit words, folded; an odd last byte counts as the high one (RFC 1071).
///
/// Eight bytes at a time: a sum of 32-bit halves is congruent modulo 0xffff and cannot overflow below 2^32 words. In
/// the machine's own byte order, which swaps the result and nothing else (RFC 1071 §2).
pub(super) fn sum(data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(8);
    let mut total = 0;
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        let v = u64::from_ne_bytes(eight);
        total += (v >> 32) + (v & 0xffff_ffff);
    }
    let mut last = [0; 8];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    let v = u64::from_ne_bytes(last);
    u16::from_be(fold(total + (v >> 32) + (v & 0xffff_ffff))).into()
}

pub(super) fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::checksum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_is_the_internet_checksum(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            // An all-zero sum has two spellings; both mean the same.
            let (got, want) = (!(sum(&data) as u16), checksum(&data));
            prop_assert!(got == want || (got == 0xffff || got == 0) && (want == 0xffff || want == 0), "{} {}", got, want);
        }
    }

    const UDP: Encapsulation = Encapsulation::Udp { source: 4500, destination: 4501 };

    #[test]
    fn ipv4_header_is_right_for_any_length_and_tos() {
        let ends = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
        for (encapsulation, proto, udp) in [(Encapsulation::None, 50, 0), (UDP, 17, 8)] {
            let outer = Outer::new(ends, encapsulation);
            assert_eq!(outer.wire_len(), 20 + udp);
            for (wire, tos, id) in [(100, 0, None), (1500, 0xff, Some(0xfedc)), (65_535, 0xb9, Some(0))] {
                let mut p = vec![0xAA; outer.len()];
                outer.write_with(&mut p, wire, tos, id);
                assert_eq!((&p[..12], &p[12..14]), (&[0; 12][..], &[8, 0][..]));
                let ip = &p[LINK_LEN..];
                assert_eq!(checksum(&ip[..20]), 0);
                assert_eq!((ip[0], ip[1], usize::from(u16::from_be_bytes([ip[2], ip[3]]))), (0x45, tos, wire));
                let df = if id.is_none() { 0x40 } else { 0 };
                assert_eq!((&ip[4..6], &ip[6..8]), (&id.unwrap_or(0).to_be_bytes()[..], &[df, 0][..]));
                assert_eq!((ip[8], ip[9]), (64, proto));
                assert_eq!(&ip[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
                if udp > 0 {
                    assert_eq!(&ip[20..24], [0x11, 0x94, 0x11, 0x95]);
                    assert_eq!(usize::from(u16::from_be_bytes([ip[24], ip[25]])), wire - 20);
                    assert_eq!(&ip[26..28], [0, 0], "no checksum over IPv4");
                }
            }
            assert_eq!(outer.check_len(65_535), Ok(()));
            assert_eq!(outer.check_len(65_536), Err(TooLong));
        }
    }

    #[test]
    fn ipv6_udp_has_a_checksum() {
        let ends = Endpoints::V6 { local: Ipv6Addr::LOCALHOST, remote: Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7) };
        let outer = Outer::new(ends, UDP);
        for n in [0, 1, 37, 1400] {
            let mut p: Vec<u8> = vec![0; outer.len()];
            p.extend((0..n).map(|i| (i * 11) as u8));
            let (wire, len) = (p.len() - LINK_LEN, outer.len());
            outer.write(&mut p[..len], wire, 0x2e);
            outer.finish(&mut p);
            let ip = &p[LINK_LEN..];
            assert_eq!((ip[0], ip[1], ip[6], ip[7]), (0x62, 0xe0, 17, 64));
            let udp_len = (ip.len() - 40) as u32;
            let pseudo = [&ip[8..40], &udp_len.to_be_bytes(), &[0, 0, 0, 17], &ip[40..]].concat();
            assert_eq!(checksum(&pseudo), 0);
            assert_ne!(&ip[46..48], [0, 0]);
        }
    }
}
