//! Longest-prefix match over IPv4 and IPv6, for tables that are built once and read often.

use crate::wire::prefix::Prefix;
use std::collections::HashMap;
use std::net::IpAddr;

#[inline]
fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

#[inline]
fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
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
        let tables = if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let at = match tables.binary_search_by(|(len, _)| prefix.prefix_len().cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                tables.insert(at, (prefix.prefix_len(), HashMap::new()));
                at
            }
        };
        tables[at].1.insert(bits(prefix.addr()), value)
    }

    pub fn exact_mut(&mut self, prefix: Prefix) -> Option<&mut T> {
        let tables = if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let (_, table) = tables.iter_mut().find(|(len, _)| *len == prefix.prefix_len())?;
        table.get_mut(&bits(prefix.addr()))
    }

    #[inline]
    pub fn get(&self, addr: IpAddr) -> Option<&T> {
        self.get_with_len(addr).map(|(value, _)| value)
    }

    /// The value, and the length of the prefix that has it.
    pub fn get_with_len(&self, addr: IpAddr) -> Option<(&T, u8)> {
        let tables = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let (bits, width) = (bits(addr), width(addr));
        tables.iter().find_map(|(len, table)| Some((table.get(&masked(bits, *len, width))?, *len)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct bits, so that prefixes nest and collide.
        prop_oneof![
            (0u32..16, 0u8..=32).prop_map(|(a, len)| Prefix::new(IpAddr::V4((a << 28 | a).into()), len).unwrap()),
            (0u128..16, 0u8..=128).prop_map(|(a, len)| Prefix::new(IpAddr::V6((a << 124 | a).into()), len).unwrap()),
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
                let want = prefixes.iter().filter(|p| p.contains(addr)).max_by_key(|p| p.prefix_len());
                prop_assert_eq!(lpm.get(addr), want);
                prop_assert_eq!(lpm.get_with_len(addr).map(|(_, len)| len), want.map(Prefix::prefix_len));
            }
        }
    }
}
