//! First rule that matches, by one class per dimension and an AND over their bitmaps.

use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use softdpu_ebpf_common::{
    maps::{Bitmap, Class, Dimensions, ESP_IN_UDP, Prefix, Rule, Tables, first_match},
    walk::{Fragment, Headers, L3},
};

use crate::{
    frame::at,
    maps::{FROM, TO},
};

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
            sport = *at(&tables.sports, h.sport as usize);
            dport = *at(&tables.dports, h.dport as usize);
        } else if h.fragment as u8 == Fragment::Later as u8 {
            sport = tables.sport_fragment;
            dport = tables.dport_fragment;
        } else {
            sport = tables.sport_none;
            dport = tables.dport_none;
        }
    }
    let protocol = if h.is_esp_in_udp() { ESP_IN_UDP } else { h.proto as usize };
    let protocol = *at(&tables.protocols, protocol);
    let port = *at(&tables.slots, slot as usize);

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
    Some((rule, *at(&tables.rules, rule as usize)))
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
    at(&tables.bitmaps, class as usize)
}
