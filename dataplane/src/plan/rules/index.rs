//! Finds rules without walking them all. Each term of a packet is looked up on its own and names a set of rules; the sets are
//! intersected, 4,096 rules at a time and there only the words that all of them have. What comes out is the same as of
//! [`super::look_up`], which is what tests hold it to.

use super::sets::{ROOT, Ranges, Sets, prefixes_of};
use super::{Ends, Known, Match, Onward, Rule, Side, Unread};
use crate::config::policy::{HostPattern, PortRange};
use crate::wire::prefix::Prefix;
use std::collections::HashMap;
use std::net::IpAddr;

/// Immutable; built with the plan.
#[derive(Debug)]
pub(super) struct Index {
    from: Addresses,
    to: Addresses,
    source_ports: Ranges<u16>,
    ports: Ranges<u16>,
    protocols: Values,
    classes: Values,
    applications: Values,
    hosts: Hosts,
    /// Per word of rules.
    masks: Box<[Masks]>,
    /// Per block, words with a rule that holds or not though a flow's class is open.
    by_header: Box<[u64]>,
    /// The same of its application.
    by_class: Box<[u64]>,
}

/// What kind of rules a word of them has, one bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Masks {
    /// All but those that stand for the kernel's policies.
    live: u64,
    tunnel: u64,
    drop: u64,
    /// With terms about what flows carry.
    payload: u64,
    applications: u64,
    ports: u64,
    protocol: u64,
}

/// A term and what a packet's set of it is.
type Term<'a> = (&'a Sets, u32);

/// Terms that must hold together.
#[derive(Clone, Copy)]
struct Terms<'a> {
    list: [Option<Term<'a>>; 8],
    len: usize,
}

impl<'a> Terms<'a> {
    fn add(&mut self, term: Option<Term<'a>>) {
        if term.is_some() {
            self.list[self.len] = term;
            self.len += 1;
        }
    }

    #[inline]
    fn top(&self, block: usize) -> u64 {
        let mut bits = u64::MAX;
        for (sets, node) in self.list[..self.len].iter().flatten() {
            bits &= sets.top(*node, block);
            if bits == 0 {
                break;
            }
        }
        bits
    }

    #[inline]
    fn word(&self, block: usize, bit: u32) -> u64 {
        let mut word = u64::MAX;
        for (sets, node) in self.list[..self.len].iter().flatten() {
            word &= sets.word(*node, block, bit);
            if word == 0 {
                break;
            }
        }
        word
    }
}

/// 64 rules: which of them hold for the packet as it travels, and which for its answers.
struct Word {
    /// Of the rules' words.
    at: usize,
    out: u64,
    back: u64,
}

/// The words of rules that hold, in order.
struct Walk<'a> {
    index: &'a Index,
    out: Terms<'a>,
    back: Terms<'a>,
    block: usize,
    /// Of the block, those that are still to be looked at.
    tops: [u64; 2],
    /// Per block, the only words that are looked at.
    only: Option<&'a [u64]>,
    unread: Unread,
}

impl Iterator for Walk<'_> {
    type Item = Word;

    #[inline]
    fn next(&mut self) -> Option<Word> {
        loop {
            let [out, back] = self.tops;
            if out | back == 0 {
                if self.block * 64 >= self.index.masks.len() {
                    return None;
                }
                let only = self.only.map_or(u64::MAX, |only| only[self.block]);
                self.tops = [&self.out, &self.back].map(|terms| terms.top(self.block) & only);
                self.block += 1;
                continue;
            }
            let bit = (out | back).trailing_zeros();
            let block = self.block - 1;
            self.tops = self.tops.map(|bits| bits & !(1 << bit));
            let at = block * 64 + bit as usize;
            // Where no term tells anything apart, bits go on beyond the last rule.
            let Some(masks) = self.index.masks.get(at) else { continue };
            let held = match self.unread {
                Unread::No => u64::MAX,
                Unread::CutShort => !masks.payload | masks.tunnel | masks.drop,
                Unread::Headless => !masks.payload | masks.tunnel,
            };
            let of = |terms: &Terms<'_>, bits: u64| if bits >> bit & 1 == 0 { 0 } else { terms.word(block, bit) };
            let word = Word {
                at,
                out: of(&self.out, out) & masks.live & held,
                back: of(&self.back, back) & masks.live & held,
            };
            if word.out | word.back != 0 {
                return Some(word);
            }
        }
    }
}

