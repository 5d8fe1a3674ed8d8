//! Headers at fixed places. Nearly every packet is plain: no tag, no option, whole, TCP or UDP; a handful of loads say all of it. What looks different, or is not right, the walk has to name.

use super::checksum::{self, fold, words};
use softdpu_ebpf_common::walk::{
    ESP_IN_UDP_PORT, ETHERNET_LEN, ETHERTYPE_V4, ETHERTYPE_V6, Fragment, Headers, L3, proto,
};

const V4: usize = 20;
const V6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;

/// The transport checksum of a plain packet, as it stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum([u8; 2]);

impl Sum {
    /// Whether the field holds the pseudo header's sum alone: it may have been left undone, see [`checksum::finish_l4`].
    #[inline(always)]
    pub fn may_be_undone(self, headers: &Headers) -> bool {
        u16::from_ne_bytes(self.0) == fold(checksum::pseudo(headers, usize::from(headers.end - headers.l4_off)))
    }
}

/// Reads the headers of a frame, which begins with its Ethernet header and is in one piece; their offsets count from the IP
/// header. `None`: not plain, or not valid, and `headers` holds nothing of use.
#[inline(always)]
pub fn read(frame: &[u8], headers: &mut Headers) -> Option<Sum> {
    let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c] = *frame.first_chunk()?;
    match (u16::from_be_bytes([a, b]), c) {
        (ETHERTYPE_V4, 0x45) => v4(frame, headers),
        (ETHERTYPE_V6, 0x60..=0x6f) => v6(frame, headers),
        _ => None,
    }
}

