//! One header walk for both sides: Ethernet to the transport header, over anything that can be read by offset.
//!
//! The XDP program reads between `data` and `data_end`, user space reads a slice; the walk itself is the same code, so
//! the two can never disagree about what a packet is.

/// Most extension headers (IPv6) a packet may carry before the walk refuses it.
pub const MAX_EXTENSION_HEADERS: usize = 6;
/// Most VLAN tags (802.1Q, 802.1ad) the walk unwraps.
pub const MAX_VLAN_TAGS: usize = 2;

/// Bytes that can be read at an offset. `None` where what can be read has ended.
///
/// A whole header is read with one bounds check and then indexed with constants: that is what the kernel's verifier
/// follows most easily, and the fastest on the host too.
pub trait Bytes {
    /// `N` bytes from `off`.
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]>;
    /// Whether the frame is at least `len` bytes long, those included that [`Bytes::array`] cannot reach (the further
    /// buffers of a multi-buffer frame).
    fn holds(&self, len: usize) -> bool;

    #[inline(always)]
    fn u8(&self, off: usize) -> Option<u8> {
        self.array::<1>(off).map(|b| b[0])
    }
    /// Big endian.
    #[inline(always)]
    fn be16(&self, off: usize) -> Option<u16> {
        self.array::<2>(off).map(|b| u16::from_be_bytes(*b))
    }
    /// Big endian.
    #[inline(always)]
    fn be32(&self, off: usize) -> Option<u32> {
        self.array::<4>(off).map(|b| u32::from_be_bytes(*b))
    }
    /// Four address bytes as they stand.
    #[inline(always)]
    fn array4(&self, off: usize) -> Option<[u8; 4]> {
        self.array::<4>(off).copied()
    }
    /// Sixteen address bytes as they stand.
    #[inline(always)]
    fn array16(&self, off: usize) -> Option<[u8; 16]> {
        self.array::<16>(off).copied()
    }
}

impl Bytes for [u8] {
    #[inline(always)]
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        self.get(off..)?.first_chunk()
    }
    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        len <= self.len()
    }
}

impl Bytes for &[u8] {
    #[inline(always)]
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        (**self).array(off)
    }
    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        (**self).holds(len)
    }
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
    /// The frame ends inside a header, or before the end its IP header tells.
    Truncated = 0,
    /// IPv4 header length < 20 or beyond the packet, IP version wrong, total length below the header's, end beyond what
    /// [`Headers::end`] can hold.
    BadIpHeader = 1,
    /// More IPv6 extension headers than [`MAX_EXTENSION_HEADERS`].
    TooManyExtensions = 2,
    /// TCP data offset < 20, UDP length < 8 or beyond the packet.
    BadTransport = 3,
    /// More tags than [`MAX_VLAN_TAGS`].
    TooManyTags = 4,
}

/// IANA protocol numbers the walk or the rules know by name.
pub mod proto {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
    pub const DEST_OPTS: u8 = 60;
    pub const SCTP: u8 = 132;
}

pub const ETHERTYPE_V4: u16 = 0x0800;
pub const ETHERTYPE_V6: u16 = 0x86dd;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
pub const ETHERNET_LEN: usize = 14;
/// UDP port of ESP in UDP and of IKE behind a NAT (RFC 3948 §2.1).
pub const ESP_IN_UDP_PORT: u16 = 4500;

impl Headers {
    /// Whether `sport` and `dport` are ports: false for ICMP, for other protocols and for later fragments.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.fragment as u8 != Fragment::Later as u8
            && (self.proto == proto::TCP || self.proto == proto::UDP || self.proto == proto::SCTP)
    }

    /// ESP in UDP (RFC 3948): the packet is UDP and carries an SPI.
    #[inline(always)]
    pub fn is_esp_in_udp(&self) -> bool {
        self.proto == proto::UDP && self.spi != 0
    }

    /// RFC 4861 §4: router and neighbour messages and redirects, valid only with hop limit 255, so never from beyond the link.
    /// `bytes`: the frame that was walked.
    #[inline(always)]
    pub fn is_neighbour_discovery<B: Bytes + ?Sized>(&self, bytes: &B) -> bool {
        self.l3 as u8 == L3::V6 as u8
            && self.proto == proto::ICMPV6
            && self.ttl == 255
            && matches!(bytes.u8(self.l4_off as usize), Some(133..=137))
    }
}

/// Walks a frame from its Ethernet header. What is neither IPv4 nor IPv6 is `L3::Other`, not an error.
#[inline(always)]
pub fn walk<B: Bytes + ?Sized>(bytes: &B) -> Result<Headers, WalkError> {
    let mut h = Headers::default();
    walk_into(bytes, &mut h)?;
    Ok(h)
}