impl<'a> Walk<'a> {
    /// From here on only words that these have, per block.
    fn only(&mut self, only: &'a [u64]) {
        self.only = Some(only);
        self.tops = self.tops.map(|bits| bits & only[self.block - 1]);
    }
}

impl Index {
    pub fn new(rules: &[Rule]) -> Self {
        let n = rules.len();
        let mut masks = vec![Masks::default(); n.div_ceil(64)];
        for (at, rule) in rules.iter().enumerate() {
            let (masks, bit) = (&mut masks[at / 64], at % 64);
            let mut set = |mask: fn(&mut Masks) -> &mut u64, holds: bool| *mask(masks) |= u64::from(holds) << bit;
            set(|m| &mut m.live, !rule.mirrored);
            set(|m| &mut m.tunnel, rule.tunnel.is_some());
            set(|m| &mut m.drop, rule.drop);
            set(|m| &mut m.payload, rule.has_payload_terms());
            set(|m| &mut m.applications, !rule.applications.is_empty());
            set(|m| &mut m.ports, rule.has_port_terms());
            set(|m| &mut m.protocol, rule.protocol.is_some());
        }
        let words_with = |holds: fn(&Masks) -> u64| -> Box<[u64]> {
            let block = |masks: &[Masks]| {
                masks
                    .iter()
                    .enumerate()
                    .fold(0, |bits, (at, masks)| bits | u64::from(holds(masks) & masks.live != 0) << at)
            };
            masks.chunks(64).map(block).collect()
        };
        let live = Live { rules, count: rules.iter().filter(|rule| !rule.mirrored).count() };
        Self {
            from: Addresses::new(&live, |rule| &rule.from),
            to: Addresses::new(&live, |rule| &rule.to),
            source_ports: ports(&live, |rule| &rule.source_ports),
            ports: ports(&live, |rule| &rule.ports),
            protocols: Values::new(&live, |rule| rule.protocol.as_slice()),
            classes: Values::new(&live, |rule| &rule.classes),
            applications: Values::new(&live, |rule| &rule.applications),
            hosts: Hosts::new(&live),
            by_header: words_with(|masks| !masks.payload | masks.tunnel),
            by_class: words_with(|masks| !masks.applications | masks.tunnel),
            masks: masks.into(),
        }
    }

    fn walk<'a>(&'a self, ends: &Ends, known: &Known<'_>) -> Walk<'a> {
        let mut both = Terms { list: [None; 8], len: 0 };
        if let Some(proto) = ends.proto {
            both.add(self.protocols.find(proto.into()));
        }
        let tells = known.class.is_some() || known.unread != Unread::No;
        if let Some(class) = known.class {
            both.add(self.classes.find(class));
        }
        if let Some(application) = known.application.filter(|_| tells) {
            both.add(self.applications.find(application));
        }
        match known.host {
            Some(host) if tells => both.add(self.hosts.find(host)),
            // Read to the end, it has no name.
            None if tells && known.unread == Unread::No => both.add(self.hosts.none()),
            _ => {}
        }
        let side = |from: IpAddr, to: IpAddr, sport: Option<u16>, dport: Option<u16>| {
            let mut terms = both;
            terms.add(self.from.find(from));
            terms.add(self.to.find(to));
            // A later fragment has no ports: the rule may hold.
            for (ranges, port) in [(&self.source_ports, sport), (&self.ports, dport)] {
                terms.add(port.and_then(|port| ranges.find(port)));
            }
            // What tells most apart first.
            terms.list[..terms.len].reverse();
            terms
        };
        Walk {
            index: self,
            out: side(ends.src, ends.dst, ends.sport, ends.dport),
            back: side(ends.dst, ends.src, ends.dport, ends.sport),
            block: 0,
            tops: [0; 2],
            only: None,
            unread: known.unread,
        }
    }

