//! What a NIC does with packets that the kernel left to it: cutting one long packet into segments, each with complete headers
//! and checksums (TSO, USO), and completing single checksums.

use super::offload::{Gso, Malformed, Vnet};
use crate::wire::checksum;
use softdpu_ebpf_common::walk::{self, Fragment, Headers, L3, proto};

const FIN_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// One long packet on its way to being segments. It may be left and taken up again, so that no batch grows beyond its bound.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Offsets in it are from the IP header on: those from the link header on do not fit where the packet is as long as can be.
    headers: Headers,
    /// Bytes of the link header.
    link: usize,
    size: usize,
    /// Where the next segment's payload is in the long packet.
    at: usize,
    /// Segments so far.
    count: u32,
    /// Addresses and protocol of the pseudo header.
    pseudo: u64,
}

impl Cut {
    /// `packet`: from the Ethernet header on, whole.
    ///
    /// # Errors
    /// Headers that are not what the kernel says they are.
    pub fn new(packet: &[u8], vnet: &Vnet) -> Result<Self, Malformed> {
        let link = link_len(packet).ok_or(Malformed)?;
        let headers = walk::walk_ip(packet.get(link..).ok_or(Malformed)?, 0).map_err(|_| Malformed)?;
        let fits = match vnet.gso {
            Gso::None => false,
            Gso::Tcp4 => headers.proto == proto::TCP && headers.l3 == L3::V4,
            Gso::Tcp6 => headers.proto == proto::TCP && headers.l3 == L3::V6,
            Gso::Udp => headers.proto == proto::UDP,
        };
        let (size, at) = (usize::from(vnet.gso_size), link + usize::from(headers.payload_off));
        let empty = at >= link + usize::from(headers.end);
        if !fits || size == 0 || empty || headers.fragment != Fragment::No || vnet.csum.is_none() {
            return Err(Malformed);
        }
        Ok(Self { link, size, at, count: 0, pseudo: checksum::pseudo(&headers, 0), headers })
    }

    fn end(&self) -> usize {
        self.link + usize::from(self.headers.end)
    }

    /// Bytes of all headers.
    fn head(&self) -> usize {
        self.link + usize::from(self.headers.payload_off)
    }

    pub fn is_done(&self) -> bool {
        self.at >= self.end()
    }

    /// Bytes of the next segment, from its Ethernet header on.
    pub fn next_len(&self) -> usize {
        self.head() + self.size.min(self.end() - self.at)
    }

    /// Writes the next segment into `to`, which is [`Self::next_len`] bytes, and goes on to the one after it.
    #[inline]
    pub fn next(&mut self, packet: &[u8], to: &mut [u8]) {
        let (l3, l4) = (self.link, self.link + usize::from(self.headers.l4_off));
        let head = self.head();
        let length = self.size.min(self.end() - self.at);
        let (headers, payload) = to.split_at_mut(head);
        headers.copy_from_slice(&packet[..head]);
        payload.copy_from_slice(&packet[self.at..self.at + length]);
        let (first, last) = (self.count == 0, self.at + length == self.end());
        self.ip(&mut headers[l3..l4], head + length - l3);
        let l4_len = head - l4 + length;
        let at = if self.headers.proto == proto::TCP {
            self.tcp(&mut headers[l4..], first, last);
            16
        } else {
            headers[l4 + 4..l4 + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            6
        };
        headers[l4 + at..l4 + at + 2].fill(0);
        // The header is of even length, so that the payload's words are the segment's.
        let sum = checksum::add(self.pseudo + u64::from((l4_len as u16).to_be()), &headers[l4..]);
        let mut sum = !checksum::fold(checksum::add(sum, payload));
        if sum == 0 && at == 6 {
            sum = 0xffff; // RFC 768: an all-zero field says "no checksum"
        }
        headers[l4 + at..l4 + at + 2].copy_from_slice(&sum.to_ne_bytes());
        self.at += length;
        self.count += 1;
    }

    fn ip(&self, header: &mut [u8], total: usize) {
        if self.headers.l3 == L3::V6 {
            header[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
            return;
        }
        header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        // Each its own, so that fragments of them are told apart (RFC 6864 §4).
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(self.count as u16);
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::of(header);
        header[10..12].copy_from_slice(&sum);
    }

    /// FIN and PSH are for the end of the data, CWR says once that the window was reduced (RFC 3168 §6.1.2).
    fn tcp(&self, header: &mut [u8], first: bool, last: bool) {
        let seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let seq = seq.wrapping_add(self.count.wrapping_mul(self.size as u32));
        header[4..8].copy_from_slice(&seq.to_be_bytes());
        header[13] &= !(if last { 0 } else { FIN_PSH } | if first { 0 } else { CWR });
    }
}

/// Bytes of the Ethernet header with its tags. `None`: it is not one of IP.
fn link_len(packet: &[u8]) -> Option<usize> {
    let mut at = 12;
    for _ in 0..=walk::MAX_VLAN_TAGS {
        match u16::from_be_bytes(*packet.get(at..)?.first_chunk()?) {
            walk::ETHERTYPE_V4 | walk::ETHERTYPE_V6 => return Some(at + 2),
            walk::ETHERTYPE_VLAN | walk::ETHERTYPE_QINQ => at += 4,
            _ => return None,
        }
    }
    None
}

/// Completes the checksum that `vnet` says is to be completed: what it covers has the pseudo header's sum in the field.
///
/// # Errors
/// Where it is said to be outside the packet.
pub fn complete(packet: &mut [u8], vnet: &Vnet) -> Result<(), Malformed> {
    let Some((start, offset)) = vnet.csum else { return Ok(()) };
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if start < 14 || at + 2 > packet.len() {
        return Err(Malformed);
    }
    let sum = !checksum::fold(checksum::add(0, &packet[start..]));
    // All ones and zero are the same number, and only zero means something else, to UDP.
    let sum = if sum == 0 { 0xffff } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    Ok(())
}
