//! Path MTU of a tunnel: what an ICMP error about one of our own outer packets says, and how long it is believed.
//!
//! RFC 1191 and RFC 8201 say how, RFC 4301 §8.2 what of it holds for IPsec. Anybody can send such an error, so it is believed
//! only as far as it quotes a packet that we may have sent; the caller compares what is quoted with its tunnels. And it can
//! never do worse than make packets small: nothing below [`V4_LEAST`] or IPv6's 1280 is believed.

use super::checksum::{self, ICMP, ICMPV6};
use super::ip::{V4_HEADER, V6_HEADER, V6_MIN_MTU};
use softdpu_ebpf_common::walk::{Fragment, Headers, L3, proto};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Least path MTU over IPv4 that is believed: what every host must be able to receive (RFC 791 §3.1). Hardly a link is
/// smaller, and a forged 68 would cost twenty times the packets.
pub const V4_LEAST: u16 = 576;
/// A lowered path MTU is forgotten after this long (RFC 1191 §6.3, RFC 8201 §4): 10 min, in nanoseconds.
pub const AGE: u64 = 600_000_000_000;

/// RFC 1191 §7.1, table 7-1: MTUs that occur, for routers that do not tell theirs.
const PLATEAUS: [u16; 9] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, V4_LEAST];

/// An ICMP error says that a packet from `local` to `remote` was too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Largest IP packet that passes, in bytes.
    pub mtu: u16,
    pub about: About,
}

/// Which packet it was: whatever of it the sender cannot know who has not seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// IP protocol 50. `seq`: the lower half of the sequence number.
    Esp {
        spi: u32,
        seq: u32,
    },
    Udp {
        local_port: u16,
        remote_port: u16,
        payload: Quoted,
    },
}

/// Up to 16 bytes of a quoted UDP packet's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quoted {
    bytes: [u8; 16],
    len: u8,
}

impl Quoted {
    fn new(payload: &[u8]) -> Self {
        let mut quoted = Self::default();
        let len = payload.len().min(quoted.bytes.len());
        quoted.bytes[..len].copy_from_slice(&payload[..len]);
        quoted.len = len as u8;
        quoted
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// SPI and lower half of the sequence number of ESP in UDP. `None`: too little is quoted, which RFC 792 permits.
    pub fn esp(&self) -> Option<(u32, u32)> {
        let [a, b, c, d, e, f, g, h] = *self.bytes().first_chunk()?;
        Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
    }

    /// Receiver index and counter of a WireGuard transport packet. `None`: another message, or too little is quoted.
    pub fn wireguard(&self) -> Option<(u32, u64)> {
        let bytes = self.bytes();
        let (kind, rest) = bytes.split_first_chunk::<4>()?;
        let (index, rest) = rest.split_first_chunk::<4>()?;
        let counter = rest.first_chunk::<8>()?;
        (*kind == [4, 0, 0, 0]).then(|| (u32::from_le_bytes(*index), u64::from_le_bytes(*counter)))
    }
}

/// Reads an ICMP error that has come as a packet. `packet` starts at its IP header, `headers` is the walk of it with offsets
/// from there. `None`: something else, or nothing to believe.
pub fn outer_pmtu(packet: &[u8], headers: &Headers) -> Option<Report> {
    if headers.fragment != Fragment::No {
        return None;
    }
    let message = packet.get(usize::from(headers.l4_off)..usize::from(headers.end))?;
    let sum = match (headers.l3, headers.proto) {
        (L3::V4, ICMP) => checksum::fold(checksum::add(0, message)),
        (L3::V6, ICMPV6) => checksum::sum_icmpv6(message, &headers.src, &headers.dst),
        _ => return None,
    };
    let to = address(headers.l3, &headers.dst)?;
    if sum != 0xffff { None } else { of_message(to, message) }
}

/// Reads the ICMP message itself, from its type on, as it came to our address `to`: what a raw socket gives. The checksum is
/// not looked at.
pub fn of_message(to: IpAddr, message: &[u8]) -> Option<Report> {
    let (&[kind, code, _, _, a, b, c, d], quote) = message.split_first_chunk::<8>()?;
    let (told, quoted) = match to {
        // RFC 1191 §4: 3/4, the MTU in the last two bytes.
        IpAddr::V4(_) if (kind, code) == (3, 4) => (u32::from(u16::from_be_bytes([c, d])), quote_v4(quote)?),
        // RFC 4443 §3.2: type 2, whatever the code.
        IpAddr::V6(_) if kind == 2 => (u32::from_be_bytes([a, b, c, d]), quote_v6(quote)?),
        _ => return None,
    };
    // An error comes back to who sent the packet.
    if quoted.local != to {
        return None;
    }
    let mtu = believable(told, &quoted)?;
    let transport = quoted.transport;
    let about = match quoted.proto {
        proto::ESP => {
            let (spi, seq) = Quoted::new(transport).esp()?;
            About::Esp { spi, seq }
        }
        proto::UDP => {
            let (&[a, b, c, d, ..], payload) = transport.split_first_chunk::<8>()?;
            let (local_port, remote_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            About::Udp { local_port, remote_port, payload: Quoted::new(payload) }
        }
        _ => return None,
    };
    Some(Report { local: quoted.local, remote: quoted.remote, mtu, about })
}

/// The start of a packet of ours, as an error quotes it.
struct Quote<'a> {
    local: IpAddr,
    remote: IpAddr,
    proto: u8,
    /// Bytes of the whole packet, by its own length field.
    len: u32,
    transport: &'a [u8],
}

fn quote_v4(quote: &[u8]) -> Option<Quote<'_>> {
    let header: &[u8; V4_HEADER] = quote.first_chunk()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    // A later fragment shows no SPI and no ports.
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || len < V4_HEADER || later {
        return None;
    }
    let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    Some(Quote { local: ip(12), remote: ip(16), proto: header[9], len: total, transport: quote.get(len..)? })
}

