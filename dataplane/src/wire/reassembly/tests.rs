#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::checksum::ipv4_header_ok;
use crate::wire::fragment::{Piece as Cut, pieces, write_header};
use crate::wire::ip::{write_v4, write_v6};
use proptest::prelude::*;
use softdpu_ebpf_common::walk::{L3, walk_ip};
use std::collections::HashMap;

const SECOND: u64 = 1_000_000_000;

fn id(source: u8, ident: u32) -> Id {
    Id { src: [source; 16], dst: [9; 16], ident, l3: L3::V4, proto: 17, zone: 0 }
}

fn at(start: u32, len: u32, last: bool) -> Place {
    Place { head: 20, body: 20, start, len, last, ..Place::default() }
}

/// A table of numbered fragments, and what became of them.
struct Bench {
    table: Table<u32>,
    whole: Vec<(u32, Place)>,
    lost: Vec<(u32, Refusal)>,
    next: u32,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { table: Table::new(limits), whole: Vec::new(), lost: Vec::new(), next: 0 }
    }

    /// The fragment's number, and the datagram where it is complete now.
    fn put(&mut self, now: u64, id: Id, place: Place) -> Option<Complete> {
        self.next += 1;
        let lost = &mut self.lost;
        self.table.insert(now, &id, &place, self.next - 1, &mut self.whole, &mut |item, why| lost.push((item, why)))
    }

    fn expire(&mut self, now: u64) {
        let lost = &mut self.lost;
        self.table.expire(now, &mut |item, why| lost.push((item, why)));
    }

    fn reasons(&mut self) -> Vec<Refusal> {
        self.lost.drain(..).map(|(_, why)| why).collect()
    }
}

#[test]
fn in_any_order_the_pieces_come_out_first_to_last() {
    let pieces = [at(0, 8, false), at(8, 16, false), at(24, 5, true)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut bench = Bench::new(Limits::default());
        assert_eq!(bench.put(0, id(1, 7), pieces[order[0]]), None);
        assert_eq!(bench.put(0, id(1, 7), pieces[order[1]]), None);
        assert_eq!(bench.table.occupancy(), (1, 2));
        assert_eq!(bench.put(0, id(1, 7), pieces[order[2]]), Some(Complete { payload: 29, ce: false }));
        assert_eq!(bench.whole.iter().map(|(_, place)| *place).collect::<Vec<_>>(), pieces, "{order:?}");
        assert_eq!((bench.table.occupancy(), bench.lost.len()), ((0, 0), 0));
    }
}

#[test]
fn what_differs_in_one_field_of_the_id_is_another_datagram() {
    let base = id(1, 7);
    for other in [
        Id { ident: 8, ..base },
        Id { proto: 6, ..base },
        Id { zone: 1, ..base },
        Id { dst: [8; 16], ..base },
        Id { src: [2; 16], ..base },
        Id { l3: L3::V6, ..base },
    ] {
        let mut bench = Bench::new(Limits::default());
        bench.put(0, base, at(0, 8, false));
        assert_eq!(bench.put(0, other, at(8, 8, true)), None);
        assert_eq!(bench.table.occupancy(), (2, 2));
    }
}

/// RFC 5722 §4: all of it goes, and what still comes of it.
#[test]
fn an_overlap_ends_the_datagram_for_good() {
    for overlap in [at(8, 16, false), at(0, 16, false), at(16, 8, true), at(8, 8, true), at(0, 8, true)] {
        let mut bench = Bench::new(Limits::default());
        bench.put(0, id(1, 7), at(0, 8, false));
        bench.put(0, id(1, 7), at(16, 16, false));
        bench.put(0, id(1, 7), overlap);
        assert_eq!(bench.reasons(), [Refusal::Bad; 3], "{overlap:?}");
        for rest in [at(0, 8, false), at(8, 8, false), at(16, 16, false), at(32, 8, true)] {
            assert_eq!(bench.put(0, id(1, 7), rest), None);
        }
        assert_eq!(bench.reasons(), [Refusal::Bad; 4]);
        assert_eq!(bench.table.occupancy(), (1, 0));
        bench.expire(30 * SECOND);
        assert_eq!(bench.table.occupancy(), (0, 0));
    }
}

#[test]
fn an_exact_repetition_does_no_harm() {
    let mut bench = Bench::new(Limits::default());
    for place in [at(8, 8, false), at(8, 8, false), at(16, 3, true), at(16, 3, true)] {
        assert_eq!(bench.put(0, id(1, 7), place), None);
    }
    assert!(bench.put(0, id(1, 7), at(0, 8, false)).is_some());
    assert_eq!(bench.reasons(), [Refusal::Duplicate; 2]);
    assert_eq!(bench.whole.iter().map(|(item, _)| *item).collect::<Vec<_>>(), [4, 0, 2], "the first of each stays");
}

