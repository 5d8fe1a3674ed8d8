#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::icmp::{Complaint, V4_OVERHEAD, V6_OVERHEAD, write};
use crate::wire::ip::{write_v4, write_v6};
use proptest::prelude::*;
use softdpu_ebpf_common::walk::walk_ip;

const LOCAL: [u8; 4] = [192, 0, 2, 1];
const REMOTE: [u8; 4] = [192, 0, 2, 2];

/// The start of a packet of ours: 1500 bytes of ESP or UDP.
fn ours(l3: L3, proto: u8) -> Vec<u8> {
    let mut packet = vec![0; if l3 == L3::V6 { 64 } else { 44 }];
    let head = packet.len() - 24;
    match l3 {
        L3::V6 => write_v6(&mut packet, &[1; 16], &[2; 16], proto, 60, 1460),
        _ => write_v4(&mut packet, LOCAL, REMOTE, proto, 60, 1500),
    }
    match proto {
        50 => packet[head..head + 8].copy_from_slice(&[0, 0, 0x10, 1, 0, 0, 0, 7]),
        _ => {
            packet[head..head + 8].copy_from_slice(&[0x11, 0x94, 0x7a, 0x12, 5, 0xc8, 0, 0]);
            packet[head + 8..].copy_from_slice(&[4, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
    packet
}

/// The error of a router on the way, as a packet.
fn error(l3: L3, quote: &[u8], mtu: u16) -> Vec<u8> {
    let overhead = if l3 == L3::V6 { V6_OVERHEAD } else { V4_OVERHEAD };
    let mut packet = vec![0; overhead];
    packet.extend(quote);
    let (mut from, mut to) = ([9; 16], [1; 16]);
    if l3 == L3::V4 {
        from[..4].copy_from_slice(&[203, 0, 113, 1]);
        to[..4].copy_from_slice(&LOCAL);
    }
    write(&mut packet, l3, Complaint::TooBig(mtu), &from, &to);
    packet
}

fn read(packet: &[u8]) -> Option<Report> {
    outer_pmtu(packet, &walk_ip(packet, 0).ok()?)
}

#[test]
fn what_a_router_says_about_our_packet() {
    for (l3, mtu) in [(L3::V4, 1300), (L3::V6, 1300), (L3::V6, 1280)] {
        let report = read(&error(l3, &ours(l3, 50), mtu)).unwrap();
        assert_eq!((report.mtu, report.about), (mtu, About::Esp { spi: 0x1001, seq: 7 }));
        let report = read(&error(l3, &ours(l3, 17), mtu)).unwrap();
        let About::Udp { local_port, remote_port, payload } = report.about else { panic!("{report:?}") };
        assert_eq!((local_port, remote_port, payload.wireguard()), (4500, 31250, Some((1, 9))));
        assert_eq!(payload.esp(), Some((0x0400_0000, 0x0100_0000)));
    }
    let report = read(&error(L3::V4, &ours(L3::V4, 50), 1300)).unwrap();
    assert_eq!((report.local, report.remote), (IpAddr::from(LOCAL), IpAddr::from(REMOTE)));
}

#[test]
fn with_only_64_bits_of_it_quoted() {
    let report = read(&error(L3::V4, &ours(L3::V4, 50)[..28], 1300)).unwrap();
    assert_eq!(report.about, About::Esp { spi: 0x1001, seq: 7 });
    let report = read(&error(L3::V4, &ours(L3::V4, 17)[..28], 1300)).unwrap();
    let About::Udp { payload, .. } = report.about else { panic!("{report:?}") };
    assert_eq!((payload.esp(), payload.wireguard()), (None, None), "the ports are all there is");
    assert_eq!(read(&error(L3::V4, &ours(L3::V4, 50)[..27], 1300)), None);
}

#[test]
fn a_fragment_of_ours_is_known_by_its_first_only() {
    let mut first = ours(L3::V4, 50);
    first[6] = 0x20;
    assert!(read(&error(L3::V4, &first, 1300)).is_some());
    first[7] = 1;
    assert_eq!(read(&error(L3::V4, &first, 1300)), None);
    let mut v6 = ours(L3::V6, 44);
    v6.splice(40..40, [50, 0, 0, 1, 1, 2, 3, 4, 0, 0, 0x10, 1, 0, 0, 0, 7]);
    assert_eq!(read(&error(L3::V6, &v6, 1300)).unwrap().about, About::Esp { spi: 0x1001, seq: 7 });
    v6[43] = 9;
    assert_eq!(read(&error(L3::V6, &v6, 1300)), None);
}

#[test]
fn what_is_not_to_be_believed() {
    let good = error(L3::V4, &ours(L3::V4, 50), 1300);
    assert!(read(&good).is_some());
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    assert_eq!(read(&damaged), None, "its checksum is wrong");
    let mut foreign = ours(L3::V4, 50);
    foreign[15] = 77;
    assert_eq!(read(&error(L3::V4, &foreign, 1300)), None, "quotes a packet of somebody else");
    assert_eq!(read(&error(L3::V4, &ours(L3::V4, 50), 1500)), None, "would have passed");
    assert_eq!(read(&error(L3::V4, &ours(L3::V4, 6), 1300)), None, "no tunnel speaks TCP");
    assert_eq!(read(&error(L3::V6, &ours(L3::V6, 50), 1279)), None, "RFC 8201 §4");
    let v6 = error(L3::V6, &ours(L3::V6, 50), 1300);
    let mut damaged = v6.clone();
    damaged[60] ^= 1;
    assert_eq!(read(&damaged), None);
}

#[test]
fn never_below_the_least_and_a_guess_where_none_is_told() {
    assert_eq!(read(&error(L3::V4, &ours(L3::V4, 50), 68)).unwrap().mtu, V4_LEAST);
    assert_eq!(read(&error(L3::V4, &ours(L3::V4, 50), 0)).unwrap().mtu, 1492, "the next plateau below 1500");
    let mut small = ours(L3::V4, 50);
    small[2..4].copy_from_slice(&576u16.to_be_bytes());
    assert_eq!(read(&error(L3::V4, &small, 68)), None, "nothing below to go to");
    assert_eq!(read(&error(L3::V4, &small, 0)), None);
}

#[test]
fn a_number_of_late_is_plausible_others_are_not() {
    assert!(recently_sent(6, 7, 1000) && recently_sent(1, 7, 1000));
    assert!(!recently_sent(7, 7, 1000) && !recently_sent(8, 7, 1000), "not sent yet");
    assert!(!recently_sent(0xffff_fff0, 7, 1000), "counting began at 1");
    assert!(recently_sent(0xffff_fff0, 0x1_0000_0007, 1000), "the high half went up in between");
    assert!(!recently_sent(5000, 10_000, 1000), "long ago");
}

#[test]
fn lowered_at_once_raised_only_by_time() {
    let minute = 60_000_000_000;
    let path = PathMtu::default();
    assert_eq!((path.get(minute), path.limit(1500, minute)), (None, 1500));
    assert!(path.lower(minute, 1400));
    assert!(path.lower(2 * minute, 1300));
    assert!(!path.lower(2 * minute, 1400) && path.get(2 * minute) == Some(1300), "never raised");
    assert!(!path.lower(3 * minute, 1300), "no change, but it lasts anew");
    assert_eq!((path.limit(1500, 12 * minute), path.limit(1280, 12 * minute)), (1300, 1280));
    assert_eq!(path.get(13 * minute), None);
    assert!(path.lower(14 * minute, 1450), "a higher one after the lower was forgotten");
    path.forget();
    assert_eq!(path.get(14 * minute), None);
}

proptest! {
    /// Any error: no panic, and never an MTU below the least or not below the quoted packet's own length.
    #[test]
    fn any_message(v6: bool, bytes in proptest::collection::vec(any::<u8>(), 0..120), keep in 0usize..100, mtu: u16) {
        let l3 = if v6 { L3::V6 } else { L3::V4 };
        let to = if v6 { IpAddr::from([1u8; 16]) } else { IpAddr::from(LOCAL) };
        let mut quote = ours(l3, if keep % 2 == 0 { 50 } else { 17 });
        quote.truncate(keep);
        quote.extend(&bytes);
        let packet = error(l3, &quote, mtu);
        for report in [read(&packet), of_message(to, &bytes)].into_iter().flatten() {
            let least = if v6 { 1280 } else { V4_LEAST };
            prop_assert!(report.mtu >= least);
            prop_assert_eq!(report.local, to);
        }
    }
}
