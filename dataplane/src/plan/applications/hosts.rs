//! Which host patterns match a name: one hash look-up per label of the name, however many patterns there are. Patterns with `*`
//! within a label are looked at one by one, but only those whose fixed ending the name has.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::config::host_glob::{HostGlob, Shape};

/// Most patterns with `*` within a label that have the same fixed ending.
pub const MAX_GLOBS_PER_ENDING: usize = 64;
/// Most applications that have one and the same pattern.
pub const MAX_SHARED: usize = 64;

/// A stretch of a list.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    at: u32,
    len: u16,
}

impl Stretch {
    fn of<T>(self, list: &[T]) -> &[T] {
        list.get(self.at as usize..self.at as usize + usize::from(self.len)).unwrap_or(&[])
    }
}

/// A name or an ending that patterns have.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    text: u32,
    len: u8,
    /// Applications of the name itself, of all below it, and patterns that end with it.
    exact: Stretch,
    below: Stretch,
    globs: Stretch,
}

#[derive(Clone, Debug)]
struct Glob {
    pattern: HostGlob,
    rank: u16,
    applications: Box<[u16]>,
}

/// The compiled patterns.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    seed: u64,
    /// Part of the hash, and the number of the node plus one; 0 is free. At most half full, linear probing.
    slots: Box<[(u32, u32)]>,
    nodes: Box<[Node]>,
    /// Names of the nodes, one after the other.
    text: Box<str>,
    applications: Box<[u16]>,
    globs: Box<[Glob]>,
    /// Applications of `*`.
    any: Box<[u16]>,
    /// Most labels that a node has.
    depth: u8,
    /// There are patterns without a fixed ending.
    loose: bool,
}

/// Where the patterns of one name are collected.
#[derive(Default)]
struct Build<'a> {
    exact: Vec<u16>,
    below: Vec<u16>,
    globs: Vec<&'a HostGlob>,
}

