//! Google's QUIC before IETF's: versions Q024 to Q046, whose client says CHLO in clear ("QUIC Crypto", Langley and Chang,
//! 2016), and what of it Q050 still has inside Initial packets.

use crate::l7::facts::Facts;
use crate::l7::hosts::HostName;
use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

pub const CHLO: &[u8] = b"CHLO";
const REJ: &[u8] = b"REJ\0";
const SNI: &[u8] = b"SNI\0";
const USER_AGENT: &[u8] = b"UAID";
/// Entries of a CHLO.
const MAX_ENTRIES: usize = 64;
/// Between packet number and message: a hash of 12 bytes and the longest head of a STREAM frame.
const HASH: usize = 12;
const STREAM_HEAD: usize = 16;

fn found() -> Found {
    Found::handshake(Class::Quic, crate::l7::Alpn::None)
}

/// `Q024` … `Q048` as a number.
pub fn is_number(number: u32) -> bool {
    match number.to_be_bytes() {
        [b'Q', b'0', tens @ b'2'..=b'4', ones @ b'0'..=b'9'] => (24..=48).contains(&(tens % 16 * 10 + ones % 16)),
        _ => false,
    }
}

/// Versions up to Q043: flags, connection, version (client only), number, hash, frames.
pub fn short(look: &Look, notes: &mut Notes) -> Verdict {
    const HAS_VERSION: u8 = 1;
    const RESET: u8 = 2;
    const HAS_CID: u8 = 8;
    let d = look.data;
    let flags = d[0];
    if flags & (HAS_VERSION | RESET | HAS_CID) != HAS_VERSION | HAS_CID || flags & 0xc0 != 0 {
        return Verdict::No;
    }
    let Some(number) = look.u32(9).filter(|n| is_number(*n)) else { return Verdict::No };
    let len = [1, 2, 4, 6][usize::from(flags >> 4 & 3)];
    message(d, 13 + len, number, notes)
}

/// Versions Q044 to Q048: as an IETF long header of an early draft, both lengths in one byte.
pub fn long(d: &[u8], number: u32, notes: &mut Notes) -> Verdict {
    let Some(lengths) = d.get(5) else { return Verdict::No };
    let len = |nibble: u8| if nibble == 0 { 0 } else { usize::from(nibble) + 3 };
    message(d, 6 + len(lengths >> 4) + len(lengths & 0xf) + 4, number, notes)
}

fn message(d: &[u8], at: usize, number: u32, notes: &mut Notes) -> Verdict {
    let Some(frames) = d.get(at + HASH..) else { return Verdict::No };
    notes.facts.put(Fact::Version, &number.to_be_bytes());
    let near = &frames[..frames.len().min(STREAM_HEAD + CHLO.len())];
    let tag = |tag: &[u8]| near.windows(tag.len()).position(|w| w == tag);
    match tag(CHLO) {
        Some(at) => hello(&frames[at..], &mut notes.host, &mut notes.facts),
        // What the server says to it, or a packet under the keys that followed.
        None if tag(REJ).is_some() => Verdict::Class(found()),
        None => Verdict::Class(found()),
    }
}

/// A CHLO: number of entries, tags with the ends of their values, values.
pub fn hello(d: &[u8], host: &mut HostName, facts: &mut Facts) -> Verdict {
    let Some(count) = d.get(4..6).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))) else { return Verdict::More };
    if count == 0 || count > MAX_ENTRIES {
        return Verdict::No;
    }
    let values = 8 + count * 8;
    let Some(entries) = d.get(8..values) else { return Verdict::More };
    let mut from = 0usize;
    for entry in entries.chunks_exact(8) {
        let Some(end) = entry[4..].first_chunk().map(|b| u32::from_le_bytes(*b) as usize) else { break };
        if end < from || end > 1 << 16 {
            return Verdict::No;
        }
        if let Some(value) = d.get(values + from..values + end) {
            match &entry[..4] {
                SNI => host.push(value),
                USER_AGENT => facts.put(Fact::UserAgent, value),
                _ => {}
            }
        }
        from = end;
    }
    Verdict::Done(found())
}
