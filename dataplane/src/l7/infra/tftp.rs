//! TFTP: requests with a file and a known mode (RFC 1350 §5), option acknowledgements (RFC 2347), and transfers under way,
//! told by two blocks in a row.

use super::read::u16_at;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;
const MODES: [&[u8]; 3] = [b"octet", b"netascii", b"mail"];
const OPTIONS: [&[u8]; 6] = [b"blksize", b"timeout", b"tsize", b"windowsize", b"multicast", b"rollover"];
/// Sizes of full blocks in use: RFC 1350's, and what fits into usual MTUs (RFC 2348).
const BLOCKS: [usize; 8] = [512, 1024, 1408, 1428, 1432, 1456, 1464, 1468];
/// ERROR codes (RFC 1350 §5, RFC 2347).
const LAST_ERROR: u16 = 8;
const LONGEST: usize = 512;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(op) = look.u16(0) else { return Verdict::No };
    let good = match op {
        READ | WRITE => request(d, notes).is_some(),
        OACK => fields(&d[2..]).is_some_and(is_options),
        ERROR => look.u16(2).is_some_and(|code| code <= LAST_ERROR) && error_text(&d[4..]),
        DATA => follows(look) && d.get(4..).is_some_and(|block| BLOCKS.contains(&block.len())),
        ACK => d.len() == 4 && look.before.len() == 4 && follows(look),
        _ => false,
    };
    if !good {
        return Verdict::No;
    }
    match op {
        READ => notes.facts.put(Fact::Method, b"read"),
        WRITE => notes.facts.put(Fact::Method, b"write"),
        _ => {}
    }
    Verdict::payload(Class::Tftp)
}

/// The datagram before was the same kind, of the block before.
fn follows(look: &Look) -> bool {
    let block = |d: &[u8]| u16_at(d, 2);
    look.before.first_chunk::<2>() == look.data.first_chunk::<2>()
        && block(look.before).map(|n| n.wrapping_add(1)) == block(look.data)
}

fn request(d: &[u8], notes: &mut Notes) -> Option<()> {
    let mut fields = fields(&d[2..])?;
    let (file, mode) = (fields.next()?, fields.next()?);
    let printable = !file.is_empty() && file.iter().all(|b| *b >= b' ' && *b != 0x7f);
    if !printable || !MODES.iter().any(|m| m.eq_ignore_ascii_case(mode)) {
        return None;
    }
    notes.facts.put(Fact::Path, file);
    Some(())
}

/// The texts before each NUL; the last byte is one.
fn fields(d: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let d = d.strip_suffix(b"\0").filter(|d| d.len() <= LONGEST)?;
    Some(d.split(|b| *b == 0))
}

fn is_options<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> bool {
    let known = fields.next().is_some_and(|name| OPTIONS.iter().any(|o| o.eq_ignore_ascii_case(name)));
    known && fields.next().is_some_and(|value| value.first().is_some_and(u8::is_ascii_digit))
}

fn error_text(d: &[u8]) -> bool {
    let Some(text) = d.strip_suffix(b"\0") else { return false };
    (4..=LONGEST).contains(&text.len()) && text.iter().all(|b| (b' '..=b'~').contains(b))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, is_udp, udp, udp_after};
    use super::*;

    #[test]
    fn requests() {
        let d = b"\0\x01boot/pxe.0\0OCTET\0blksize\x001428\0";
        assert_eq!(udp(look, d, 69), Some(Class::Tftp));
        assert_eq!(fact(look, d, 69, Fact::Path).as_deref(), Some("boot/pxe.0"));
        is_udp(look, b"\0\x02a\0netascii\0", 9, Class::Tftp);
        is_udp(look, b"\0\x06tsize\x001000\0", 9, Class::Tftp);
        is_udp(look, b"\0\x05\0\x01File not found\0", 9, Class::Tftp);
        for no in [
            &b"\0\x01a\0octets\0"[..],
            b"\0\x01\0octet\0",
            b"\0\x01a\0octet",
            b"\0\x05\0\x09no file\0",
            b"\0\x06size\x001\0",
            b"\0",
        ] {
            assert_eq!(udp(look, no, 69), None, "{no:?}");
        }
    }

    #[test]
    fn two_blocks_in_a_row() {
        let data = |n: u8| [&[0, 3, 0, n][..], &[7; 512]].concat();
        assert_eq!(udp_after(look, &data(1), &data(2), 9), Some(Class::Tftp));
        assert_eq!(udp_after(look, &data(1), &data(3), 9), None);
        assert_eq!(udp(look, &data(1), 9), None);
        assert_eq!(udp_after(look, &[0, 4, 0, 255], &[0, 4, 1, 0], 9), Some(Class::Tftp));
        assert_eq!(udp_after(look, &[0, 4, 0, 255, 0], &[0, 4, 1, 0], 9), None);
    }
}
