//! Lines and words of the protocols that are spoken in text.

/// The first line without its line end, and where the next begins. `None` where its LF has not come.
pub fn line(d: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', d)?;
    Some((d[..end].strip_suffix(b"\r").unwrap_or(&d[..end]), end + 1))
}

/// Up to the first blank, and what comes behind it.
pub fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|b| *b == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// Whether all of it is printable ASCII or blank; tabs count as blank. UTF-8 beyond ASCII counts too.
pub fn printable(d: &[u8]) -> bool {
    d.iter().all(|b| (b' '..0x7f).contains(b) || *b == b'\t' || *b >= 0x80)
}

/// ASCII without blanks and controls, at least one.
pub fn graphic(d: &[u8]) -> bool {
    !d.is_empty() && d.iter().all(u8::is_ascii_graphic)
}

/// Decimal, at most nine digits.
pub fn number(d: &[u8]) -> Option<u32> {
    if d.is_empty() || d.len() > 9 {
        return None;
    }
    d.iter().try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

/// Where `part` first stands in `d`.
pub fn find(d: &[u8], part: &[u8]) -> Option<usize> {
    d.windows(part.len()).position(|w| w == part)
}

pub fn has(d: &[u8], part: &[u8]) -> bool {
    find(d, part).is_some()
}

/// The same, letters of either case alike.
pub fn has_ignoring_case(d: &[u8], part: &[u8]) -> bool {
    d.windows(part.len()).any(|w| w.eq_ignore_ascii_case(part))
}

/// What stands behind `prefix`, whatever its case.
pub fn after<'a>(d: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = d.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether `d`, as far as it goes, is a beginning of one of `words`, or one of them is a beginning of it.
pub fn could_be(d: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|w| {
        let n = d.len().min(w.len());
        d[..n].eq_ignore_ascii_case(&w[..n])
    })
}

/// Whether a word is one of `words`, whatever its case.
pub fn is_one(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|w| w.eq_ignore_ascii_case(word))
}

/// The text before the first `byte`; all of it where there is none.
pub fn before(d: &[u8], byte: u8) -> &[u8] {
    d.split(|b| *b == byte).next().unwrap_or(d)
}

/// Whether it looks like a host's name: letters, digits, dots, hyphens, and at least one dot.
pub fn host_like(d: &[u8]) -> bool {
    d.contains(&b'.')
        && d.first().is_some_and(u8::is_ascii_alphanumeric)
        && d.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_words_and_numbers() {
        assert_eq!(line(b"a b\r\nc"), Some((&b"a b"[..], 5)));
        assert_eq!((line(b"a\n"), line(b"a\r")), (Some((&b"a"[..], 2)), None));
        assert_eq!((word(b"a b c"), word(b"a")), ((&b"a"[..], &b"b c"[..]), (&b"a"[..], &b""[..])));
        assert_eq!((number(b"12"), number(b""), number(b"1x"), number(b"1234567890")), (Some(12), None, None, None));
        assert_eq!((find(b"abcb", b"b"), after(b"HOST: x", b"host:")), (Some(1), Some(&b" x"[..])));
        assert!(could_be(b"eh", &[b"EHLO"]) && could_be(b"ehlo x", &[b"EHLO"]) && !could_be(b"ehx", &[b"EHLO"]));
        assert!(host_like(b"a.example") && !host_like(b"a") && !host_like(b".a") && !host_like(b"a b.c"));
    }
}
