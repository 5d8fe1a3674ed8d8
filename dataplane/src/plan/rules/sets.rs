//! Sets of rules by what a term of theirs says: one set per node of a tree, whose root has the rules that leave the term open.
//! What holds for a packet is its node's set and those of all nodes above it. Memory goes with what rules say, however they
//! overlap: no set repeats what one above it has.

/// Rules per word of a set.
const WORD: usize = u64::BITS as usize;
/// Rules per block: a block has one bit per word of a set.
const BLOCK: usize = WORD * WORD;
/// The node of rules that leave the term open.
pub(super) const ROOT: u32 = 0;

/// The sets of one term. Immutable.
#[derive(Debug, Default)]
pub(super) struct Sets {
    nodes: Box<[Node]>,
    /// Per block, of nodes with several words.
    tops: Box<[Top]>,
    /// Their words that are not empty, in order.
    words: Box<[u64]>,
    /// All rules leave the term open: it tells nothing apart.
    open: bool,
}

/// A node and its set. Most have few rules, all of them in one word.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Of a set with one word, that word; else 0.
    word: u64,
    /// Which word that is; else where the set's blocks begin, or [`EMPTY`].
    at: u32,
    /// The root is its own.
    parent: u32,
}

const EMPTY: u32 = u32::MAX;

/// Which words of a block are not empty, and where the first of them is.
#[derive(Clone, Copy, Debug, Default)]
struct Top {
    bits: u64,
    first: u32,
}

impl Sets {
    /// `parents`: of each node; `members`: node and rule, in any order; `rules`: how many there are, `live` of them in use.
    pub fn new(parents: Vec<u32>, mut members: Vec<(u32, u32)>, rules: usize, live: usize) -> Self {
        members.sort_unstable();
        members.dedup();
        let blocks = rules.div_ceil(BLOCK);
        let open = parents.len() == 1 && members.len() == live;
        let mut nodes: Box<[Node]> = parents.into_iter().map(|parent| Node { word: 0, at: EMPTY, parent }).collect();
        let (mut tops, mut words): (Vec<Top>, Vec<u64>) = (Vec::new(), Vec::new());
        for of_node in members.chunk_by(|a, b| a.0 == b.0) {
            let node = &mut nodes[of_node[0].0 as usize];
            let mut of_words = of_node.chunk_by(|a, b| a.1 as usize / WORD == b.1 as usize / WORD).map(|rules| {
                let bits = rules.iter().fold(0, |bits, (_, rule)| bits | 1u64 << (*rule as usize % WORD));
                (rules[0].1 as usize / WORD, bits)
            });
            let (first, last) = (of_node[0].1 as usize / WORD, of_node[of_node.len() - 1].1 as usize / WORD);
            if first == last {
                node.at = first as u32;
                node.word = of_words.next().map_or(0, |(_, bits)| bits);
                continue;
            }
            let begin = tops.len();
            node.at = begin as u32;
            tops.resize(begin + blocks, Top::default());
            for (at, bits) in of_words {
                let top = &mut tops[begin + at / WORD];
                if top.bits == 0 {
                    top.first = words.len() as u32;
                }
                top.bits |= 1 << (at % WORD);
                words.push(bits);
            }
        }
        Self { nodes, tops: tops.into(), words: words.into(), open }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Which words of a block have rules that hold at a node.
    #[inline]
    pub fn top(&self, node: u32, block: usize) -> u64 {
        let (mut at, mut bits) = (node, 0);
        loop {
            let node = self.nodes[at as usize];
            if node.word != 0 {
                bits |= u64::from(node.at as usize / WORD == block) << (node.at as usize % WORD);
            } else if node.at != EMPTY {
                bits |= self.tops[node.at as usize + block].bits;
            }
            if at == ROOT {
                return bits;
            }
            at = node.parent;
        }
    }

    /// The rules of word `bit` of a block that hold at a node.
    #[inline]
    pub fn word(&self, node: u32, block: usize, bit: u32) -> u64 {
        let (mut at, mut word) = (node, 0);
        loop {
            let node = self.nodes[at as usize];
            if node.word != 0 {
                if node.at as usize == block * WORD + bit as usize {
                    word |= node.word;
                }
            } else if node.at != EMPTY {
                let top = self.tops[node.at as usize + block];
                if top.bits >> bit & 1 != 0 {
                    let before = (top.bits & ((1 << bit) - 1)).count_ones();
                    word |= self.words[(top.first + before) as usize];
                }
            }
            if at == ROOT {
                return word;
            }
            at = node.parent;
        }
    }
}

/// A key that prefixes are of.
pub(super) trait Key: Copy + Ord {
    const FIRST: Self;
    const LAST: Self;
    /// Of a key that is not the last.
    fn next(self) -> Self;
    /// How many times `1 << shift` it is beyond `from`, which is no larger.
    fn beyond(self, from: Self, shift: u32) -> usize;
}

macro_rules! keys {
    ($($key:ty)*) => {$(
        impl Key for $key {
            const FIRST: Self = 0;
            const LAST: Self = <$key>::MAX;
            fn next(self) -> Self {
                self.wrapping_add(1)
            }
            #[inline]
            fn beyond(self, from: Self, shift: u32) -> usize {
                usize::try_from((self - from).checked_shr(shift).unwrap_or(0)).unwrap_or(usize::MAX)
            }
        }
    )*};
}

keys!(u16 u32 u128);

/// Sets by ranges of keys, of which any two are apart or one within the other, as prefixes are.
#[derive(Debug, Default)]
pub(super) struct Ranges<K> {
    /// Where keys of another node begin; the first is the first key there is.
    starts: Box<[K]>,
    nodes: Box<[u32]>,
    /// Keys from the second start to the last, so many to a bucket, and per bucket the first start that is not before it.
    buckets: Box<[u32]>,
    shift: u32,
    sets: Sets,
}

/// Starts that are searched without buckets.
const FEW: usize = 8;
/// Buckets per start, at most.
const PER_START: usize = 4;

/// Buckets for a search, and how many keys each has as a power of two.
fn buckets<K: Key>(starts: &[K]) -> (Box<[u32]>, u32) {
    let [_, low, .., high] = starts else { return Default::default() };
    if starts.len() <= FEW {
        return Default::default();
    }
    let most = starts.len() * PER_START;
    let shift = (0..u128::BITS).find(|shift| high.beyond(*low, *shift) < most).unwrap_or(0);
    let mut of_bucket = Vec::with_capacity(most + 1);
    for (at, start) in starts.iter().enumerate().skip(1) {
        of_bucket.resize(start.beyond(*low, shift) + 1, at as u32);
    }
    of_bucket.push(starts.len() as u32);
    (of_bucket.into(), shift)
}

impl<K: Key> Ranges<K> {
    /// `members`: first and last key, and rule. One of all keys leaves the term open.
    pub fn new(mut members: Vec<(K, K, u32)>, rules: usize, live: usize) -> Self {
        members.sort_unstable_by_key(|(first, last, rule)| (*first, std::cmp::Reverse(*last), *rule));
        let mut parents = vec![ROOT];
        let mut of_node = Vec::with_capacity(members.len());
        let (mut starts, mut nodes) = (vec![K::FIRST], vec![ROOT]);
        let mut begin = |start: K, node: u32| {
            if starts.last() == Some(&start) {
                nodes.pop();
            } else {
                starts.push(start);
            }
            nodes.push(node);
        };
        // Ranges that hold the place reached, the widest first.
        let mut within = vec![(K::FIRST, K::LAST, ROOT)];
        let leave = |within: &mut Vec<(K, K, u32)>, until: Option<K>, begin: &mut dyn FnMut(K, u32)| {
            while let [.., (_, _, parent), (_, last, _)] = within[..]
                && until.is_none_or(|until| last < until)
            {
                within.pop();
                if last != K::LAST {
                    begin(last.next(), parent);
                }
            }
        };
        for (first, last, rule) in members {
            leave(&mut within, Some(first), &mut begin);
            let node = match within.last() {
                Some((f, l, node)) if (*f, *l) == (first, last) => *node,
                above => {
                    let (parent, node) = (above.map_or(ROOT, |above| above.2), parents.len() as u32);
                    parents.push(parent);
                    within.push((first, last, node));
                    begin(first, node);
                    node
                }
            };
            of_node.push((node, rule));
        }
        leave(&mut within, None, &mut begin);
        let (buckets, shift) = buckets(&starts);
        let sets = Sets::new(parents, of_node, rules, live);
        Self { starts: starts.into(), nodes: nodes.into(), buckets, shift, sets }
    }

