//! First rule that matches, by one class per dimension and an AND over their bitmaps.

use aya_ebpf::{
    maps::lpm_trie::{Key, LpmTrie},
};
use softdpu_ebpf_common::{
    maps::{Bitmap, Class, Dimensions, ESP_IN_UDP, MAX_CLASSES, MAX_PORTS, MAX_RULES, PROTOCOLS, Prefix, Rule, Tables, first_match},
    walk::{Headers, L3},
};

use crate::{frame::opaque, maps::{FROM, TO}};

/// Index and value of the first rule that matches.
#[inline(always)]
pub fn find(tables: &Tables, generation: u32, slot: u32, h: &Headers) -> Option<(u32, Rule)> {
    let used = tables.dimensions;
    let tag = Prefix::tag(generation, h.l3 as u8 == L3::V6 as u8);
    let all = tables.all;

    let from = if used & Dimensions::FROM != 0 { address(&FROM, tag, &h.src, tables.from_none) } else { all };
    let to = if used & Dimensions::TO != 0 { address(&TO, tag, &h.dst, tables.to_none) } else { all };
    let (mut sport, mut dport) = (all, all);
    if used & (Dimensions::SPORT | Dimensions::DPORT) != 0 {
        if h.has_ports() {
            sport = tables.sports[opaque(h.sport as usize) & 0xffff];
            dport = tables.dports[opaque(h.dport as usize) & 0xffff];
        } else {
            sport = tables.sport_none;
            dport = tables.dport_none;
        }
    }
    let protocol = if h.is_esp_in_udp() { ESP_IN_UDP } else { h.proto as usize };
    let protocol = tables.protocols[opaque(protocol) & (PROTOCOLS - 1)];
    let port = tables.slots[opaque(slot as usize) & (MAX_PORTS - 1)];

    let rule = first_match(
        tables.words,
        [
            bitmap(tables, from),
            bitmap(tables, to),
            bitmap(tables, sport),
            bitmap(tables, dport),
            bitmap(tables, protocol),
            bitmap(tables, port),
        ],
    )?;
    Some((rule, tables.rules[opaque(rule as usize) & (MAX_RULES - 1)]))
}

#[inline(always)]
fn address(trie: &LpmTrie<Prefix, u32>, tag: u32, address: &[u8; 16], none: Class) -> Class {
    let key = Key::new(Prefix::TAG_BITS + 128, Prefix { tag, address: *address });
    match trie.get(&key) {
        Some(class) => *class as Class,
        None => none,
    }
}

#[inline(always)]
fn bitmap(tables: &Tables, class: Class) -> &Bitmap {
    &tables.bitmaps[opaque(class as usize) & (MAX_CLASSES - 1)]
}
