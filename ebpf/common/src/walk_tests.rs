//! The walk on the host: the shapes it must read, the lies it must refuse, and random bytes.
#![allow(clippy::unwrap_used)]

extern crate std;

use super::*;
use proptest::prelude::*;
use std::{vec, vec::Vec};

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    f.extend(ethertype.to_be_bytes());
    f.extend(payload);
    f
}

fn v4_with(proto: u8, options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options;
    let mut ip = vec![0u8; header];
    ip[0] = 0x40 | (header / 4) as u8;
    ip[1] = 0xb8;
    ip[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip[8] = 63;
    ip[9] = proto;
    ip[12..16].copy_from_slice(&[10, 0, 0, 1]);
    ip[16..20].copy_from_slice(&[10, 0, 0, 2]);
    ip.extend(payload);
    ip
}

fn v6_with(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0u8; 40];
    ip[0] = 0x6b;
    ip[1] = 0x80;
    ip[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    ip[6] = next;
    ip[7] = 64;
    ip[8] = 0xfd;
    ip[23] = 1;
    ip[24] = 0xfd;
    ip[39] = 2;
    ip.extend(payload);
    ip
}

fn tcp(data: &[u8]) -> Vec<u8> {
    let mut t = vec![0x30, 0x39, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x12, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0];
    t.extend(data);
    t
}

fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut u = Vec::new();
    for field in [sport, dport, (8 + data.len()) as u16, 0] {
        u.extend(field.to_be_bytes());
    }
    u.extend(data);
    u
}

fn ok(frame: &[u8]) -> Headers {
    walk(frame).unwrap()
}

#[test]
fn tcp_behind_options_with_padding() {
    let mut frame = ethernet(ETHERTYPE_V4, &v4_with(proto::TCP, 8, 0x4000, &tcp(b"hi")));
    let end = frame.len();
    frame.extend([0; 9]);
    let h = ok(&frame);
    assert_eq!((h.l3, h.l3_off, h.l4_off, h.payload_off), (L3::V4, 14, 42, 66));
    assert_eq!(usize::from(h.end), end);
    assert_eq!((h.sport, h.dport, h.tcp_flags), (12345, 443, 0x12));
    assert_eq!((h.src[..5].to_vec(), h.dst[..5].to_vec()), (vec![10, 0, 0, 1, 0], vec![10, 0, 0, 2, 0]));
    assert_eq!((h.tos, h.ttl, h.fragment, h.ethertype), (0xb8, 63, Fragment::No, ETHERTYPE_V4));
    assert!(h.has_ports());
}

#[test]
fn vlan_and_qinq() {
    let inner = v4_with(proto::UDP, 0, 0, &udp(53, 1000, b"x"));
    let mut tagged = vec![0xe0, 0x64]; // priority bits are not part of the VID
    tagged.extend(ETHERTYPE_V4.to_be_bytes());
    tagged.extend(&inner);
    let h = ok(&ethernet(ETHERTYPE_VLAN, &tagged));
    assert_eq!((h.vlan, h.l3_off, h.sport, h.dport), ([100, 0], 18, 53, 1000));

    let mut outer = vec![0x00, 0x07];
    outer.extend(ETHERTYPE_VLAN.to_be_bytes());
    outer.extend(&tagged);
    let h = ok(&ethernet(ETHERTYPE_QINQ, &outer));
    assert_eq!((h.vlan, h.l3_off, h.ethertype), ([7, 100], 22, ETHERTYPE_V4));

    let mut third = vec![0x00, 0x09];
    third.extend(ETHERTYPE_VLAN.to_be_bytes());
    third.extend(&outer);
    assert_eq!(walk(&ethernet(ETHERTYPE_QINQ, &third)[..]), Err(WalkError::TooManyTags));
}

#[test]
fn what_is_not_ip_is_other() {
    let arp = ok(&ethernet(0x0806, &[0; 28]));
    assert_eq!((arp.l3, arp.ethertype, arp.l3_off), (L3::Other, 0x0806, 14));
    assert_eq!(ok(&ethernet(0x0026, &[0; 38])).l3, L3::Other, "802.3 length field");
    assert_eq!(walk(&[0u8; 13][..]), Err(WalkError::Truncated));
}

