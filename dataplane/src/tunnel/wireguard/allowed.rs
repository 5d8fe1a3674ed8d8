//! Allowed IPs ("cryptokey routing", WireGuard paper §2): which peer an inner destination belongs to, and whether a peer
//! may send from an inner source.
//!
//! The control side keeps [`AllowedIps`], which can lose prefixes and list those of a peer. Workers read an immutable
//! [`AllowedTable`]. [`Lpm`](crate::host::lpm::Lpm) has neither, and probes one hash table per prefix length; here a
//! packet may ask twice, and operators choose the lengths, so the table is one sorted list of the places where the
//! answer changes: 9 bytes per change for IPv4, 21 for IPv6, and a binary search whatever the lengths are. Whether a
//! source is a certain peer's is mostly known without it, from the first range of that peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::prefix::Prefix;

/// Which prefixes belong to which peer slot. A prefix has one owner.
#[derive(Debug, Default)]
pub struct AllowedIps {
    owner: BTreeMap<Prefix, u32>,
    of: BTreeMap<u32, BTreeSet<Prefix>>,
}

impl AllowedIps {
    /// Gives `prefix` to the peer in `slot`, taking it from who had it. True where that changed anything.
    pub fn insert(&mut self, prefix: Prefix, slot: u32) -> bool {
        match self.owner.insert(prefix, slot) {
            Some(before) if before == slot => return false,
            Some(before) => self.forget(prefix, before),
            None => {}
        }
        self.of.entry(slot).or_default().insert(prefix)
    }

    /// Takes `prefix` from the peer in `slot`; nothing happens where it belongs to another. True where it was that peer's.
    pub fn remove(&mut self, prefix: Prefix, slot: u32) -> bool {
        if self.owner.get(&prefix) != Some(&slot) {
            return false;
        }
        self.owner.remove(&prefix);
        self.forget(prefix, slot);
        true
    }

    /// Takes all prefixes from the peer in `slot`. True where it had any.
    pub fn remove_all(&mut self, slot: u32) -> bool {
        let Some(prefixes) = self.of.remove(&slot) else { return false };
        for prefix in &prefixes {
            self.owner.remove(prefix);
        }
        true
    }

    fn forget(&mut self, prefix: Prefix, slot: u32) {
        if let Some(prefixes) = self.of.get_mut(&slot) {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.of.remove(&slot);
            }
        }
    }

    /// The prefixes of a peer, IPv4 first, in the order of their addresses.
    pub fn of(&self, slot: u32) -> impl Iterator<Item = Prefix> + '_ {
        self.of.get(&slot).into_iter().flatten().copied()
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.owner.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owner.is_empty()
    }

    /// What workers look addresses up in.
    pub fn table(&self) -> AllowedTable {
        let mut table = AllowedTable::default();
        // The map's order is address first, then length: a prefix comes after those that hold it.
        let v4 = self.owner.iter().filter_map(|(p, slot)| match p.addr() {
            IpAddr::V4(a) => Some((u128::from(u32::from(a)), 32 - p.prefix_len(), (*slot, p.prefix_len()))),
            IpAddr::V6(_) => None,
        });
        for (start, (slot, len)) in flatten(v4, u32::MAX.into()) {
            table.v4.starts.push(start as u32);
            table.v4.slots.push(slot);
            table.v4.lens.push(len);
        }
        let v6 = self.owner.iter().filter_map(|(p, slot)| match p.addr() {
            IpAddr::V6(a) => Some((u128::from(a), 128 - p.prefix_len(), (*slot, p.prefix_len()))),
            IpAddr::V4(_) => None,
        });
        for (start, (slot, len)) in flatten(v6, u128::MAX) {
            table.v6.starts.push(start);
            table.v6.slots.push(slot);
            table.v6.lens.push(len);
        }
        table.v4.find_homes(u32::MAX, |next| next - 1);
        table.v6.find_homes(u128::MAX, |next| next - 1);
        table
    }
}

/// A slot, and the length of the prefix by which it has an address.
type Whose = (u32, u8);

/// No slot: the addresses between the prefixes.
const NOBODY: Whose = (u32::MAX, 0);

