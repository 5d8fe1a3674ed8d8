//! Steering rules to tables: one bitmap of rules per class, one class per dimension of a packet.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use softdpu_ebpf_common::{
    maps::{
        Bitmap, Class, Dimensions, ESP_IN_UDP, GENERATIONS, MAX_CLASSES, MAX_PREFIXES, MAX_RULES, PROTOCOLS, Rule,
        Tables, WORDS, first_match,
    },
    walk::{Fragment, Headers, L3, proto},
};

use super::{
    error::{Result, SteerError},
    rule::{SteerRule, bytes_of, masked},
};

/// A set of rules, ready to be installed. Immutable; the same for every interface.
pub struct RuleTables {
    pub(super) tables: Box<Tables>,
    pub(super) from: Vec<PrefixClass>,
    pub(super) to: Vec<PrefixClass>,
    /// Class by the interfaces the rules name.
    pub(super) interfaces: BTreeMap<u32, Class>,
    /// Class of every other interface.
    pub(super) other_interfaces: Class,
    names: Vec<String>,
}

/// The class of the addresses whose longest known prefix this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixClass {
    pub family: L3,
    pub address: [u8; 16],
    pub length: u8,
    pub class: Class,
}

/// Compiles rules; the first that matches a packet wins.
///
/// # Errors
/// Too many rules, prefixes or distinct bitmaps; a name twice; a prefix or range that cannot be.
pub fn compile(rules: &[SteerRule]) -> Result<RuleTables> {
    check(rules)?;
    let mut classes = Classes::new();
    let all = classes.of(&set(rules, |_| true))?;
    let mut tables = zeroed_tables();
    tables.words = rules.len().div_ceil(64) as u32;
    tables.all = all;

    let from = prefixes(rules, |r| &r.from, &mut classes)?;
    let to = prefixes(rules, |r| &r.to, &mut classes)?;
    tables.from_none = classes.of(&set(rules, |r| r.from.is_empty()))?;
    tables.to_none = classes.of(&set(rules, |r| r.to.is_empty()))?;
    tables.sport_none = classes.of(&set(rules, |r| r.source_ports.is_empty()))?;
    tables.dport_none = classes.of(&set(rules, |r| r.ports.is_empty()))?;
    tables.sport_fragment = classes.of(&set(rules, |r| r.source_ports.is_empty() || r.fragments))?;
    tables.dport_fragment = classes.of(&set(rules, |r| r.ports.is_empty() || r.fragments))?;
    ports(rules, |r| &r.source_ports, &mut classes, &mut tables.sports)?;
    ports(rules, |r| &r.ports, &mut classes, &mut tables.dports)?;

    for number in 0..PROTOCOLS {
        tables.protocols[number] = classes.of(&set(rules, |r| match r.protocol {
            None => true,
            Some(p) if number == ESP_IN_UDP => p == proto::UDP || p == proto::ESP,
            Some(p) => usize::from(p) == number,
        }))?;
    }

    let named: HashSet<u32> = rules.iter().flat_map(|r| r.interfaces.iter().copied()).collect();
    let mut interfaces = BTreeMap::new();
    for ifindex in named {
        let class = classes.of(&set(rules, |r| r.interfaces.is_empty() || r.interfaces.contains(&ifindex)))?;
        interfaces.insert(ifindex, class);
    }
    let other_interfaces = classes.of(&set(rules, |r| r.interfaces.is_empty()))?;

    let used = |bit: u32, used: fn(&SteerRule) -> bool| if rules.iter().any(used) { bit } else { 0 };
    tables.dimensions = used(Dimensions::FROM, |r| !r.from.is_empty())
        | used(Dimensions::TO, |r| !r.to.is_empty())
        | used(Dimensions::SPORT, |r| !r.source_ports.is_empty())
        | used(Dimensions::DPORT, |r| !r.ports.is_empty())
        | used(Dimensions::PROTOCOL, |r| r.protocol.is_some())
        | used(Dimensions::PORT, |r| !r.interfaces.is_empty());
    for (entry, rule) in tables.rules.iter_mut().zip(rules) {
        *entry = Rule { action: rule.action as u8, on_loss: rule.on_loss as u8 };
    }
    tables.bitmaps[..classes.bitmaps.len()].copy_from_slice(&classes.bitmaps);
    let names = rules.iter().map(|r| r.name.clone()).collect();
    Ok(RuleTables { tables, from, to, interfaces, other_interfaces, names })
}

impl RuleTables {
    /// Names of the rules, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Index of the first rule that matches, from the tables: what the steer program answers.
    pub fn evaluate(&self, ifindex: u32, h: &Headers) -> Option<usize> {
        let t = &self.tables;
        let number = if h.is_esp_in_udp() { ESP_IN_UDP } else { usize::from(h.proto) };
        let (sport, dport) = if h.has_ports() {
            (t.sports[usize::from(h.sport)], t.dports[usize::from(h.dport)])
        } else if h.fragment == Fragment::Later {
            (t.sport_fragment, t.dport_fragment)
        } else {
            (t.sport_none, t.dport_none)
        };
        let classes = [
            longest(&self.from, h.l3, &h.src).unwrap_or(t.from_none),
            longest(&self.to, h.l3, &h.dst).unwrap_or(t.to_none),
            sport,
            dport,
            t.protocols[number],
            self.interface(ifindex),
        ];
        first_match(t.words, classes.map(|c| &t.bitmaps[usize::from(c)])).map(|rule| rule as usize)
    }

    pub(super) fn interface(&self, ifindex: u32) -> Class {
        self.interfaces.get(&ifindex).copied().unwrap_or(self.other_interfaces)
    }
}

