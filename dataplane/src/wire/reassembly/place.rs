//! Which datagram a fragment is of and where in it, and the header of the datagram made whole.

use crate::wire::checksum;
use crate::wire::ip::{V6_HEADER, v4_header_len};
use softdpu_ebpf_common::walk::{Fragment, Headers, L3, proto};

/// Most bytes of a datagram, IP header and all: what IPv4's length says, and [`Headers::end`] holds.
pub const MAX_DATAGRAM: u32 = 65_535;

/// What all fragments of one datagram share (RFC 791 §3.2; RFC 8200 §4.5, where the protocol is not part of it), and where
/// they came from: fragments of two tunnels, or of a tunnel and of the open network, are never put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub ident: u32,
    pub l3: L3,
    /// IPv4 only; 0 for IPv6.
    pub proto: u8,
    /// Port, tunnel or whatever else the caller keeps apart.
    pub zone: u32,
}

impl Id {
    /// Whose share of the memory it counts into: an IPv4 address or an IPv6 /64 (one host may have all of those addresses).
    pub fn source(&self) -> (u64, u32) {
        let [a, b, c, d, e, f, g, h, ..] = self.src;
        (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), self.zone)
    }
}

/// Where a fragment's bytes are, in its packet (`head`, `body`) and in the datagram (`start`, `len`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Bytes of the packet's header that the whole datagram has too: IPv4's header, or IPv6's with the extension headers in
    /// front of the fragment header.
    pub head: u16,
    /// Where the payload starts in the packet: behind the header, or the fragment header.
    pub body: u16,
    /// IPv6: the byte in the header that says "fragment header follows", and what is to stand there instead.
    pub next_at: u16,
    pub next: u8,
    /// In bytes, of the datagram's payload.
    pub start: u32,
    pub len: u32,
    pub last: bool,
    /// Of the fragment's own header.
    pub ecn: u8,
}

impl Place {
    pub fn end(&self) -> u32 {
        self.start + self.len
    }
}

/// Reads a fragment. `packet` begins with its IP header, and `headers` is the walk of it with offsets from there. `None`:
/// no fragment, or its fragment header is not within `packet` (its first part).
pub fn place(packet: &[u8], headers: &Headers, zone: u32) -> Option<(Id, Place)> {
    if headers.fragment == Fragment::No {
        return None;
    }
    let id = Id { src: headers.src, dst: headers.dst, ident: 0, l3: headers.l3, proto: 0, zone };
    let end = u32::from(headers.end);
    match headers.l3 {
        L3::V4 => {
            let head = v4_header_len(packet.get(..20)?) as u16;
            let word = u16::from_be_bytes([packet[6], packet[7]]);
            let ident = u32::from(u16::from_be_bytes([packet[4], packet[5]]));
            let (start, last) = (u32::from(word & 0x1fff) * 8, word & 0x2000 == 0);
            let len = end.checked_sub(head.into())?;
            let place = Place { head, body: head, start, len, last, ecn: packet[1] & 3, ..Place::default() };
            Some((Id { ident, proto: headers.proto, ..id }, place))
        }
        L3::V6 => {
            let (next_at, at) = fragment_header(packet)?;
            let header: &[u8; 8] = packet.get(at..)?.first_chunk()?;
            let [next, _, high, low, a, b, c, d] = *header;
            let word = u16::from_be_bytes([high, low]);
            let (head, body) = (at as u16, at as u16 + 8);
            let len = end.checked_sub(body.into())?;
            let (start, last, ecn) = (u32::from(word & 0xfff8), word & 1 == 0, headers.tos & 3);
            let place = Place { head, body, next_at: next_at as u16, next, start, len, last, ecn };
            Some((Id { ident: u32::from_be_bytes([a, b, c, d]), ..id }, place))
        }
        L3::Other => None,
    }
}

/// Where IPv6's fragment header is (RFC 8200 §4.5), and where the byte is that names it.
fn fragment_header(packet: &[u8]) -> Option<(usize, usize)> {
    let (mut next_at, mut at) = (6, V6_HEADER);
    loop {
        match *packet.get(next_at)? {
            proto::FRAGMENT => return Some((next_at, at)),
            proto::HOP_BY_HOP | proto::ROUTING | proto::DEST_OPTS => {
                next_at = at;
                at += 8 + 8 * usize::from(*packet.get(at + 1)?);
            }
            _ => return None,
        }
    }
}

/// Turns the header of the first fragment into the datagram's. `packet` is that header ([`Place::head`] bytes), then the whole
/// payload. `ce`: some fragment was marked "congestion experienced" (RFC 3168 §5.3).
pub fn finish(packet: &mut [u8], l3: L3, first: &Place, ce: bool) {
    let len = packet.len();
    match l3 {
        L3::V4 => {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            // DF stays as it was; no offset, nothing to follow.
            packet[6] &= 0x40;
            packet[7] = 0;
            packet[1] |= if ce { 3 } else { 0 };
            let header = usize::from(first.head);
            packet[10..12].fill(0);
            let sum = checksum::of(&packet[..header]);
            packet[10..12].copy_from_slice(&sum);
        }
        L3::V6 => {
            packet[4..6].copy_from_slice(&((len - V6_HEADER) as u16).to_be_bytes());
            packet[usize::from(first.next_at)] = first.next;
            packet[1] |= if ce { 0x30 } else { 0 };
        }
        L3::Other => {}
    }
}
