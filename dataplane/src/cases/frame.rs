//! Frames made of their description, with right checksums.

use std::net::{IpAddr, SocketAddr};

use softdpu_ebpf_common::walk::{Headers, L3, walk_ip};

use crate::wire::{checksum, ip};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Stations of frames that are described: that of the first port, and somebody's.
const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// A packet.
#[derive(Clone, Debug)]
pub struct Described {
    pub from: SocketAddr,
    /// Of the family of `from`.
    pub to: SocketAddr,
    pub protocol: u8,
    /// Of TCP.
    pub flags: u8,
    pub sequence: [u32; 2],
    /// An answer, for ICMP.
    pub answer: bool,
    pub vlan: Vec<u16>,
    pub dscp: u8,
    pub ttl: u8,
    pub payload: Vec<u8>,
}

impl Described {
    /// Bytes of IP and transport header.
    pub fn headers(&self) -> usize {
        let transport = match self.protocol {
            TCP => 20,
            UDP | ICMP | ICMPV6 => 8,
            _ => 0,
        };
        transport + if self.from.is_ipv4() { 20 } else { 40 }
    }

    /// The Ethernet frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [TO, FROM].concat();
        for vlan in &self.vlan {
            frame.extend([0x81, 0]);
            frame.extend((vlan & 0xfff).to_be_bytes());
        }
        frame.extend(if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    /// The IP packet. Addresses of different families give IPv6.
    fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        let tos = self.dscp << 2;
        let mut packet = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = vec![0; 20];
                let total = (20 + transport.len()).min(usize::from(u16::MAX)) as u16;
                ip::write_v4(&mut header, from.octets(), to.octets(), self.protocol, self.ttl, total);
                header[1] = tos;
                header[10..12].fill(0);
                let sum = checksum::of(&header);
                header[10..12].copy_from_slice(&sum);
                header
            }
            (from, to) => {
                let v6 = |addr: IpAddr| match addr {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let mut header = vec![0; 40];
                let length = transport.len().min(usize::from(u16::MAX)) as u16;
                ip::write_v6(&mut header, &v6(from), &v6(to), self.protocol, self.ttl, length);
                header[0] |= tos >> 4;
                header[1] |= tos << 4;
                header
            }
        };
        let at = packet.len();
        packet.extend(transport);
        self.sum(&mut packet, at);
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.payload.len());
        let (from, to) = (self.from.port().to_be_bytes(), self.to.port().to_be_bytes());
        match self.protocol {
            TCP => {
                out.extend([from, to].concat());
                out.extend(self.sequence[0].to_be_bytes());
                out.extend(if self.flags & ACK != 0 { self.sequence[1] } else { 0 }.to_be_bytes());
                out.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            UDP => {
                let length = (8 + self.payload.len()).min(usize::from(u16::MAX)) as u16;
                out.extend([from, to].concat());
                out.extend(length.to_be_bytes());
                out.extend([0, 0]);
            }
            // Echo request and answer, RFC 792 and RFC 4443 §4.
            ICMP => out.extend([if self.answer { 0 } else { 8 }, 0, 0, 0, 0x12, 0x34, 0, 1]),
            ICMPV6 => out.extend([if self.answer { 129 } else { 128 }, 0, 0, 0, 0x12, 0x34, 0, 1]),
            _ => {}
        }
        out.extend(&self.payload);
        out
    }

    /// Writes the transport's checksum.
    fn sum(&self, packet: &mut [u8], at: usize) {
        let field = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return,
        };
        let Ok(headers) = walk_ip(packet, 0) else { return };
        let segment = &mut packet[at..];
        let pseudo = if self.protocol == ICMP { 0 } else { checksum::pseudo(&headers, segment.len()) };
        let mut sum = !checksum::fold(checksum::add(pseudo, segment));
        if sum == 0 && self.protocol == UDP {
            sum = 0xffff; // RFC 768: an all-zero field says "no checksum"
        }
        segment[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// The ends and protocol of a frame, as a flow is known by them. `None`: not IP, or damaged.
pub fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, u8)> {
    let headers = softdpu_ebpf_common::walk::walk(frame).ok()?;
    of_headers(&headers)
}

fn of_headers(h: &Headers) -> Option<(SocketAddr, SocketAddr, u8)> {
    let address = |bytes: &[u8; 16]| match h.l3 {
        L3::V4 => Some(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        L3::V6 => Some(IpAddr::from(*bytes)),
        L3::Other => None,
    };
    let (from, to) = (address(&h.src)?, address(&h.dst)?);
    Some((SocketAddr::new(from, h.sport), SocketAddr::new(to, h.dport), h.proto))
}

/// A TLS hello (RFC 8446 §4.1.2) for this server name (RFC 6066 §3).
pub fn tls_hello(name: &str) -> Vec<u8> {
    let n = name.len().min(255) as u16;
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((n + 9).to_be_bytes());
    body.extend([0, 0]);
    body.extend((n + 5).to_be_bytes());
    body.extend((n + 3).to_be_bytes());
    body.push(0);
    body.extend(n.to_be_bytes());
    body.extend(&name.as_bytes()[..usize::from(n)]);
    let length = body.len() as u16;
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(body);
    record
}

pub fn http_request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: softdpu-test\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// `length` bytes: `payload` over and over, else words, else noise.
pub fn filled(payload: &[u8], random: bool, length: usize) -> Vec<u8> {
    if random {
        // xorshift: the same in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        return std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .take(length)
        .collect();
    }
    let words: &[u8] = if payload.is_empty() { b"the quick brown fox jumps over the lazy dog; " } else { payload };
    words.iter().cycle().take(length).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn described(from: &str, to: &str, protocol: u8) -> Described {
        Described {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol,
            flags: SYN,
            sequence: [1, 0],
            answer: false,
            vlan: Vec::new(),
            dscp: 46,
            ttl: 64,
            payload: b"abc".to_vec(),
        }
    }

    #[test]
    fn frames_walk_and_their_sums_are_right() {
        for (from, to) in [("10.1.0.1:1000", "10.2.0.2:53"), ("[2001:db8::1]:1000", "[2001:db8::2]:53")] {
            for protocol in [6, 17, if from.starts_with('[') { 58 } else { 1 }, 47] {
                let packet = described(from, to, protocol);
                let frame = packet.frame();
                let headers = softdpu_ebpf_common::walk::walk(&frame[..]).unwrap();
                assert_eq!((headers.proto, headers.tos >> 2, headers.ttl), (protocol, 46, 64));
                assert_eq!(usize::from(headers.end), frame.len());
                assert_eq!(frame.len(), 14 + packet.headers() + 3);
                if matches!(protocol, 6 | 17) {
                    let (a, b, _) = ends(&frame).unwrap();
                    assert_eq!((a.to_string(), b.to_string()), (from.to_owned(), to.to_owned()));
                    let segment = &frame[usize::from(headers.l4_off)..];
                    let sum = checksum::add(checksum::pseudo(&headers, segment.len()), segment);
                    assert_eq!(checksum::fold(sum), 0xffff);
                }
            }
        }
        let mut tagged = described("10.1.0.1:1", "10.2.0.2:2", 17);
        tagged.vlan = vec![7, 9];
        assert_eq!(softdpu_ebpf_common::walk::walk(&tagged.frame()[..]).unwrap().vlan, [7, 9]);
    }
}