    /// As [`super::look_up`], over the rules it was built for.
    pub fn look_up(&self, rules: &[Rule], ends: &Ends, known: &Known<'_>, tunnel_in: Option<u16>) -> Match {
        let mut open = false;
        let mut walk = self.walk(ends, known);
        while let Some(word) = walk.next() {
            let masks = &self.masks[word.at];
            // Of these it cannot be said yet whether they hold,
            let (undecided, decided) = match (known.unread, known.class, known.application) {
                (Unread::No, None, _) => (masks.payload, Some(&*self.by_header)),
                (Unread::No, Some(_), None) => (masks.applications, Some(&*self.by_class)),
                _ => (0, None),
            };
            // and of these neither, for want of ports or protocol.
            let by_ports = if ends.dport.is_none() { masks.ports } else { 0 };
            let short = by_ports | if ends.proto.is_none() { masks.protocol } else { 0 };
            let all = word.out | word.back;
            let stops = all & (!undecided & (!short | masks.drop) | masks.tunnel);
            if stops == 0 {
                // What is in `all` only leaves it open; more of that changes nothing.
                if let Some(decided) = decided.filter(|_| !open) {
                    walk.only(decided);
                }
                open = true;
                continue;
            }
            let bit = 1 << stops.trailing_zeros();
            open |= all & (bit - 1) != 0;
            let at = word.at * 64 + stops.trailing_zeros() as usize;
            let tunnel = rules[at].tunnel;
            let goes_out = word.out & bit != 0;
            let out = goes_out && (tunnel.is_none() || tunnel != tunnel_in);
            return Match {
                rule: at as u16,
                side: if !out && word.back & bit != 0 { Side::In } else { Side::Out },
                provisional: open || (undecided | short) & bit != 0,
            };
        }
        Match { provisional: open, ..Match::NOTHING }
    }

    /// As [`super::onward`], over the rules it was built for.
    pub fn onward<'a>(
        &'a self,
        rules: &'a [Rule],
        ends: &Ends,
        known: &Known<'_>,
        tunnel_in: u16,
    ) -> impl Iterator<Item = Onward> + use<'a> {
        let bits = |word: Word| {
            let mut left = word.out & self.masks[word.at].tunnel;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                let rule = (word.at * 64 + bit as usize) as u16;
                Some(Onward { rule, both_ways: word.back >> bit & 1 != 0 })
            })
        };
        let other = move |onward: &Onward| rules[usize::from(onward.rule)].tunnel != Some(tunnel_in);
        self.walk(ends, known).flat_map(bits).filter(other)
    }
}

/// Rules that are found by their terms.
struct Live<'a> {
    rules: &'a [Rule],
    count: usize,
}

impl<'a> Live<'a> {
    fn each(&self) -> impl Iterator<Item = (u32, &'a Rule)> + use<'a> {
        self.rules.iter().enumerate().filter(|(_, rule)| !rule.mirrored).map(|(at, rule)| (at as u32, rule))
    }
}

/// Sets by prefix.
#[derive(Debug)]
struct Addresses {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Addresses {
    fn new(live: &Live<'_>, of: impl Fn(&Rule) -> &[Prefix]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (at, rule) in live.each() {
            let list = of(rule);
            if list.is_empty() {
                v4.push((0, u32::MAX, at));
                v6.push((0, u128::MAX, at));
            }
            for prefix in list {
                let len = u32::from(prefix.prefix_len());
                match prefix.addr() {
                    IpAddr::V4(addr) => {
                        let first = u32::from(addr);
                        v4.push((first, first | u32::MAX.checked_shr(len).unwrap_or(0), at));
                    }
                    IpAddr::V6(addr) => {
                        let first = u128::from(addr);
                        v6.push((first, first | u128::MAX.checked_shr(len).unwrap_or(0), at));
                    }
                }
            }
        }
        let n = live.rules.len();
        Self { v4: Ranges::new(v4, n, live.count), v6: Ranges::new(v6, n, live.count) }
    }

