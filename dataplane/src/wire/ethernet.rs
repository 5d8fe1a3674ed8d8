//! The Ethernet header (IEEE 802.3) and the 802.1Q tag behind it.

use softdpu_ebpf_common::walk::L3;

pub const HEADER: usize = 14;
pub const TAG: usize = 4;
pub const TYPE_IPV4: u16 = 0x0800;
pub const TYPE_IPV6: u16 = 0x86dd;
pub const TYPE_VLAN: u16 = 0x8100;

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The group bit (IEEE 802.3 §3.2.3): multicast and broadcast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The header that packets to one neighbour get, made once and copied per packet: destination, source, and IPv4's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Addresses([u8; HEADER]);

impl Addresses {
    pub fn new(dst: Mac, src: Mac) -> Self {
        let mut header = [0; HEADER];
        header[..6].copy_from_slice(&dst.0);
        header[6..12].copy_from_slice(&src.0);
        header[12..].copy_from_slice(&TYPE_IPV4.to_be_bytes());
        Self(header)
    }

    /// Destination and source.
    pub fn macs(&self) -> ([u8; 6], [u8; 6]) {
        let mac = |at: usize| std::array::from_fn(|i| self.0[at + i]);
        (mac(0), mac(6))
    }

    /// Writes the 14 bytes in front of an IP packet. `header` must be [`HEADER`] bytes.
    #[inline]
    pub fn write(&self, header: &mut [u8], l3: L3) {
        header.copy_from_slice(&self.0);
        if l3 == L3::V6 {
            header[12..].copy_from_slice(&TYPE_IPV6.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_follows_the_family() {
        let to = Addresses::new(Mac([1; 6]), Mac([2; 6]));
        for (l3, last) in [(L3::V4, [8, 0]), (L3::V6, [0x86, 0xdd])] {
            let mut header = [0; HEADER];
            to.write(&mut header, l3);
            assert_eq!((&header[..6], &header[6..12], &header[12..]), (&[1; 6][..], &[2; 6][..], &last[..]));
        }
    }
}
