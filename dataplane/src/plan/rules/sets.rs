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
    /// Per node its parent; the root is its own.
    parents: Box<[u32]>,
    /// Per node and block.
    tops: Box<[Top]>,
    /// Words that are not empty, in order.
    words: Box<[u64]>,
    blocks: usize,
    /// All rules leave the term open: it tells nothing apart.
    open: bool,
}

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
        let mut tops = vec![Top::default(); parents.len() * blocks];
        let mut words: Vec<u64> = Vec::new();
        let mut last = None;
        for (node, rule) in &members {
            let (node, rule) = (*node as usize, *rule as usize);
            let word = (node, rule / WORD);
            if last.replace(word) != Some(word) {
                let top = &mut tops[node * blocks + rule / BLOCK];
                if top.bits == 0 {
                    top.first = words.len() as u32;
                }
                top.bits |= 1 << (rule / WORD % WORD);
                words.push(0);
            }
            if let Some(word) = words.last_mut() {
                *word |= 1 << (rule % WORD);
            }
        }
        let open = parents.len() == 1 && members.len() == live;
        Self { parents: parents.into(), tops: tops.into(), words: words.into(), blocks, open }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Which words of a block have rules that hold at a node.
    #[inline]
    pub fn top(&self, node: u32, block: usize) -> u64 {
        let (mut at, mut bits) = (node as usize, 0);
        loop {
            bits |= self.tops[at * self.blocks + block].bits;
            if at == ROOT as usize {
                return bits;
            }
            at = self.parents[at] as usize;
        }
    }

    /// The rules of word `bit` of a block that hold at a node.
    #[inline]
    pub fn word(&self, node: u32, block: usize, bit: u32) -> u64 {
        let (mut at, mut word) = (node as usize, 0);
        loop {
            let top = self.tops[at * self.blocks + block];
            if top.bits >> bit & 1 != 0 {
                let before = (top.bits & ((1 << bit) - 1)).count_ones();
                word |= self.words[(top.first + before) as usize];
            }
            if at == ROOT as usize {
                return word;
            }
            at = self.parents[at] as usize;
        }
    }
}

/// A key that prefixes are of.
pub(super) trait Key: Copy + Ord {
    const FIRST: Self;
    const LAST: Self;
    /// Of a key that is not the last.
    fn next(self) -> Self;
}

macro_rules! keys {
    ($($key:ty)*) => {$(
        impl Key for $key {
            const FIRST: Self = 0;
            const LAST: Self = <$key>::MAX;
            fn next(self) -> Self {
                self.wrapping_add(1)
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
    sets: Sets,
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
        Self { starts: starts.into(), nodes: nodes.into(), sets: Sets::new(parents, of_node, rules, live) }
    }

    #[inline]
    pub fn find(&self, key: K) -> (&Sets, u32) {
        let at = self.starts.partition_point(|start| *start <= key);
        (&self.sets, self.nodes[at - 1])
    }

    pub fn is_open(&self) -> bool {
        self.sets.is_open()
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
                let (sets, node) = index.find(port);
                let seen = if ranges.is_empty() || sets.top(node, 0) == 0 { 0 } else { sets.word(node, 0, 0) };
                let want = ranges.iter().enumerate().filter(|(_, (first, last))| (*first..=*last).contains(&port));
                prop_assert_eq!(seen, want.fold(0, |bits, (rule, _)| bits | 1 << rule));
            }
        }
    }
}
