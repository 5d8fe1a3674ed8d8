//! ICMP and ICMPv6 error messages, made in place from the packet they complain about.
//!
//! RFC 792, RFC 1191 (next-hop MTU), RFC 1812 §4.3.2 (when not to), RFC 4443.

use super::checksum::{self, ICMP, ICMPV6};
use super::ip::{self, V4_HEADER, V6_HEADER, V6_MIN_MTU};
use softdpu_ebpf_common::walk::{Fragment, Headers, L3};

/// What went wrong with a packet, in the sender's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// ICMP 11/0, ICMPv6 3/0.
    TimeExceeded,
    /// ICMP 3/4 (fragmentation needed and DF set), ICMPv6 2/0 (packet too big). The largest packet that would pass.
    TooBig(u16),
    /// ICMP 3/1 (host unreachable), ICMPv6 1/3 (address unreachable).
    HostUnreachable,
    /// ICMP 3/0 (net unreachable), ICMPv6 1/0 (no route).
    NoRoute,
}

/// Most bytes of an ICMP error over IPv4 (RFC 1812 §4.3.2.3).
const V4_MAX: usize = 576;
/// Bytes in front of the quoted packet: IPv4 header and ICMP header.
pub const V4_OVERHEAD: usize = V4_HEADER + 8;
/// Bytes in front of the quoted packet: IPv6 header and ICMPv6 header.
pub const V6_OVERHEAD: usize = V6_HEADER + 8;

/// May an error be sent about this packet? Not about errors, later fragments, multicast, or packets without one sender
/// (RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)). ICMPv6 too-big may be sent about multicast; it is left out here.
pub fn may_complain(packet: &[u8], headers: &Headers) -> bool {
    if headers.fragment == Fragment::Later {
        return false;
    }
    let kind = packet.get(headers.l4_off as usize).copied();
    match headers.l3 {
        L3::V4 => {
            let (src, dst) = (headers.src, headers.dst);
            let single = |a: [u8; 16]| a[0] != 0 && a[0] != 127 && a[0] < 224;
            let error = headers.proto == ICMP && !matches!(kind, Some(0 | 8 | 13 | 14 | 17 | 18));
            single(src) && single(dst) && !error
        }
        L3::V6 => {
            let error = headers.proto == ICMPV6 && kind.is_none_or(|k| k < 128);
            headers.dst[0] != 0xff && headers.src[0] != 0xff && headers.src != [0; 16] && !error
        }
        L3::Other => false,
    }
}

/// How many bytes of the offending packet (of `len` bytes) an error quotes.
pub fn quoted(l3: L3, len: usize) -> usize {
    match l3 {
        L3::V6 => len.min(V6_MIN_MTU - V6_OVERHEAD),
        _ => len.min(V4_MAX - V4_OVERHEAD),
    }
}

/// Writes the error around its quotation. `message` is `overhead + quoted` bytes, the quotation already in place behind
/// the overhead. `from`: the address it is sent from; `to`: the offender's source.
pub fn write(message: &mut [u8], l3: L3, complaint: Complaint, from: &[u8; 16], to: &[u8; 16]) {
    let total = message.len();
    match l3 {
        L3::V6 => {
            let (kind, code, value) = match complaint {
                Complaint::TimeExceeded => (3, 0, 0),
                Complaint::TooBig(mtu) => (2, 0, u32::from(mtu)),
                Complaint::HostUnreachable => (1, 3, 0),
                Complaint::NoRoute => (1, 0, 0),
            };
            ip::write_v6(message, from, to, ICMPV6, 64, (total - V6_HEADER) as u16);
            let icmp = &mut message[V6_HEADER..];
            icmp[..4].copy_from_slice(&[kind, code, 0, 0]);
            icmp[4..8].copy_from_slice(&value.to_be_bytes());
            checksum::write_icmpv6(icmp, from, to);
        }
        _ => {
            let (kind, code, mtu) = match complaint {
                Complaint::TimeExceeded => (11, 0, 0),
                Complaint::TooBig(mtu) => (3, 4, mtu),
                Complaint::HostUnreachable => (3, 1, 0),
                Complaint::NoRoute => (3, 0, 0),
            };
            let v4 = |a: &[u8; 16]| [a[0], a[1], a[2], a[3]];
            ip::write_v4(message, v4(from), v4(to), ICMP, 64, total as u16);
            let icmp = &mut message[V4_HEADER..];
            icmp[..6].copy_from_slice(&[kind, code, 0, 0, 0, 0]);
            icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
            let sum = checksum::of(icmp);
            icmp[2..4].copy_from_slice(&sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(l3: L3, proto: u8) -> Headers {
        let mut headers = Headers { l3, proto, l4_off: 20, ..Headers::default() };
        headers.src[0] = 10;
        headers.dst[0] = 10;
        headers
    }

    #[test]
    fn never_about_an_error_a_later_fragment_or_multicast() {
        let mut packet = [0u8; 28];
        packet[20] = 11;
        assert!(!may_complain(&packet, &headers(L3::V4, ICMP)));
        packet[20] = 8;
        assert!(may_complain(&packet, &headers(L3::V4, ICMP)), "an echo request is not an error");
        let later = Headers { fragment: Fragment::Later, ..headers(L3::V4, 17) };
        assert!(!may_complain(&packet, &later));
        let mut multicast = headers(L3::V4, 17);
        multicast.dst[0] = 239;
        assert!(!may_complain(&packet, &multicast));
        assert!(may_complain(&packet, &headers(L3::V4, 17)));
    }

    #[test]
    fn messages_sum_up_and_carry_the_mtu() {
        let mut v4 = [0xabu8; V4_OVERHEAD + 40];
        write(&mut v4, L3::V4, Complaint::TooBig(1400), &[1; 16], &[2; 16]);
        assert!(checksum::ipv4_header_ok(&v4[..20]));
        assert_eq!(checksum::fold(checksum::add(0, &v4[20..])), 0xffff);
        assert_eq!((v4[20], v4[21], u16::from_be_bytes([v4[26], v4[27]])), (3, 4, 1400));
        let mut v6 = [0xabu8; V6_OVERHEAD + 40];
        write(&mut v6, L3::V6, Complaint::TooBig(1400), &[1; 16], &[2; 16]);
        assert_eq!((v6[40], v6[41], u16::from_be_bytes([v6[46], v6[47]])), (2, 0, 1400));
        let before = [v6[42], v6[43]];
        checksum::write_icmpv6(&mut v6[40..], &[1; 16], &[2; 16]);
        assert_eq!([v6[42], v6[43]], before);
    }
}
