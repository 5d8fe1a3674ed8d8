//! Transport mode (RFC 4303 §3.1.1): ESP goes between a packet's own IP header and what that carries.
//!
//! ```text
//!  IP header, options,  │ UDP │ SPI seq IV │ upper header and payload  padding, trailer │ ICV
//!  hop-by-hop, routing    RFC 3948           └───────────── encrypted ────────────────┘
//! ```
//!
//! The payload stays where it is; the header in front of it moves, by 16 bytes or 24.

use std::net::IpAddr;
use std::ops::Range;

use super::ecn::mend;
use super::esp::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, LINK_LEN, OpenError, PROTO_ESP, PROTO_UDP, SealError, UDP_LEN};
use super::esp::{NEXT_IPV4, NEXT_IPV6, write_link};
use super::outer::{fold, sum};
use softdpu_ebpf_common::walk::MAX_EXTENSION_HEADERS;

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What becomes of the TCP or UDP checksum of a packet that a NAT gave other addresses, which the checksum covers
/// (RFC 3948 §3.1.2). Only for packets that came in UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatFix {
    /// Left as it is.
    #[default]
    None,
    /// Mended for the change from these addresses, which the sender saw (IKE's NAT-OA), to those that came.
    Original { source: IpAddr, destination: IpAddr },
    /// Computed anew; of UDP over IPv4 set to zero, "none". The packet was authenticated, so nothing is covered up.
    Recompute,
}

/// A packet, divided into what stays in front of ESP and what is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) v6: bool,
    /// Bytes of the header that stays in front, a multiple of 4.
    pub(super) header: usize,
    /// Where in it the next protocol is said.
    next_at: usize,
    /// What that said.
    pub(super) proto: u8,
}

impl Split {
    /// Whether the sealed packet, `wire` bytes with its IP header, can be said in the header's length field.
    ///
    /// # Errors
    /// [`SealError::TooLong`].
    #[inline]
    pub(super) fn check_len(&self, wire: usize) -> Result<(), SealError> {
        let limit = if self.v6 { 40 + 0xffff } else { 0xffff };
        if wire > limit { Err(SealError::TooLong) } else { Ok(()) }
    }
}

/// Divides `packet`, from its IP header on. IPv6 destination options stay in front where a routing header follows them:
/// then they are for each router on the way.
///
/// # Errors
/// [`SealError::Fragment`]: transport mode is for whole packets (RFC 4303 §3.1.1). [`SealError::BadInner`]: not IP, or
/// headers that make no sense.
#[inline]
pub(super) fn split(packet: &[u8]) -> Result<Split, SealError> {
    match packet.first().map(|b| b >> 4) {
        Some(4) => {
            let header = usize::from(packet[0] & 0xf) * 4;
            if header < 20 || packet.len() < header {
                return Err(SealError::BadInner);
            }
            // More fragments, or an offset.
            if u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0 {
                return Err(SealError::Fragment);
            }
            Ok(Split { v6: false, header, next_at: 9, proto: packet[9] })
        }
        Some(6) if packet.len() >= 40 => split_v6(packet),
        _ => Err(SealError::BadInner),
    }
}

fn split_v6(packet: &[u8]) -> Result<Split, SealError> {
    let mut here = Split { v6: true, header: 40, next_at: 6, proto: packet[6] };
    // Where to divide if no routing header follows.
    let mut before_options = None;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match here.proto {
            HOP_BY_HOP => {}
            ROUTING => before_options = None,
            DESTINATION => before_options = before_options.or(Some(here)),
            FRAGMENT => return Err(SealError::Fragment),
            _ => return Ok(before_options.unwrap_or(here)),
        }
        let Some(&[proto, units]) = packet.get(here.header..here.header + 2) else { return Err(SealError::BadInner) };
        here = Split { next_at: here.header, proto, header: here.header + (usize::from(units) + 1) * 8, ..here };
        if here.header > packet.len() {
            return Err(SealError::BadInner);
        }
    }
    Err(SealError::BadInner)
}