    #[inline]
    fn find(&self, address: IpAddr) -> Option<Term<'_>> {
        match address {
            IpAddr::V4(addr) => self.v4.find(addr.into()),
            IpAddr::V6(addr) => self.v6.find(addr.into()),
        }
    }
}

fn ports(live: &Live<'_>, of: impl Fn(&Rule) -> &[PortRange]) -> Ranges<u16> {
    let mut members = Vec::new();
    for (at, rule) in live.each() {
        let list = of(rule);
        if list.is_empty() {
            members.push((0, u16::MAX, at));
        }
        let parts = list.iter().filter(|range| range.first <= range.last);
        members.extend(parts.flat_map(|range| prefixes_of(range.first, range.last)).map(|(a, b)| (a, b, at)));
    }
    Ranges::new(members, live.rules.len(), live.count)
}

/// Sets by small numbers.
#[derive(Debug)]
struct Values {
    /// By number; those beyond the last have the root.
    nodes: Box<[u32]>,
    sets: Sets,
}

impl Values {
    fn new<K: Copy + Into<u16>>(live: &Live<'_>, of: impl Fn(&Rule) -> &[K]) -> Self {
        let (mut nodes, mut parents, mut members) = (Vec::new(), vec![ROOT], Vec::new());
        for (at, rule) in live.each() {
            let list = of(rule);
            if list.is_empty() {
                members.push((ROOT, at));
            }
            for key in list {
                let key = usize::from((*key).into());
                if nodes.len() <= key {
                    nodes.resize(key + 1, ROOT);
                }
                if nodes[key] == ROOT {
                    nodes[key] = parents.len() as u32;
                    parents.push(ROOT);
                }
                members.push((nodes[key], at));
            }
        }
        Self { nodes: nodes.into(), sets: Sets::new(parents, members, live.rules.len(), live.count) }
    }

    #[inline]
    fn find(&self, key: u16) -> Option<Term<'_>> {
        let node = self.nodes.get(usize::from(key)).copied().unwrap_or(ROOT);
        (!self.sets.is_open()).then_some((&self.sets, node))
    }
}

/// Sets by host name: whole names, below them the domains they are in, then any name, then none.
#[derive(Debug)]
struct Hosts {
    /// Of patterns as they are written, the star left out: `www.example.com`, `.example.com`, and nothing for `*`.
    nodes: HashMap<Box<str>, u32>,
    sets: Sets,
}

impl Hosts {
    fn new(live: &Live<'_>) -> Self {
        let (mut nodes, mut members): (HashMap<Box<str>, u32>, _) = (HashMap::new(), Vec::new());
        let key = |pattern: &HostPattern| pattern.as_str().trim_start_matches('*').to_owned();
        for (at, rule) in live.each() {
            if rule.hosts.is_empty() {
                members.push((ROOT, at));
            }
            for pattern in rule.hosts.iter() {
                let next = nodes.len() as u32 + 1;
                members.push((*nodes.entry(key(pattern).into()).or_insert(next), at));
            }
        }
        let mut parents = vec![ROOT; nodes.len() + 1];
        for (name, node) in &nodes {
            parents[*node as usize] = above(&nodes, name);
        }
        Self { sets: Sets::new(parents, members, live.rules.len(), live.count), nodes }
    }

    /// Of a flow without a name.
    fn none(&self) -> Option<Term<'_>> {
        (!self.sets.is_open()).then_some((&self.sets, ROOT))
    }

    fn find(&self, host: &str) -> Option<Term<'_>> {
        if self.sets.is_open() {
            return None;
        }
        // Of these the keys are those of patterns with a star.
        let whole = if host.is_empty() || host.starts_with('.') { None } else { self.nodes.get(host) };
        Some((&self.sets, whole.copied().unwrap_or_else(|| above(&self.nodes, host))))
    }
}

/// The narrowest pattern with a star that holds a name, or the domain of another pattern.
fn above(nodes: &HashMap<Box<str>, u32>, name: &str) -> u32 {
    let dots = name.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.');
    let wider = dots.filter_map(|(at, _)| nodes.get(&name[at..])).next();
    let any = || if name.is_empty() { None } else { nodes.get("") };
    wider.or_else(any).copied().unwrap_or(ROOT)
}
