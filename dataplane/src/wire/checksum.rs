//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the L4 checksums that a sender left undone.

use softdpu_ebpf_common::walk::{Fragment, Headers, L3};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// One's-complement sum of `bytes` added to `sum`, not yet folded. An odd last byte counts as the high half of a word.
///
/// Sums native-endian 32-bit words into 64 bits (RFC 1071 §2 (B): the sum is independent of byte order), in a shape the
/// compiler turns into vector adds.
#[inline]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total = sum + lanes.iter().sum::<u64>();
    let mut pairs = blocks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Folds to 16 bits, in native byte order (so that it is stored with `to_ne_bytes`). Halves are added and the carry comes in
/// again at the other end, which cannot carry a second time.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let (half, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let half = half.wrapping_add(u32::from(carry));
    let (quarter, carry) = (half as u16).overflowing_add((half >> 16) as u16);
    quarter.wrapping_add(u16::from(carry))
}

/// The checksum of `bytes` as the two bytes to store.
#[inline]
pub fn of(bytes: &[u8]) -> [u8; 2] {
    (!fold(add(0, bytes))).to_ne_bytes()
}

/// `true` where the IPv4 header (20 to 60 bytes) sums up.
#[inline]
pub fn ipv4_header_ok(header: &[u8]) -> bool {
    // Without options, which is nearly always, five words are added faster than a loop starts.
    let sum = match header.first_chunk::<20>() {
        Some(plain) if header.len() == 20 => words(plain),
        _ => add(0, header),
    };
    fold(sum) == 0xffff
}

/// The sum of whole 32-bit words, not folded. `N` is a multiple of 4, and small: the loop is unrolled.
#[inline(always)]
pub(super) fn words<const N: usize>(bytes: &[u8; N]) -> u64 {
    let mut sum = 0;
    let mut at = 0;
    while at + 4 <= N {
        sum += u64::from(u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        at += 4;
    }
    sum
}

/// Updates the checksum at `at` for one 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub fn patch(header: &mut [u8], at: usize, old: [u8; 2], new: [u8; 2]) {
    let Some(field) = header.get_mut(at..at + 2) else { return };
    let sum = u64::from(!u16::from_ne_bytes([field[0], field[1]]))
        + u64::from(!u16::from_ne_bytes(old))
        + u64::from(u16::from_ne_bytes(new));
    field.copy_from_slice(&(!fold(sum)).to_ne_bytes());
}

/// Pseudo-header sum (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1), not folded. `len`: bytes of the transport segment.
#[inline]
pub fn pseudo(headers: &Headers, len: usize) -> u64 {
    let addresses = match (headers.l3, headers.src.first_chunk::<4>(), headers.dst.first_chunk::<4>()) {
        (L3::V4, Some(src), Some(dst)) => words(src) + words(dst),
        _ => words(&headers.src) + words(&headers.dst),
    };
    addresses
        + u64::from((len as u32).to_be() & 0xffff)
        + u64::from((len as u32).to_be() >> 16)
        + u64::from(u16::from(headers.proto).to_be())
}

/// What [`finish_l4`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4Sum {
    /// Nothing to do: not TCP or UDP, a fragment, UDP over IPv4 without a checksum, or not left to offload.
    Left,
    /// The sender had left the sum to its NIC (`CSUM_PARTIAL`); it is complete now.
    Finished,
}

/// Completes a TCP or UDP checksum that the sending stack left to offload.
///
/// A veth or tap peer hands such packets over with only the pseudo header's sum in the field. That is cheap to see; as one
/// in 65,536 complete checksums looks the same, a match is settled by summing the packet. `packet` starts at the IP header.
#[inline]
pub fn finish_l4(packet: &mut [u8], headers: &Headers) -> L4Sum {
    let at = match headers.proto {
        TCP => 16,
        UDP => 6,
        _ => return L4Sum::Left,
    };
    let (l4, end) = (headers.l4_off as usize, headers.end as usize);
    if headers.fragment != Fragment::No || end > packet.len() || l4 + at + 2 > end {
        return L4Sum::Left;
    }
    let segment = &mut packet[l4..end];
    let pseudo = pseudo(headers, segment.len());
    if u16::from_ne_bytes([segment[at], segment[at + 1]]) != fold(pseudo) {
        return L4Sum::Left;
    }
    settle(segment, at, pseudo, headers.proto)
}

