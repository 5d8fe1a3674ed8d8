//! From a capture's link type to Ethernet, which is what the graph walks.

use super::reader::Record;

/// Link types (the registry is at tcpdump.org/linktypes.html) whose packets can be given an Ethernet header.
const NULL: u32 = 0;
const ETHERNET: u32 = 1;
const PPP: u32 = 9;
const RAW_BSD: u32 = 12;
const RAW_OPENBSD: u32 = 14;
const RAW: u32 = 101;
const LOOP: u32 = 108;
const LINUX_SLL: u32 = 113;
const IPV4: u32 = 228;
const IPV6: u32 = 229;
const LINUX_SLL2: u32 = 276;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Addresses of a header that was made up: locally administered.
const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Whether packets of this link type can be read at all.
pub(super) fn supported(link: u32) -> bool {
    matches!(link, NULL | ETHERNET | PPP | RAW_BSD | RAW_OPENBSD | RAW | LOOP | LINUX_SLL | IPV4 | IPV6 | LINUX_SLL2)
}

/// The Ethernet header to put in front, if any, and the bytes it goes in front of. `None` where the record is too short
/// for its own link header, or empty.
pub(super) fn ethernet<'a>(record: &Record<'a>) -> Option<(Option<[u8; 14]>, &'a [u8])> {
    let bytes = record.bytes;
    let (ethertype, skip) = match record.link {
        ETHERNET => return (!bytes.is_empty()).then_some((None, bytes)),
        // The address family in the capturing host's byte order; the IP version says the same without guessing.
        NULL | LOOP => (by_version(bytes.get(4)?)?, 4),
        RAW | RAW_BSD | RAW_OPENBSD => (by_version(bytes.first()?)?, 0),
        IPV4 => (ETHERTYPE_IPV4, 0),
        IPV6 => (ETHERTYPE_IPV6, 0),
        LINUX_SLL => (be16(bytes, 14)?, 16),
        LINUX_SLL2 => (be16(bytes, 0)?, 20),
        PPP => ppp(bytes)?,
        _ => return None,
    };
    let payload = bytes.get(skip..).filter(|p| !p.is_empty())?;
    let mut header = [0; 14];
    header[..6].copy_from_slice(&TO);
    header[6..12].copy_from_slice(&FROM);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    Some((Some(header), payload))
}

/// RFC 1661 §2 protocol field, with or without RFC 1662's address and control bytes.
fn ppp(bytes: &[u8]) -> Option<(u16, usize)> {
    let at = if bytes.starts_with(&[0xff, 0x03]) { 2 } else { 0 };
    match be16(bytes, at)? {
        0x0021 => Some((ETHERTYPE_IPV4, at + 2)),
        0x0057 => Some((ETHERTYPE_IPV6, at + 2)),
        _ => None,
    }
}

fn by_version(first: &u8) -> Option<u16> {
    match first >> 4 {
        4 => Some(ETHERTYPE_IPV4),
        6 => Some(ETHERTYPE_IPV6),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
