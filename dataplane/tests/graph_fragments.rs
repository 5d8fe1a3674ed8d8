//! Fragments, path MTU and MSS, through the whole graph.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::config::Policy;
use softdpu::config::policy::{IpsecMode, TunnelKind};
use softdpu::graph::DropReason;
use softdpu::tunnel::pmtu::{Lowered, apply};
use softdpu::wire::checksum::{add, fold, ipv4_header_ok, of};
use softdpu::wire::fragment::{pieces, write_header};
use softdpu::wire::icmp::{Complaint, V4_OVERHEAD, write};
use softdpu::wire::pmtu::outer_pmtu;
use softdpu::worker::build::wire_fib;
use softdpu::worker::harness::Harness;
use softdpu_ebpf_common::walk::{L3, walk_ip};
use support::{APPS, Keys, UPLINK, udp4, udp6};

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];
const SECOND: u64 = 1_000_000_000;

fn packet(payload: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|n| (n * 7) as u8).collect();
    udp4(CLIENT, SERVER, (40000, 9000), 64, &payload)
}

/// Takes DF off an IPv4 frame.
fn cuttable(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] = 0;
    frame[24..26].fill(0);
    let sum = of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// Cuts an IPv4 frame as a router on the way would. `id`: its identification.
fn cut(frame: &[u8], id: u16, mtu: usize) -> Vec<Vec<u8>> {
    let pieces = pieces(20, frame.len() - 34, mtu).unwrap();
    let fragment = |piece: softdpu::wire::fragment::Piece| {
        let mut fragment = frame[..34].to_vec();
        fragment.extend(&frame[34 + piece.start..34 + piece.start + piece.len]);
        fragment[18..20].copy_from_slice(&id.to_be_bytes());
        write_header(&mut fragment[14..], 0, false, piece);
        fragment
    };
    pieces.map(fragment).collect()
}

fn edges(change: impl Fn(&mut Policy)) -> (Keys, Harness, Harness) {
    let keys = Keys::new();
    let [a, b] = ['a', 'b'].map(|edge| {
        let mut policy = keys.policy(edge, "", "");
        policy.workers.frames = 2048;
        change(&mut policy);
        let mut fib = wire_fib(&policy);
        let own = if edge == 'a' { ["10.1.0.1", "2001:db8:1::1"] } else { ["10.2.0.1", "2001:db8:2::1"] };
        own.iter().for_each(|own| fib.set_link_address(0, own.parse().unwrap()));
        Harness::with_fib(policy, fib).unwrap()
    });
    (keys, a, b)
}

fn over_ipv6(policy: &mut Policy) {
    let me: u16 = if policy.name == "edge-a" { 1 } else { 2 };
    let end = |n: u16| format!("2001:db8:ff::{n}").parse().unwrap();
    if let TunnelKind::Esp(esp) = &mut policy.tunnels[0].kind {
        (esp.local, esp.remote) = (end(me), end(3 - me));
    }
}

/// All that comes out when these go in.
fn pass_all(edge: &mut Harness, port: usize, frames: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    frames.iter().flat_map(|frame| edge.pass(port, frame)).collect()
}

#[test]
fn a_sealed_packet_that_came_in_pieces_is_opened() {
    let (_keys, mut a, mut b) = edges(|_| {});
    for (n, len) in [100, 600, 1300].into_iter().enumerate() {
        let sent = packet(len);
        let sealed = a.pass(APPS, &sent).remove(0).1;
        for reverse in [false, true] {
            let mut fragments = cut(&sealed, n as u16 * 2 + u16::from(reverse), 100);
            assert!(fragments.len() > 1);
            if reverse {
                fragments.reverse();
            }
            let out = pass_all(&mut b, UPLINK, &fragments);
            if reverse {
                assert_eq!(out, []);
                continue;
            }
            let [(APPS, opened)] = out.as_slice() else { panic!("{out:?}") };
            assert_eq!(opened[34..], sent[34..]);
        }
    }
    assert_eq!(b.dropped(DropReason::Replay), 3, "the second time, whole again whatever the order");
    assert_eq!(b.worker.counters.reassembled.get(), 6);
    assert_eq!(b.dropped(DropReason::OuterFragment), 0);
    b.assert_no_leak();
}