fn quote_v6(quote: &[u8]) -> Option<Quote<'_>> {
    let (header, mut transport) = quote.split_first_chunk::<V6_HEADER>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut proto = header[6];
    // What we send has no extension header but the fragment header.
    if proto == proto::FRAGMENT {
        let (&[next, _, high, low, ..], rest) = transport.split_first_chunk::<8>()?;
        if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
            return None;
        }
        (proto, transport) = (next, rest);
    }
    let ip = |at: usize| {
        let bytes: [u8; 16] = header[at..at + 16].try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    let len = u32::from(u16::from_be_bytes([header[4], header[5]])) + V6_HEADER as u32;
    Some(Quote { local: ip(8)?, remote: ip(24)?, proto, len, transport })
}

/// The MTU to take from what was told. A packet that was not larger than it would have passed, so such an error is forged or
/// about nothing.
fn believable(told: u32, quoted: &Quote<'_>) -> Option<u16> {
    let mtu = match quoted.local {
        // A router of before RFC 1191: the next lower MTU that occurs (its §5).
        IpAddr::V4(_) if told == 0 => u32::from(PLATEAUS.into_iter().find(|mtu| u32::from(*mtu) < quoted.len)?),
        IpAddr::V4(_) => told.max(V4_LEAST.into()),
        // RFC 8201 §4: less must not be believed.
        IpAddr::V6(_) if told < V6_MIN_MTU as u32 => return None,
        IpAddr::V6(_) => told,
    };
    u16::try_from(mtu).ok().filter(|_| mtu < quoted.len)
}

fn address(l3: L3, bytes: &[u8; 16]) -> Option<IpAddr> {
    match l3 {
        L3::V4 => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        L3::V6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes))),
        L3::Other => None,
    }
}

/// Whether a quoted sequence number (its lower half) may be of a packet that we sent of late: one of the last `recent`.
/// `next`: the number that the next packet gets.
pub fn recently_sent(quoted: u32, next: u64, recent: u32) -> bool {
    // Modulo 2^32, so that the high half need not be known.
    let back = (next as u32).wrapping_sub(quoted);
    back != 0 && u64::from(back) < next && back <= recent
}

/// The path MTU of one way, shared by all workers: lowered by the control side, read per packet.
///
/// One word: milliseconds since the monotonic clock's start in the upper 48 bits, the MTU in the lower 16; 0 is none.
#[derive(Debug, Default)]
pub struct PathMtu(AtomicU64);

impl PathMtu {
    const fn word(now: u64, mtu: u16) -> u64 {
        ((now / 1_000_000) << 16) | mtu as u64
    }

    /// The MTU in force. `now`: monotonic nanoseconds. `None`: none was told, or it is forgotten.
    #[inline]
    pub fn get(&self, now: u64) -> Option<u16> {
        let word = self.0.load(Ordering::Relaxed);
        if word == 0 { None } else { Self::valid(word, now) }
    }

    fn valid(word: u64, now: u64) -> Option<u16> {
        let since = word >> 16;
        (word != 0 && (now / 1_000_000).saturating_sub(since) < AGE / 1_000_000).then_some(word as u16)
    }

    /// The smaller of `link` (bytes) and the MTU in force.
    #[inline]
    pub fn limit(&self, link: usize, now: u64) -> usize {
        self.get(now).map_or(link, |mtu| link.min(mtu.into()))
    }

    /// Takes a believed report. It never raises the MTU in force; a report of the same value makes it last anew. `true` where
    /// the MTU in force is another now.
    pub fn lower(&self, now: u64, mtu: u16) -> bool {
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Self::valid(word, now).is_none_or(|current| mtu <= current).then_some(Self::word(now, mtu))
        });
        before.is_ok_and(|before| Self::valid(before, now) != Some(mtu))
    }

    /// Forgets it: the peer moved, so the path is another.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "pmtu_tests.rs"]
mod tests;
