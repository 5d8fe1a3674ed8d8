#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::checksum::ipv4_header_ok;
use crate::wire::ip::{write_v4, write_v6};
use crate::wire::reassembly::{Limits, Table, finish, place};
use proptest::prelude::*;
use softdpu_ebpf_common::walk::walk_ip;

/// An outer packet: ESP with `number`, or WireGuard in UDP.
fn outer(l3: L3, wireguard: bool, number: u32, payload: usize) -> Vec<u8> {
    let head = if l3 == L3::V6 { 40 } else { 20 };
    let proto = if wireguard { 17 } else { 50 };
    let mut packet: Vec<u8> = (0..head + payload).map(|n| (n * 7) as u8).collect();
    match l3 {
        L3::V6 => write_v6(&mut packet, &[1; 16], &[2; 16], proto, 64, payload as u16),
        _ => write_v4(&mut packet, [192, 0, 2, 1], [192, 0, 2, 2], proto, 64, (head + payload) as u16),
    }
    if wireguard {
        packet[head..head + 8].copy_from_slice(&[0xca, 0x6c, 0xca, 0x6c, (payload >> 8) as u8, payload as u8, 0, 0]);
        packet[head + 8..head + 16].copy_from_slice(&[4, 0, 0, 0, 9, 9, 9, 9]);
        packet[head + 16..head + 20].copy_from_slice(&number.to_le_bytes());
    } else {
        packet[head..head + 4].copy_from_slice(&[0, 0, 0x10, 1]);
        packet[head + 4..head + 8].copy_from_slice(&number.to_be_bytes());
    }
    packet
}

fn fragments(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let cut = Cut::new(packet, packet.len()).unwrap();
    let pieces = cut.pieces(mtu)?;
    Some(
        pieces
            .map(|piece| {
                let mut fragment = vec![0; cut.front() + piece.len];
                fragment[..cut.head].copy_from_slice(&packet[..cut.head]);
                let from = cut.head + piece.start;
                fragment[cut.front()..].copy_from_slice(&packet[from..from + piece.len]);
                cut.write(&mut fragment, piece);
                fragment
            })
            .collect(),
    )
}

proptest! {
    /// Each fragment fits and reads as one, and all of them are the packet again (but for DF, which goes).
    #[test]
    fn fragments_fit_and_join_to_the_packet(v6: bool, wireguard: bool, number: u32, payload in 100usize..4000, mtu in 600usize..1500) {
        let l3 = if v6 { L3::V6 } else { L3::V4 };
        let mut packet = outer(l3, wireguard, number, payload);
        let fragments = fragments(&packet, mtu).unwrap();
        if fragments.len() < 2 {
            return Ok(());
        }
        let mut table = Table::new(Limits::default());
        let (mut held, mut complete) = (Vec::new(), None);
        for fragment in &fragments {
            prop_assert!(fragment.len() <= mtu);
            prop_assert!(v6 || ipv4_header_ok(&fragment[..20]));
            let headers = walk_ip(&fragment[..], 0).unwrap();
            prop_assert_eq!(usize::from(headers.end), fragment.len());
            let (id, place) = place(fragment, &headers, 0).unwrap();
            prop_assert!(complete.is_none());
            complete = table.insert(0, &id, &place, fragment, &mut held, &mut |_, why| panic!("{why:?}"));
        }
        prop_assert_eq!(complete.map(|c| c.payload as usize), Some(payload));
        let head = packet.len() - payload;
        let mut whole = held[0].0[..head].to_vec();
        for (fragment, place) in &held {
            whole.extend(&fragment[usize::from(place.body)..]);
        }
        finish(&mut whole, l3, &held[0].1, false);
        if !v6 {
            prop_assert!(ipv4_header_ok(&whole[..20]));
            // The identification was 0 with DF.
            for packet in [&mut whole, &mut packet] {
                packet[4..8].fill(0);
                packet[10..12].fill(0);
            }
        }
        prop_assert_eq!(whole, packet);
    }
}

#[test]
fn packets_in_a_row_have_different_identifications() {
    for (l3, wireguard) in [(L3::V4, false), (L3::V4, true), (L3::V6, false), (L3::V6, true)] {
        let of = |number| {
            let ident = Cut::new(&outer(l3, wireguard, number, 200), 220).unwrap().ident;
            if l3 == L3::V4 { ident & 0xffff } else { ident }
        };
        let mut seen: Vec<u32> = (0xffff_fff0..=u32::MAX).chain(0..1000).map(of).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1016);
    }
}

#[test]
fn what_is_no_packet_of_ours_is_not_cut() {
    assert_eq!(Cut::new(&[], 0), None);
    assert_eq!(Cut::new(&[0x45; 10], 1000), None);
    assert_eq!(Cut::new(&[0x60; 39], 1000), None);
    assert_eq!(Cut::new(&outer(L3::V4, false, 1, 100), 20), None);
    assert!(fragments(&outer(L3::V6, false, 1, 100), 55).is_none(), "no room for 8 bytes");
}

#[test]
fn a_tunnel_too_small_for_ipv6_is_told_what_it_needs() {
    assert_eq!(below_v6_minimum("to-b", 1500, 1438), None);
    let text = below_v6_minimum("to-b", 1280, 1222).unwrap();
    assert!(text.contains("to-b") && text.contains("1222") && text.contains("1338 or more"), "{text}");
}