#[test]
fn a_datagram_larger_than_a_frame_comes_out_in_several() {
    let keys = Keys::new();
    let [mut a, mut b] = ['a', 'b'].map(|edge| {
        let mut policy = keys.policy(edge, "", "");
        policy.workers.frames = 2048;
        let mut fib = wire_fib(&policy);
        (0..2).for_each(|link| fib.set_link_mtu(link, 65_535));
        Harness::with_fib(policy, fib).unwrap()
    });
    for (id, len) in [(1, 3700), (2, 9000), (3, 40_000)] {
        let sent = packet(len);
        let sealed = a.pass(APPS, &sent).remove(0).1;
        let mut fragments = cut(&sealed, id, 1500);
        fragments.reverse();
        let out = pass_all(&mut b, UPLINK, &fragments);
        let [(APPS, opened)] = out.as_slice() else { panic!("{len}: {} out", out.len()) };
        assert_eq!(opened[34..], sent[34..]);
        assert!(ipv4_header_ok(&opened[14..34]));
    }
    a.assert_no_leak();
    b.assert_no_leak();
}

#[test]
fn what_is_wrong_with_fragments_has_names() {
    let (_keys, mut a, mut b) = edges(|_| {});
    let sealed = a.pass(APPS, &packet(600)).remove(0).1;
    let fragments = cut(&sealed, 1, 200);
    assert_eq!(pass_all(&mut b, UPLINK, &[fragments[0].clone(), fragments[0].clone()]), []);
    assert_eq!(b.dropped(DropReason::DuplicateFragment), 1);
    // The same place, but longer: two that overlap.
    let overlapping = cut(&sealed, 1, 300).remove(0);
    assert_eq!(b.pass(UPLINK, &overlapping), []);
    assert_eq!(b.dropped(DropReason::BadFragment), 2);
    assert_eq!(pass_all(&mut b, UPLINK, &fragments), [], "nothing more of this datagram is believed");
    assert_eq!(b.dropped(DropReason::BadFragment), 2 + fragments.len() as u64);

    assert_eq!(pass_all(&mut b, UPLINK, &cut(&sealed, 2, 200)[1..]), []);
    let waiting = fragments.len() as u64 - 1;
    b.worker.publish();
    assert_eq!((b.worker.counters.fragments_held.get(), b.worker.counters.datagrams_held.get()), (waiting, 2));
    b.wait(29 * SECOND);
    assert_eq!(b.dropped(DropReason::ReassemblyTimeout), 0);
    b.wait(2 * SECOND);
    assert_eq!(b.dropped(DropReason::ReassemblyTimeout), waiting);
    b.worker.publish();
    assert_eq!(b.worker.counters.datagrams_held.get(), 0);
    assert_eq!(pass_all(&mut b, UPLINK, &cut(&sealed, 2, 200)).len(), 1, "another attempt is fine");
    b.assert_no_leak();
}