#[test]
fn nonsense_by_itself_is_refused_and_costs_nothing() {
    let mut bench = Bench::new(Limits::default());
    bench.put(0, id(1, 7), at(0, 8, false));
    let nonsense = [
        at(8, 7, false),
        at(8, 0, true),
        at(8, 0, false),
        at(65_528, 8, true),
        at(65_512, 8, false),
        at(0, 65_520, false),
    ];
    for place in nonsense {
        assert_eq!(bench.put(0, id(1, 7), place), None);
        assert_eq!(bench.reasons(), [Refusal::Bad], "{place:?}");
    }
    assert!(bench.put(0, id(1, 7), at(8, 8, true)).is_some(), "the honest rest still completes it");
}

#[test]
fn ends_that_contradict_each_other_end_the_datagram() {
    for (first, second) in [
        (at(16, 8, true), at(24, 8, false)), // beyond the end
        (at(16, 8, true), at(24, 8, true)),  // a second end
        (at(24, 8, false), at(8, 8, true)),  // an end before what is there
    ] {
        let mut bench = Bench::new(Limits::default());
        bench.put(0, id(1, 7), first);
        bench.put(0, id(1, 7), second);
        assert_eq!(bench.reasons(), [Refusal::Bad; 2]);
    }
}

#[test]
fn what_never_ends_is_given_up_in_time() {
    let mut bench = Bench::new(Limits::default());
    bench.put(0, id(1, 7), at(0, 8, false));
    // A fragment now and then does not keep it alive.
    for n in 1..10 {
        bench.put(u64::from(n) * 3 * SECOND, id(1, 7), at(n * 8, 8, false));
        bench.expire(u64::from(n) * 3 * SECOND);
    }
    assert!(bench.lost.is_empty());
    bench.expire(30 * SECOND);
    assert_eq!(bench.reasons(), [Refusal::Timeout; 10]);
    assert_eq!(bench.table.occupancy(), (0, 0));
}

#[test]
fn a_late_fragment_starts_anew_even_where_nobody_looked_after_the_time() {
    let mut bench = Bench::new(Limits::default());
    bench.put(0, id(1, 7), at(0, 8, false));
    assert_eq!(bench.put(31 * SECOND, id(1, 7), at(8, 8, true)), None);
    assert_eq!(bench.reasons(), [Refusal::Timeout]);
    assert!(bench.put(31 * SECOND, id(1, 7), at(0, 8, false)).is_some());
}

#[test]
fn one_source_has_its_share_and_no_more() {
    let mut bench = Bench::new(Limits { per_source: 4, ..Limits::default() });
    bench.put(0, id(1, 0), at(0, 8, false));
    for n in 0..1000 {
        bench.put(u64::from(n), id(2, n), at(0, 8, false));
    }
    assert_eq!(bench.table.occupancy(), (5, 5));
    assert_eq!(bench.reasons(), [Refusal::Full; 996]);
    assert!(bench.put(2000, id(1, 0), at(8, 1, true)).is_some(), "another source's datagram was not touched");
}

#[test]
fn one_source_has_half_of_the_pieces_at_most() {
    let mut bench = Bench::new(Limits { pieces: 16, ..Limits::default() });
    bench.put(0, id(1, 0), at(0, 8, false));
    for n in 0..8 {
        bench.put(1, id(2, 0), at(n * 8, 8, false));
    }
    bench.put(1, id(2, 0), at(8 * 8, 8, false));
    assert_eq!(bench.reasons(), [Refusal::Full; 9], "its only datagram is too much");
    assert!(bench.put(2, id(1, 0), at(8, 1, true)).is_some());
}

#[test]
fn a_full_table_gives_up_the_oldest_and_before_it_what_is_given_up_already() {
    let mut bench = Bench::new(Limits { datagrams: 3, per_source: 3, ..Limits::default() });
    bench.put(0, id(1, 0), at(0, 8, false));
    bench.put(1, id(2, 0), at(0, 8, false));
    bench.put(2, id(3, 0), at(0, 8, false));
    bench.put(3, id(3, 0), at(0, 16, false));
    assert_eq!(bench.reasons(), [Refusal::Bad; 2]);
    bench.put(4, id(4, 0), at(0, 8, false));
    assert_eq!(bench.lost, [], "the one given up made room");
    bench.put(5, id(5, 0), at(0, 8, false));
    assert_eq!(bench.lost, [(0, Refusal::Full)]);
}

#[test]
fn tiny_fragments_are_bounded_per_datagram() {
    let mut bench = Bench::new(Limits { per_datagram: 16, ..Limits::default() });
    for n in 0..17 {
        bench.put(0, id(1, 0), at(n * 8, 8, false));
    }
    assert_eq!(bench.reasons(), [Refusal::Bad; 17]);
}

