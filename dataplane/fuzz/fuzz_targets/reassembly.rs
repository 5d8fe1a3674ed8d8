//! Reassembly: any sequence of fragments, well made or not. What comes out is whole and in order, what is held is bounded, and
//! no fragment is lost unseen.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use softdpu::wire::reassembly::{Limits, MAX_DATAGRAM, Table, finish, place};
use softdpu_ebpf_common::walk::{Fragment, Headers, walk_ip};

const SECOND: u64 = 1_000_000_000;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// Whatever comes from the wire, from its IP header on.
    Raw(&'a [u8]),
    /// A fragment that reads as one. `offset` in units of 8 bytes.
    Made {
        v6: bool,
        options: bool,
        source: u8,
        ident: u8,
        tos: u8,
        offset: u16,
        more: bool,
        len: u16,
    },
    Wait(u8),
}

fn made(v6: bool, options: bool, from: (u8, u8, u8), (offset, more): (u16, bool), len: u16) -> Vec<u8> {
    let (source, ident, tos) = from;
    // Mostly small, so that they meet.
    let len = if len.is_multiple_of(16) { len } else { len % 64 };
    let mut packet = vec![0; if v6 { 40 } else { 20 }];
    if v6 {
        packet[0] = 0x60 | tos >> 4;
        packet[1] = tos << 4;
        packet[6] = if options { 60 } else { 44 };
        packet[23] = source % 4;
        if options {
            packet.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        }
        packet.extend([50, 0]);
        packet.extend(((offset & 0x1fff) << 3 | u16::from(more)).to_be_bytes());
        packet.extend([0, 0, 0, ident % 4]);
        let payload = (packet.len() - 40) as u16 + len.min(60_000);
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet.resize(40 + usize::from(payload), tos);
    } else {
        if options {
            packet.extend([1; 4]);
        }
        let total = packet.len() as u16 + len.min(60_000);
        packet[0] = 0x40 | (packet.len() / 4) as u8;
        packet[1] = tos;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[5] = ident % 4;
        packet[6..8].copy_from_slice(&(offset & 0x1fff | u16::from(more) << 13).to_be_bytes());
        packet[9] = 50;
        packet[15] = source % 4;
        packet.resize(usize::from(total), tos);
    }
    packet
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (size, steps) = input;
    let size = usize::from(size) + 2;
    let limits = Limits { datagrams: size.min(8), pieces: size, per_source: 3, ..Limits::default() };
    let mut table = Table::new(limits);
    let (mut whole, mut now) = (Vec::new(), 0);
    let (mut taken, mut out) = (0usize, 0usize);
    for step in steps {
        let packet = match step {
            Step::Raw(bytes) => bytes.to_vec(),
            Step::Made { v6, options, source, ident, tos, offset, more, len } => {
                made(v6, options, (source, ident, tos), (offset, more), len)
            }
            Step::Wait(seconds) => {
                now += u64::from(seconds % 40) * SECOND;
                table.expire(now, &mut |_, _| out += 1);
                continue;
            }
        };
        let Ok(headers) = walk_ip(&packet[..], 0) else { continue };
        let Some((id, at)) = place(&packet, &headers, 0) else {
            assert_eq!(headers.fragment, Fragment::No, "every fragment has a place");
            continue;
        };
        assert!(usize::from(at.body) + at.len as usize == usize::from(headers.end));
        taken += 1;
        let item = (packet, headers);
        if let Some(complete) = table.insert(now, &id, &at, item, &mut whole, &mut |_, _| out += 1) {
            let (first, at): (&(Vec<u8>, Headers), _) = (&whole[0].0, whole[0].1);
            let mut datagram = first.0[..usize::from(at.head)].to_vec();
            for ((packet, _), place) in &whole {
                assert_eq!(datagram.len(), usize::from(at.head) + place.start as usize, "no hole, no overlap");
                datagram.extend(&packet[usize::from(place.body)..][..place.len as usize]);
            }
            assert_eq!(datagram.len(), usize::from(at.head) + complete.payload as usize);
            assert!(datagram.len() <= MAX_DATAGRAM as usize);
            finish(&mut datagram, id.l3, &at, complete.ce);
            if let Ok(headers) = walk_ip(&datagram[..], 0) {
                assert!(usize::from(headers.end) == datagram.len());
                assert!(id.l3 as u8 == 6 || headers.fragment == Fragment::No);
            }
            out += whole.drain(..).count();
        }
        let (datagrams, pieces) = table.occupancy();
        assert!(datagrams <= limits.datagrams && pieces <= limits.pieces.max(2));
        assert_eq!(taken, out + pieces);
    }
    table.drain(|_| out += 1);
    assert_eq!(taken, out);
});
