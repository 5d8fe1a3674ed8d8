//! Packets for tests and benches that play hosts: right headers and sums where they are looked at on the way, and as wrong as
//! they are told to be elsewhere. None of this is fast.

/// SYN, RST, PSH and ACK in a TCP header.
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub ports: (u16, u16),
}

impl Ends {
    /// The other way round.
    #[must_use]
    pub fn back(self) -> Self {
        Self { src: self.dst, dst: self.src, ports: (self.ports.1, self.ports.0) }
    }
}

/// The sum of an IPv4 or ICMP header (RFC 1071), as it goes into the packet.
pub fn sum(bytes: &[u8]) -> u16 {
    let word = |w: &[u8]| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes the sum of the IPv4 header at the start right, as far as there is one.
pub fn finish_ipv4(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    let len = usize::from(first & 0x0f) * 4;
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let check = sum(header).to_be_bytes();
    header[10..12].copy_from_slice(&check);
}

/// An IPv4 packet with TTL 64.
pub fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    ipv4_fragment((0, 0, false), protocol, src, dst, payload)
}

/// A fragment: identification, offset in units of 8 bytes, whether more follow.
pub fn ipv4_fragment(
    (id, offset, more): (u16, u16, bool),
    protocol: u8,
    src: [u8; 4],
    dst: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend((offset | u16::from(more) << 13).to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    finish_ipv4(&mut packet);
    packet.extend(payload);
    packet
}

/// The same in IPv6 (RFC 8200 §4.5).
pub fn ipv6_fragment(
    (id, offset, more): (u32, u16, bool),
    protocol: u8,
    src: [u8; 16],
    dst: [u8; 16],
    payload: &[u8],
) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(((8 + payload.len()) as u16).to_be_bytes());
    packet.extend([FRAGMENT, 64]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend([protocol, 0]);
    packet.extend((offset << 3 | u16::from(more)).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A TCP segment in IPv4. Its own sum is not looked at on the way, and 0.
pub fn tcp(ends: Ends, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut segment = ends.ports.0.to_be_bytes().to_vec();
    segment.extend(ends.ports.1.to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    ipv4(TCP, ends.src, ends.dst, &segment)
}

/// A UDP header and what follows it, without a sum.
pub fn udp_datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = ports.0.to_be_bytes().to_vec();
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A UDP datagram in IPv4.
pub fn udp(ends: Ends, payload: &[u8]) -> Vec<u8> {
    ipv4(UDP, ends.src, ends.dst, &udp_datagram(ends.ports, payload))
}

/// An Ethernet frame around an IP packet, to the first port of a worker in memory.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype, packet].concat()
}

/// A SYN of source number `n`, framed: what floods are made of.
pub fn syn_of(n: u32, dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let src = 0x1400_0000u32.wrapping_add(n).to_be_bytes();
    frame(&tcp(Ends { src, dst, ports }, SYN, n, 0, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_add_up() {
        let ends = Ends { src: [10, 0, 0, 1], dst: [10, 0, 0, 2], ports: (1, 2) };
        for packet in [tcp(ends, SYN, 1, 0, b"abc"), udp(ends.back(), b"abcd"), ipv4(50, ends.src, ends.dst, b"")] {
            assert_eq!(sum(&packet[..20]), 0);
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            assert_eq!(frame(&packet)[14..], packet);
        }
        let fragment = ipv4_fragment((7, 3, true), UDP, ends.src, ends.dst, &[0; 8]);
        assert_eq!(fragment[4..8], [0, 7, 0x20, 3]);
        let fragment = ipv6_fragment((7, 3, true), UDP, [1; 16], [2; 16], &[0; 8]);
        assert_eq!((fragment[5], &fragment[42..44], fragment.len()), (16, &[0, 25][..], 56));
        finish_ipv4(&mut [0x4f; 9]);
    }
}