#[test]
fn a_flood_of_fragments_is_bounded_and_the_tunnel_goes_on() {
    let (_keys, mut a, mut b) = edges(|_| {});
    let sealed = a.pass(APPS, &packet(600)).remove(0).1;
    let template = cut(&sealed, 1, 200).remove(1);
    for n in 0..20_000u32 {
        let mut frame = template.clone();
        frame[18..20].copy_from_slice(&((n >> 3) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&(0x2000 | ((n * 37) & 0x1fff) as u16).to_be_bytes());
        // From many sources, and from the peer itself.
        frame[28..30].copy_from_slice(&[2 + (n % 7) as u8, (n % 3) as u8]);
        frame[24..26].fill(0);
        let sum = of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
        assert!(b.send(UPLINK, &frame));
        if n % 64 == 0 {
            b.settle();
        }
    }
    b.settle();
    b.worker.publish();
    let (datagrams, fragments) = (b.worker.counters.datagrams_held.get(), b.worker.counters.fragments_held.get());
    assert!(datagrams <= 64 && fragments <= 256, "{datagrams} {fragments}");
    assert!(b.dropped(DropReason::ReassemblyFull) > 10_000);
    let out = pass_all(&mut b, UPLINK, &cut(&sealed, 9, 200));
    assert_eq!(out.len(), 1, "an honest datagram whose fragments come together still gets through");
    b.assert_no_leak();
}

#[test]
fn fragments_for_others_are_none_of_our_business() {
    let (_keys, mut a, _) = edges(|_| {});
    let through = cuttable(udp4([198, 51, 100, 1], [203, 0, 113, 1], (4500, 4500), 64, &[1; 600]));
    for fragment in cut(&through, 7, 200) {
        assert_eq!(a.pass(UPLINK, &fragment).len(), 1);
    }
    assert_eq!(a.worker.counters.reassembled.get(), 0);
    a.assert_no_leak();
}

#[test]
fn fragments_after_sealing_where_the_tunnel_says_so() {
    let outer: [fn(&mut Policy); 2] = [|_| {}, over_ipv6];
    for (n, change) in outer.into_iter().enumerate() {
        let (_keys, mut a, mut b) = edges(|policy| {
            change(policy);
            policy.tunnels[0].fragment_outer = true;
        });
        // DF is set: without the option its sender would be told to send less.
        let sent = packet(1472);
        let out = a.pass(APPS, &sent);
        assert_eq!(out.len(), 2);
        for (port, fragment) in &out {
            assert!(*port == UPLINK && fragment.len() <= 1514, "{}", fragment.len());
            assert_eq!(fragment[if n == 0 { 23 } else { 20 }], if n == 0 { 50 } else { 44 });
        }
        assert_eq!(a.worker.counters.outer_fragmented.get(), 1);
        let frames: Vec<Vec<u8>> = out.into_iter().map(|(_, frame)| frame).collect();
        let out = pass_all(&mut b, UPLINK, &frames);
        let [(APPS, opened)] = out.as_slice() else { panic!("{out:?}") };
        assert_eq!(opened[34..], sent[34..]);
        assert_eq!(a.pass(APPS, &packet(1000)).len(), 1, "what fits is not cut");
        let answer = a.pass(APPS, &packet(1473)).remove(0).1;
        assert_eq!((answer[23], &answer[40..42]), (1, &[5, 0xdc][..]), "1500 is what passes");
        let cut = a.pass(APPS, &cuttable(packet(2000)));
        assert_eq!(cut.len(), 2, "what is cut before is not cut again");
        assert_eq!(a.worker.counters.outer_fragmented.get(), 1);
        a.assert_no_leak();
        b.assert_no_leak();
    }
}

#[test]
fn a_tunnel_carries_ipv6s_least_mtu_whatever_its_own() {
    let keys = Keys::new();
    let (src, dst) = (
        [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    );
    let [mut a, mut b] = ['a', 'b'].map(|edge| {
        let mut policy = keys.policy(edge, "", "");
        let (me, other) = if edge == 'a' { (1, 2) } else { (2, 1) };
        policy.rules[0].matches.from = [format!("2001:db8:{me}::/48").parse().unwrap()].into();
        policy.rules[0].matches.to = [format!("2001:db8:{other}::/48").parse().unwrap()].into();
        policy.tunnels[0].mtu = Some(1280);
        let mut fib = wire_fib(&policy);
        fib.set_link_address(0, format!("2001:db8:{me}::1").parse().unwrap());
        Harness::with_fib(policy, fib).unwrap()
    });
    let sent = udp6(src, dst, 64, &[3; 1280 - 48]);
    let out: Vec<Vec<u8>> = a.pass(APPS, &sent).into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|frame| frame.len() <= 1294));
    let opened = pass_all(&mut b, UPLINK, &out);
    assert_eq!(opened[0].1[54..], sent[54..]);
    let answer = a.pass(APPS, &udp6(src, dst, 64, &[3; 1281 - 48])).remove(0).1;
    assert_eq!((answer[54], &answer[58..62]), (2, &[0, 0, 5, 0][..]), "never told less than 1280");
    a.assert_no_leak();
    b.assert_no_leak();
}