/// Turns nested prefixes (first address, host bits, whose), outer before inner, into the addresses where the answer changes,
/// up to the address `max`.
fn flatten(prefixes: impl Iterator<Item = (u128, u8, Whose)>, max: u128) -> Vec<(u128, Whose)> {
    let mut changes: Vec<(u128, Whose)> = Vec::new();
    let mut change = |at: u128, whose: Whose| {
        // What begins where something else began is inside of it, or behind it.
        if changes.last().is_some_and(|(start, _)| *start == at) {
            changes.pop();
        }
        if changes.last().map_or(NOBODY, |(_, before)| *before) != whose {
            changes.push((at, whose));
        }
    };
    // The prefixes that hold the present address, with their last addresses, the innermost last.
    let mut open: Vec<(u128, Whose)> = Vec::new();
    for (start, host_bits, whose) in prefixes {
        while let Some((end, _)) = open.pop_if(|(end, _)| *end < start) {
            change(end + 1, open.last().map_or(NOBODY, |(_, outer)| *outer));
        }
        let others = 1_u128.checked_shl(host_bits.into()).map_or(u128::MAX, |size| size - 1);
        open.push((start + others, whose));
        change(start, whose);
    }
    while let Some((end, _)) = open.pop() {
        if end < max {
            change(end + 1, open.last().map_or(NOBODY, |(_, outer)| *outer));
        }
    }
    changes
}

/// Sorted addresses, and whose the addresses from each on are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges<A> {
    starts: Vec<A>,
    slots: Vec<u32>,
    /// Of the prefixes that say so.
    lens: Vec<u8>,
    /// By slot, up to the last that has any: first and last address of the first range that is its own. Most peers have but
    /// one, so whether a source is a peer's is known from here, one cache line, without a search.
    homes: Vec<Option<(A, A)>>,
}

impl<A: Ord + Copy> Ranges<A> {
    fn find_homes(&mut self, max: A, before: impl Fn(A) -> A) {
        let ends = self.starts.iter().skip(1).map(|next| before(*next)).chain([max]);
        for ((start, end), slot) in self.starts.iter().zip(ends).zip(&self.slots) {
            if *slot == NOBODY.0 {
                continue;
            }
            let at = *slot as usize;
            if self.homes.len() <= at {
                self.homes.resize(at + 1, None);
            }
            self.homes[at].get_or_insert((*start, end));
        }
    }

    #[inline]
    fn is_of(&self, address: &A, slot: u32) -> bool {
        match self.homes.get(slot as usize) {
            Some(Some((first, last))) if first <= address && address <= last => true,
            // None of the family is this peer's.
            None | Some(None) => false,
            Some(Some(_)) => self.get(address) == Some(slot),
        }
    }

    #[inline]
    fn get(&self, address: &A) -> Option<u32> {
        let slot = *self.slots.get(self.place(address)?)?;
        (slot != NOBODY.0).then_some(slot)
    }

    fn get_with_len(&self, address: &A) -> Option<Whose> {
        let at = self.place(address)?;
        let slot = *self.slots.get(at)?;
        (slot != NOBODY.0).then_some((slot, *self.lens.get(at)?))
    }

    #[inline]
    fn place(&self, address: &A) -> Option<usize> {
        self.starts.partition_point(|start| start <= address).checked_sub(1)
    }
}