fn longest(prefixes: &[PrefixClass], family: L3, address: &[u8; 16]) -> Option<Class> {
    let covers = |p: &&PrefixClass| p.family == family && p.address == masked(*address, p.length);
    prefixes.iter().filter(covers).max_by_key(|p| p.length).map(|p| p.class)
}

fn check(rules: &[SteerRule]) -> Result<()> {
    if rules.len() > MAX_RULES {
        return Err(SteerError::TooManyRules { count: rules.len() });
    }
    let mut names = HashSet::new();
    for rule in rules {
        if !names.insert(&rule.name) {
            return Err(SteerError::DuplicateName { name: rule.name.clone() });
        }
        for &(address, length) in rule.from.iter().chain(&rule.to) {
            if length > if address.is_ipv4() { 32 } else { 128 } {
                return Err(SteerError::BadPrefix { rule: rule.name.clone(), address, length });
            }
        }
        if let Some(range) = rule.source_ports.iter().chain(&rule.ports).find(|r| r.is_empty()) {
            return Err(SteerError::BadRange { rule: rule.name.clone(), first: *range.start(), last: *range.end() });
        }
    }
    Ok(())
}

/// Distinct bitmaps, each once.
struct Classes {
    bitmaps: Vec<Bitmap>,
    known: HashMap<Bitmap, Class>,
}

impl Classes {
    fn new() -> Self {
        Classes { bitmaps: vec![[0; WORDS]], known: HashMap::from([([0; WORDS], 0)]) }
    }

    fn of(&mut self, bitmap: &Bitmap) -> Result<Class> {
        if let Some(&class) = self.known.get(bitmap) {
            return Ok(class);
        }
        if self.bitmaps.len() == MAX_CLASSES {
            return Err(SteerError::TooManyClasses);
        }
        let class = self.bitmaps.len() as Class;
        self.bitmaps.push(*bitmap);
        self.known.insert(*bitmap, class);
        Ok(class)
    }
}

fn set(rules: &[SteerRule], belongs: impl Fn(&SteerRule) -> bool) -> Bitmap {
    let mut bitmap = [0; WORDS];
    for (i, _) in rules.iter().enumerate().filter(|(_, r)| belongs(r)) {
        insert(&mut bitmap, i);
    }
    bitmap
}

fn insert(bitmap: &mut Bitmap, rule: usize) {
    bitmap[rule / 64] |= 1 << (rule % 64);
}

/// Family, address, length.
type PrefixKey = (u8, [u8; 16], u8);

/// A prefix's class is its own rules, those of every prefix around it, and those that ask for none: the trie finds only the
/// longest.
fn prefixes(
    rules: &[SteerRule],
    of: impl Fn(&SteerRule) -> &Vec<(IpAddr, u8)>,
    classes: &mut Classes,
) -> Result<Vec<PrefixClass>> {
    let mut own: BTreeMap<PrefixKey, Bitmap> = BTreeMap::new();
    for (i, rule) in rules.iter().enumerate() {
        for &(address, length) in of(rule) {
            let (bytes, family) = bytes_of(address);
            insert(own.entry((family as u8, masked(bytes, length), length)).or_insert([0; WORDS]), i);
        }
    }
    if own.len() > MAX_PREFIXES as usize / GENERATIONS {
        return Err(SteerError::TooManyPrefixes { count: own.len() });
    }
    let any = set(rules, |r| of(r).is_empty());
    // In this order a prefix comes before all it contains, so the ones around it are the stack.
    let mut around: Vec<(PrefixKey, Bitmap)> = Vec::new();
    let mut list = Vec::with_capacity(own.len());
    for (key @ (family, address, length), mut bitmap) in own {
        while around.last().is_some_and(|((f, a, l), _)| *f != family || masked(address, *l) != *a) {
            around.pop();
        }
        let outer = around.last().map_or(&any, |(_, bitmap)| bitmap);
        for (word, more) in bitmap.iter_mut().zip(outer) {
            *word |= more;
        }
        around.push((key, bitmap));
        let family = if family == L3::V4 as u8 { L3::V4 } else { L3::V6 };
        list.push(PrefixClass { family, address, length, class: classes.of(&bitmap)? });
    }
    Ok(list)
}

/// Fills a table of 65,536 ports, one stretch of equal ports after the other.
fn ports(
    rules: &[SteerRule],
    of: impl Fn(&SteerRule) -> &Vec<RangeInclusive<u16>>,
    classes: &mut Classes,
    table: &mut [Class; 65_536],
) -> Result<()> {
    // Ranges of one rule may overlap, so a rule counts how many it is in.
    let mut edges: BTreeMap<usize, Vec<(usize, i32)>> = BTreeMap::new();
    for (i, rule) in rules.iter().enumerate() {
        for range in of(rule) {
            edges.entry(usize::from(*range.start())).or_default().push((i, 1));
            edges.entry(usize::from(*range.end()) + 1).or_default().push((i, -1));
        }
    }
    edges.entry(table.len()).or_default();
    let mut inside = vec![0i32; rules.len()];
    let mut bitmap = set(rules, |r| of(r).is_empty());
    let mut start = 0;
    for (at, changes) in edges {
        if at > start {
            table[start..at].fill(classes.of(&bitmap)?);
            start = at;
        }
        for (rule, change) in changes {
            inside[rule] += change;
            let bit = 1 << (rule % 64);
            if inside[rule] > 0 {
                bitmap[rule / 64] |= bit;
            } else {
                bitmap[rule / 64] &= !bit;
            }
        }
    }
    Ok(())
}

/// On the heap from the start: it is larger than some threads' stacks.
pub(super) fn zeroed_tables() -> Box<Tables> {
    // SAFETY: integers and arrays of integers; zero is a value of each.
    unsafe { Box::<Tables>::new_zeroed().assume_init() }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