/// RFC 3168 §5.3.
#[test]
fn congestion_marks_are_kept_or_the_datagram_is_not() {
    for (marks, want) in
        [([2, 3], Some(true)), ([3, 1], Some(true)), ([2, 1], Some(false)), ([0, 0], Some(false)), ([0, 3], None)]
    {
        let mut bench = Bench::new(Limits::default());
        bench.put(0, id(1, 0), Place { ecn: marks[0], ..at(0, 8, false) });
        let whole = bench.put(0, id(1, 0), Place { ecn: marks[1], ..at(8, 8, true) });
        assert_eq!(whole.map(|whole| whole.ce), want, "{marks:?}");
    }
}

/// The plainest reassembler there can be: one list of places per datagram, every pair compared.
#[derive(Default)]
struct Naive {
    datagrams: HashMap<u32, (Vec<Place>, bool)>,
}

impl Naive {
    fn put(&mut self, ident: u32, place: Place) -> Result<Option<u32>, Refusal> {
        let nonsense =
            place.len == 0 || (!place.last && !place.len.is_multiple_of(8)) || place.start + place.len + 20 > 65_535;
        if nonsense {
            return Err(Refusal::Bad);
        }
        let (places, bad) = self.datagrams.entry(ident).or_default();
        if *bad {
            return Err(Refusal::Bad);
        }
        if places.contains(&place) {
            return Err(Refusal::Duplicate);
        }
        places.push(place);
        let ends: Vec<u32> = places.iter().filter(|p| p.last).map(|p| p.start + p.len).collect();
        let reach = places.iter().map(|p| p.start + p.len).max().unwrap_or(0);
        let overlap = places
            .iter()
            .enumerate()
            .any(|(i, a)| places[..i].iter().any(|b| a.start < b.start + b.len && b.start < a.start + a.len));
        if overlap || ends.len() > 1 || ends.first().is_some_and(|end| reach > *end) {
            (*bad, *places) = (true, Vec::new());
            return Err(Refusal::Bad);
        }
        let have: u32 = places.iter().map(|p| p.len).sum();
        if ends.first() == Some(&have) {
            self.datagrams.remove(&ident);
            return Ok(Some(have));
        }
        Ok(None)
    }
}

