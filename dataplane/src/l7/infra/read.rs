//! Numbers at a place in a message, and lines of a text head: what several families' recognisers share.

/// Bytes of a text head that are looked at.
const HEAD: usize = 4096;
const LINES: usize = 64;

/// Big-endian word at `at`.
pub fn u16_at(d: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*d.get(at..)?.first_chunk()?))
}

/// Big-endian double word at `at`.
pub fn u32_at(d: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*d.get(at..)?.first_chunk()?))
}

/// Little-endian word at `at`.
pub fn le16_at(d: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*d.get(at..)?.first_chunk()?))
}

/// Little-endian double word at `at`.
pub fn le32_at(d: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*d.get(at..)?.first_chunk()?))
}

/// Whether records, each behind a header of `head` bytes, fill `d` to its end. `len` gives a record's whole length from its
/// beginning; `None` or less than `head` ends in `false`. Goes over at most `most` records.
pub fn fills(mut d: &[u8], head: usize, most: usize, len: impl Fn(&[u8]) -> Option<usize>) -> bool {
    for _ in 0..most {
        if d.is_empty() {
            return true;
        }
        let Some(rest) = len(d).filter(|n| *n >= head).and_then(|n| d.get(n..)) else { return false };
        d = rest;
    }
    d.is_empty()
}

/// The lines of a text head without their ends, up to the empty one; the last may be cut off.
pub fn lines(d: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = &d[..d.len().min(HEAD)];
    head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).take_while(|l| !l.is_empty()).take(LINES)
}

/// The value of a header line called `name`, whatever the case of its letters.
pub fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (key, value) = (line.get(..name.len())?, line.get(name.len()..)?);
    key.eq_ignore_ascii_case(name)
        .then(|| value.trim_ascii_start().strip_prefix(b":"))
        .flatten()
        .map(<[u8]>::trim_ascii)
}

/// A first line that is over: `None` while its end has not been seen within `most` bytes and could still come.
pub fn first_line(d: &[u8], most: usize) -> Option<&[u8]> {
    match memchr::memchr(b'\n', &d[..d.len().min(most)]) {
        Some(end) => Some(d[..end].strip_suffix(b"\r").unwrap_or(&d[..end])),
        None if d.len() >= most => Some(&[]),
        None => None,
    }
}

/// The host of `scheme://[user@]host[:port]/…`, what stands before `://` left to the caller.
pub fn url_host(after_scheme: &[u8]) -> &[u8] {
    let end = after_scheme.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b' ')).unwrap_or(after_scheme.len());
    let authority = &after_scheme[..end];
    let host = authority.iter().rposition(|b| *b == b'@').map_or(authority, |at| &authority[at + 1..]);
    let end = match host.first() {
        Some(b'[') => host.iter().position(|b| *b == b']').map(|at| at + 1),
        _ => host.iter().position(|b| *b == b':'),
    };
    &host[..end.unwrap_or(host.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_add_up() {
        let len = |d: &[u8]| Some(usize::from(*d.first()?));
        assert!(fills(&[1, 2, 0, 3, 0, 0], 1, 9, len) && fills(&[], 1, 9, len));
        for no in [&[2][..], &[0, 1], &[1, 3, 0], &[1; 10]] {
            assert!(!fills(no, 1, 9, len), "{no:?}");
        }
    }

    #[test]
    fn heads() {
        let d = b"GO /x\r\nUser-Agent : a b \r\nx:1\nlast\r\n\r\nbody";
        assert_eq!(lines(d).collect::<Vec<_>>(), [&b"GO /x"[..], b"User-Agent : a b ", b"x:1", b"last"]);
        assert_eq!(header(b"User-Agent : a b ", b"user-agent"), Some(&b"a b"[..]));
        assert_eq!((header(b"x:1", b"y"), header(b"xy:1", b"x")), (None, None));
        assert_eq!(
            (first_line(b"abc", 4), first_line(b"abcd", 4), first_line(b"ab\r\nx", 9)),
            (None, Some(&b""[..]), Some(&b"ab"[..]))
        );
    }

    #[test]
    fn hosts_of_urls() {
        for (url, host) in [("a.b:80/x", "a.b"), ("u:p@h/y@z", "h"), ("[::1]:5/", "[::1]"), ("h", "h"), ("", "")] {
            assert_eq!(url_host(url.as_bytes()), host.as_bytes());
        }
    }
}