#[inline(always)]
fn v4(frame: &[u8], headers: &mut Headers) -> Option<Sum> {
    let ip: &[u8; V4] = frame[ETHERNET_LEN..].first_chunk()?;
    let end = u16::from_be_bytes([ip[2], ip[3]]);
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    if fragment || !has_ports(ip[9]) || fold(words(ip)) != 0xffff {
        return None;
    }
    let t = transport::<V4>(frame, ip[9], end)?;
    let address = |[a, b, c, d]: [u8; 4]| [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    *headers = Headers {
        src: address([ip[12], ip[13], ip[14], ip[15]]),
        dst: address([ip[16], ip[17], ip[18], ip[19]]),
        ethertype: ETHERTYPE_V4,
        l3: L3::V4,
        tos: ip[1],
        ttl: ip[8],
        ..t.headers
    };
    Some(t.sum)
}

#[inline(always)]
fn v6(frame: &[u8], headers: &mut Headers) -> Option<Sum> {
    let ip: &[u8; V6] = frame[ETHERNET_LEN..].first_chunk()?;
    let end = u16::from_be_bytes([ip[4], ip[5]]).checked_add(V6 as u16)?;
    if !has_ports(ip[6]) {
        return None;
    }
    let t = transport::<V6>(frame, ip[6], end)?;
    *headers = Headers {
        src: *ip[8..].first_chunk()?,
        dst: *ip[24..].first_chunk()?,
        ethertype: ETHERTYPE_V6,
        l3: L3::V6,
        tos: ip[0] << 4 | ip[1] >> 4,
        ttl: ip[7],
        ..t.headers
    };
    Some(t.sum)
}

#[inline(always)]
fn has_ports(proto: u8) -> bool {
    proto == proto::UDP || proto == proto::TCP
}

struct Transport {
    /// Without what the IP header says.
    headers: Headers,
    sum: Sum,
}

/// TCP's or UDP's header behind an IP header of `IP` bytes, of a packet that ends at `end`.
#[inline(always)]
fn transport<const IP: usize>(frame: &[u8], proto: u8, end: u16) -> Option<Transport> {
    let from = &frame[ETHERNET_LEN + IP..];
    let room = usize::from(end).checked_sub(IP)?;
    if ETHERNET_LEN + usize::from(end) > frame.len() || usize::from(end) + ETHERNET_LEN > usize::from(u16::MAX) {
        return None;
    }
    let head: &[u8; UDP] = from.first_chunk()?;
    let (sport, dport) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
    let (length, tcp_flags, sum) = if proto == proto::TCP {
        let tcp: &[u8; TCP] = from.first_chunk()?;
        let length = usize::from(tcp[12] >> 4) * 4;
        if length < TCP || length > room {
            return None;
        }
        (length, tcp[13], [tcp[16], tcp[17]])
    } else {
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        if length < UDP || length > room || sport == ESP_IN_UDP_PORT || dport == ESP_IN_UDP_PORT {
            return None;
        }
        (UDP, 0, [head[6], head[7]])
    };
    let headers = Headers {
        l4_off: IP as u16,
        payload_off: (IP + length) as u16,
        end,
        sport,
        dport,
        proto,
        fragment: Fragment::No,
        tcp_flags,
        ..Headers::default()
    };
    Some(Transport { headers, sum: Sum(sum) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::checksum::L4Sum;
    use proptest::prelude::*;
    use softdpu_ebpf_common::walk::walk;

    /// A sound plain packet, before its data is padded to what Ethernet asks for.
    fn plain(v6: bool, tcp: bool, (sport, dport): (u16, u16), data: &[u8]) -> Vec<u8> {
        let transport = if tcp { TCP } else { UDP };
        let length = transport + data.len();
        let mut frame = vec![0; ETHERNET_LEN];
        let proto = if tcp { proto::TCP } else { proto::UDP };
        if v6 {
            frame[12..14].copy_from_slice(&ETHERTYPE_V6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0, 0, length as u8, proto, 64]);
            frame.extend((0u8..32).map(|n| n ^ 0x20));
        } else {
            frame[12..14].copy_from_slice(&ETHERTYPE_V4.to_be_bytes());
            frame.extend([
                0x45,
                0,
                0,
                (V4 + length) as u8,
                0,
                0,
                0x40,
                0,
                64,
                proto,
                0,
                0,
                10,
                0,
                0,
                1,
                192,
                168,
                3,
                4,
            ]);
        }
        frame.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
        match tcp {
            true => frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0xab, 0xcd, 0, 0]),
            false => frame.extend([0, length as u8, 0xab, 0xcd]),
        }
        frame.extend(data);
        sum_again(&mut frame);
        frame
    }

    fn sum_again(frame: &mut [u8]) {
        if frame[12..14] == ETHERTYPE_V4.to_be_bytes() {
            frame[24..26].fill(0);
            let sum = checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
        }
    }

    /// Frames that are plain, and with up to three bytes changed mostly nearly so.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        let ports = prop_oneof![9 => any::<(u16, u16)>(), 1 => Just((4500, 9)), 1 => Just((9, 4500))];
        let data = proptest::collection::vec(any::<u8>(), 0..40);
        let kinds = (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![2 => Just(true), 1 => Just(false)]);
        (kinds, ports, data, 0usize..20, edits).prop_map(|((v6, tcp, partial, summed), ports, data, padding, edits)| {
            let mut frame = plain(v6, tcp, ports, &data);
            for (at, byte) in edits {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if partial && let Ok(h) = walk(&frame[..]) {
                let at = ETHERNET_LEN + if v6 { V6 } else { V4 } + if tcp { 16 } else { 6 };
                let sum = fold(checksum::pseudo(&h, usize::from(h.end.saturating_sub(h.l4_off))));
                frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
            }
            if summed {
                sum_again(&mut frame);
            }
            frame.extend(std::iter::repeat_n(0, padding));
            frame
        })
    }

    /// As `parse` has them.
    fn from_the_ip_header(mut h: Headers) -> Headers {
        for offset in [&mut h.l4_off, &mut h.payload_off, &mut h.end] {
            *offset -= h.l3_off;
        }
        h.l3_off = 0;
        h
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        /// What is plain here is for the walk the same packet, with a sound header and nothing that concerns ESP; and whatever the
        /// walk calls whole TCP or UDP without tags and options is plain.
        #[test]
        fn plain_packets_are_what_the_walk_says(frame in frames()) {
            let mut headers = Headers::default();
            let sum = read(&frame, &mut headers);
            let walked = walk(&frame[..]).ok().filter(|h| h.l3 != L3::Other).map(from_the_ip_header).filter(|h| {
                let (ethertype, ip) = match h.l3 {
                    L3::V4 => (ETHERTYPE_V4, V4),
                    _ => (ETHERTYPE_V6, V6),
                };
                // Whatever a tag says.
                frame[12..14] == ethertype.to_be_bytes()
                    && h.fragment == Fragment::No
                    && usize::from(h.l4_off) == ip
                    && matches!(h.proto, proto::TCP | proto::UDP)
                    && !(h.proto == proto::UDP && (h.sport == ESP_IN_UDP_PORT || h.dport == ESP_IN_UDP_PORT))
                    && (h.l3 == L3::V6 || checksum::ipv4_header_ok(&frame[ETHERNET_LEN..ETHERNET_LEN + V4]))
            });
            prop_assert_eq!(sum.map(|_| headers), walked);
            // What may be undone is not overlooked.
            if let Some(sum) = sum {
                let end = ETHERNET_LEN + usize::from(headers.end);
                let mut packet = frame[ETHERNET_LEN..end].to_vec();
                if checksum::finish_l4(&mut packet, &headers) == L4Sum::Finished {
                    prop_assert!(sum.may_be_undone(&headers));
                }
            }
        }
    }

    #[test]
    fn truncation_anywhere_is_not_plain() {
        for kind in 0..4 {
            let frame = plain(kind & 1 == 0, kind & 2 == 0, (1, 2), b"data");
            assert!(read(&frame, &mut Headers::default()).is_some());
            for length in 0..frame.len() {
                assert_eq!(read(&frame[..length], &mut Headers::default()), None, "{kind}: {length} bytes");
            }
        }
    }
}
