//! Fragmentation of a tunnel's own packets, after sealing (RFC 791 §2.3 over IPv4, RFC 8200 §4.5 at the source over IPv6), as
//! arithmetic and headers. The far end reassembles before it opens, which costs it memory and a lost fragment a whole packet:
//! the last resort, for what cannot be made smaller before.

use super::fragment::{self, Piece};
use super::ip::{V6_HEADER, V6_MIN_MTU, v4_header_len};
use softdpu_ebpf_common::walk::{L3, proto};

/// IPv6's fragment header.
pub const FRAGMENT_HEADER: usize = 8;
/// Where ESP and UDP tell the two packets of one association apart: ESP's sequence number, WireGuard's counter (its lower
/// half, little endian, behind UDP, type and index), ESP in UDP.
const ESP_SEQUENCE: usize = 4;
const UDP: usize = 8;

/// How one outer packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub l3: L3,
    /// Bytes of the packet's own header.
    pub head: usize,
    /// Bytes behind it.
    pub payload: usize,
    /// Same in all fragments.
    pub ident: u32,
}

impl Cut {
    /// `packet`: the start of the outer packet, from its IP header on; `total`: bytes of all of it. `None` where it is no
    /// packet that we make.
    pub fn new(packet: &[u8], total: usize) -> Option<Self> {
        let (l3, head) = match packet.first()? >> 4 {
            4 if packet.len() >= 20 => (L3::V4, v4_header_len(packet)),
            6 if packet.len() >= V6_HEADER => (L3::V6, V6_HEADER),
            _ => return None,
        };
        let payload = total.checked_sub(head).filter(|payload| *payload > 0)?;
        Some(Self { l3, head, payload, ident: identification(packet, l3, head) })
    }

    /// Bytes in front of each fragment's payload.
    pub fn front(&self) -> usize {
        self.head + if self.l3 == L3::V6 { FRAGMENT_HEADER } else { 0 }
    }

    /// The fragments, none larger than `mtu` with its headers. `None` where there is no room or they would be too many.
    pub fn pieces(&self, mtu: usize) -> Option<impl Iterator<Item = Piece> + use<>> {
        fragment::pieces(self.front(), self.payload, mtu)
    }

    /// Writes one fragment's headers. `to`: [`Self::front`] bytes and then the piece; the packet's own header is already at
    /// its start.
    pub fn write(&self, to: &mut [u8], piece: Piece) {
        if self.l3 == L3::V4 {
            to[4..6].copy_from_slice(&(self.ident as u16).to_be_bytes());
            fragment::write_header(to, 0, false, piece);
            return;
        }
        let next = std::mem::replace(&mut to[6], proto::FRAGMENT);
        to[4..6].copy_from_slice(&((FRAGMENT_HEADER + piece.len) as u16).to_be_bytes());
        let word = piece.start as u16 | u16::from(!piece.last);
        let header = &mut to[V6_HEADER..V6_HEADER + FRAGMENT_HEADER];
        header[..2].copy_from_slice(&[next, 0]);
        header[2..4].copy_from_slice(&word.to_be_bytes());
        header[4..].copy_from_slice(&self.ident.to_be_bytes());
    }
}

/// An identification that no other packet between these two hosts has for a long time (RFC 6864 §4.2, RFC 8200 §4.5), made
/// from what numbers the packet already, so that workers need no counter between them: the sequence number and, so that two
/// associations between the same hosts do not meet, the SPI or index with it.
fn identification(packet: &[u8], l3: L3, head: usize) -> u32 {
    let proto = if l3 == L3::V4 { packet[9] } else { packet[6] };
    let word = |at: usize| packet.get(head + at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
    let (number, of) = match proto {
        proto::ESP => (word(ESP_SEQUENCE), word(0)),
        proto::UDP if word(UDP) == 0x0400_0000 => (word(UDP + 8).swap_bytes(), word(UDP + 4)),
        _ => (word(UDP + ESP_SEQUENCE), word(UDP)),
    };
    number.wrapping_add(of.wrapping_mul(0x9e37_79b1) >> 7)
}

/// What to tell the operator of a tunnel that cannot carry IPv6's least MTU in one packet (RFC 8200 §5, RFC 2473 §7.1).
/// `inner`: the largest inner packet. `None`: it can.
pub fn below_v6_minimum(tunnel: &str, link: usize, inner: usize) -> Option<String> {
    (inner < V6_MIN_MTU).then(|| {
        format!(
            "tunnel `{tunnel}` carries packets of up to {inner} bytes over an MTU of {link}, less than the {V6_MIN_MTU} that IPv6 asks \
             for: larger IPv6 packets up to {V6_MIN_MTU} bytes go in fragments of the outer packet; raise the MTU to {} or more",
            link + V6_MIN_MTU - inner
        )
    })
}

#[cfg(test)]
#[path = "outer_fragment_tests.rs"]
mod tests;