#[test]
fn v6_extension_headers_are_walked() {
    // hop-by-hop (8 bytes), destination options (16), routing (8), TCP
    let mut chain = vec![proto::DEST_OPTS, 0, 1, 4, 0, 0, 0, 0];
    chain.extend([proto::ROUTING, 1]);
    chain.extend([0; 14]);
    chain.extend([proto::TCP, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend(tcp(b"data"));
    let h = ok(&ethernet(ETHERTYPE_V6, &v6_with(proto::HOP_BY_HOP, &chain)));
    assert_eq!((h.l3, h.proto, h.l4_off, h.payload_off), (L3::V6, proto::TCP, 14 + 40 + 32, 14 + 40 + 32 + 24));
    assert_eq!((h.src[0], h.src[15], h.dst[15], h.tos, h.ttl), (0xfd, 1, 2, 0xb8, 64));
    assert_eq!((h.sport, h.dport), (12345, 443));
}

#[test]
fn too_many_extension_headers() {
    let build = |n: usize| {
        let mut chain = Vec::new();
        for i in 0..n {
            chain.extend([if i + 1 == n { proto::TCP } else { proto::DEST_OPTS }, 0, 0, 0, 0, 0, 0, 0]);
        }
        chain.extend(tcp(b""));
        ethernet(ETHERTYPE_V6, &v6_with(proto::DEST_OPTS, &chain))
    };
    assert_eq!(ok(&build(MAX_EXTENSION_HEADERS)).proto, proto::TCP);
    assert_eq!(walk(&build(MAX_EXTENSION_HEADERS + 1)[..]), Err(WalkError::TooManyExtensions));
}

#[test]
fn fragments() {
    let first = ok(&ethernet(
        ETHERTYPE_V4,
        &v4_with(proto::UDP, 0, 0x2000, &{
            let mut u = udp(5, 6, &[0; 8]);
            u[4..6].copy_from_slice(&3000u16.to_be_bytes()); // the whole datagram's length
            u
        }),
    ));
    assert_eq!((first.fragment, first.sport, first.dport), (Fragment::First, 5, 6));
    assert!(first.has_ports());

    let later = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0x2001, &[0xff; 16])));
    assert_eq!((later.fragment, later.sport, later.dport, later.payload_off), (Fragment::Later, 0, 0, later.l4_off));
    assert!(!later.has_ports());

    let v6 = |field: u16| {
        let mut p = vec![proto::UDP, 0];
        p.extend(field.to_be_bytes());
        p.extend([0, 0, 0, 9]);
        p.extend(udp(5, 6, b"abcdefgh"));
        ok(&ethernet(ETHERTYPE_V6, &v6_with(proto::FRAGMENT, &p)))
    };
    assert_eq!((v6(1).fragment, v6(1).sport), (Fragment::First, 5));
    assert_eq!((v6(8).fragment, v6(8).sport, v6(8).proto), (Fragment::Later, 0, proto::UDP));
    assert_eq!((v6(0).fragment, v6(0).sport), (Fragment::No, 5), "atomic fragment");
}

#[test]
fn a_later_fragment_of_an_extension_header_is_no_error() {
    let mut p = vec![proto::DEST_OPTS, 0, 0x00, 0x10, 0, 0, 0, 9];
    p.extend([0xff; 8]);
    let h = ok(&ethernet(ETHERTYPE_V6, &v6_with(proto::FRAGMENT, &p)));
    assert_eq!((h.fragment, h.proto), (Fragment::Later, proto::DEST_OPTS));
}

