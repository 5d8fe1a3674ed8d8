//! The IPComp header (RFC 3173 §3.3): next header, flags, CPI.

/// Bytes of the header.
pub const IPCOMP_LEN: usize = 4;

/// The CPI that says LZ4 block format here. There is no registered one, so it is of the range for private use between
/// peers that agree (61440 to 65535, RFC 3173 §3.3). Both ends of a tunnel with `compress = "lz4"` must use it.
pub const CPI_LZ4: u16 = 61_444;
const _: () = assert!(CPI_LZ4 >= 61_440);

/// The header in front of data compressed with [`CPI_LZ4`]. `next_header` is the inner packet's own (4 or 41).
#[inline]
pub fn write(next_header: u8) -> [u8; IPCOMP_LEN] {
    let [high, low] = CPI_LZ4.to_be_bytes();
    [next_header, 0, high, low]
}

/// Next header and CPI. The flags are reserved and ignored on receipt. `None` where the header is cut off.
#[inline]
pub fn read(packet: &[u8]) -> Option<(u8, u16)> {
    let [next_header, _flags, high, low] = *packet.first_chunk()?;
    Some((next_header, u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_reads_back() {
        assert_eq!(write(4), [4, 0, 0xf0, 0x04]);
        assert_eq!(read(&write(41)), Some((41, CPI_LZ4)));
        assert_eq!(read(&[4, 0xff, 0xf0, 0x04, 9]), Some((4, CPI_LZ4)));
        assert_eq!(read(&[4, 0, 0xf0]), None);
    }
}
