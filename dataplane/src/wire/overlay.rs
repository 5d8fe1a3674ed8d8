//! Packets within packets: VXLAN (RFC 7348), GENEVE (RFC 8926), GRE (RFC 2784, 2890), NVGRE (RFC 7637), GTP-U (3GPP TS 29.281)
//! and IP in IP (RFC 2003, 2473, 4213).
//!
//! Looks one header further at a time; who wants to see what is within that asks again, [`DEPTH`] times at most. What is
//! malformed, control traffic, or carries something else than Ethernet and IP has nothing within.

use softdpu_ebpf_common::walk::{self, Bytes, Fragment, Headers, L3, proto};

/// How many packets within packets are looked at.
pub const DEPTH: usize = 2;

const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
const GTP_U: u16 = 2152;
/// IANA protocol numbers.
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const GRE: u8 = 47;
const ETHERTYPE_ETHERNET: u16 = 0x6558;
/// Extension headers of one GTP-U packet that are walked over.
const GTP_EXTENSIONS: usize = 8;

/// What a packet is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Vxlan = 1,
    Geneve = 2,
    Gre = 3,
    Nvgre = 4,
    GtpU = 5,
    Ip = 6,
}

impl Kind {
    /// From the number, as a flow's key has it.
    pub fn of(number: u8) -> Option<Self> {
        [Self::Vxlan, Self::Geneve, Self::Gre, Self::Nvgre, Self::GtpU, Self::Ip]
            .into_iter()
            .find(|k| *k as u8 == number)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Gre => "gre",
            Self::Nvgre => "nvgre",
            Self::GtpU => "gtp_u",
            Self::Ip => "ip_in_ip",
        }
    }

    /// Whether [`Inner::id`] is the number on the wire, rather than one made of both ends.
    pub fn has_number(self) -> bool {
        matches!(self, Self::Vxlan | Self::Geneve | Self::Nvgre)
    }

    /// As people read it: `vxlan 5`, or `gre`. `id`: as [`Inner::id`].
    pub fn label(self, id: u32) -> String {
        if self.has_number() { format!("{} {id}", self.name()) } else { self.name().to_owned() }
    }
}

/// The packet within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    pub kind: Kind,
    /// 24 bits that tell the network: the VNI or VSID; a GRE key (folded where it is longer); else one made of the outer ends.
    /// GTP-U has a TEID per direction (TS 29.281 §5.1), so of it too the ends tell the network.
    pub id: u32,
    /// As walked over the same bytes: offsets count from the same place as the outer packet's.
    pub headers: Headers,
}

/// Whether packets like this one may have others within. By the destination port or protocol alone.
#[inline]
pub fn carries(h: &Headers) -> bool {
    match h.proto {
        proto::UDP => matches!(h.dport, VXLAN | GENEVE | GTP_U) || matches!(h.sport, VXLAN | GENEVE | GTP_U),
        GRE | IPV4 | IPV6 => true,
        _ => false,
    }
}

/// The packet within `outer`, which was walked over `bytes`. These may end before the packet does, where it is in several parts.
pub fn inner(bytes: &[u8], outer: &Headers) -> Option<Inner> {
    if outer.fragment != Fragment::No || outer.l3 == L3::Other {
        return None;
    }
    let within = Within { bytes, end: usize::from(outer.end) };
    let (l4, payload) = (usize::from(outer.l4_off), usize::from(outer.payload_off));
    match (outer.proto, outer.dport) {
        (proto::UDP, VXLAN) => vxlan(&within, payload),
        (proto::UDP, GENEVE) => geneve(&within, payload),
        (proto::UDP, GTP_U) => gtp_u(&within, payload, outer),
        (GRE, _) => gre(&within, l4, outer),
        (IPV4 | IPV6, _) => {
            let headers = ip(&within, l4)?;
            let fits = (headers.l3 == L3::V4) == (outer.proto == IPV4);
            fits.then_some(Inner { kind: Kind::Ip, id: ends(outer), headers })
        }
        _ => None,
    }
}

/// The bytes up to the outer packet's end.
struct Within<'a> {
    bytes: &'a [u8],
    end: usize,
}

impl Bytes for Within<'_> {
    #[inline(always)]
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        if off.checked_add(N)? > self.end {
            return None;
        }
        self.bytes.array(off)
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        len <= self.end
    }
}

/// The same, with offsets from an Ethernet header on.
struct From<'a, 'b>(&'a Within<'b>, usize);

impl Bytes for From<'_, '_> {
    #[inline(always)]
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        self.0.array(self.1.checked_add(off)?)
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        self.1.checked_add(len).is_some_and(|end| self.0.holds(end))
    }
}

