//! Frames of an Initial packet (RFC 9000 §12.4, §19).

use std::ops::Range;

use crate::l7::web::pieces::Pieces;

const PADDING: u64 = 0;
const PING: u64 = 1;
const ACK: u64 = 2;
const ACK_ECN: u64 = 3;
const CRYPTO: u64 = 6;
/// CRYPTO under the number that Google's versions gave it.
const GOOGLE_CRYPTO: u64 = 8;

/// A variable-length integer (RFC 9000 §16), and where it ends.
pub fn varint(d: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *d.get(at)?;
    let end = at + (1 << (first >> 6));
    let rest = d.get(at + 1..end)?;
    Some((rest.iter().fold(u64::from(first & 0x3f), |v, b| v << 8 | u64::from(*b)), end))
}

/// Notes the CRYPTO frames among these opened bytes of the room, up to what does not belong into an Initial.
pub fn crypto(pieces: &mut Pieces, plain: Range<usize>) {
    let mut at = 0;
    while let Some((after, frame)) = next(pieces.bytes(plain.clone()), at) {
        if let Some((offset, data)) = frame {
            pieces.note(offset, plain.start + data.start..plain.start + data.end);
        }
        at = after;
    }
}

/// A CRYPTO frame: offset, and where its bytes stand.
type Crypto = (u64, Range<usize>);

/// Where the frame at `at` ends, and what it is if it is CRYPTO.
fn next(d: &[u8], at: usize) -> Option<(usize, Option<Crypto>)> {
    let (kind, mut at) = varint(d, at)?;
    match kind {
        PADDING => at += d[at..].iter().take_while(|b| **b == 0).count(),
        PING => {}
        ACK | ACK_ECN => {
            let mut number = || {
                let (v, end) = varint(d, at)?;
                at = end;
                Some(v)
            };
            number()?;
            number()?;
            let ranges = number()?;
            let ecn = if kind == ACK_ECN { 3 } else { 0 };
            // Each number takes a byte at least: too many end with the packet.
            for _ in 0..ranges.checked_mul(2)?.checked_add(1 + ecn)? {
                number()?;
            }
        }
        CRYPTO | GOOGLE_CRYPTO => {
            let (offset, after) = varint(d, at)?;
            let (len, from) = varint(d, after)?;
            let to = from.checked_add(usize::try_from(len).ok()?).filter(|to| *to <= d.len())?;
            return Some((to, Some((offset, from..to))));
        }
        _ => return None,
    }
    Some((at, None))
}
