#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn v4(proto: u8, src: u8, dst: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut p = vec![0x45, 0];
    p.extend(total.to_be_bytes());
    p.extend([0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, src, 10, 0, 0, dst]);
    p.extend(payload);
    p
}

fn v6(proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([proto, 64]);
    p.extend([0x20; 16]);
    p.extend([0x30; 16]);
    p.extend(payload);
    p
}

fn udp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = sport.to_be_bytes().to_vec();
    p.extend(dport.to_be_bytes());
    p.extend(((8 + payload.len()) as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![2; 12];
    p.extend(ethertype.to_be_bytes());
    p.extend(payload);
    p
}

/// DNS-like datagram between 10.0.0.7 and 10.0.0.8.
fn dns() -> Vec<u8> {
    v4(17, 7, 8, &udp(4000, 53, b"question"))
}

fn look(packet: &[u8]) -> Option<Inner> {
    inner(packet, &walk::walk_ip(packet, 0).unwrap())
}

#[track_caller]
fn is_dns(packet: &[u8], kind: Kind) -> u32 {
    let found = look(packet).unwrap();
    let h = found.headers;
    assert_eq!((found.kind, h.src[3], h.dst[3], h.sport, h.dport), (kind, 7, 8, 4000, 53));
    assert_eq!(&packet[usize::from(h.payload_off)..usize::from(h.end)], b"question");
    found.id
}

#[test]
fn every_kind_is_opened() {
    let mut vxlan = vec![8, 0, 0, 0, 0x12, 0x34, 0x56, 0];
    vxlan.extend(frame(0x0800, &dns()));
    assert_eq!(is_dns(&v4(17, 1, 2, &udp(9, 4789, &vxlan)), Kind::Vxlan), 0x12_3456);
    // One word of options; Ethernet, and IP itself.
    let mut geneve = vec![1, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4];
    geneve.extend(frame(0x0800, &dns()));
    assert_eq!(is_dns(&v4(17, 1, 2, &udp(9, 6081, &geneve)), Kind::Geneve), 9);
    let mut geneve = vec![0, 0, 8, 0, 0, 0, 9, 0];
    geneve.extend(dns());
    assert_eq!(is_dns(&v6(17, &udp(9, 6081, &geneve)), Kind::Geneve), 9);
    for (head, kind) in
        [(&[0, 0, 8, 0][..], Kind::Gre), (&[0xb0, 0, 8, 0, 1, 1, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1], Kind::Gre)]
    {
        let gre = [head, &dns()].concat();
        let id = is_dns(&v4(47, 1, 2, &gre), kind);
        assert!(head.len() == 4 || id == 5);
    }
    let nvgre = [&[0x20, 0, 0x65, 0x58, 0, 0x12, 0x34, 0xff][..], &frame(0x0800, &dns())].concat();
    assert_eq!(is_dns(&v4(47, 1, 2, &nvgre), Kind::Nvgre), 0x1234);
    let plain = [&[0x30, 255, 0, 0, 0, 0, 0, 1][..], &dns()].concat();
    let there = is_dns(&v4(17, 1, 2, &udp(2152, 2152, &plain)), Kind::GtpU);
    let sequence = [&[0x32, 255, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0][..], &dns()].concat();
    let back = is_dns(&v4(17, 2, 1, &udp(2152, 2152, &sequence)), Kind::GtpU);
    assert_eq!(there, back, "both directions are of one network");
    // A PDU session container of 4 bytes, then one of 8 (TS 38.415).
    let extended =
        [&[0x34, 255, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0x40, 2, 0, 0, 0, 0, 0, 0, 0][..], &dns()].concat();
    assert_eq!(is_dns(&v4(17, 1, 2, &udp(2152, 2152, &extended)), Kind::GtpU), there);
    is_dns(&v4(4, 1, 2, &dns()), Kind::Ip);
    is_dns(&v6(4, &dns()), Kind::Ip);
    assert_eq!(look(&v4(41, 1, 2, &v6(17, &udp(1, 2, b"")))).unwrap().headers.l3, L3::V6);
}

#[test]
fn what_is_no_data_or_malformed_has_nothing_within() {
    let ethernet = frame(0x0800, &dns());
    let arp = frame(0x0806, &[0; 28]);
    let no: [(u16, Vec<u8>); 9] = [
        (4789, [&[0, 0, 0, 0, 0, 0, 1, 0][..], &ethernet].concat()),
        (4789, [&[8, 0, 0, 0, 0, 0, 1, 0][..], &arp].concat()),
        (4789, vec![8, 0, 0, 0]),
        (6081, [&[0, 0x80, 0x65, 0x58, 0, 0, 1, 0][..], &ethernet].concat()),
        (6081, [&[0x40, 0, 0x65, 0x58, 0, 0, 1, 0][..], &ethernet].concat()),
        (6081, [&[0x3f, 0, 0x65, 0x58, 0, 0, 1, 0][..], &ethernet].concat()),
        (2152, [&[0x30, 1, 0, 0, 0, 0, 0, 1][..], &dns()].concat()),
        (2152, [&[0x50, 255, 0, 0, 0, 0, 0, 1][..], &dns()].concat()),
        // An extension of length 0.
        (2152, [&[0x34, 255, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x85, 0, 0, 0, 0x85][..], &dns()].concat()),
    ];
    for (port, payload) in no {
        assert_eq!(look(&v4(17, 1, 2, &udp(9, port, &payload))), None, "{port} {payload:02x?}");
    }
    let dns = dns();
    // PPTP, source routes, an ethertype that lies, an IP version that lies, the middle of something.
    assert_eq!(look(&v4(47, 1, 2, &[&[0x20, 1, 0x88, 0x0b, 0, 0, 0, 0][..], &dns].concat())), None);
    assert_eq!(look(&v4(47, 1, 2, &[&[0x40, 0, 8, 0][..], &dns].concat())), None);
    assert_eq!(look(&v4(47, 1, 2, &[&[0, 0, 0x86, 0xdd][..], &dns].concat())), None);
    assert_eq!(look(&v4(41, 1, 2, &dns)), None);
    let outer = v4(4, 1, 2, &dns);
    let h = walk::walk_ip(&outer[..], 0).unwrap();
    assert_eq!(inner(&outer, &Headers { fragment: Fragment::Later, ..h }), None);
}

/// The inner packet may not reach beyond the outer, whatever lies behind that.
#[test]
fn the_inner_packet_ends_within_the_outer() {
    let mut outer = v4(4, 1, 2, &dns());
    let h = walk::walk_ip(&outer[..], 0).unwrap();
    assert!(inner(&outer, &h).is_some());
    assert_eq!(inner(&outer, &Headers { end: h.end - 1, ..h }), None);
    outer.extend([0; 100]);
    assert_eq!(inner(&outer, &Headers { end: h.end - 1, ..h }), None);
}

#[test]
fn kinds_keep_their_numbers() {
    for kind in [Kind::Vxlan, Kind::Geneve, Kind::Gre, Kind::Nvgre, Kind::GtpU, Kind::Ip] {
        assert_eq!(Kind::of(kind as u8), Some(kind));
    }
    assert_eq!(Kind::of(0), None);
}

proptest! {
    /// Whatever the bytes: no panic, and what is found lies within.
    #[test]
    fn never_leaves_the_packet(kind in 0usize..7, noise in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
        let packet = match kind {
            0 => v4(17, 1, 2, &udp(9, 4789, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &frame(0x0800, &noise)].concat())),
            1 => v4(17, 1, 2, &udp(9, 6081, &noise)),
            2 => v4(17, 1, 2, &udp(9, 2152, &[&[0x34, 255][..], &noise].concat())),
            3 => v4(47, 1, 2, &noise),
            4 => v4(4, 1, 2, &noise),
            5 => v6(41, &noise),
            _ => v4(17, 1, 2, &udp(9, 4789, &noise)),
        };
        let outer = walk::walk_ip(&packet[..], 0).unwrap();
        let part = &packet[..cut.min(packet.len())];
        for bytes in [&packet[..], part] {
            if let Some(found) = inner(bytes, &outer) {
                let h = found.headers;
                prop_assert!(h.l3_off < h.end && h.end <= outer.end && h.payload_off <= h.end);
                prop_assert!(h.l3_off > outer.l3_off && found.id < 1 << 24);
                if let Some(second) = inner(bytes, &h) {
                    prop_assert!(second.headers.end <= h.end);
                }
            }
        }
    }
}
