//! As much of ASN.1's basic encoding as LDAP and Kerberos need (X.690 §8.1).

pub const INTEGER: u8 = 0x02;
pub const OCTETS: u8 = 0x04;
pub const ENUMERATED: u8 = 0x0a;
pub const SEQUENCE: u8 = 0x30;

/// A value with its tag. `value` is shorter than `len` where the data end within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    pub tag: u8,
    pub len: usize,
    pub value: &'a [u8],
}

impl<'a> Item<'a> {
    /// What is left of the data stays in `d`. `None` where header or length are not whole, or of a form not used here:
    /// tags of one byte, definite lengths of at most four.
    pub fn read(d: &mut &'a [u8]) -> Option<Self> {
        let (head, rest) = d.split_first_chunk::<2>()?;
        let [tag, short] = *head;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (len, rest) = match short {
            0..=0x7f => (usize::from(short), rest),
            0x81..=0x84 => {
                let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
                (long.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at(len.min(rest.len()));
        *d = rest;
        Some(Self { tag, len, value })
    }

    pub fn is_whole(&self) -> bool {
        self.value.len() == self.len
    }

    /// A whole one of this tag.
    pub fn expect(d: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
        let item = Self::read(d)?;
        (item.tag == tag && item.is_whole()).then_some(item.value)
    }

    /// A number of one to four bytes, not negative.
    pub fn number(d: &mut &'a [u8], tag: u8) -> Option<u32> {
        let value = Self::expect(d, tag)?;
        let fits = matches!(value.len(), 1..=4) && value[0] < 0x80;
        fits.then(|| value.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_short_long_and_cut() {
        let mut d = &[0x02, 1, 5, 0x04, 0x81, 2, b'a', b'b', 0x30, 3, 1][..];
        assert_eq!(Item::number(&mut d, INTEGER), Some(5));
        assert_eq!(Item::expect(&mut d, OCTETS), Some(&b"ab"[..]));
        let cut = Item::read(&mut d).unwrap();
        assert_eq!((cut.len, cut.value, cut.is_whole(), d.is_empty()), (3, &[1u8][..], false, true));
        for bad in [&[][..], &[2], &[0x1f, 1], &[2, 0x80], &[2, 0x85, 0, 0, 0, 0, 1], &[2, 0x82, 1]] {
            assert_eq!(Item::read(&mut { bad }), None);
        }
    }
}
