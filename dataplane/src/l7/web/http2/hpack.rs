//! HPACK (RFC 7541) as far as the first header block of a connection needs it: the static table, literals, and Huffman
//! code. The dynamic table is empty then but for what this very block puts in; references to that are stepped over.

use crate::l7::facts::MAX_VALUE;

/// Fields that are of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Authority,
    Method,
    Path,
    ContentType,
    UserAgent,
    Other,
}

/// A value, decoded and cut.
pub struct Text {
    bytes: [u8; MAX_VALUE],
    len: usize,
}

impl Text {
    const EMPTY: Self = Self { bytes: [0; MAX_VALUE], len: 0 };

    pub fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, b: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = b;
            self.len += 1;
        }
    }

    fn of(bytes: &[u8]) -> Self {
        let mut text = Self::EMPTY;
        bytes.iter().for_each(|b| text.push(*b));
        text
    }
}

/// Longest string that is believed.
const MAX_STRING: usize = 16 * 1024;

/// Huffman codes (appendix B) of up to 15 bits: length, first code, and the symbols in the order of their codes. Longer
/// ones stand for bytes that no text has.
const CODES: [(u32, u32, &[u8]); 10] = [
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
    (10, 0x3f8, b"!\"()?"),
    (11, 0x7fa, b"'+|"),
    (12, 0xffa, b"#>"),
    (13, 0x1ff8, b"\0$@[]~"),
    (14, 0x3ffc, b"^}"),
    (15, 0x7ffc, b"<`{"),
];

/// Calls `f` with each field of interest, and its value where it could be read. `None`: this is no header block.
pub fn fields(mut d: &[u8], mut f: impl FnMut(Field, &[u8])) -> Option<()> {
    while let Some(first) = d.first().copied() {
        // §6: indexed, literal with indexing, table size, literals without.
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(&mut d, prefix)?;
        match first {
            0x80.. => {
                let (field, value) = indexed(index)?;
                f(field, value);
            }
            0x20..0x40 => {}
            _ => {
                let field = if index == 0 { named(string(&mut d)??.get()) } else { indexed(index)?.0 };
                if let Some(value) = string(&mut d)? {
                    f(field, value.get());
                }
            }
        }
    }
    Some(())
}

/// §5.1; the prefix of `bits` bits stands in the first byte.
fn integer(d: &mut &[u8], bits: u32) -> Option<usize> {
    let max = (1usize << bits) - 1;
    let (first, mut rest) = d.split_first()?;
    let mut value = usize::from(*first) & max;
    if value == max {
        for shift in [0, 7, 14] {
            let (next, after) = rest.split_first()?;
            rest = after;
            value += usize::from(next & 0x7f) << shift;
            if next & 0x80 == 0 {
                *d = rest;
                return Some(value);
            }
        }
        return None;
    }
    *d = rest;
    Some(value)
}

/// §5.2. `None` outside: cut short; inside: not decodable.
#[allow(clippy::option_option)] // the two are different things
fn string(d: &mut &[u8]) -> Option<Option<Text>> {
    let huffman = *d.first()? & 0x80 != 0;
    let len = integer(d, 7)?;
    if len > MAX_STRING {
        return None;
    }
    let (bytes, rest) = d.split_at_checked(len)?;
    *d = rest;
    Some(if huffman { decoded(bytes) } else { Some(Text::of(bytes)) })
}

fn decoded(bytes: &[u8]) -> Option<Text> {
    let mut text = Text::EMPTY;
    let (mut code, mut len) = (0u32, 0u32);
    for bit in bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)) {
        (code, len) = (code << 1 | u32::from(bit), len + 1);
        if let Some((_, first, symbols)) = CODES.iter().find(|(l, ..)| *l == len)
            && let Some(symbol) = code.checked_sub(*first).and_then(|at| symbols.get(at as usize))
        {
            text.push(*symbol);
            (code, len) = (0, 0);
        } else if len > 15 {
            return None;
        }
    }
    // What is left over is padding: the beginning of the code that stands for the end, all ones.
    (len < 8 && code == (1 << len) - 1).then_some(text)
}

/// Appendix A, and what a block has put in behind it.
fn indexed(index: usize) -> Option<(Field, &'static [u8])> {
    Some(match index {
        0 => return None,
        1 => (Field::Authority, b""),
        2 => (Field::Method, b"GET"),
        3 => (Field::Method, b"POST"),
        4 => (Field::Path, b"/"),
        5 => (Field::Path, b"/index.html"),
        31 => (Field::ContentType, b""),
        58 => (Field::UserAgent, b""),
        _ => (Field::Other, b""),
    })
}

fn named(name: &[u8]) -> Field {
    match name {
        b":authority" => Field::Authority,
        b":method" => Field::Method,
        b":path" => Field::Path,
        b"content-type" => Field::ContentType,
        b"user-agent" => Field::UserAgent,
        _ => Field::Other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// The codes are a prefix code that leaves one word of 15 bits for the longer ones.
    #[test]
    fn the_code_is_whole() {
        assert_eq!(CODES.iter().map(|(len, _, s)| s.len() << (15 - len)).sum::<usize>(), (1 << 15) - 1);
        for pair in CODES.windows(2) {
            let ((len, first, symbols), (next_len, next_first, _)) = (pair[0], pair[1]);
            assert_eq!((first + symbols.len() as u32) << (next_len - len), next_first);
        }
    }

    /// RFC 7541 appendix C.4.1 and C.6.1.
    #[test]
    fn examples_of_the_rfc() {
        let block =
            [0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let mut seen = Vec::new();
        fields(&block, |f, v| seen.push((f, String::from_utf8_lossy(v).into_owned()))).unwrap();
        let want =
            [(Field::Method, "GET"), (Field::Other, ""), (Field::Path, "/"), (Field::Authority, "www.example.com")];
        assert_eq!(seen, want.map(|(f, v)| (f, v.to_owned())));
        assert_eq!(decoded(&[0x64, 0x02]).unwrap().get(), b"302");
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82,
            0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(decoded(&date).unwrap().get(), b"Mon, 21 Oct 2013 20:13:21 GMT");
        assert!(decoded(&[0xff, 0xff, 0xff]).is_none());
    }

    proptest! {
        #[test]
        fn any_block_is_survived(d: Vec<u8>) {
            fields(&d, |_, v| assert!(v.len() <= MAX_VALUE));
        }
    }
}
