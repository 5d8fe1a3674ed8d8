//! What stands in front of the ciphertext: built once per security association, patched per packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::esp::{
    ESP_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IV_LEN, LINK_LEN, PROTO_ESP, PROTO_UDP, SealError, UDP_LEN, write_link,
};

/// TTL or hop limit of the outer header; the inner one's is not copied (RFC 4301 §5.1.2).
const OUTER_TTL: u8 = 64;
const MAX_PREFIX: usize = LINK_LEN + 40 + UDP_LEN + ESP_LEN + IV_LEN;

/// The two ends of a tunnel, this host's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    V4 { local: Ipv4Addr, remote: Ipv4Addr },
    V6 { local: Ipv6Addr, remote: Ipv6Addr },
}

/// ESP directly over IP, or in UDP so that it passes a NAT (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    None,
    /// Usually both [`NAT_T_PORT`](super::esp::NAT_T_PORT).
    Udp {
        source: u16,
        destination: u16,
    },
}

/// Link place, outer IP, UDP, SPI, sequence number and IV, in wire order.
///
/// IPv4: ID 0 with DF set, an atomic datagram (RFC 6864 §4.1). UDP over IPv4 has checksum 0 (RFC 3948 §2.1). UDP over
/// IPv6 has a computed one: the zero of RFC 6935 is dropped by receivers that were not told of it.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    bytes: [u8; MAX_PREFIX],
    len: usize,
    udp: bool,
    v6: bool,
    /// Of the IPv4 header with length, TOS and checksum zero; of the pseudo-header without the length for IPv6 UDP.
    sum: u64,
}