/// Puts the header of `split`, which is at `from` in `buf`, and the link place to the front: `buf` begins with the free
/// place and ends with the packet, whose length [`Split::check_len`] has found good. UDP ports as given, where ESP goes
/// in UDP.
#[inline]
pub(super) fn put(buf: &mut [u8], from: usize, split: &Split, udp: Option<(u16, u16)>) {
    let wire = buf.len() - LINK_LEN;
    let length = (if split.v6 { wire - 40 } else { wire }) as u16;
    buf.copy_within(from..from + split.header, LINK_LEN);
    write_link(buf, if split.v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
    let (ip, rest) = buf[LINK_LEN..].split_at_mut(split.header);
    rewrite(ip, split.v6, split.next_at, length, if udp.is_some() { PROTO_UDP } else { PROTO_ESP });
    if let Some((source, destination)) = udp {
        rest[..2].copy_from_slice(&source.to_be_bytes());
        rest[2..4].copy_from_slice(&destination.to_be_bytes());
        rest[4..6].copy_from_slice(&((wire - split.header) as u16).to_be_bytes());
        rest[6..8].fill(0);
    }
}

/// Last step of sealing in UDP, over the finished frame (link place first): the checksum, which IPv6 needs.
#[inline]
pub(super) fn finish(frame: &mut [u8], split: &Split) {
    if split.v6 {
        let (ip, udp) = frame[LINK_LEN..].split_at_mut(split.header);
        let checksum = l4_checksum(&ip[8..40], PROTO_UDP, udp);
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Brings the IP header at `l3..l4` of `buf` to the decrypted `text` behind it, and makes it say again what `text` is.
/// Answers the whole packet's place and its version as a next header value.
///
/// # Errors
/// [`OpenError::BadInner`] where `l3..l4` is no IP header.
#[inline]
pub(super) fn restore(
    buf: &mut [u8],
    headers: Range<usize>,
    text: Range<usize>,
    proto: u8,
    nat: NatFix,
) -> Result<(Range<usize>, u8), OpenError> {
    let header = buf.get(headers.clone()).ok_or(OpenError::BadInner)?;
    let (v6, next_at) = next_place(header).ok_or(OpenError::BadInner)?;
    let start = text.start.checked_sub(header.len()).ok_or(OpenError::BadInner)?;
    let counted = header.len() + text.len() - if v6 { 40 } else { 0 };
    let Ok(length) = u16::try_from(counted) else { return Err(OpenError::BadInner) };
    let size = header.len();
    buf.copy_within(headers, start);
    let (ip, upper) = buf[start..text.end].split_at_mut(size);
    rewrite(ip, v6, next_at, length, proto);
    fix_nat(ip, v6, upper, proto, nat);
    Ok((start..text.end, if v6 { NEXT_IPV6 } else { NEXT_IPV4 }))
}

/// IPv6 or not, and where in the header, extension headers included, the protocol after it is said.
fn next_place(header: &[u8]) -> Option<(bool, usize)> {
    match *header.first()? {
        first if first >> 4 == 4 => {
            (header.len() >= 20 && usize::from(first & 0xf) * 4 == header.len()).then_some((false, 9))
        }
        first if first >> 4 == 6 && header.len() >= 40 => {
            let (mut next_at, mut at) = (6, 40);
            while at < header.len() {
                let units = usize::from(*header.get(at + 1)?);
                let bytes = match header[next_at] {
                    AUTHENTICATION => (units + 2) * 4,
                    FRAGMENT => 8,
                    _ => (units + 1) * 8,
                };
                (next_at, at) = (at, at + bytes);
            }
            (at == header.len()).then_some((true, next_at))
        }
        _ => None,
    }
}

/// Length, next protocol and, of IPv4, the checksum.
#[inline]
fn rewrite(ip: &mut [u8], v6: bool, next_at: usize, length: u16, proto: u8) {
    ip[next_at] = proto;
    if v6 {
        ip[4..6].copy_from_slice(&length.to_be_bytes());
    } else {
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[10..12].fill(0);
        let checksum = !fold(sum(ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn fix_nat(ip: &[u8], v6: bool, upper: &mut [u8], proto: u8, nat: NatFix) {
    let at = match proto {
        TCP if upper.len() >= 20 => 16,
        PROTO_UDP if upper.len() >= UDP_LEN => 6,
        _ => return,
    };
    let old = u16::from_be_bytes([upper[at], upper[at + 1]]);
    // Zero is "none" (RFC 768), which addresses do not change.
    if proto == PROTO_UDP && !v6 && old == 0 {
        return;
    }
    let addresses = if v6 { &ip[8..40] } else { &ip[12..20] };
    let new = match nat {
        NatFix::None => return,
        NatFix::Original { source, destination } => {
            let before = fold(word_sum(source) + word_sum(destination));
            let new = mend(old, before, fold(sum(addresses)));
            if proto == PROTO_UDP && new == 0 { 0xffff } else { new }
        }
        NatFix::Recompute if proto == PROTO_UDP && !v6 => 0,
        NatFix::Recompute => {
            upper[at..at + 2].fill(0);
            l4_checksum(addresses, proto, upper)
        }
    };
    upper[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

fn word_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    }
}

/// Of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) and `upper`, whose own checksum field is zero. Never zero for
/// UDP, where that would say "none".
fn l4_checksum(addresses: &[u8], proto: u8, upper: &[u8]) -> u16 {
    let checksum = !fold(sum(addresses) + u64::from(proto) + upper.len() as u64 + sum(upper));
    if checksum == 0 && proto == PROTO_UDP { 0xffff } else { checksum }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::testing::{checksum, ipv4, ipv6};
    use std::net::Ipv4Addr;

    /// IPv6 with extension headers of these kinds, each 8 or 16 bytes, then UDP.
    fn extended(kinds: &[u8]) -> Vec<u8> {
        let mut p = ipv6(48 + 20, 0);
        let upper = p.split_off(40);
        p[6] = *kinds.first().unwrap_or(&17);
        for (i, _) in kinds.iter().enumerate() {
            let next = *kinds.get(i + 1).unwrap_or(&17);
            let long = i % 2;
            p.extend([next, long as u8]);
            p.extend(vec![0; 6 + 8 * long]);
        }
        p.extend(upper);
        let length = (p.len() - 40) as u16;
        p[4..6].copy_from_slice(&length.to_be_bytes());
        p
    }

    #[test]
    fn esp_goes_behind_what_routers_read() {
        const D: u8 = DESTINATION;
        for (kinds, header, proto) in [
            (&[][..], 40, 17),
            (&[HOP_BY_HOP], 48, 17),
            (&[HOP_BY_HOP, ROUTING], 64, 17),
            (&[D], 40, D),
            (&[HOP_BY_HOP, D], 48, D),
            (&[D, ROUTING], 64, 17),
            (&[D, ROUTING, D], 64, D),
            (&[HOP_BY_HOP, D, ROUTING, D], 72, D),
            (&[AUTHENTICATION], 40, AUTHENTICATION),
        ] {
            let got = split(&extended(kinds)).unwrap();
            assert_eq!((got.header, got.proto), (header, proto), "{kinds:?}");
        }
        assert_eq!(split(&extended(&[FRAGMENT])), Err(SealError::Fragment));
        assert_eq!(split(&extended(&[HOP_BY_HOP, FRAGMENT])), Err(SealError::Fragment));
        assert_eq!(split(&extended(&[ROUTING; 8])), Err(SealError::BadInner));
        let mut overlong = extended(&[HOP_BY_HOP]);
        overlong[41] = 200;
        assert_eq!(split(&overlong), Err(SealError::BadInner));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut fragment = ipv4(60, 0);
        for word in [0x2000_u16, 0x0001, 0x2010] {
            fragment[6..8].copy_from_slice(&word.to_be_bytes());
            assert_eq!(split(&fragment), Err(SealError::Fragment));
        }
        for bad in [vec![], vec![0x45; 19], vec![0x46; 23], vec![0x44; 60], vec![0x60; 39], vec![0x50; 60]] {
            assert_eq!(split(&bad), Err(SealError::BadInner), "{bad:?}");
        }
        for header in [&[0x45; 24][..], &[0x46; 20], &[0x60; 39], &[0x60; 44], &[]] {
            assert_eq!(next_place(header), None);
        }
    }

    /// The same UDP packet as seen before and after a NAT.
    fn packet(source: [u8; 4], proto: u8) -> Vec<u8> {
        let mut p = ipv4(61, 0);
        p[9] = proto;
        p[12..16].copy_from_slice(&source);
        let at = 20 + if proto == TCP { 16 } else { 6 };
        p[at..at + 2].fill(0);
        let (ip, upper) = p.split_at(20);
        let pseudo = [&ip[12..20], &[0, proto, 0, upper.len() as u8], upper].concat();
        let sum = checksum(&pseudo);
        p[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        p
    }

    #[test]
    fn checksums_follow_the_addresses_through_a_nat() {
        let (inside, outside) = ([10, 1, 0, 1], [203, 0, 113, 250]);
        let original =
            NatFix::Original { source: Ipv4Addr::from(inside).into(), destination: Ipv4Addr::new(10, 2, 0, 2).into() };
        for proto in [TCP, PROTO_UDP] {
            let want = packet(outside, proto);
            let mut got = packet(inside, proto);
            got[12..16].copy_from_slice(&outside);
            for (fix, want) in [(original, Some(&want)), (NatFix::Recompute, Some(&want)), (NatFix::None, None)] {
                let mut p = got.clone();
                let (ip, upper) = p.split_at_mut(20);
                fix_nat(ip, false, upper, proto, fix);
                match (fix, proto) {
                    (NatFix::Recompute, PROTO_UDP) => assert_eq!(p[26..28], [0, 0]),
                    _ => assert_eq!(&p[20..], &want.unwrap_or(&got)[20..], "{fix:?} {proto}"),
                }
            }
        }
        let mut none = packet(inside, PROTO_UDP);
        none[26..28].fill(0);
        let (ip, upper) = none.split_at_mut(20);
        fix_nat(ip, false, upper, PROTO_UDP, original);
        assert_eq!(upper[6..8], [0, 0], "no checksum stays none");
    }
}
