//! The header that the kernel puts in front of every packet of a tap, and wants in front of every packet for it: what is left
//! to do about checksums and segmentation (virtio 1.2 §5.1.6, `struct virtio_net_hdr`, in the host's byte order).

/// Bytes of the header on a tap (`TUNSETVNETHDRSZ`).
pub const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
/// Set beside the kind where congestion marks are in use (RFC 3168).
const GSO_ECN: u8 = 0x80;

/// How a packet longer than the link's MTU is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    None,
    Tcp4,
    Tcp6,
    /// UDP datagrams of one size, the last may be shorter.
    Udp,
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vnet {
    /// The checksum from `csum_start` on is to be completed, at `csum_start + csum_offset`. Offsets from the Ethernet header.
    pub csum: Option<(u16, u16)>,
    pub gso: Gso,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// Bytes of all headers: where the payload begins. A hint.
    pub hdr_len: u16,
}

/// The kernel's header makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Vnet {
    /// A packet that is complete.
    pub const PLAIN: Self = Self { csum: None, gso: Gso::None, gso_size: 0, hdr_len: 0 };

    /// # Errors
    /// A kind of segmentation that nobody offered.
    pub fn read(bytes: &[u8; VNET_LEN]) -> Result<Self, Malformed> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            0 => Gso::None,
            1 => Gso::Tcp4,
            4 => Gso::Tcp6,
            5 => Gso::Udp,
            _ => return Err(Malformed),
        };
        let csum = (bytes[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8)));
        Ok(Self { csum, gso, hdr_len: word(2), gso_size: word(4) })
    }

    pub fn write(&self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        bytes[0] = if self.csum.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        let (start, offset) = self.csum.unwrap_or_default();
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            for csum in [None, Some((34, 16))] {
                let header = Vnet { csum, gso, gso_size: 1448, hdr_len: 66 };
                assert_eq!(Vnet::read(&header.write()), Ok(header));
            }
        }
        assert_eq!(Vnet::read(&[0; VNET_LEN]), Ok(Vnet::PLAIN));
    }

    #[test]
    fn congestion_marks_do_not_change_the_kind_and_strangers_are_refused() {
        let mut bytes = Vnet { gso: Gso::Tcp4, ..Vnet::PLAIN }.write();
        bytes[1] |= GSO_ECN;
        assert_eq!(Vnet::read(&bytes).map(|header| header.gso), Ok(Gso::Tcp4));
        for kind in [2, 3, 6, 0x7f] {
            bytes[1] = kind;
            assert_eq!(Vnet::read(&bytes), Err(Malformed));
        }
    }
}