#[test]
fn a_lowered_path_mtu_is_told_to_senders_and_forgotten() {
    let (_keys, mut a, mut b) = edges(|_| {});
    assert_eq!(a.pass(APPS, &packet(1300)).remove(0).1[23], 50);
    let keys = a.shared.keys.load_full();
    assert!(keys.way(0, 0).unwrap().state.path_mtu.lower(a.now, 1300));
    let answer = a.pass(APPS, &packet(1300)).remove(0).1;
    assert_eq!((answer[23], answer[34], answer[35]), (1, 3, 4));
    let mtu = usize::from(u16::from_be_bytes([answer[40], answer[41]]));
    let fits = a.pass(APPS, &packet(mtu - 28)).remove(0).1;
    assert!(fits.len() <= 1314 && fits.len() > 1305, "{}", fits.len());
    let sent = cuttable(packet(1300));
    let out: Vec<Vec<u8>> = a.pass(APPS, &sent).into_iter().map(|(_, frame)| frame).collect();
    assert!(out.len() == 2 && out.iter().all(|frame| frame[23] == 50 && frame.len() <= 1314));
    assert_eq!(pass_all(&mut b, UPLINK, &out).len(), 2, "two whole packets to the tunnel");
    a.now += 601 * SECOND;
    assert_eq!(a.pass(APPS, &packet(1300)).remove(0).1[23], 50);
    a.assert_no_leak();
}

/// A TCP SYN that offers an MSS of 1460, with right checksums.
fn syn(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut frame = udp4(src, dst, (40000, 443), 64, &[0; 16]);
    frame[23] = 6;
    frame[24..26].fill(0);
    let sum = of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    let tcp = &mut frame[34..];
    tcp[4..].fill(0);
    (tcp[12], tcp[13]) = (0x60, 2);
    tcp[20..24].copy_from_slice(&[2, 4, 5, 0xb4]);
    let sum = of(&pseudo(&frame));
    frame[50..52].copy_from_slice(&sum);
    frame
}

fn pseudo(frame: &[u8]) -> Vec<u8> {
    let len = (frame.len() - 34) as u16;
    [&frame[26..34], &[0, 6], &len.to_be_bytes(), &frame[34..]].concat()
}

#[test]
fn a_syn_through_a_tunnel_offers_what_the_tunnel_carries() {
    for clamp in [true, false] {
        let keys = Keys::new();
        // Only one side clamps, so that each direction is seen by itself.
        let [mut a, mut b] = ['a', 'b'].map(|edge| {
            let mut policy = keys.policy(edge, "", "");
            policy.tunnels[0].mss_clamp = clamp && edge == 'a';
            Harness::new(policy).unwrap()
        });
        let sealed = a.pass(APPS, &syn(CLIENT, SERVER)).remove(0).1;
        let there = b.pass(UPLINK, &sealed).remove(0).1;
        let sealed = b.pass(APPS, &syn(SERVER, CLIENT)).remove(0).1;
        let back = a.pass(UPLINK, &sealed).remove(0).1;
        for frame in [there, back] {
            let mss = u16::from_be_bytes([frame[56], frame[57]]);
            // ESP over IPv4: 20 + 8 + 8 + 2 + 16, padded to 4.
            assert_eq!(mss, if clamp { 1406 } else { 1460 });
            assert_eq!(fold(add(0, &pseudo(&frame))), 0xffff);
        }
        assert_eq!(a.worker.counters.mss_clamped.get(), if clamp { 2 } else { 0 });
        let clear = b.pass(APPS, &syn(SERVER, [203, 0, 113, 9])).remove(0).1;
        assert_eq!(clear[56..58], [5, 0xb4], "no tunnel, no limit");
        a.assert_no_leak();
        b.assert_no_leak();
    }
}

/// What a router at 203.0.113.1 says about a frame of ours, as an IPv4 packet.
fn too_big(frame: &[u8], mtu: u16) -> Vec<u8> {
    let mut packet = vec![0; V4_OVERHEAD];
    packet.extend(&frame[14..14 + 100]);
    let wide = |a: [u8; 4]| std::array::from_fn(|n| if n < 4 { a[n] } else { 0 });
    let to = [frame[26], frame[27], frame[28], frame[29]];
    write(&mut packet, L3::V4, Complaint::TooBig(mtu), &wide([203, 0, 113, 1]), &wide(to));
    packet
}