    /// The set of a key; `None`: all rules leave it open.
    #[inline]
    pub fn find(&self, key: K) -> Option<(&Sets, u32)> {
        if self.sets.is_open() {
            return None;
        }
        let within = match self.starts.get(1) {
            Some(low) if !self.buckets.is_empty() && key >= *low => {
                let bucket = key.beyond(*low, self.shift);
                let last = self.buckets.len() - 1;
                let at = |bucket: usize| self.buckets[bucket.min(last)] as usize;
                at(bucket)..at(bucket.saturating_add(1))
            }
            Some(_) if !self.buckets.is_empty() => 0..1,
            _ => 0..self.starts.len(),
        };
        let at = within.start + self.starts[within].partition_point(|start| *start <= key);
        Some((&self.sets, self.nodes[at - 1]))
    }
}

/// The prefixes that a range of ports is made of, as first and last: at most 30.
pub(super) fn prefixes_of(first: u16, last: u16) -> impl Iterator<Item = (u16, u16)> {
    let (mut from, until) = (u32::from(first), u32::from(last) + 1);
    std::iter::from_fn(move || {
        (from < until).then(|| {
            let most = if from == 0 { 1 << 16 } else { 1 << from.trailing_zeros() };
            let fits = 1 << (until - from).ilog2();
            let part = (from as u16, (from + most.min(fits) - 1) as u16);
            from += most.min(fits);
            part
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_of_ports_is_few_prefixes() {
        assert_eq!(prefixes_of(0, u16::MAX).collect::<Vec<_>>(), [(0, u16::MAX)]);
        assert_eq!(prefixes_of(443, 443).collect::<Vec<_>>(), [(443, 443)]);
        assert_eq!(prefixes_of(1, 65534).count(), 30);
    }

    proptest! {
        #[test]
        fn a_port_is_in_its_ranges(ranges in proptest::collection::vec((any::<u16>(), any::<u16>()), 0..40), port: u16) {
            let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let parts = ranges.iter().enumerate().flat_map(|(rule, (first, last))| {
                prefixes_of(*first, *last).map(move |(first, last)| (first, last, rule as u32))
            });
            let index = Ranges::new(parts.collect(), ranges.len(), ranges.len());
            for port in [port, 0, u16::MAX].into_iter().chain(ranges.iter().flat_map(|(a, b)| [*a, *b])) {
                let all = (1u64 << ranges.len()) - 1;
                let seen = index.find(port).map_or(all, |(sets, node)| sets.word(node, 0, 0));
                let want = ranges.iter().enumerate().filter(|(_, (first, last))| (*first..=*last).contains(&port));
                prop_assert_eq!(seen, want.fold(0, |bits, (rule, _)| bits | 1 << rule));
            }
        }
    }
}