/// The same into the place where the headers will stay: a copy of 72 bytes just written in small pieces stalls the load.
/// After an error `h` holds nothing of use.
#[inline(always)]
pub fn walk_into<B: Bytes + ?Sized>(bytes: &B, h: &mut Headers) -> Result<(), WalkError> {
    let Some(ethernet) = bytes.array::<ETHERNET_LEN>(0) else { return Err(WalkError::Truncated) };
    *h = Headers { ethertype: u16::from_be_bytes([ethernet[12], ethernet[13]]), ..Headers::default() };
    let mut off = ETHERNET_LEN;
    // Written out, not a loop: the verifier then knows `off` at every step.
    if is_tag(h.ethertype) {
        let Some(tag) = bytes.array::<4>(off) else { return Err(WalkError::Truncated) };
        h.vlan[0] = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
        h.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        off += 4;
        if is_tag(h.ethertype) {
            let Some(tag) = bytes.array::<4>(off) else { return Err(WalkError::Truncated) };
            h.vlan[1] = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
            h.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            off += 4;
            if is_tag(h.ethertype) {
                return Err(WalkError::TooManyTags);
            }
        }
    }
    h.l3_off = off as u16;
    match h.ethertype {
        ETHERTYPE_V4 => v4(bytes, off, h),
        ETHERTYPE_V6 => v6(bytes, off, h),
        _ => {
            h.l4_off = off as u16;
            h.payload_off = off as u16;
            Ok(())
        }
    }
}

/// Walks from an IP header at `l3_off`: decrypted inner packets, captures of raw IP. The version nibble decides.
#[inline(always)]
pub fn walk_ip<B: Bytes + ?Sized>(bytes: &B, l3_off: usize) -> Result<Headers, WalkError> {
    let mut h = Headers::default();
    walk_ip_into(bytes, l3_off, &mut h)?;
    Ok(h)
}

