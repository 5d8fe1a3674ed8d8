//! Which of many matches may have packets in common with one, without looking at all of them. What it names must still be
//! compared; what it leaves out has nothing in common.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::policy::{HostPattern, Match, PortRange, Prefix};

/// A list as short as this is compared as fast as a shorter one is looked for.
const SHORT: usize = 8;

/// Matches by number, in the order they were added; or in another, where some were put, removed or moved since.
#[derive(Clone, Debug, Default)]
pub struct Index {
    len: u32,
    /// By number, where each stands: [`Self::GONE`] for those that do not. Empty: where they were added.
    places: Vec<u32>,
    from: Prefixes,
    to: Prefixes,
    source_ports: Ports,
    ports: Ports,
    hosts: Hosts,
}

impl Index {
    /// The place of what does not stand anywhere.
    pub const GONE: u32 = u32::MAX;

    pub fn add(&mut self, matches: &Match, hosts: &[HostPattern]) {
        let number = self.len;
        self.len += 1;
        self.put(number, matches, hosts);
    }

    /// Adds one under a number that is free. [`Self::arrange`] says where it stands.
    pub fn put(&mut self, number: u32, matches: &Match, hosts: &[HostPattern]) {
        self.from.add(&matches.from, number);
        self.to.add(&matches.to, number);
        self.source_ports.add(&matches.source_ports, number);
        self.ports.add(&matches.ports, number);
        self.hosts.add(hosts, number);
    }

    /// Takes one out that was added or put under this number, with these terms. [`Self::arrange`] says what stands where then.
    pub fn remove(&mut self, number: u32, matches: &Match, hosts: &[HostPattern]) {
        self.from.remove(&matches.from, number);
        self.to.remove(&matches.to, number);
        self.source_ports.remove(&matches.source_ports, number);
        self.ports.remove(&matches.ports, number);
        self.hosts.remove(hosts, number);
    }

    /// Says where each stands, by number ([`Self::GONE`]: nowhere), and how many they are.
    pub fn arrange(&mut self, places: Vec<u32>, len: usize) {
        self.places = places;
        self.len = len as u32;
    }