#[test]
fn an_error_about_a_sealed_packet_lowers_its_ways_mtu_and_a_forged_one_does_not() {
    for udp in [false, true] {
        let (_keys, mut a, _) = edges(|policy| {
            if let (true, TunnelKind::Esp(esp)) = (udp, &mut policy.tunnels[0].kind) {
                esp.encapsulation = softdpu::config::policy::Encapsulation::Udp;
            }
        });
        let sealed = a.pass(APPS, &packet(1300)).remove(0).1;
        let keys = a.shared.keys.load_full();
        let report = |frame: &[u8], mtu| {
            let packet = too_big(frame, mtu);
            outer_pmtu(&packet, &walk_ip(&packet[..], 0).unwrap())
        };
        let esp = if udp { 42 } else { 34 };
        for forged in [esp, esp + 4, 33] {
            let mut other = sealed.clone();
            other[forged] ^= 0x40;
            other[24..26].fill(0);
            let sum = of(&other[14..34]);
            other[24..26].copy_from_slice(&sum);
            let report = report(&other, 1200).unwrap();
            assert_eq!(apply(&keys, &report, a.now), None, "another SPI, number or peer");
        }
        let good = report(&sealed, 1200).unwrap();
        assert_eq!(apply(&keys, &good, a.now), Some(Lowered { tunnel: 0, way: 0, mtu: 1200 }));
        assert_eq!(apply(&keys, &good, a.now), None, "no news");
        let answer = a.pass(APPS, &packet(1300)).remove(0).1;
        assert_eq!((answer[23], answer[34], answer[35]), (1, 3, 4), "senders hear of it");
        a.assert_no_leak();
    }
}

#[test]
fn who_sends_by_the_tunnel_hears_of_a_narrow_link_behind_it() {
    let keys = Keys::new();
    let mut a = Harness::new(keys.policy('a', "", "")).unwrap();
    let policy = keys.policy('b', "", "");
    let mut fib = wire_fib(&policy);
    fib.set_link_address(0, "10.2.0.1".parse().unwrap());
    fib.set_link_mtu(0, 1000);
    let mut b = Harness::with_fib(policy, fib).unwrap();
    let sealed = a.pass(APPS, &packet(1200)).remove(0).1;
    let answer = b.pass(UPLINK, &sealed).remove(0).1;
    assert_eq!(answer[23], 50, "an answer about a protected packet is protected");
    let answer = a.pass(UPLINK, &answer).remove(0);
    assert_eq!((answer.0, answer.1[23], answer.1[34], answer.1[35]), (APPS, 1, 3, 4));
    assert_eq!(answer.1[40..42], 1000u16.to_be_bytes());
    assert_eq!(answer.1[42 + 12..42 + 20], packet(0)[26..34], "quotes what was sent");
}

#[test]
fn transport_mode_seals_a_fragmented_datagram_whole() {
    let keys = Keys::new();
    let [mut a, mut b] = ['a', 'b'].map(|edge| {
        let (me, other) = if edge == 'a' { (1, 2) } else { (2, 1) };
        let mut policy = keys.policy(edge, "", "");
        policy.workers.frames = 2048;
        policy.rules[0].matches.from = [format!("192.0.2.{me}/32").parse().unwrap()].into();
        policy.rules[0].matches.to = [format!("192.0.2.{other}/32").parse().unwrap()].into();
        if let TunnelKind::Esp(esp) = &mut policy.tunnels[0].kind {
            esp.mode = IpsecMode::Transport;
        }
        Harness::new(policy).unwrap()
    });
    let payload: Vec<u8> = (0..3000u32).map(|n| (n * 7) as u8).collect();
    let sent = cuttable(udp4([192, 0, 2, 1], [192, 0, 2, 2], (40000, 9000), 64, &payload));
    let mut fragments = cut(&sent, 77, 1500);
    fragments.reverse();
    let sealed: Vec<Vec<u8>> = pass_all(&mut a, APPS, &fragments).into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(sealed.len(), 3);
    assert!(sealed.iter().all(|frame| frame[23] == 50 && frame.len() <= 1514 && frame[20] & 0x40 == 0));
    let out = pass_all(&mut b, UPLINK, &sealed);
    let whole: usize = out.iter().map(|(_, frame)| frame.len() - 34).sum();
    assert_eq!((whole, out.iter().all(|(port, _)| *port == APPS)), (3008, true));
    assert_eq!(a.dropped(DropReason::TransportFragment), 0);
    a.assert_no_leak();
    b.assert_no_leak();
}
