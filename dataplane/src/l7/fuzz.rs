//! One entry per recogniser for fuzz targets and properties. Each takes any bytes and must neither panic nor claim a
//! host name that is no host name.

use softdpu_ebpf_common::walk::walk;

use super::hosts::MAX_HOST;
use super::reassembly::{CAP, Pool};
use super::web::{dns, http, tls};
use super::{Ask, FAMILIES, Inspector, L7Config, Look, Notes, Recogniser};
use crate::flow::{Direction, FlowConfig, FlowIdx, FlowTable, Seed, Tick};

/// The first byte chooses direction, ports and whether more can come; the rest is the stream or datagram.
fn with(data: &[u8], f: Ask) {
    let Some((how, data)) = data.split_first() else { return };
    if data.is_empty() {
        return;
    }
    let dir = if how & 1 == 0 { Direction::FromInitiator } else { Direction::FromResponder };
    let port = [53, 137, 5353, 443][usize::from(how >> 1 & 3)];
    ask(f, &Look { last: how & 8 != 0, ..Look::whole(data, dir, (40_000, port)) });
}

fn ask(f: Ask, look: &Look) {
    let mut notes = Notes::default();
    f(look, &mut notes);
    if let Some(name) = notes.host.get() {
        assert!(!name.is_empty() && name.len() <= MAX_HOST);
        assert!(name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
    }
}

pub fn tls(data: &[u8]) {
    with(data, tls::look);
}

pub fn http(data: &[u8]) {
    with(data, http::look);
}

pub fn dns(data: &[u8]) {
    with(data, dns::look_udp);
    with(data, dns::look_tcp);
}

/// Each recogniser of one family: the first three bytes choose it, direction, port and whether more can come; then comes
/// how an earlier datagram began, behind its length.
pub fn family(recognisers: &[Recogniser], data: &[u8]) {
    let Some(([which, how, port_high, port_low, before], rest)) = data.split_first_chunk::<5>() else { return };
    let (before, data) = rest.split_at(usize::from(*before).min(super::BEFORE).min(rest.len()));
    if data.is_empty() || recognisers.is_empty() {
        return;
    }
    let dir = if how & 1 == 0 { Direction::FromInitiator } else { Direction::FromResponder };
    let port = u16::from_be_bytes([*port_high, *port_low]);
    let ports = if how & 2 == 0 { (40_000, port) } else { (port, 40_000) };
    let look = Look { last: how & 4 != 0, before, ..Look::whole(data, dir, ports) };
    let recogniser = &recognisers[usize::from(*which) % recognisers.len()];
    for (_, f) in [recogniser.tcp, recogniser.udp].into_iter().flatten() {
        ask(f, &look);
    }
}

/// [`family`] over all of them.
pub fn others(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    family(FAMILIES[usize::from(*which) % FAMILIES.len()], rest);
}

/// The reassembly of streams. A step is six bytes (what, which flow, offset, length), and what it inserts comes from where
/// it is in the input. Against a model: what stands at a place is what came there first, and the prefix ends at the first gap.
pub fn stream(data: &[u8]) {
    const FLOWS: usize = 4;
    let mut pool = Pool::new(2);
    let mut now = Tick(0);
    // Per flow: its buffer, and what should be in it.
    let mut models: [Option<(u16, Vec<Option<u8>>)>; FLOWS] = Default::default();
    for (n, step) in data.chunks_exact(6).take(256).enumerate() {
        let which = usize::from(step[1]) % FLOWS;
        let owner = FlowIdx(which as u32);
        // A buffer that was taken over is another's.
        for (at, model) in models.iter_mut().enumerate() {
            model.take_if(|(slot, _)| pool.held(*slot, FlowIdx(at as u32)).is_none());
        }
        match step[0] % 8 {
            0 => now = now.plus(u32::from(step[2])),
            1 => {
                if let Some((slot, _)) = models[which].take() {
                    pool.give_back(slot, owner);
                }
            }
            2 if models[which].is_none() => {
                let slot = pool.take(owner, Direction::FromInitiator, 7, now);
                models[which] = slot.map(|slot| (slot, vec![None; CAP]));
            }
            _ => {
                let Some((slot, model)) = &mut models[which] else { continue };
                let offset = usize::from(u16::from_be_bytes([step[2], step[3]])) % (CAP + 64);
                let len = usize::from(u16::from_be_bytes([step[4], step[5]])) % 2048;
                let bytes: Vec<u8> = (0..len).map(|i| (n + i) as u8).collect();
                if let Ok(prefix) = pool.insert(*slot, offset, &bytes, now) {
                    for (place, byte) in model.iter_mut().skip(offset).zip(&bytes) {
                        place.get_or_insert(*byte);
                    }
                    assert!(prefix.iter().map(|b| Some(*b)).eq(model.iter().take_while(|b| b.is_some()).copied()));
                }
            }
        }
        assert!(pool.in_use() <= 2);
    }
}

/// Frames one after the other, each behind a length of two bytes, through walk, flow table, reassembly and recognisers.
pub fn frames(data: &[u8]) {
    let config = FlowConfig { capacity: 16, ..FlowConfig::default() };
    let mut table = FlowTable::new(&config, Seed::fixed(1), Tick(0));
    let mut inspector = Inspector::new(&L7Config { buffers: 2, hosts: 4, starts: 16, facts: 16, addresses: 16 });
    let (mut rest, mut now) = (data, Tick(0));
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*head) & 0x7ff).min(tail.len());
        now = now.plus(u32::from(head[0] >> 3));
        let (frame, after) = tail.split_at(len);
        rest = after;
        table.expire(now, 8, |idx, flow| inspector.release(idx, flow));
        let Ok(h) = walk(frame) else { continue };
        let Ok(key) = table.prepare(&h, frame, now) else { continue };
        let hit = table.lookup_or_insert(&key, now, |idx, flow| inspector.release(idx, flow));
        let Ok(hit) = hit else { continue };
        table.touch(hit, &key, len as u32, now);
        inspector.inspect(hit.idx, table.get_mut(hit.idx), hit.dir, &h, frame, now);
    }
    let held = table.iter().filter(|(_, f)| f.l7_slot != crate::flow::entry::NO_SLOT).count();
    assert!(inspector.pool().in_use() <= held, "a buffer that belongs to no flow");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_survives_any_bytes(data: Vec<u8>) {
            super::tls(&data);
            super::http(&data);
            super::dns(&data);
            super::others(&data);
            super::frames(&data);
        }

        #[test]
        fn streams_are_put_together_from_any_steps(steps in proptest::collection::vec(
            (0u8..8, 0u8..4, 0u16..600, 0u16..80), 0..120)) {
            let data: Vec<u8> = steps.into_iter().flat_map(|(what, which, offset, len)| {
                let ([a, b], [c, d]) = (offset.to_be_bytes(), len.to_be_bytes());
                [what, which, a, b, c, d]
            }).collect();
            super::stream(&data);
        }

        /// IPv4 frames whose headers add up, so that the noise gets through to the recognisers.
        #[test]
        fn frames_of_noise(packets in proptest::collection::vec(
            (any::<bool>(), 0u8..3, 0u8..64, 0u32..200, proptest::collection::vec(any::<u8>(), 0..60)), 1..60)) {
            let mut data = Vec::new();
            for (udp, ends, flags, seq, payload) in packets {
                let l4 = if udp { 8 } else { 20 };
                let total = 20 + l4 + payload.len();
                data.extend(((14 + total) as u16).to_be_bytes());
                data.extend([0; 12]);
                data.extend([8, 0, 0x45, 0]);
                data.extend((total as u16).to_be_bytes());
                data.extend([0, 0, 0, 0, 64, if udp { 17 } else { 6 }, 0, 0, 10, 0, 0, ends, 10, 0, 0, 2 - ends]);
                data.extend([0, 53 + ends, 0, 55 - ends]);
                if udp {
                    data.extend(((8 + payload.len()) as u16).to_be_bytes());
                    data.extend([0, 0]);
                } else {
                    data.extend(seq.to_be_bytes());
                    data.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
                }
                data.extend(payload);
            }
            super::frames(&data);
        }
    }
}
