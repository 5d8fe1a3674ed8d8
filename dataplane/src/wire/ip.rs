//! In-place edits of IPv4 and IPv6 headers. Every function takes the packet from its IP header on.

use super::checksum;
use softdpu_ebpf_common::walk::L3;

pub const V4_HEADER: usize = 20;
pub const V6_HEADER: usize = 40;
/// Least MTU of an IPv6 link (RFC 8200 §5).
pub const V6_MIN_MTU: usize = 1280;

/// The TTL or hop limit would reach zero (RFC 1812 §5.3.1, RFC 8200 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

/// Takes one from the TTL or hop limit; the IPv4 checksum is updated, not recomputed.
#[inline]
pub fn decrement_ttl(packet: &mut [u8], l3: L3) -> Result<(), Expired> {
    match l3 {
        L3::V4 => {
            let [ttl, proto] = [packet[8], packet[9]];
            if ttl <= 1 {
                return Err(Expired);
            }
            packet[8] = ttl - 1;
            checksum::patch(packet, 10, [ttl, proto], [ttl - 1, proto]);
        }
        L3::V6 => {
            if packet[7] <= 1 {
                return Err(Expired);
            }
            packet[7] -= 1;
        }
        L3::Other => {}
    }
    Ok(())
}

/// Marks a packet, `dscp` 0..=63; the ECN bits stay (RFC 2474 §3, RFC 3168 §5).
pub fn set_dscp(packet: &mut [u8], l3: L3, dscp: u8) {
    match l3 {
        L3::V4 => {
            let [first, before] = [packet[0], packet[1]];
            let after = dscp << 2 | before & 3;
            packet[1] = after;
            checksum::patch(packet, 10, [first, before], [first, after]);
        }
        L3::V6 => {
            let class = dscp << 2 | packet[1] >> 4 & 3;
            packet[0] = packet[0] & 0xf0 | class >> 4;
            packet[1] = class << 4 | packet[1] & 0x0f;
        }
        L3::Other => {}
    }
}

/// Whether no router may forward packets from or to this address: unspecified (with IPv4's 0/8), loopback, multicast,
/// limited broadcast, and IPv6 link-local (RFC 1812 §4.2.2.11 and §5.3.7, RFC 4291 §2.5). Multicast is routed by nobody
/// here.
pub fn is_martian(l3: L3, address: &[u8; 16]) -> bool {
    match l3 {
        L3::V4 => matches!(address[0], 0 | 127 | 224..=239) || address[..4] == [255; 4],
        L3::V6 => {
            let local = address[0] == 0xfe && address[1] & 0xc0 == 0x80;
            local || address[0] == 0xff || (address[..15] == [0; 15] && address[15] <= 1)
        }
        L3::Other => false,
    }
}

/// IPv4's DF bit; IPv6 is never fragmented by a router (RFC 8200 §5).
#[inline]
pub fn dont_fragment(packet: &[u8], l3: L3) -> bool {
    l3 == L3::V6 || packet[6] & 0x40 != 0
}

/// Header length in bytes of the IPv4 header at the start of `packet`, as its IHL says.
#[inline]
pub fn v4_header_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0x0f) * 4
}

/// Writes a 20-byte IPv4 header with its checksum. `total`: bytes of the whole packet. `id` 0 with DF set is what RFC 6864
/// §4.1 allows for packets that are never fragmented.
pub fn write_v4(header: &mut [u8], src: [u8; 4], dst: [u8; 4], proto: u8, ttl: u8, total: u16) {
    header[..V4_HEADER].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, proto, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&src);
    header[16..20].copy_from_slice(&dst);
    let sum = checksum::of(&header[..V4_HEADER]);
    header[10..12].copy_from_slice(&sum);
}

/// Writes a 40-byte IPv6 header. `payload`: bytes behind it.
pub fn write_v6(header: &mut [u8], src: &[u8; 16], dst: &[u8; 16], next: u8, hops: u8, payload: u16) {
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, next, hops]);
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[8..24].copy_from_slice(src);
    header[24..40].copy_from_slice(dst);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ttl_keeps_the_checksum_true() {
        let mut packet = [0u8; 20];
        write_v4(&mut packet, [10, 0, 0, 1], [10, 0, 0, 2], 17, 3, 20);
        assert!(checksum::ipv4_header_ok(&packet));
        for left in [2, 1] {
            assert_eq!(decrement_ttl(&mut packet, L3::V4), Ok(()));
            assert_eq!(packet[8], left);
            assert!(checksum::ipv4_header_ok(&packet));
        }
        assert_eq!(decrement_ttl(&mut packet, L3::V4), Err(Expired));
        assert_eq!(packet[8], 1, "an expired packet is quoted as it came");
    }

    #[test]
    fn martians() {
        let v4 = |a: [u8; 4]| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&a);
            is_martian(L3::V4, &address)
        };
        assert!(
            [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [239, 1, 1, 1], [255; 4]].into_iter().all(v4)
        );
        assert!(![[1, 0, 0, 1], [10, 0, 0, 255], [126, 1, 1, 1], [223, 1, 1, 1], [240, 0, 0, 1]].into_iter().any(v4));
        let v6 = |text: &str| is_martian(L3::V6, &text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert!(["::", "::1", "fe80::1", "febf::1", "ff02::1"].into_iter().all(v6));
        assert!(!["2001:db8::1", "fec0::1", "fd00::1", "::2", "64:ff9b::1"].into_iter().any(v6));
    }

    #[test]
    fn hop_limit_expires_at_one() {
        let mut packet = [0u8; 40];
        write_v6(&mut packet, &[1; 16], &[2; 16], 58, 2, 0);
        assert_eq!(decrement_ttl(&mut packet, L3::V6), Ok(()));
        assert_eq!(decrement_ttl(&mut packet, L3::V6), Err(Expired));
    }
}
