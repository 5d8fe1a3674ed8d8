//! ICMP and ICMPv6 error messages, made in place from the packet they complain about.
//!
//! RFC 792, RFC 1191 (next-hop MTU), RFC 1812 §4.3.2 (when not to), RFC 4443.

use super::checksum::{self, ICMP, ICMPV6};
use super::ip::{self, V4_HEADER, V6_HEADER, V6_MIN_MTU};
use softdpu_ebpf_common::walk::{self, Fragment, Headers, L3};

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
    let single = match headers.l3 {
        L3::V4 => {
            let single = |a: [u8; 16]| a[0] != 0 && a[0] != 127 && a[0] < 224;
            single(headers.src) && single(headers.dst)
        }
        L3::V6 => headers.dst[0] != 0xff && headers.src[0] != 0xff && headers.src != [0; 16],
        L3::Other => false,
    };
    single && !is_error(packet, headers)
}

/// Every ICMP message that is not known to be a question or an answer.
pub fn is_error(packet: &[u8], headers: &Headers) -> bool {
    let kind = packet.get(usize::from(headers.l4_off)).copied();
    match headers.l3 {
        L3::V4 => headers.proto == ICMP && !matches!(kind, Some(0 | 8 | 13 | 14 | 17 | 18)),
        L3::V6 => headers.proto == ICMPV6 && kind.is_none_or(|kind| kind < 128),
        L3::Other => false,
    }
}

/// What an ICMP error is about: the headers of the packet that it quotes, turned round (source for destination), so that
/// they are those of a packet of that flow that goes the error's own way. Without ports where too little is quoted to see
/// them ([`Fragment::Later`]). `None`: not an error, or not even addresses are quoted. Offsets count from the quotation.
pub fn quoted_flow(packet: &[u8], headers: &Headers) -> Option<Headers> {
    if headers.fragment == Fragment::Later || !is_error(packet, headers) {
        return None;
    }
    let quote = packet.get(usize::from(headers.l4_off) + 8..)?;
    let mut about = walk::walk_ip(&Quote(quote), 0).ok().or_else(|| addresses(quote))?;
    std::mem::swap(&mut about.src, &mut about.dst);
    std::mem::swap(&mut about.sport, &mut about.dport);
    Some(about)
}

/// The TCP sequence number of the packet that an error with this header quotes, as far as it is there.
pub fn quoted_seq(packet: &[u8], headers: &Headers, about: &Headers) -> Option<u32> {
    let at = usize::from(headers.l4_off) + 8 + usize::from(about.l4_off) + 4;
    packet.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// The start of a packet: its length fields speak of more than there is.
struct Quote<'a>(&'a [u8]);

impl walk::Bytes for Quote<'_> {
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        walk::Bytes::array(self.0, off)
    }

    fn holds(&self, _len: usize) -> bool {
        true
    }
}

/// Addresses and protocol of a packet whose transport header was cut off (RFC 792 asks for 64 bits of it only).
fn addresses(quote: &[u8]) -> Option<Headers> {
    let mut headers = Headers { fragment: Fragment::Later, ..Headers::default() };
    match quote.first()? >> 4 {
        4 => {
            headers.l3 = L3::V4;
            headers.proto = *quote.get(9)?;
            headers.src[..4].copy_from_slice(quote.get(12..16)?);
            headers.dst[..4].copy_from_slice(quote.get(16..20)?);
        }
        6 => {
            headers.l3 = L3::V6;
            headers.proto = *quote.get(6)?;
            headers.src.copy_from_slice(quote.get(8..24)?);
            headers.dst.copy_from_slice(quote.get(24..40)?);
        }
        _ => return None,
    }
    Some(headers)
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
    #![allow(clippy::unwrap_used)]
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

    /// Whatever is cut off, the flow that an error is about is found, or at least its ends.
    #[test]
    fn an_error_is_about_the_flow_it_quotes() {
        let mut quote = [0u8; 40];
        ip::write_v4(&mut quote, [10, 1, 0, 2], [10, 2, 0, 2], 6, 60, 1500);
        quote[20..24].copy_from_slice(&[0x9c, 0x40, 1, 0xbb]);
        quote[32] = 0x50;
        for (quoted, ports) in [(40, (443, 40000)), (28, (0, 0)), (20, (0, 0))] {
            let mut packet = vec![0u8; V4_OVERHEAD];
            packet.extend(&quote[..quoted]);
            write(&mut packet, L3::V4, Complaint::TooBig(1400), &[9; 16], &[10; 16]);
            let error = walk::walk_ip(&packet[..], 0).unwrap();
            let about = quoted_flow(&packet, &error).unwrap();
            assert_eq!((&about.src[..4], &about.dst[..4]), (&[10, 2, 0, 2][..], &[10, 1, 0, 2][..]));
            assert_eq!((about.proto, about.sport, about.dport), (6, ports.0, ports.1), "{quoted} bytes quoted");
            assert_eq!(about.fragment == Fragment::Later, quoted < 40);
            packet[20] = 8;
            assert!(quoted_flow(&packet, &error).is_none(), "an echo request quotes nothing");
        }
        assert!(addresses(&quote[..19]).is_none());
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