/// The immutable form of [`AllowedIps`], for workers. Slots are those of the device's peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedTable {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl AllowedTable {
    /// The peer that `address` belongs to: out, where a packet to it goes; in, who may send from it.
    #[inline]
    pub fn look_up(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(a) => self.look_up_v4(a),
            IpAddr::V6(a) => self.look_up_v6(a),
        }
    }

    #[inline]
    pub fn look_up_v4(&self, address: Ipv4Addr) -> Option<u32> {
        self.v4.get(&address.into())
    }

    #[inline]
    pub fn look_up_v6(&self, address: Ipv6Addr) -> Option<u32> {
        self.v6.get(&address.into())
    }

    /// The same, and the length of the prefix that says so.
    pub fn look_up_with_len(&self, address: IpAddr) -> Option<(u32, u8)> {
        match address {
            IpAddr::V4(a) => self.v4.get_with_len(&a.into()),
            IpAddr::V6(a) => self.v6.get_with_len(&a.into()),
        }
    }

    /// Whether `address` belongs to the peer in `slot`: [`Self::look_up`] would say so.
    #[inline]
    pub fn is_of(&self, address: IpAddr, slot: u32) -> bool {
        match address {
            IpAddr::V4(a) => self.v4.is_of(&a.into(), slot),
            IpAddr::V6(a) => self.v6.is_of(&a.into(), slot),
        }
    }

    /// Asks for what [`Self::is_of`] looks at first. IPv4 only: what is inside is not known yet.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(home) = self.v4.homes.get(slot as usize) {
            crate::crypto::prefetch_line(home);
        }
    }

    /// Bytes of memory of the ranges.
    pub fn size(&self) -> usize {
        self.v4.starts.len() * 9 + self.v6.starts.len() * 21
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Few distinct bits at both ends, so that prefixes nest, touch and collide.
    fn prefix() -> impl Strategy<Value = Prefix> {
        prop_oneof![
            (0u32..16, 0u32..4, 0u8..=32)
                .prop_map(|(a, b, len)| Prefix::new(IpAddr::V4((a << 28 | b).into()), len).unwrap()),
            (12u32..16).prop_map(|a| Prefix::new(IpAddr::V4((a << 28 | 0x0fff_ffff).into()), 32).unwrap()),
            (0u128..16, 0u128..4, 0u8..=128).prop_map(|(a, b, len)| Prefix::new(
                IpAddr::V6((a << 124 | b).into()),
                len
            )
            .unwrap()),
            Just(Prefix::new(IpAddr::V6(u128::MAX.into()), 128).unwrap()),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Prefix, u32),
        Remove(Prefix, u32),
        RemoveAll(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (prefix(), 0u32..4).prop_map(|(p, s)| Step::Insert(p, s)),
            3 => (prefix(), 0u32..4).prop_map(|(p, s)| Step::Remove(p, s)),
            1 => (0u32..4).prop_map(Step::RemoveAll),
        ]
    }

    fn last_of(prefix: Prefix) -> IpAddr {
        let len = u32::from(prefix.prefix_len());
        match prefix.addr() {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) | u32::MAX.checked_shr(len).unwrap_or(0)).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) | u128::MAX.checked_shr(len).unwrap_or(0)).into()),
        }
    }

    fn neighbours(at: IpAddr) -> [IpAddr; 3] {
        match at {
            IpAddr::V4(a) => [0u32, 1, u32::MAX].map(|d| IpAddr::V4(u32::from(a).wrapping_add(d).into())),
            IpAddr::V6(a) => [0u128, 1, u128::MAX].map(|d| IpAddr::V6(u128::from(a).wrapping_add(d).into())),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec(step(), 0..60)) {
            let (mut allowed, mut model) = (AllowedIps::default(), HashMap::new());
            for step in &steps {
                match *step {
                    Step::Insert(p, slot) => {
                        prop_assert_eq!(allowed.insert(p, slot), model.insert(p, slot) != Some(slot));
                    }
                    Step::Remove(p, slot) => {
                        let had = model.get(&p) == Some(&slot);
                        prop_assert_eq!(allowed.remove(p, slot), had);
                        if had {
                            model.remove(&p);
                        }
                    }
                    Step::RemoveAll(slot) => {
                        let had = model.values().any(|s| *s == slot);
                        prop_assert_eq!(allowed.remove_all(slot), had);
                        model.retain(|_, s| *s != slot);
                    }
                }
            }
            prop_assert_eq!(allowed.len(), model.len());
            for slot in 0..4 {
                let mut want: Vec<_> = model.iter().filter(|(_, s)| **s == slot).map(|(p, _)| *p).collect();
                want.sort();
                prop_assert_eq!(allowed.of(slot).collect::<Vec<_>>(), want);
            }
            let table = allowed.table();
            // Everywhere the answer can change, one to the left and one to the right of it.
            for edge in steps.iter().flat_map(|step| match step {
                Step::Insert(p, _) | Step::Remove(p, _) => vec![p.addr(), last_of(*p)],
                Step::RemoveAll(_) => vec![],
            }) {
                for probe in neighbours(edge) {
                    let want = model.iter().filter(|(p, _)| p.contains(probe)).max_by_key(|(p, _)| p.prefix_len());
                    prop_assert_eq!(table.look_up(probe), want.map(|(_, slot)| *slot), "{}", probe);
                    let with_len = want.map(|(p, slot)| (*slot, p.prefix_len()));
                    prop_assert_eq!(table.look_up_with_len(probe), with_len, "{}", probe);
                    for slot in 0..5 {
                        prop_assert_eq!(table.is_of(probe, slot), table.look_up(probe) == Some(slot), "{} {}", probe, slot);
                    }
                }
            }
        }
    }

    #[test]
    fn touching_prefixes_of_one_peer_take_one_place() {
        let mut allowed = AllowedIps::default();
        for i in 0..=255_u8 {
            allowed.insert(Prefix::new(IpAddr::V4([10, 0, 0, i].into()), 32).unwrap(), 7);
        }
        assert_eq!(allowed.table().size(), 2 * 9);
        allowed.insert(Prefix::new(IpAddr::V4([0, 0, 0, 0].into()), 0).unwrap(), 7);
        assert_eq!(allowed.table().size(), 3 * 9, "by another length");
    }

    #[test]
    fn everything_and_nothing() {
        let mut allowed = AllowedIps::default();
        assert_eq!(allowed.table().look_up([1, 2, 3, 4].into()), None);
        allowed.insert(Prefix::new(IpAddr::V6(0.into()), 0).unwrap(), 1);
        let table = allowed.table();
        assert_eq!(table.look_up(IpAddr::V6(u128::MAX.into())), Some(1));
        assert_eq!(table.look_up([1, 2, 3, 4].into()), None);
    }
}
