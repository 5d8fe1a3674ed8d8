//! Longest-prefix match over IPv4 and IPv6, for tables that are built once and read often.

use std::collections::HashMap;
use std::net::IpAddr;

/// An IP prefix, the host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// `len` is cut to the family's width; host bits are cleared.
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let len = len.min(width(addr));
        Self { addr: from_bits(masked(bits(addr), len, width(addr)), addr), len }
    }

    pub fn addr(self) -> IpAddr {
        self.addr
    }

    pub fn len(self) -> u8 {
        self.len
    }

    /// `0.0.0.0/0` or `::/0`.
    pub fn is_default(self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn contains(self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4() && masked(bits(addr), self.len, width(addr)) == bits(self.addr)
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn from_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    }
}

#[inline]
fn masked(bits: u128, len: u8, width: u8) -> u128 {
    match u32::from(width - len) {
        0 => bits,
        128.. => 0,
        host => bits >> host << host,
    }
}

/// One hash table per prefix length that occurs, longest first. A host has a handful of lengths, and the packet path asks
/// only for the first packet of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Lpm<T> {
    v4: Vec<(u8, HashMap<u128, T>)>,
    v6: Vec<(u8, HashMap<u128, T>)>,
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T> Lpm<T> {
    /// Inserts or replaces.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        let tables = if prefix.addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let at = match tables.binary_search_by(|(len, _)| prefix.len.cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                tables.insert(at, (prefix.len, HashMap::new()));
                at
            }
        };
        tables[at].1.insert(bits(prefix.addr), value)
    }

    pub fn exact_mut(&mut self, prefix: Prefix) -> Option<&mut T> {
        let tables = if prefix.addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let (_, table) = tables.iter_mut().find(|(len, _)| *len == prefix.len)?;
        table.get_mut(&bits(prefix.addr))
    }

    pub fn get(&self, addr: IpAddr) -> Option<&T> {
        let tables = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let (bits, width) = (bits(addr), width(addr));
        tables.iter().find_map(|(len, table)| table.get(&masked(bits, *len, width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct bits, so that prefixes nest and collide.
        prop_oneof![
            (0u32..16, 0u8..=32).prop_map(|(a, len)| Prefix::new(IpAddr::V4((a << 28 | a).into()), len)),
            (0u128..16, 0u8..=128).prop_map(|(a, len)| Prefix::new(IpAddr::V6((a << 124 | a).into()), len)),
        ]
    }

    proptest! {
        #[test]
        fn longest_of_all_that_contain(prefixes in proptest::collection::vec(prefix(), 0..40), probes in proptest::collection::vec(prefix(), 1..20)) {
            let mut lpm = Lpm::default();
            for p in &prefixes {
                lpm.insert(*p, *p);
            }
            for probe in probes {
                let addr = probe.addr();
                let want = prefixes.iter().filter(|p| p.contains(addr)).max_by_key(|p| p.len());
                prop_assert_eq!(lpm.get(addr), want);
            }
        }
    }

    #[test]
    fn families_are_apart() {
        let default4 = Prefix::new("0.0.0.0".parse().unwrap(), 0);
        assert!(default4.contains("10.0.0.1".parse().unwrap()));
        assert!(!default4.contains("2001:db8::1".parse().unwrap()));
    }
}