#[test]
fn esp_plain_and_in_udp() {
    let esp = [0, 0, 0x10, 1, 0, 0, 0, 1, 9, 9];
    let plain = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::ESP, 0, 0, &esp)));
    assert_eq!((plain.spi, plain.payload_off), (0x1001, plain.l4_off));
    assert!(!plain.is_esp_in_udp());

    for ports in [(4500, 4500), (33333, 4500), (4500, 33333)] {
        let h = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0, &udp(ports.0, ports.1, &esp))));
        assert_eq!(h.spi, 0x1001, "{ports:?}");
        assert!(h.is_esp_in_udp());
    }
    let ike = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0, &udp(4500, 4500, &[0, 0, 0, 0, 1, 2, 3, 4]))));
    assert!(!ike.is_esp_in_udp(), "non-ESP marker");
    let alive = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0, &udp(4500, 4500, &[0xff]))));
    assert!(!alive.is_esp_in_udp(), "keep-alive");
    let other = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0, &udp(4501, 4501, &esp))));
    assert_eq!(other.spi, 0);
}

#[test]
fn echo_identifiers_and_sctp() {
    let h = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::ICMP, 0, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1])));
    assert_eq!((h.sport, h.dport), (0x1234, 0x1234));
    assert!(!h.has_ports());
    let h = ok(&ethernet(ETHERTYPE_V6, &v6_with(proto::ICMPV6, &[129, 0, 0, 0, 0x12, 0x34, 0, 1])));
    assert_eq!(h.sport, 0x1234);
    let h = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::ICMP, 0, 0, &[3, 1, 0, 0, 0, 0, 0, 0])));
    assert_eq!(h.sport, 0, "unreachable has no identifier");
    let h = ok(&ethernet(ETHERTYPE_V4, &v4_with(proto::SCTP, 0, 0, &[0, 7, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0])));
    assert_eq!((h.sport, h.dport, h.payload_off), (7, 8, h.l4_off));
}

#[test]
fn lies_are_refused() {
    let good = ethernet(ETHERTYPE_V4, &v4_with(proto::TCP, 0, 0, &tcp(b"payload")));
    let with = |at: usize, value: u8| {
        let mut f = good.clone();
        f[at] = value;
        walk(&f[..])
    };
    assert_eq!(with(14, 0x44), Err(WalkError::BadIpHeader), "header length 16");
    assert_eq!(with(14, 0x65), Err(WalkError::BadIpHeader), "version 6 under 0x0800");
    assert_eq!(with(17, 19), Err(WalkError::BadIpHeader), "total length below the header's");
    assert_eq!(with(17, 200), Err(WalkError::Truncated), "total length beyond the frame");
    assert_eq!(with(17, 30), Err(WalkError::Truncated), "total length inside the TCP header");
    assert_eq!(with(46, 0x40), Err(WalkError::BadTransport), "data offset 16");
    assert_eq!(with(46, 0xf0), Err(WalkError::BadTransport), "data offset beyond the packet");

    let good = ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0, &udp(1, 2, b"payload")));
    for length in [7u8, 16] {
        let mut f = good.clone();
        f[39] = length;
        assert_eq!(walk(&f[..]), Err(WalkError::BadTransport), "UDP length {length}");
    }
}

#[test]
fn an_inner_packet_walks_like_an_outer_one() {
    for (ethertype, ip) in
        [(ETHERTYPE_V4, v4_with(proto::TCP, 4, 0, &tcp(b"x"))), (ETHERTYPE_V6, v6_with(proto::TCP, &tcp(b"x")))]
    {
        let frame = ethernet(ethertype, &ip);
        assert_eq!(walk_ip(&frame[..], 14).unwrap(), ok(&frame));
        let mut raw = ok(&frame);
        raw.l3_off -= 14;
        raw.l4_off -= 14;
        raw.payload_off -= 14;
        raw.end -= 14;
        assert_eq!(walk_ip(&ip[..], 0).unwrap(), raw);
    }
    assert_eq!(walk_ip(&[0x55; 40][..], 0), Err(WalkError::BadIpHeader));
    assert_eq!(walk_ip(&[0x45; 40][..], 1 << 40), Err(WalkError::Truncated));
}

