//! Which prefixes hold an address, longest first: one binary search, then from each prefix to the one around it.

use std::net::IpAddr;

use crate::wire::prefix::Prefix;

/// No node.
const NONE: u32 = u32::MAX;

/// A prefix that applications have. Addresses are numbers of 128 bits, IPv4's in the low ones.
#[derive(Clone, Debug)]
pub struct Node {
    pub len: u8,
    /// The prefix around it.
    parent: u32,
    /// Applications that ask for a host beside it, by number.
    pub with_host: Box<[u16]>,
    /// Those that do not, the ones that win first.
    pub alone: Box<[u16]>,
}

#[derive(Clone, Debug, Default)]
struct Family {
    /// Where another prefix becomes the innermost one, ascending, and which that is there.
    starts: Box<[u128]>,
    innermost: Box<[u32]>,
    nodes: Box<[Node]>,
}

/// All prefixes of all applications.
#[derive(Clone, Debug, Default)]
pub struct Prefixes {
    v4: Family,
    v6: Family,
}

/// A prefix's applications while they are collected.
#[derive(Clone, Debug)]
pub struct Entry {
    pub prefix: Prefix,
    pub application: u16,
    pub with_host: bool,
}

impl Prefixes {
    /// `before`: whether of two applications without hosts the first wins.
    pub fn build(entries: Vec<Entry>, before: impl Fn(u16) -> (std::cmp::Reverse<u8>, u16)) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.prefix.addr().is_ipv4());
        Self { v4: Family::build(v4, 32, &before), v6: Family::build(v6, 128, &before) }
    }

    /// The prefixes that hold `address`, the longest first.
    #[inline]
    pub fn around(&self, address: IpAddr) -> Around<'_> {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let below = family.starts.partition_point(|start| *start <= bits(address));
        let at = below.checked_sub(1).and_then(|at| family.innermost.get(at)).map_or(NONE, |at| *at);
        Around { nodes: &family.nodes, at }
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        let family = |f: &Family| {
            let lists = f.nodes.iter().map(|n| 2 * (n.with_host.len() + n.alone.len())).sum::<usize>();
            size_of_val(&*f.starts) + size_of_val(&*f.innermost) + size_of_val(&*f.nodes) + lists
        };
        family(&self.v4) + family(&self.v6)
    }
}

/// Goes outwards from prefix to prefix.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    nodes: &'a [Node],
    at: u32,
}

impl<'a> Iterator for Around<'a> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        let node = self.nodes.get(self.at as usize)?;
        self.at = node.parent;
        Some(node)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

impl Family {
    fn build(mut entries: Vec<Entry>, width: u8, before: &impl Fn(u16) -> (std::cmp::Reverse<u8>, u16)) -> Self {
        entries.sort_by_key(|e| (bits(e.prefix.addr()), e.prefix.prefix_len(), e.application));
        let (mut starts, mut innermost) = (Vec::new(), Vec::new());
        let mut nodes: Vec<Node> = Vec::new();
        // The prefixes that hold the place where we are, outermost first, with their last addresses.
        let mut open: Vec<(u32, u128)> = Vec::new();
        let mut put = |start: u128, node: u32| {
            if starts.last() == Some(&start) {
                if let Some(last) = innermost.last_mut() {
                    *last = node;
                }
            } else {
                starts.push(start);
                innermost.push(node);
            }
        };
        for group in entries.chunk_by(|a, b| a.prefix == b.prefix) {
            let (start, len) = (bits(group[0].prefix.addr()), group[0].prefix.prefix_len());
            let host = u128::MAX.checked_shr(128 - u32::from(width - len)).unwrap_or(0);
            close(&mut open, Some(start), &mut put);
            let number = nodes.len() as u32;
            let list = |with_host: bool| {
                let of = group.iter().filter(|e| e.with_host == with_host).map(|e| e.application);
                let mut list: Vec<u16> = of.collect();
                list.dedup();
                if !with_host {
                    list.sort_by_key(|a| before(*a));
                }
                list.into_boxed_slice()
            };
            let parent = open.last().map_or(NONE, |(node, _)| *node);
            nodes.push(Node { len, parent, with_host: list(true), alone: list(false) });
            put(start, number);
            open.push((number, start | host));
        }
        close(&mut open, None, &mut put);
        Self { starts: starts.into(), innermost: innermost.into(), nodes: nodes.into() }
    }
}

/// Leaves the prefixes that end before `start`: behind each the one around it is the innermost again.
fn close(open: &mut Vec<(u32, u128)>, start: Option<u128>, put: &mut impl FnMut(u128, u32)) {
    while let Some((_, last)) = open.last().copied().filter(|(_, last)| start.is_none_or(|start| *last < start)) {
        open.pop();
        if let Some(next) = last.checked_add(1) {
            put(next, open.last().map_or(NONE, |(node, _)| *node));
        }
    }
}