/// The same into the place where the headers will stay; see [`walk_into`].
#[inline(always)]
pub fn walk_ip_into<B: Bytes + ?Sized>(bytes: &B, l3_off: usize, h: &mut Headers) -> Result<(), WalkError> {
    if l3_off > usize::from(u16::MAX) {
        return Err(WalkError::Truncated);
    }
    let Some(first) = bytes.u8(l3_off) else { return Err(WalkError::Truncated) };
    *h = Headers { l3_off: l3_off as u16, ..Headers::default() };
    match first >> 4 {
        4 => {
            h.ethertype = ETHERTYPE_V4;
            v4(bytes, l3_off, h)
        }
        6 => {
            h.ethertype = ETHERTYPE_V6;
            v6(bytes, l3_off, h)
        }
        _ => Err(WalkError::BadIpHeader),
    }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// RFC 791 §3.1.
#[inline(always)]
fn v4<B: Bytes + ?Sized>(bytes: &B, off: usize, h: &mut Headers) -> Result<(), WalkError> {
    let Some(ip) = bytes.array::<20>(off) else { return Err(WalkError::Truncated) };
    let header = usize::from(ip[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[0] >> 4 != 4 || header < 20 || total < header {
        return Err(WalkError::BadIpHeader);
    }
    h.l3 = L3::V4;
    h.tos = ip[1];
    h.ttl = ip[8];
    h.proto = ip[9];
    copy(&mut h.src, &ip[12..16]);
    copy(&mut h.dst, &ip[16..20]);
    let end = off + total;
    if end > usize::from(u16::MAX) {
        return Err(WalkError::BadIpHeader);
    }
    if !bytes.holds(end) {
        return Err(WalkError::Truncated);
    }
    h.end = end as u16;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    h.fragment = fragment_of(fragment & 0x1fff != 0, fragment & 0x2000 != 0);
    transport(bytes, off + header, h)
}

/// RFC 8200 §3, §4.
#[inline(always)]
fn v6<B: Bytes + ?Sized>(bytes: &B, off: usize, h: &mut Headers) -> Result<(), WalkError> {
    let Some(ip) = bytes.array::<40>(off) else { return Err(WalkError::Truncated) };
    if ip[0] >> 4 != 6 {
        return Err(WalkError::BadIpHeader);
    }
    h.l3 = L3::V6;
    h.tos = (ip[0] << 4) | (ip[1] >> 4);
    h.ttl = ip[7];
    copy(&mut h.src, &ip[8..24]);
    copy(&mut h.dst, &ip[24..40]);
    let end = off + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if end > usize::from(u16::MAX) {
        return Err(WalkError::BadIpHeader);
    }
    if !bytes.holds(end) {
        return Err(WalkError::Truncated);
    }
    h.end = end as u16;

    let mut next = ip[6];
    let mut at = off + 40;
    for _ in 0..MAX_EXTENSION_HEADERS {
        match next {
            proto::HOP_BY_HOP | proto::ROUTING | proto::DEST_OPTS => {
                let Some(ext) = bytes.array::<2>(at) else { return Err(WalkError::Truncated) };
                next = ext[0];
                at += (usize::from(ext[1]) + 1) * 8;
            }
            proto::FRAGMENT => {
                let Some(ext) = bytes.array::<8>(at) else { return Err(WalkError::Truncated) };
                next = ext[0];
                at += 8;
                let fragment = u16::from_be_bytes([ext[2], ext[3]]);
                // Neither offset nor more to come: an atomic fragment, handled as a whole packet (RFC 6946 §4).
                h.fragment = fragment_of(fragment & 0xfff8 != 0, fragment & 1 != 0);
                // What follows is the middle of something: `next` names it, and no header can be read.
                if h.fragment as u8 == Fragment::Later as u8 {
                    break;
                }
            }
            _ => break,
        }
        if at > end {
            return Err(WalkError::Truncated);
        }
    }
    if h.fragment as u8 != Fragment::Later as u8
        && matches!(next, proto::HOP_BY_HOP | proto::ROUTING | proto::DEST_OPTS | proto::FRAGMENT)
    {
        return Err(WalkError::TooManyExtensions);
    }
    h.proto = next;
    transport(bytes, at, h)
}

#[inline(always)]
const fn fragment_of(offset: bool, more: bool) -> Fragment {
    match (offset, more) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        (false, false) => Fragment::No,
    }
}

/// Like `copy_from_slice`, with no path that panics.
#[inline(always)]
fn copy(to: &mut [u8; 16], from: &[u8]) {
    let mut i = 0;
    while i < from.len() && i < 16 {
        to[i] = from[i];
        i += 1;
    }
}

#[inline(always)]
fn transport<B: Bytes + ?Sized>(bytes: &B, at: usize, h: &mut Headers) -> Result<(), WalkError> {
    let end = usize::from(h.end);
    if at > end {
        return Err(WalkError::Truncated);
    }
    h.l4_off = at as u16;
    h.payload_off = at as u16;
    if h.fragment as u8 == Fragment::Later as u8 {
        return Ok(());
    }
    let room = end - at;
    match h.proto {
        proto::TCP => {
            // RFC 9293 §3.1
            let Some(tcp) = bytes.array::<20>(at) else { return Err(WalkError::Truncated) };
            if room < 20 {
                return Err(WalkError::Truncated);
            }
            let header = usize::from(tcp[12] >> 4) * 4;
            if header < 20 || header > room {
                return Err(WalkError::BadTransport);
            }
            h.sport = u16::from_be_bytes([tcp[0], tcp[1]]);
            h.dport = u16::from_be_bytes([tcp[2], tcp[3]]);
            h.tcp_flags = tcp[13];
            h.payload_off = (at + header) as u16;
        }
        proto::UDP => {
            let Some(udp) = bytes.array::<8>(at) else { return Err(WalkError::Truncated) };
            if room < 8 {
                return Err(WalkError::Truncated);
            }
            let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            // The length field is the whole datagram's; a first fragment holds only its beginning.
            if length < 8 || (length > room && h.fragment as u8 == Fragment::No as u8) {
                return Err(WalkError::BadTransport);
            }
            h.sport = u16::from_be_bytes([udp[0], udp[1]]);
            h.dport = u16::from_be_bytes([udp[2], udp[3]]);
            h.payload_off = (at + 8) as u16;
            // RFC 3948 §2.2: ESP follows unless the first word is zero (IKE). A keep-alive is one byte.
            if (h.sport == ESP_IN_UDP_PORT || h.dport == ESP_IN_UDP_PORT) && length >= 12 && room >= 12 {
                let Some(spi) = bytes.be32(at + 8) else { return Err(WalkError::Truncated) };
                h.spi = spi;
            }
        }
        proto::SCTP => {
            // RFC 9260 §3.1: the common header is 12 bytes.
            let Some(sctp) = bytes.array::<12>(at) else { return Err(WalkError::Truncated) };
            if room < 12 {
                return Err(WalkError::Truncated);
            }
            h.sport = u16::from_be_bytes([sctp[0], sctp[1]]);
            h.dport = u16::from_be_bytes([sctp[2], sctp[3]]);
        }
        proto::ICMP if h.l3 as u8 == L3::V4 as u8 => echo(bytes, at, room, [8, 0], h)?,
        proto::ICMPV6 if h.l3 as u8 == L3::V6 as u8 => echo(bytes, at, room, [128, 129], h)?,
        proto::ESP => {
            // RFC 4303 §2: SPI and sequence number.
            let Some(esp) = bytes.array::<8>(at) else { return Err(WalkError::Truncated) };
            if room < 8 {
                return Err(WalkError::Truncated);
            }
            h.spi = u32::from_be_bytes([esp[0], esp[1], esp[2], esp[3]]);
        }
        _ => {}
    }
    Ok(())
}

/// ICMP: an echo's identifier stands for both ports (RFC 792, RFC 4443 §4).
#[inline(always)]
fn echo<B: Bytes + ?Sized>(
    bytes: &B,
    at: usize,
    room: usize,
    types: [u8; 2],
    h: &mut Headers,
) -> Result<(), WalkError> {
    let Some(kind) = bytes.array::<4>(at) else { return Err(WalkError::Truncated) };
    if room < 4 {
        return Err(WalkError::Truncated);
    }
    if kind[0] == types[0] || kind[0] == types[1] {
        let Some(id) = bytes.array::<6>(at) else { return Err(WalkError::Truncated) };
        if room < 8 {
            return Err(WalkError::Truncated);
        }
        h.sport = u16::from_be_bytes([id[4], id[5]]);
        h.dport = h.sport;
    }
    Ok(())
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
