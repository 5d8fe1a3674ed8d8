//! One header walk for both sides: Ethernet to the transport header, over anything that can be read by offset.
//!
//! The XDP program reads between `data` and `data_end`, user space reads a slice; the walk itself is the same code, so
//! the two can never disagree about what a packet is.

/// Most extension headers (IPv6) a packet may carry before the walk refuses it.
pub const MAX_EXTENSION_HEADERS: usize = 6;
/// Most VLAN tags (802.1Q, 802.1ad) the walk unwraps.
pub const MAX_VLAN_TAGS: usize = 2;

/// Bytes that can be read at an offset. `None` where the packet has ended.
pub trait Bytes {
    fn u8(&self, off: usize) -> Option<u8>;
    /// Big endian.
    fn be16(&self, off: usize) -> Option<u16>;
    /// Big endian.
    fn be32(&self, off: usize) -> Option<u32>;
    /// Four address bytes as they stand.
    fn array4(&self, off: usize) -> Option<[u8; 4]>;
    /// Sixteen address bytes as they stand.
    fn array16(&self, off: usize) -> Option<[u8; 16]>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum L3 {
    /// Neither IPv4 nor IPv6 (ARP, LLDP, 802.3 …): the kernel's.
    #[default]
    Other = 0,
    V4 = 4,
    V6 = 6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Fragment {
    #[default]
    No = 0,
    /// Offset 0, more to come: has the transport header.
    First = 1,
    /// Offset > 0: no ports.
    Later = 2,
}

/// Where the headers of one packet are and what they say. Offsets are in bytes from the start of the frame.
///
/// IPv4 addresses are the first four bytes of `src` and `dst`, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Headers {
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// Outer tag first; 0 where there is none. The 12-bit VID only.
    pub vlan: [u16; 2],
    /// Ethertype after the tags.
    pub ethertype: u16,
    pub l3_off: u16,
    /// Where the header of `proto` starts (behind IPv4 options and IPv6 extension headers).
    pub l4_off: u16,
    /// Where the bytes after TCP/UDP's header start; `l4_off` for other protocols and later fragments.
    pub payload_off: u16,
    /// End of the IP packet by its own length field: Ethernet padding is behind it.
    pub end: u16,
    /// TCP, UDP, SCTP: ports. ICMP echo: identifier in both. Else 0.
    pub sport: u16,
    pub dport: u16,
    pub l3: L3,
    /// IANA protocol number of the transport header.
    pub proto: u8,
    pub fragment: Fragment,
    /// TCP flags byte (FIN 1, SYN 2, RST 4, PSH 8, ACK 16), else 0.
    pub tcp_flags: u8,
    /// DSCP and ECN byte.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// ESP's SPI (proto 50), or of ESP in UDP port 4500 (RFC 3948); 0 elsewhere.
    pub spi: u32,
}

/// Why a packet could not be walked. Each is a drop (or pass) reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WalkError {
    /// The frame ends inside a header.
    Truncated = 0,
    /// IPv4 header length < 20 or beyond the packet, IP version wrong, total length below the header's.
    BadIpHeader = 1,
    /// More IPv6 extension headers than [`MAX_EXTENSION_HEADERS`].
    TooManyExtensions = 2,
    /// TCP data offset < 20, UDP length < 8 or beyond the packet.
    BadTransport = 3,
    /// More tags than [`MAX_VLAN_TAGS`].
    TooManyTags = 4,
}