    /// Where the one of this number stands.
    pub fn place(&self, number: u32) -> Option<usize> {
        if self.places.is_empty() {
            return (number < self.len).then_some(number as usize);
        }
        self.places.get(number as usize).filter(|place| **place != Self::GONE).map(|place| *place as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Places of all that may overlap, in order, none twice. The terms that narrow it down most are taken, or the first that
    /// leave few.
    pub fn near(&self, matches: &Match, hosts: &[HostPattern]) -> Vec<usize> {
        let Some(lists) = self.lists(matches, hosts) else { return (0..self.len as usize).collect() };
        let mut places: Vec<usize> = lists.into_iter().flatten().filter_map(|number| self.place(*number)).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Their numbers, in no order, some twice.
    pub fn near_numbers(&self, matches: &Match, hosts: &[HostPattern]) -> Vec<u32> {
        match self.lists(matches, hosts) {
            Some(lists) => lists.into_iter().flatten().copied().collect(),
            None => (0..self.places.len().max(self.len as usize) as u32).collect(),
        }
    }

    /// `None`: all may.
    fn lists<'i>(&'i self, matches: &Match, hosts: &[HostPattern]) -> Option<Vec<&'i [u32]>> {
        // Those that are looked up fastest first, and of prefixes those that mostly tell more.
        let terms: [&dyn Fn() -> Option<Vec<&'i [u32]>>; 5] = [
            &|| self.ports.near(&matches.ports),
            &|| self.source_ports.near(&matches.source_ports),
            &|| self.hosts.near(hosts),
            &|| self.to.near(&matches.to),
            &|| self.from.near(&matches.from),
        ];
        let mut best: Option<(usize, Vec<&'i [u32]>)> = None;
        for list in terms.iter().filter_map(|near| near()) {
            let size = list.iter().map(|part| part.len()).sum::<usize>();
            if best.as_ref().is_none_or(|(least, _)| size < *least) {
                best = Some((size, list));
            }
            if size <= SHORT {
                break;
            }
        }
        best.map(|(_, lists)| lists)
    }
}

/// Takes a number out of the list under a key, and the list where it was the last.
fn take_out<K: Ord>(by: &mut BTreeMap<K, Vec<u32>>, key: &K, number: u32) {
    if let Some(numbers) = by.get_mut(key) {
        numbers.retain(|of| *of != number);
        if numbers.is_empty() {
            by.remove(key);
        }
    }
}

/// Family, first address, length.
type Key = (bool, u128, u8);

#[derive(Clone, Debug, Default)]
struct Prefixes {
    any: Vec<u32>,
    by: BTreeMap<Key, Vec<u32>>,
    /// Lengths that occur, one bit each.
    lengths: [u128; 2],
}

fn key(prefix: &Prefix) -> Key {
    let bits = match prefix.addr() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    (prefix.addr().is_ipv6(), bits, prefix.prefix_len())
}

impl Prefixes {
    fn add(&mut self, prefixes: &[Prefix], number: u32) {
        if prefixes.is_empty() {
            self.any.push(number);
        }
        for prefix in prefixes {
            self.by.entry(key(prefix)).or_default().push(number);
            // A length of 128 shares the bit of 127: one look-up too many at most.
            self.lengths[usize::from(prefix.addr().is_ipv6())] |= 1 << prefix.prefix_len().min(127);
        }
    }

    /// Lengths are left as they are: that one does not occur any more costs a look-up.
    fn remove(&mut self, prefixes: &[Prefix], number: u32) {
        if prefixes.is_empty() {
            self.any.retain(|of| *of != number);
        }
        prefixes.iter().for_each(|prefix| take_out(&mut self.by, &key(prefix), number));
    }

    /// `None`: all of them.
    fn near(&self, prefixes: &[Prefix]) -> Option<Vec<&[u32]>> {
        if prefixes.is_empty() {
            return None;
        }
        let mut out: Vec<&[u32]> = vec![&self.any];
        for prefix in prefixes {
            let v6 = prefix.addr().is_ipv6();
            let lengths = self.lengths[usize::from(v6)];
            let wider = (0..prefix.prefix_len()).filter(|len| lengths & (1 << (*len).min(127)) != 0);
            let holders = wider.filter_map(|len| self.by.get(&key(&Prefix::new(prefix.addr(), len)?)));
            out.extend(holders.map(Vec::as_slice));
            let (_, first, len) = key(prefix);
            let host_bits = if v6 { 128 } else { 32 } - u32::from(len);
            let last = first | 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
            out.extend(self.by.range((v6, first, len)..=(v6, last, u8::MAX)).map(|(_, numbers)| numbers.as_slice()));
        }
        Some(out)
    }
}

#[derive(Clone, Debug, Default)]
struct Ports {
    any: Vec<u32>,
    single: BTreeMap<u16, Vec<u32>>,
    wide: BTreeMap<(u16, u16), Vec<u32>>,
}

impl Ports {
    fn add(&mut self, ranges: &[PortRange], number: u32) {
        if ranges.is_empty() {
            self.any.push(number);
        }
        for range in ranges {
            if range.first == range.last {
                self.single.entry(range.first).or_default().push(number);
            } else {
                self.wide.entry((range.first, range.last)).or_default().push(number);
            }
        }
    }

    fn remove(&mut self, ranges: &[PortRange], number: u32) {
        if ranges.is_empty() {
            self.any.retain(|of| *of != number);
        }
        for range in ranges {
            if range.first == range.last {
                take_out(&mut self.single, &range.first, number);
            } else {
                take_out(&mut self.wide, &(range.first, range.last), number);
            }
        }
    }

    fn near(&self, ranges: &[PortRange]) -> Option<Vec<&[u32]>> {
        if ranges.is_empty() {
            return None;
        }
        let mut out: Vec<&[u32]> = vec![&self.any];
        for range in ranges {
            out.extend(self.single.range(range.first..=range.last).map(|(_, numbers)| numbers.as_slice()));
            let wide = self.wide.range(..=(range.last, u16::MAX)).filter(|((_, last), _)| *last >= range.first);
            out.extend(wide.map(|(_, numbers)| numbers.as_slice()));
        }
        Some(out)
    }
}

#[derive(Clone, Debug, Default)]
struct Hosts {
    any: Vec<u32>,
    named: HashMap<String, Vec<u32>>,
    patterns: Vec<u32>,
}

impl Hosts {
    fn add(&mut self, hosts: &[HostPattern], number: u32) {
        if hosts.is_empty() {
            self.any.push(number);
        }
        for host in hosts {
            if host.as_str().starts_with('*') {
                self.patterns.push(number);
            } else {
                self.named.entry(host.as_str().to_owned()).or_default().push(number);
            }
        }
    }

    fn remove(&mut self, hosts: &[HostPattern], number: u32) {
        if hosts.is_empty() {
            self.any.retain(|of| *of != number);
        }
        for host in hosts {
            if host.as_str().starts_with('*') {
                self.patterns.retain(|of| *of != number);
            } else if let Some(numbers) = self.named.get_mut(host.as_str()) {
                numbers.retain(|of| *of != number);
                if numbers.is_empty() {
                    self.named.remove(host.as_str());
                }
            }
        }
    }

    fn near(&self, hosts: &[HostPattern]) -> Option<Vec<&[u32]>> {
        if hosts.is_empty() || hosts.iter().any(|host| host.as_str().starts_with('*')) {
            return None;
        }
        let mut out: Vec<&[u32]> = vec![&self.any, &self.patterns];
        out.extend(hosts.iter().filter_map(|host| self.named.get(host.as_str())).map(Vec::as_slice));
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::overlaps;
    use proptest::prelude::*;

    fn some_match() -> impl Strategy<Value = Match> {
        let prefix = (any::<bool>(), 0u8..8, 0u8..=32).prop_map(|(v6, n, len)| {
            let addr: IpAddr =
                if v6 { [0x2001, 0, 0, u16::from(n), 0, 0, 0, 1].into() } else { [10, n, n & 3, 1].into() };
            Prefix::new(addr, if v6 { len + 96 } else { len }).unwrap()
        });
        let ports = (0u16..6, 0u16..3).prop_map(|(first, more)| PortRange { first, last: first + more });
        let prefixes = || proptest::collection::vec(prefix.clone(), 0..3);
        (prefixes(), prefixes(), proptest::collection::vec(ports, 0..3)).prop_map(|(from, to, ports)| Match {
            from: from.into(),
            to: to.into(),
            ports: ports.into(),
            ..Match::default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Whatever overlaps is named.
        #[test]
        fn nothing_is_missed(all in proptest::collection::vec(some_match(), 1..20), one in some_match()) {
            let mut index = Index::default();
            all.iter().for_each(|m| index.add(m, &[]));
            let near = index.near(&one, &[]);
            for (at, m) in all.iter().enumerate() {
                prop_assert!(!overlaps(m, &one) || near.contains(&at), "{m:?} {one:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        /// Put, removed and arranged anew it names what one does that was made of the same in that order.
        #[test]
        fn a_changed_one_is_as_one_made_anew(
            all in proptest::collection::vec(some_match(), 4..20),
            edits in proptest::collection::vec((any::<proptest::sample::Index>(), some_match()), 1..6),
            one in some_match(),
        ) {
            let mut index = Index::default();
            all.iter().for_each(|m| index.add(m, &[]));
            let mut list: Vec<(u32, Match)> = (0..).zip(all).collect();
            for (at, new) in edits {
                // One goes, another takes its number and stands at the end.
                let (number, old) = list.remove(at.index(list.len()));
                index.remove(number, &old, &[]);
                index.put(number, &new, &[]);
                list.push((number, new));
            }
            let (number, old) = list.remove(0);
            index.remove(number, &old, &[]);
            let mut places = vec![Index::GONE; list.len() + 1];
            list.iter().enumerate().for_each(|(at, (number, _))| places[*number as usize] = at as u32);
            index.arrange(places, list.len());
            let mut anew = Index::default();
            list.iter().for_each(|(_, m)| anew.add(m, &[]));
            prop_assert_eq!(index.len(), anew.len());
            for m in list.iter().map(|(_, m)| m).chain([&one]) {
                let overlapping = |near: Vec<usize>| near.into_iter().filter(|at| overlaps(&list[*at].1, m)).collect::<Vec<_>>();
                prop_assert_eq!(overlapping(index.near(m, &[])), overlapping(anew.near(m, &[])));
            }
        }
    }

    #[test]
    fn hosts_narrow_it_down() {
        let host = |text: &str| vec![text.parse::<HostPattern>().unwrap()];
        let mut index = Index::default();
        for hosts in [host("a.org"), host("b.org"), host("*.org"), vec![]] {
            index.add(&Match::default(), &hosts);
        }
        assert_eq!(index.near(&Match::default(), &host("b.org")), [1, 2, 3]);
        assert_eq!(index.near(&Match::default(), &host("*.b.org")).len(), 4);
    }
}
