//! IPv4 fragmentation (RFC 791 §2.3) as arithmetic: where to cut and what to write, no frames.

use super::checksum;
use super::ip::v4_header_len;

/// Most fragments one packet is cut into: 65,535 bytes over the least MTU we forward to.
pub const MAX_FRAGMENTS: usize = 64;

/// One fragment: a range of the original's payload (behind its IP header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub start: usize,
    pub len: usize,
    pub last: bool,
}

/// The pieces of a packet with `header` bytes of IPv4 header and `payload` bytes behind it, none larger than `mtu` with
/// its header. `None` where `mtu` leaves no room for 8 bytes or more than [`MAX_FRAGMENTS`] would be needed.
pub fn pieces(header: usize, payload: usize, mtu: usize) -> Option<impl Iterator<Item = Piece>> {
    let step = mtu.checked_sub(header)? & !7;
    if step == 0 || payload.div_ceil(step) > MAX_FRAGMENTS {
        return None;
    }
    Some((0..payload).step_by(step).map(move |start| {
        let len = step.min(payload - start);
        Piece { start, len, last: start + len == payload }
    }))
}

/// Turns the header at the start of `packet` into that of `piece`. The original's own offset and MF bit (it may be a
/// fragment itself) are kept in the arithmetic. Options are copied whole: those not meant for every fragment (RFC 791 §3.1,
/// copied flag) do no harm in one.
pub fn write_header(packet: &mut [u8], original_offset: u16, original_mf: bool, piece: Piece) {
    let header = v4_header_len(packet);
    let offset = original_offset + (piece.start / 8) as u16;
    let more = !piece.last || original_mf;
    packet[2..4].copy_from_slice(&((header + piece.len) as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..header]);
    packet[10..12].copy_from_slice(&sum);
}

/// Offset (in units of 8 bytes) and MF bit of an IPv4 header.
pub fn place(packet: &[u8]) -> (u16, bool) {
    let word = u16::from_be_bytes([packet[6], packet[7]]);
    (word & 0x1fff, word & 0x2000 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The pieces tile the payload, each but the last is a multiple of 8, none exceeds the MTU.
        #[test]
        fn pieces_tile(payload in 1usize..9000, mtu in 68usize..1500) {
            match pieces(20, payload, mtu) {
                Some(pieces) => {
                    let mut at = 0;
                    for piece in pieces {
                        prop_assert_eq!(piece.start, at);
                        prop_assert!(piece.len + 20 <= mtu);
                        prop_assert!(piece.last || piece.len % 8 == 0);
                        at += piece.len;
                        prop_assert_eq!(piece.last, at == payload);
                    }
                    prop_assert_eq!(at, payload);
                }
                None => prop_assert!(payload.div_ceil((mtu - 20) & !7) > MAX_FRAGMENTS),
            }
        }
    }

    #[test]
    fn no_room_is_refused() {
        assert!(pieces(20, 100, 27).is_none());
        assert!(pieces(60, 100, 40).is_none());
    }
}
