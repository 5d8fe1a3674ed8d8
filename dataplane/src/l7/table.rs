//! All recognisers by transport, and which of them a first byte leaves in question.

use std::sync::LazyLock;

use super::{Ask, FAMILIES, Look, Notes, Verdict};

/// With which first bytes a protocol can begin.
#[derive(Clone, Copy, Debug)]
pub enum Starts {
    Any,
    /// One of these.
    With(&'static [u8]),
    /// From the first to the last of these, both included.
    Within(u8, u8),
}

impl Starts {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Any => true,
            Self::With(bytes) => bytes.contains(&byte),
            Self::Within(from, to) => (from..=to).contains(&byte),
        }
    }
}

/// One protocol's place in the table of its family.
pub struct Recogniser {
    /// As its file is called.
    pub name: &'static str,
    pub tcp: Option<(Starts, Ask)>,
    pub udp: Option<(Starts, Ask)>,
}

impl Recogniser {
    pub const fn tcp(name: &'static str, starts: Starts, ask: Ask) -> Self {
        Self { name, tcp: Some((starts, ask)), udp: None }
    }

    pub const fn udp(name: &'static str, starts: Starts, ask: Ask) -> Self {
        Self { name, tcp: None, udp: Some((starts, ask)) }
    }
}

/// Most recognisers of one transport.
const MOST: usize = 128;

/// Those of one transport.
pub struct Transport {
    asks: Vec<Ask>,
    /// By first byte: bit `i` is recogniser `i`.
    by_first: Box<[u128; 256]>,
}

impl Transport {
    fn new(of: impl Iterator<Item = (Starts, Ask)>) -> Self {
        let mut asks = Vec::new();
        let mut by_first = Box::new([0; 256]);
        for (i, (starts, ask)) in of.enumerate() {
            assert!(i < MOST, "more recognisers than a word has bits");
            for (byte, mask) in (0..=u8::MAX).zip(by_first.iter_mut()) {
                *mask |= u128::from(starts.has(byte)) << i;
            }
            asks.push(ask);
        }
        Self { asks, by_first }
    }

    /// The first that is certain wins; else `More` if any could still become so.
    pub fn ask(&self, look: &Look, notes: &mut Notes) -> Verdict {
        let Some(first) = look.data.first() else { return Verdict::No };
        let mut left = self.by_first[usize::from(*first)];
        let mut more = false;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            notes.clear();
            match self.asks[at](look, notes) {
                Verdict::No => {}
                Verdict::More => more = true,
                certain => return certain,
            }
        }
        notes.clear();
        if more && !look.last { Verdict::More } else { Verdict::No }
    }
}

/// Recognisers of both transports.
pub struct Table {
    pub tcp: Transport,
    pub udp: Transport,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let all = || FAMILIES.iter().flat_map(|family| family.iter());
    Table { tcp: Transport::new(all().filter_map(|r| r.tcp)), udp: Transport::new(all().filter_map(|r| r.udp)) }
});

impl Table {
    pub fn get() -> &'static Self {
        &TABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_each_has_a_transport() {
        let all: Vec<&Recogniser> = FAMILIES.iter().flat_map(|f| f.iter()).collect();
        for (i, r) in all.iter().enumerate() {
            assert!(r.tcp.is_some() || r.udp.is_some(), "{}", r.name);
            assert!(all[..i].iter().all(|other| other.name != r.name), "{} twice", r.name);
        }
        assert!(Table::get().tcp.asks.len() > 3 && Table::get().udp.asks.len() > 1);
    }

    #[test]
    fn first_bytes() {
        assert!(Starts::Any.has(0) && Starts::With(b"ab").has(b'b') && !Starts::With(b"ab").has(b'c'));
        assert!(Starts::Within(3, 5).has(5) && !Starts::Within(3, 5).has(6));
    }
}