/// Frames that start well and then are whatever they are: they get deep into the walk.
fn likely_frame() -> impl Strategy<Value = Vec<u8>> {
    let l4 = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..24).prop_map(|d| tcp(&d)),
        (any::<u16>(), prop_oneof![Just(4500u16), any::<u16>()], proptest::collection::vec(any::<u8>(), 0..24))
            .prop_map(|(s, d, data)| udp(s, d, &data)),
        proptest::collection::vec(any::<u8>(), 0..64),
    ];
    let next = prop_oneof![Just(0u8), Just(43), Just(44), Just(60), Just(6), Just(17), Just(50), Just(58), any::<u8>()];
    let packet = (next, 0usize..11, any::<u16>(), l4, any::<bool>()).prop_map(|(proto, opts, fragment, l4, six)| {
        if six {
            ethernet(ETHERTYPE_V6, &v6_with(proto, &l4))
        } else {
            let fragment = if fragment & 3 == 0 { fragment } else { 0 };
            ethernet(ETHERTYPE_V4, &v4_with(proto, opts * 4, fragment, &l4))
        }
    });
    (packet, proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(|(mut f, edits)| {
        for (at, value) in edits {
            let at = at.index(f.len());
            f[at] = value;
        }
        f
    })
}

fn offsets_hold(frame: &[u8], h: &Headers) {
    let [l3, l4, payload, end] = [h.l3_off, h.l4_off, h.payload_off, h.end].map(usize::from);
    if h.l3 == L3::Other {
        assert!(l3 <= frame.len());
        return;
    }
    assert!(l3 < l4 && l4 <= payload && payload <= end && end <= frame.len(), "{h:?}");
    if h.fragment == Fragment::Later {
        assert_eq!((h.sport, h.dport, h.spi, h.tcp_flags), (0, 0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..200), off in 0usize..220) {
        if let Ok(h) = walk(&frame[..]) { offsets_hold(&frame, &h); }
        if let Ok(h) = walk_ip(&frame[..], off) { offsets_hold(&frame, &h); }
    }

    #[test]
    fn offsets_stay_inside_the_packet(frame in likely_frame()) {
        if let Ok(h) = walk(&frame[..]) { offsets_hold(&frame, &h); }
    }

    /// A packet that walks says the same with its padding cut off, and nothing once it is cut into.
    #[test]
    fn truncation_is_seen(frame in likely_frame()) {
        if let Ok(h) = walk(&frame[..]) && h.l3 != L3::Other {
            for cut in 0..usize::from(h.end) {
                prop_assert_eq!(walk(&frame[..cut]), Err(WalkError::Truncated));
            }
            prop_assert_eq!(walk(&frame[..usize::from(h.end)]), Ok(h));
        }
    }
}

/// Not a test of right or wrong: `cargo test --release -p softdpu-ebpf-common walk_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn walk_cost() {
    use std::{hint::black_box, println, time::Instant};
    let mut chain = vec![proto::TCP, 0, 1, 4, 0, 0, 0, 0];
    chain.extend(tcp(b"data"));
    let frames = [
        ("IPv4 TCP", ethernet(ETHERTYPE_V4, &v4_with(proto::TCP, 0, 0x4000, &tcp(b"data")))),
        ("IPv4 UDP", ethernet(ETHERTYPE_V4, &v4_with(proto::UDP, 0, 0, &udp(1, 2, b"data")))),
        ("IPv6 TCP", ethernet(ETHERTYPE_V6, &v6_with(proto::TCP, &tcp(b"data")))),
        ("IPv6 TCP behind options", ethernet(ETHERTYPE_V6, &v6_with(proto::HOP_BY_HOP, &chain))),
    ];
    for (name, frame) in &frames {
        let best = (0..9)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..1_000_000 {
                    black_box(walk(black_box(&frame[..])).is_ok_and(|h| black_box(h).sport != 0));
                }
                start.elapsed().as_nanos()
            })
            .min()
            .unwrap();
        println!("{name}: {:.1} ns", best as f64 / 1e6);
    }
}