fn ethernet(within: &Within<'_>, at: usize) -> Option<Headers> {
    let mut h = walk::walk(&From(within, at)).ok()?;
    if h.l3 == L3::Other {
        return None;
    }
    let at = u16::try_from(at).ok()?;
    for offset in [&mut h.l3_off, &mut h.l4_off, &mut h.payload_off, &mut h.end] {
        *offset = offset.checked_add(at)?;
    }
    Some(h)
}

fn ip(within: &Within<'_>, at: usize) -> Option<Headers> {
    walk::walk_ip(within, at).ok()
}

fn by_ethertype(within: &Within<'_>, at: usize, ethertype: u16) -> Option<Headers> {
    let l3 = match ethertype {
        ETHERTYPE_ETHERNET => return ethernet(within, at),
        walk::ETHERTYPE_V4 => L3::V4,
        walk::ETHERTYPE_V6 => L3::V6,
        _ => return None,
    };
    ip(within, at).filter(|h| h.l3 == l3)
}

/// RFC 7348 §5: flags with I set, VNI.
fn vxlan(within: &Within<'_>, at: usize) -> Option<Inner> {
    let header = within.array::<8>(at)?;
    if header[0] & 0x08 == 0 {
        return None;
    }
    Some(Inner { kind: Kind::Vxlan, id: be24(&header[4..7]), headers: ethernet(within, at + 8)? })
}

/// RFC 8926 §3.4: version and length of options, flags, protocol, VNI.
fn geneve(within: &Within<'_>, at: usize) -> Option<Inner> {
    let header = within.array::<8>(at)?;
    let (version, control) = (header[0] >> 6, header[1] & 0x80 != 0);
    if version != 0 || control {
        return None;
    }
    let behind = at + 8 + usize::from(header[0] & 0x3f) * 4;
    let headers = by_ethertype(within, behind, u16::from_be_bytes([header[2], header[3]]))?;
    Some(Inner { kind: Kind::Geneve, id: be24(&header[4..7]), headers })
}

/// RFC 2784 §2, RFC 2890 §2: checksum, key and sequence number where their flags say so. RFC 7637 §3.2: a key over Ethernet is
/// a VSID and eight bits of flow.
fn gre(within: &Within<'_>, at: usize, outer: &Headers) -> Option<Inner> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    let header = within.array::<4>(at)?;
    let flags = u16::from_be_bytes([header[0], header[1]]);
    let ethertype = u16::from_be_bytes([header[2], header[3]]);
    // Routing (RFC 1701) and versions other than 0 (PPTP's is 1) carry something else.
    if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
        return None;
    }
    let key_at = at + 4 + if flags & CHECKSUM != 0 { 4 } else { 0 };
    let mut behind = key_at;
    let (mut kind, mut id) = (Kind::Gre, ends(outer));
    if flags & KEY != 0 {
        let key = within.be32(key_at)?;
        behind += 4;
        (kind, id) = if ethertype == ETHERTYPE_ETHERNET { (Kind::Nvgre, key >> 8) } else { (kind, fold(key)) };
    }
    if flags & SEQUENCE != 0 {
        behind += 4;
    }
    Some(Inner { kind, id, headers: by_ethertype(within, behind, ethertype)? })
}

/// TS 29.281 §5.1, §5.2: version 1 with PT, a G-PDU, and extension headers.
fn gtp_u(within: &Within<'_>, at: usize, outer: &Headers) -> Option<Inner> {
    const G_PDU: u8 = 255;
    let header = within.array::<8>(at)?;
    if header[0] & 0xf0 != 0x30 || header[1] != G_PDU {
        return None;
    }
    let mut behind = at + 8;
    if header[0] & 0x07 != 0 {
        let mut next = if header[0] & 0x04 != 0 { within.u8(behind + 3)? } else { 0 };
        behind += 4;
        let mut left = GTP_EXTENSIONS;
        while next != 0 {
            let len = usize::from(within.u8(behind)?) * 4;
            left = left.checked_sub(1)?;
            if len == 0 {
                return None;
            }
            next = within.u8(behind + len - 1)?;
            behind += len;
        }
    }
    Some(Inner { kind: Kind::GtpU, id: ends(outer), headers: ip(within, behind)? })
}

fn be24(b: &[u8]) -> u32 {
    b.iter().take(3).fold(0, |n, b| n << 8 | u32::from(*b))
}

/// 24 bits of 32; those of up to 24 bits stay.
fn fold(n: u32) -> u32 {
    n & 0xff_ffff ^ n >> 24 << 16
}

/// The same for both directions.
fn ends(outer: &Headers) -> u32 {
    let sum = |a: &[u8; 16]| {
        a.chunks_exact(4).fold(0u32, |n, w| {
            (n.rotate_left(5) ^ u32::from_be_bytes([w[0], w[1], w[2], w[3]])).wrapping_mul(0x9e37_79b1)
        })
    };
    let both = sum(&outer.src) ^ sum(&outer.dst);
    both >> 8
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