/// The field looks like a partial sum.
#[inline(never)]
fn settle(segment: &mut [u8], at: usize, pseudo: u64, proto: u8) -> L4Sum {
    // With the field's content in, a complete sum gives 0xffff; a partial one gives the body's sum plus twice the pseudo
    // header's.
    if fold(add(pseudo, segment)) == 0xffff {
        return L4Sum::Left;
    }
    write_l4(segment, at, pseudo, proto);
    L4Sum::Finished
}

fn write_l4(segment: &mut [u8], at: usize, pseudo: u64, proto: u8) {
    segment[at..at + 2].fill(0);
    let mut sum = !fold(add(pseudo, segment));
    if sum == 0 && proto == UDP {
        sum = 0xffff; // RFC 768: an all-zero field says "no checksum"
    }
    segment[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Writes the ICMPv6 checksum (RFC 4443 §2.3) of a message from `src` to `dst`.
pub fn write_icmpv6(message: &mut [u8], src: &[u8; 16], dst: &[u8; 16]) {
    let headers = Headers { src: *src, dst: *dst, l3: L3::V6, proto: ICMPV6, ..Headers::default() };
    let pseudo = pseudo(&headers, message.len());
    write_l4(message, 2, pseudo, ICMPV6);
}

/// The folded sum of an ICMPv6 message from `src` to `dst`, its checksum included: 0xffff where that is right.
pub fn sum_icmpv6(message: &[u8], src: &[u8; 16], dst: &[u8; 16]) -> u16 {
    let headers = Headers { src: *src, dst: *dst, l3: L3::V6, proto: ICMPV6, ..Headers::default() };
    fold(add(pseudo(&headers, message.len()), message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §3's example.
    #[test]
    fn rfc1071_example() {
        assert_eq!(fold(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])).to_ne_bytes(), [0xdd, 0xf2]);
    }

    /// Word by word as in RFC 1071 §4.1.
    fn naive(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    fn udp_packet(payload: &[u8]) -> (Vec<u8>, Headers) {
        let len = 28 + payload.len();
        let mut packet = vec![0u8; len];
        packet[0] = 0x45;
        packet[28..].copy_from_slice(payload);
        packet[24..26].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
        let mut headers =
            Headers { l3: L3::V4, proto: UDP, l4_off: 20, payload_off: 28, end: len as u16, ..Headers::default() };
        headers.src[..4].copy_from_slice(&[10, 1, 0, 2]);
        headers.dst[..4].copy_from_slice(&[10, 2, 0, 2]);
        (packet, headers)
    }

    proptest! {
        /// RFC 1071 §1: modulo 65,535, and nothing but zero is zero.
        #[test]
        fn folds_to_the_same_remainder(sum: u64) {
            let folded = fold(sum);
            prop_assert_eq!(u64::from(folded) % 0xffff, sum % 0xffff);
            prop_assert_eq!(folded == 0, sum == 0);
        }

        #[test]
        fn agrees_with_the_rfc(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(of(&bytes), naive(&bytes));
        }

        #[test]
        fn patch_equals_recomputation(mut header in proptest::collection::vec(any::<u8>(), 20..=20), word in 0usize..5, new: [u8; 2]) {
            header[10..12].fill(0);
            let sum = of(&header);
            header[10..12].copy_from_slice(&sum);
            let old = [header[word * 2], header[word * 2 + 1]];
            header[word * 2..word * 2 + 2].copy_from_slice(&new);
            patch(&mut header, 10, old, new);
            prop_assert!(ipv4_header_ok(&header));
        }

        /// What was left to offload is completed; what is complete already is not touched.
        #[test]
        fn finishes_only_partial_sums(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut packet, headers) = udp_packet(&payload);
            let partial = fold(pseudo(&headers, packet.len() - 20));
            packet[26..28].copy_from_slice(&partial.to_ne_bytes());
            finish_l4(&mut packet, &headers);
            let whole = packet.clone();
            prop_assert_eq!(fold(add(pseudo(&headers, packet.len() - 20), &packet[20..])), 0xffff);
            finish_l4(&mut packet, &headers);
            prop_assert_eq!(packet, whole);
        }
    }
}
