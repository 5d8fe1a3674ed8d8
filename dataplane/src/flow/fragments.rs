//! Later fragments have no ports; this small memory lends them those of their first.
//!
//! Direct-mapped and of fixed size: a newer datagram takes an older one's place, and the older one's late fragments then
//! have no flow. That is a refusal by name, never a guess, for a guess could take a fragment past a rule. Later fragments that
//! come before their first are refused too, and counted to its flow when it comes.

use softdpu_ebpf_common::walk::{Fragment, Headers, L3};

use super::key::{FlowKey, Net, Seed};
use super::timers::Tick;

/// Datagrams in flight that are remembered.
const PLACES: usize = 1024;
/// RFC 791 §3.2 and RFC 8200 §4.5 let a receiver wait for 15 and 60 s; 5 s is plenty within a network.
const LIFETIME: u32 = 5 * Tick::PER_SECOND;

/// IPv6 fragment header (RFC 8200 §4.5).
const NEXT_FRAGMENT: u8 = 44;

/// Fragments of a datagram that came before its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    pub packets: u8,
    /// From their IP headers on.
    pub bytes: u32,
}

#[derive(Clone, Copy)]
enum Of {
    Nobody,
    /// Source and destination port.
    Ports(u16, u16),
    Unknown(Early),
}

#[derive(Clone, Copy)]
struct Place {
    /// Key with the ports set to 0; tells both ends, protocol and tags.
    key: FlowKey,
    swapped: bool,
    id: u32,
    seen: Tick,
    of: Of,
}

pub(super) struct Fragments {
    places: Box<[Place]>,
}

impl Fragments {
    pub(super) fn new() -> Self {
        let none = Place { key: FlowKey::default(), swapped: false, id: 0, seen: Tick(0), of: Of::Nobody };
        Self { places: vec![none; PLACES].into_boxed_slice() }
    }

    pub(super) fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.places)
    }

    /// Ports of the datagram that this fragment is part of. A first fragment leaves them here, and gets what came before it;
    /// for a later one `None` where its first has not been seen (or was overtaken).
    pub(super) fn ports(
        &mut self,
        h: &Headers,
        frame: &[u8],
        net: Net,
        seed: &Seed,
        now: Tick,
    ) -> Option<((u16, u16), Early)> {
        let id = identification(h, frame)?;
        let (key, swapped) = FlowKey::of(h, (0, 0), net);
        let hash = key.hash(seed) ^ u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut self.places[(hash >> 32) as usize % PLACES];
        let fresh = now.since(place.seen) < LIFETIME;
        let same = fresh && place.id == id && place.key == key && place.swapped == swapped;
        if h.fragment == Fragment::First {
            let early = match place.of {
                Of::Unknown(early) if same => early,
                _ => Early::default(),
            };
            let ports = (h.sport, h.dport);
            *place = Place { key, swapped, id, seen: now, of: Of::Ports(ports.0, ports.1) };
            return Some((ports, early));
        }
        match (&mut place.of, same) {
            (Of::Ports(src, dst), true) => return Some(((*src, *dst), Early::default())),
            (Of::Unknown(early), true) => early.add(h),
            // What is known of one datagram is not given up for what is not known of another.
            (Of::Ports(..), false) if fresh => {}
            _ => {
                let mut early = Early::default();
                early.add(h);
                *place = Place { key, swapped, id, seen: now, of: Of::Unknown(early) };
            }
        }
        None
    }
}

impl Early {
    /// What does not fit is not counted: no datagram has as many fragments.
    fn add(&mut self, h: &Headers) {
        if self.packets < u8::MAX {
            self.packets += 1;
            self.bytes += u32::from(h.end.saturating_sub(h.l3_off));
        }
    }
}

/// The datagram's identification: 16 bits of the IPv4 header (RFC 791 §3.1), 32 of IPv6's fragment header.
fn identification(h: &Headers, frame: &[u8]) -> Option<u32> {
    let l3 = usize::from(h.l3_off);
    match h.l3 {
        L3::V4 => Some(u32::from(u16::from_be_bytes(frame.get(l3 + 4..l3 + 6)?.try_into().ok()?))),
        L3::V6 => {
            let mut next = *frame.get(l3 + 6)?;
            let mut at = l3 + 40;
            while at < usize::from(h.l4_off) {
                if next == NEXT_FRAGMENT {
                    return Some(u32::from_be_bytes(frame.get(at + 4..at + 8)?.try_into().ok()?));
                }
                next = *frame.get(at)?;
                at += 8 + 8 * usize::from(*frame.get(at + 1)?);
            }
            None
        }
        L3::Other => None,
    }
}
