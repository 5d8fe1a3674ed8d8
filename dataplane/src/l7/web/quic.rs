//! QUIC versions 1 and 2 (RFC 9000, RFC 9369), the drafts from 22 on, mvfst's numbers and Google's last ones (Q050, T050,
//! T051): long headers, and the ClientHello out of a client's Initial packets, which anybody on the way can open.
//!
//! A hello that one datagram does not bring whole is left in [`Pieces`] for the inspector to put together. Version
//! negotiation, Retry and packets under later keys say that it is QUIC, and nothing more.

mod frames;
pub mod google;
mod keys;
mod version;

use self::version::{Kind, Version};
use crate::l7::web::pieces::{self, Pieces};
use crate::l7::web::tls::hello::Carrier;
use crate::l7::{Alpn, Class, Fact, Found, Look, Notes, Verdict};

const LONG: u8 = 0x80;
const FIXED: u8 = 0x40;
/// RFC 9000 §17.2: longer ones are another version's.
const MAX_CID: usize = 20;
/// Packets of a datagram that are looked at (RFC 9000 §12.2 coalesces one of each kind).
const MAX_PACKETS: usize = 6;
const RETRY_TAG: usize = 16;

const FOUND: Found = Found { class: Class::Quic, by: crate::l7::By::Handshake, alpn: Alpn::None };

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] & LONG == 0 {
        return Verdict::No;
    }
    let Some(number) = look.u32(1) else { return Verdict::No };
    if number == 0 {
        return negotiation(d);
    }
    if google::is_number(number) {
        return google::long(d, number, notes);
    }
    let Some(version) = Version::of(number) else { return Verdict::No };
    let mut rest = d;
    let mut seen = 0;
    while seen < MAX_PACKETS && rest.first().is_some_and(|b| b & LONG != 0) {
        let Some(packet) = Packet::read(rest, &version, number) else { break };
        seen += 1;
        let first = destination(look.before, number);
        if packet.kind == Kind::Initial && !open(&packet, &version, packet.dcid, &mut notes.pieces) {
            // A client that has taken over the server's name for the connection still uses the first one's keys.
            if let Some(first) = first.filter(|f| *f != packet.dcid) {
                open(&packet, &version, first, &mut notes.pieces);
            }
        }
        rest = &rest[packet.whole.len()..];
    }
    // What follows is a packet with a short header or padding.
    if seen == 0 || rest.first().is_some_and(|b| *b != 0 && b & FIXED == 0) {
        return Verdict::No;
    }
    notes.pieces.carrier = Carrier::Quic;
    let verdict = pieces::only(notes).unwrap_or(Verdict::Class(FOUND));
    version::put(number, notes);
    verdict
}

/// The destination of the datagram before, as far as it was of this version: the one the keys are made of.
fn destination(before: &[u8], number: u32) -> Option<&[u8]> {
    let (first, rest) = before.split_first()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first()?;
    let long = first & LONG != 0 && u32::from_be_bytes(*version) == number;
    rest.get(..usize::from(*len)).filter(|_| long)
}

struct Packet<'a> {
    whole: &'a [u8],
    kind: Kind,
    dcid: &'a [u8],
    /// Where the protected packet number starts.
    number_at: usize,
}

impl<'a> Packet<'a> {
    /// The packet at the start, if it is of this version and its lengths add up.
    fn read(d: &'a [u8], version: &Version, number: u32) -> Option<Self> {
        if d[0] & FIXED == 0 || *d.get(1..)?.first_chunk::<4>()? != number.to_be_bytes() {
            return None;
        }
        let kind = version.kind(d[0]);
        let (dcid, at) = cid(d, 5)?;
        let (_, mut at) = cid(d, at)?;
        if kind == Kind::Retry {
            return (d.len() > at + RETRY_TAG).then_some(Self { whole: d, kind, dcid, number_at: at });
        }
        if kind == Kind::Initial {
            let (token, after) = frames::varint(d, at)?;
            at = after.checked_add(usize::try_from(token).ok()?)?;
        }
        let (len, number_at) = frames::varint(d, at)?;
        let end = number_at.checked_add(usize::try_from(len).ok()?)?;
        // Number and sample (RFC 9001 §5.4.2).
        if len < keys::LEAST {
            return None;
        }
        Some(Self { whole: d.get(..end)?, kind, dcid, number_at })
    }
}

/// A connection identifier behind its length, and where it ends.
fn cid(d: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let len = usize::from(*d.get(at)?);
    let end = at + 1 + len;
    Some((d.get(at + 1..end).filter(|_| len <= MAX_CID)?, end))
}

/// Opens an Initial with the keys of `dcid` and notes its CRYPTO frames. `false`: these are not its keys.
fn open(packet: &Packet, version: &Version, dcid: &[u8], pieces: &mut Pieces) -> bool {
    let plain = pieces.hold(packet.whole, |room| keys::open(version, dcid, room, packet.number_at));
    plain.map(|plain| frames::crypto(pieces, plain)).is_some()
}

/// RFC 9000 §17.2.1: a list of versions, one of which must be known, and nothing else.
fn negotiation(d: &[u8]) -> Verdict {
    let list = || {
        let (_, at) = cid(d, 5)?;
        let (_, at) = cid(d, at)?;
        Some(&d[at..])
    };
    let Some(list) = list().filter(|l| !l.is_empty() && l.len() % 4 == 0) else { return Verdict::No };
    let known = |v: &[u8]| v.first_chunk::<4>().is_some_and(|v| Version::of(u32::from_be_bytes(*v)).is_some());
    if list.chunks_exact(4).any(known) { Verdict::Class(FOUND) } else { Verdict::No }
}

pub(super) fn put_text(text: &[u8], notes: &mut Notes) {
    notes.facts.put(Fact::Version, text);
}

#[cfg(test)]
#[path = "quic/tests.rs"]
pub(in crate::l7) mod tests;