impl Hosts {
    /// `patterns`: each with the number of its application, about `count` of them, an application's one after the other.
    ///
    /// # Errors
    /// More patterns of one ending, or more applications of one pattern, than are looked at for one name: that pattern, and whose
    /// it is.
    pub fn build<'a>(
        count: usize,
        patterns: impl Iterator<Item = (&'a HostGlob, u16)>,
    ) -> Result<Self, (&'a HostGlob, u16)> {
        let mut numbers: HashMap<&str, u32> = HashMap::with_capacity(count);
        let mut builds: Vec<(&str, Build<'a>)> = Vec::new();
        let mut globs: HashMap<&HostGlob, Vec<u16>> = HashMap::new();
        let mut any = Vec::new();
        for (pattern, application) in patterns {
            let name = match pattern.shape() {
                Shape::Any => {
                    add(&mut any, application).ok_or((pattern, application))?;
                    continue;
                }
                Shape::Exact(name) | Shape::Below(name) | Shape::Glob(name) => name,
            };
            let number = *numbers.entry(name).or_insert_with(|| {
                builds.push((name, Build::default()));
                builds.len() as u32 - 1
            });
            let build = &mut builds[number as usize].1;
            match pattern.shape() {
                Shape::Exact(_) => add(&mut build.exact, application).ok_or((pattern, application))?,
                Shape::Below(_) => add(&mut build.below, application).ok_or((pattern, application))?,
                _ => {
                    let owners = globs.entry(pattern).or_default();
                    if owners.is_empty() {
                        if build.globs.len() == MAX_GLOBS_PER_ENDING {
                            return Err((pattern, application));
                        }
                        build.globs.push(pattern);
                    }
                    add(owners, application).ok_or((pattern, application))?;
                }
            }
        }
        Ok(Self::lay_out(&builds, &globs, any))
    }

    fn lay_out(builds: &[(&str, Build<'_>)], owners: &HashMap<&HostGlob, Vec<u16>>, any: Vec<u16>) -> Self {
        let mut hosts =
            Self { seed: RandomState::new().hash_one(builds.len()) | 1, any: any.into(), ..Self::default() };
        let (mut text, mut applications, mut globs) = (String::new(), Vec::new(), Vec::new());
        let mut slots = vec![(0u32, 0u32); (builds.len() * 2).next_power_of_two().max(2)];
        let mask = slots.len() - 1;
        let mut nodes = Vec::with_capacity(builds.len());
        for (number, (name, build)) in builds.iter().enumerate() {
            let mut list = |of: &[u16]| {
                let at = applications.len() as u32;
                applications.extend_from_slice(of);
                Stretch { at, len: of.len() as u16 }
            };
            let (exact, below) = (list(&build.exact), list(&build.below));
            let first = globs.len() as u32;
            globs.extend(build.globs.iter().map(|pattern| Glob {
                pattern: (*pattern).clone(),
                rank: pattern.rank(),
                applications: owners.get(pattern).map_or_else(Default::default, |list| list.as_slice().into()),
            }));
            let with_globs = Stretch { at: first, len: build.globs.len() as u16 };
            nodes.push(Node { text: text.len() as u32, len: name.len() as u8, exact, below, globs: with_globs });
            text.push_str(name);
            let hash = name.bytes().rev().fold(hosts.seed, mix);
            let mut at = place(hash) & mask;
            while slots[at].1 != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = (hash as u32, number as u32 + 1);
            hosts.loose |= name.is_empty();
            hosts.depth = hosts.depth.max(labels(name));
        }
        Self {
            slots: slots.into(),
            nodes: nodes.into(),
            text: text.into(),
            applications: applications.into(),
            globs: globs.into(),
            ..hosts
        }
    }

    /// Tells of every pattern that `host` matches: how specific it is ([`HostGlob::rank`]), and whose it is. `host` in lower case.
    #[inline]
    pub fn each(&self, host: &str, mut found: impl FnMut(u16, &[u16])) {
        if host.is_empty() {
            return;
        }
        if !self.any.is_empty() {
            found(1, &self.any);
        }
        if self.nodes.is_empty() {
            return;
        }
        let mut hash = self.seed;
        if self.loose {
            self.globs_of(self.node(hash, ""), host, &mut found);
        }
        let bytes = host.as_bytes();
        let mut behind = 0;
        for at in (0..bytes.len()).rev() {
            if bytes[at] == b'.' {
                // As many labels as the longest name of a node has were looked up: what is longer is none.
                if behind == self.depth {
                    return;
                }
                behind += 1;
                if let Some(node) = self.node(hash, &host[at + 1..]) {
                    let below = node.below.of(&self.applications);
                    if at > 0 && !below.is_empty() {
                        found(2 * (u16::from(node.len) + 1) + 1, below);
                    }
                    self.globs_of(Some(node), host, &mut found);
                }
            }
            hash = mix(hash, bytes[at]);
        }
        if behind < self.depth
            && let Some(node) = self.node(hash, host)
            && node.exact.len > 0
        {
            found(2 * u16::from(node.len) + 2, node.exact.of(&self.applications));
        }
    }

    #[inline]
    fn globs_of(&self, node: Option<&Node>, host: &str, found: &mut impl FnMut(u16, &[u16])) {
        for glob in node.map_or(&[][..], |node| node.globs.of(&self.globs)) {
            if glob.pattern.matches(host) {
                found(glob.rank, &glob.applications);
            }
        }
    }

    #[inline]
    fn node(&self, hash: u64, name: &str) -> Option<&Node> {
        let mask = self.slots.len() - 1;
        let mut at = place(hash) & mask;
        loop {
            let (tag, number) = *self.slots.get(at)?;
            let node = self.nodes.get(number.checked_sub(1)? as usize)?;
            if tag == hash as u32 && self.name(node) == name {
                return Some(node);
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn name(&self, node: &Node) -> &str {
        self.text.get(node.text as usize..node.text as usize + usize::from(node.len)).unwrap_or("")
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        let globs = self.globs.iter().map(|g| size_of::<Glob>() + g.pattern.as_str().len() + 2 * g.applications.len());
        size_of_val(&*self.slots)
            + size_of_val(&*self.nodes)
            + self.text.len()
            + size_of_val(&*self.applications)
            + size_of_val(&*self.any)
            + globs.sum::<usize>()
    }
}

/// `None`: there are too many.
fn add(list: &mut Vec<u16>, application: u16) -> Option<()> {
    if list.last() != Some(&application) {
        if list.len() == MAX_SHARED {
            return None;
        }
        list.push(application);
    }
    Some(())
}

fn labels(name: &str) -> u8 {
    if name.is_empty() { 0 } else { name.bytes().filter(|b| *b == b'.').count() as u8 + 1 }
}

/// FNV-1a's step with a longer multiplier, from a random start: which names share a slot is different in every process.
#[inline(always)]
fn mix(hash: u64, byte: u8) -> u64 {
    let x = (hash ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 32
}

#[inline(always)]
fn place(hash: u64) -> usize {
    (hash >> 24) as usize
}