fn any_place() -> impl Strategy<Value = Place> {
    let small = (0u32..10, 0u32..5, 0u32..8, any::<bool>());
    prop_oneof![
        8 => small.prop_map(|(start, len, odd, last)| at(start * 8, len * 8 + if last { odd } else { 0 }, last)),
        1 => (0u32..8192, 0u32..70_000, any::<bool>()).prop_map(|(start, len, last)| at(start * 8, len, last)),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_plain_one(steps in proptest::collection::vec((0u32..4, any_place()), 1..120)) {
        let mut bench = Bench::new(Limits::default());
        let mut naive = Naive::default();
        for (ident, place) in steps {
            let number = bench.next;
            let got = bench.put(0, id(1, ident), place);
            let lost = bench.lost.drain(..).find(|(item, _)| *item == number).map(|(_, why)| why);
            match naive.put(ident, place) {
                Ok(whole) => {
                    prop_assert_eq!((got.map(|got| got.payload), lost), (whole, None));
                    if let Some(whole) = whole {
                        let mut end = 0;
                        for (_, place) in bench.whole.drain(..) {
                            prop_assert_eq!(place.start, end);
                            end = place.end();
                        }
                        prop_assert_eq!(end, whole);
                    }
                }
                Err(why) => prop_assert_eq!((got, lost), (None, Some(why))),
            }
        }
    }

    /// Under any load the bounds hold, and every fragment comes out again, once.
    #[test]
    fn bounded_and_nothing_is_lost_unseen(
        steps in proptest::collection::vec((0u8..6, 0u32..6, any_place(), 0u64..4), 1..300),
        datagrams in 1usize..8, pieces in 2usize..20, per_datagram in 1usize..8, per_source in 1usize..5,
    ) {
        let limits = Limits { datagrams, pieces, per_datagram, per_source, patience: 30 * SECOND };
        let mut bench = Bench::new(limits);
        let mut now = 0;
        for (source, ident, place, wait) in steps {
            now += wait * SECOND;
            bench.put(now, id(source, ident), place);
            if wait == 3 {
                bench.expire(now);
            }
            let (incomplete, used) = bench.table.occupancy();
            prop_assert!(incomplete <= datagrams && used <= pieces);
            let out = bench.whole.len() + bench.lost.len();
            prop_assert_eq!(out + used, bench.next as usize);
        }
        let mut seen: Vec<u32> = bench.whole.iter().map(|(item, _)| *item).chain(bench.lost.iter().map(|(item, _)| *item)).collect();
        bench.table.drain(|item| seen.push(item));
        prop_assert_eq!(bench.table.occupancy(), (0, 0));
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..bench.next).collect::<Vec<_>>());
    }

    /// What [`pieces`] cuts is put together again as it was, over IPv4.
    #[test]
    fn cut_and_joined_over_ipv4(payload in 9usize..3000, mtu in 68usize..1500, options in 0usize..3) {
        let header = 20 + options * 4;
        let mut packet = vec![1u8; header + payload];
        write_v4(&mut packet, [10, 1, 0, 2], [10, 2, 0, 2], 17, 61, (header + payload) as u16);
        packet[0] = 0x40 | (header / 4) as u8;
        packet[4..7].copy_from_slice(&[0x12, 0x34, 0]);
        packet[10..12].fill(0);
        let sum = checksum_of(&packet[..header]);
        packet[10..12].copy_from_slice(&sum);
        (header..header + payload).for_each(|n| packet[n] = (n * 7) as u8);
        let Some(cuts) = pieces(header, payload, mtu.max(header + 8)) else { return Ok(()) };
        let cuts: Vec<Cut> = cuts.collect();
        if cuts.len() < 2 {
            return Ok(());
        }
        let mut fragments: Vec<Vec<u8>> = cuts.iter().map(|cut| {
            let mut fragment = packet[..header].to_vec();
            fragment.extend(&packet[header + cut.start..header + cut.start + cut.len]);
            write_header(&mut fragment, 0, false, *cut);
            fragment
        }).collect();
        fragments.reverse();
        let whole = join(&fragments)?;
        prop_assert!(ipv4_header_ok(&whole[..header]));
        prop_assert_eq!(whole, packet);
    }

    /// The same over IPv6, with extension headers in front.
    #[test]
    fn cut_and_joined_over_ipv6(payload in 9usize..3000, step in 1usize..150, hop_by_hop: bool) {
        let head = if hop_by_hop { 48 } else { 40 };
        let mut packet = vec![0u8; head + payload];
        write_v6(&mut packet, &[1; 16], &[2; 16], if hop_by_hop { 0 } else { 50 }, 61, (head - 40 + payload) as u16);
        if hop_by_hop {
            packet[40..48].copy_from_slice(&[50, 0, 1, 4, 0, 0, 0, 0]);
        }
        (head..head + payload).for_each(|n| packet[n] = (n * 7) as u8);
        let mut fragments = Vec::new();
        for start in (0..payload).step_by(step * 8) {
            let len = (step * 8).min(payload - start);
            let word = start as u16 | u16::from(start + len < payload);
            let mut fragment = packet[..head].to_vec();
            fragment[if hop_by_hop { 40 } else { 6 }] = 44;
            fragment[4..6].copy_from_slice(&((head - 40 + 8 + len) as u16).to_be_bytes());
            fragment.extend([50, 0]);
            fragment.extend(word.to_be_bytes());
            fragment.extend([1, 2, 3, 4]);
            fragment.extend(&packet[head + start..head + start + len]);
            fragments.push(fragment);
        }
        if fragments.len() < 2 || fragments.len() > 128 {
            return Ok(());
        }
        let middle = fragments.len() / 2;
        fragments.rotate_left(middle);
        prop_assert_eq!(join(&fragments)?, packet);
    }
}

fn checksum_of(bytes: &[u8]) -> [u8; 2] {
    crate::wire::checksum::of(bytes)
}

fn join(fragments: &[Vec<u8>]) -> Result<Vec<u8>, TestCaseError> {
    let mut table = Table::new(Limits::default());
    let mut held = Vec::new();
    let mut complete = None;
    for fragment in fragments {
        let headers = walk_ip(&fragment[..], 0).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        let (id, place) = place(fragment, &headers, 0).ok_or_else(|| TestCaseError::fail("not a fragment"))?;
        prop_assert!(complete.is_none());
        let mut lost = |_: &Vec<u8>, why| panic!("lost: {why:?}");
        complete = table.insert(0, &id, &place, fragment, &mut held, &mut lost);
    }
    let complete = complete.ok_or_else(|| TestCaseError::fail("not complete"))?;
    let (first, at) = &held[0];
    let mut whole = first[..usize::from(at.head)].to_vec();
    for (fragment, place) in &held {
        whole.extend(&fragment[usize::from(place.body)..usize::from(place.body) + place.len as usize]);
    }
    prop_assert_eq!(whole.len(), usize::from(at.head) + complete.payload as usize);
    let l3 = if whole[0] >> 4 == 6 { L3::V6 } else { L3::V4 };
    finish(&mut whole, l3, at, complete.ce);
    Ok(whole)
}