impl Prefix {
    pub(super) fn new(endpoints: Endpoints, encapsulation: Encapsulation, spi: u32) -> Self {
        let mut bytes = [0; MAX_PREFIX];
        let (udp, proto) = match encapsulation {
            Encapsulation::None => (false, PROTO_ESP),
            Encapsulation::Udp { .. } => (true, PROTO_UDP),
        };
        let ip = &mut bytes[LINK_LEN..];
        let (v6, ip_len, sum) = match endpoints {
            Endpoints::V4 { local, remote } => {
                ip[0] = 0x45;
                ip[6] = 0x40; // DF
                ip[8] = OUTER_TTL;
                ip[9] = proto;
                ip[12..16].copy_from_slice(&local.octets());
                ip[16..20].copy_from_slice(&remote.octets());
                (false, 20, sum(&ip[..20]))
            }
            Endpoints::V6 { local, remote } => {
                ip[0] = 0x60;
                ip[6] = proto;
                ip[7] = OUTER_TTL;
                ip[8..24].copy_from_slice(&local.octets());
                ip[24..40].copy_from_slice(&remote.octets());
                (true, 40, u64::from(proto) + sum(&ip[8..40]))
            }
        };
        write_link(&mut bytes, if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
        let mut at = LINK_LEN + ip_len;
        if let Encapsulation::Udp { source, destination } = encapsulation {
            bytes[at..at + 2].copy_from_slice(&source.to_be_bytes());
            bytes[at + 2..at + 4].copy_from_slice(&destination.to_be_bytes());
            at += UDP_LEN;
        }
        bytes[at..at + 4].copy_from_slice(&spi.to_be_bytes());
        Self { bytes, len: at + ESP_LEN + IV_LEN, udp, v6, sum }
    }

    /// Bytes in front of the ciphertext, the link place included.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The same without the link place: what counts against an MTU.
    pub(super) fn wire_len(&self) -> usize {
        self.len - LINK_LEN
    }

    /// Whether an outer packet of `wire` bytes, IP header included, can be said in its length fields.
    #[inline]
    pub(super) fn check_len(&self, wire: usize) -> Result<(), SealError> {
        let limit = if self.v6 { 40 + 0xffff } else { 0xffff };
        if wire > limit { Err(SealError::TooLong) } else { Ok(()) }
    }

    /// Writes all of it into `place`, which is [`Self::len`] bytes. `wire` is the outer packet's whole length, which
    /// [`Self::check_len`] has found good.
    #[inline]
    pub(super) fn write(&self, place: &mut [u8], wire: usize, tos: u8, seq: u32, iv: [u8; IV_LEN]) {
        place.copy_from_slice(&self.bytes[..self.len]);
        let esp = self.len - ESP_LEN - IV_LEN;
        place[esp + 4..esp + 8].copy_from_slice(&seq.to_be_bytes());
        place[esp + 8..].copy_from_slice(&iv);
        let ip = &mut place[LINK_LEN..];
        let ip_len = if self.v6 {
            ip[0] = 0x60 | tos >> 4;
            ip[1] = tos << 4;
            ip[4..6].copy_from_slice(&((wire - 40) as u16).to_be_bytes());
            40
        } else {
            ip[1] = tos;
            ip[2..4].copy_from_slice(&(wire as u16).to_be_bytes());
            let sum = fold(self.sum + u64::from(tos) + wire as u64);
            ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
            20
        };
        if self.udp {
            ip[ip_len + 4..ip_len + 6].copy_from_slice(&((wire - ip_len) as u16).to_be_bytes());
        }
    }

    /// Last step, over the finished frame (link place first): the UDP checksum that IPv6 needs.
    #[inline]
    pub(super) fn finish(&self, frame: &mut [u8]) {
        if !(self.udp && self.v6) {
            return;
        }
        let udp = &mut frame[LINK_LEN + 40..];
        let mut checksum = !fold(self.sum + udp.len() as u64 + sum(udp));
        if checksum == 0 {
            checksum = 0xffff; // zero would say "none" (RFC 8200 §8.1)
        }
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The sum of `data` as big-endian 16-bit words, folded; an odd last byte counts as the high one (RFC 1071).
///
/// Eight bytes at a time: a sum of 32-bit halves is congruent modulo 0xffff and cannot overflow below 2^32 words. In
/// the machine's own byte order, which swaps the result and nothing else (RFC 1071 §2).
fn sum(data: &[u8]) -> u64 {
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

fn fold(mut sum: u64) -> u16 {
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
            let prefix = Prefix::new(ends, encapsulation, 0x1234_5678);
            assert_eq!(prefix.wire_len(), 20 + udp + 16);
            for (wire, tos) in [(100, 0), (1500, 0xff), (65_535, 0xb9)] {
                let mut p = vec![0xAA; prefix.len()];
                prefix.write(&mut p, wire, tos, 7, [9; 8]);
                assert_eq!((&p[..12], &p[12..14]), (&[0; 12][..], &[8, 0][..]));
                let ip = &p[LINK_LEN..];
                assert_eq!(checksum(&ip[..20]), 0);
                assert_eq!((ip[0], ip[1], usize::from(u16::from_be_bytes([ip[2], ip[3]]))), (0x45, tos, wire));
                assert_eq!((&ip[4..6], &ip[6..8], ip[8], ip[9]), (&[0, 0][..], &[0x40, 0][..], 64, proto));
                assert_eq!(&ip[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
                if udp > 0 {
                    assert_eq!(&ip[20..24], [0x11, 0x94, 0x11, 0x95]);
                    assert_eq!(usize::from(u16::from_be_bytes([ip[24], ip[25]])), wire - 20);
                    assert_eq!(&ip[26..28], [0, 0], "no checksum over IPv4");
                }
                assert_eq!(&ip[20 + udp..], [0x12, 0x34, 0x56, 0x78, 0, 0, 0, 7, 9, 9, 9, 9, 9, 9, 9, 9]);
            }
            assert_eq!(prefix.check_len(65_535), Ok(()));
            assert_eq!(prefix.check_len(65_536), Err(SealError::TooLong));
        }
    }

    #[test]
    fn ipv6_udp_has_a_checksum() {
        let ends = Endpoints::V6 { local: Ipv6Addr::LOCALHOST, remote: Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7) };
        let prefix = Prefix::new(ends, UDP, 0x100);
        for n in [0, 1, 37, 1400] {
            let mut p: Vec<u8> = vec![0; prefix.len()];
            p.extend((0..n).map(|i| (i * 11) as u8));
            let (wire, len) = (p.len() - LINK_LEN, prefix.len());
            prefix.write(&mut p[..len], wire, 0x2e, 7, [9; 8]);
            prefix.finish(&mut p);
            let ip = &p[LINK_LEN..];
            assert_eq!((ip[0], ip[1], ip[6], ip[7]), (0x62, 0xe0, 17, 64));
            let udp_len = (ip.len() - 40) as u32;
            let pseudo = [&ip[8..40], &udp_len.to_be_bytes(), &[0, 0, 0, 17], &ip[40..]].concat();
            assert_eq!(checksum(&pseudo), 0);
            assert_ne!(&ip[46..48], [0, 0]);
        }
    }
}
