//! The whole graph in memory: what goes in by one port and comes out by another.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::graph::DropReason;
use softdpu::worker::harness::Harness;
use support::{APPS, Keys, UPLINK, plain, udp4, udp6};

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];

fn packet(payload: &[u8]) -> Vec<u8> {
    udp4(CLIENT, SERVER, (40000, 9000), 64, payload)
}

#[test]
fn forwards_with_one_less_ttl_and_a_true_checksum() {
    let mut edge = Harness::new(plain("")).unwrap();
    let out = edge.pass(APPS, &packet(b"hello"));
    let [(UPLINK, frame)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(frame[22], 63);
    assert!(softdpu::wire::checksum::ipv4_header_ok(&frame[14..34]));
    assert_eq!(frame[34..], packet(b"hello")[34..], "what is behind the IP header is not touched");
    edge.assert_no_leak();
}

#[test]
fn goes_through_the_tunnel_and_comes_out_as_it_was() {
    let keys = Keys::new();
    for services in ["", "compress = \"lz4\""] {
        let (mut a, mut b) = keys.edges(services);
        for len in [0, 1, 100, 700, 1400] {
            let payload: Vec<u8> = (0..len).map(|i| b"compress me please "[i % 19]).collect();
            let sent = packet(&payload);
            let sealed = a.pass(APPS, &sent);
            let [(UPLINK, sealed)] = sealed.as_slice() else { panic!("{sealed:?}") };
            assert_eq!(sealed[23], 50, "ESP");
            assert_eq!((&sealed[26..30], &sealed[30..34]), (&[192, 0, 2, 1][..], &[192, 0, 2, 2][..]));
            assert!(payload.len() < 20 || !sealed.windows(16).any(|w| payload.windows(16).any(|p| p == w)));
            let opened = b.pass(UPLINK, sealed);
            let [(APPS, opened)] = opened.as_slice() else { panic!("{opened:?}") };
            assert_eq!(opened[22], 62, "two routers, two hops");
            assert_eq!(opened[34..], sent[34..]);
            assert!(softdpu::wire::checksum::ipv4_header_ok(&opened[14..34]));
        }
        a.assert_no_leak();
        b.assert_no_leak();
    }
}

#[test]
fn compresses_what_shrinks_and_says_so() {
    let keys = Keys::new();
    let (mut a, _) = keys.edges("compress = \"lz4\"");
    let text: Vec<u8> = b"<tr><td>item</td><td>12.50</td></tr>\n".iter().cycle().take(1300).copied().collect();
    let sealed = a.pass(APPS, &packet(&text));
    assert!(sealed[0].1.len() < 400, "{}", sealed[0].1.len());
    let counters = &a.worker.counters.tunnels[0];
    assert_eq!(counters.compressed.get(), 1);
    assert!(counters.compress_in_bytes.get() > 3 * counters.compress_out_bytes.get());
}

#[test]
fn a_replayed_packet_is_dropped_as_replay() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("");
    let sealed = a.pass(APPS, &packet(b"once")).remove(0).1;
    assert_eq!(b.pass(UPLINK, &sealed).len(), 1);
    assert_eq!(b.pass(UPLINK, &sealed).len(), 0);
    assert_eq!(b.dropped(DropReason::Replay), 1);
    b.assert_no_leak();
}

#[test]
fn a_rule_counts_what_it_sealed_opened_and_dropped() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("");
    let sent = packet(b"one of a kind");
    let inner = sent.len() as u64 - 14;
    let sealed = a.pass(APPS, &sent).remove(0).1;
    assert_eq!(b.pass(UPLINK, &sealed).len(), 1);
    assert!(b.pass(UPLINK, &packet(b"spoofed")).is_empty());
    let [of_a, of_b] = [&a, &b].map(|edge| edge.worker.counters.rules.totals().remove(0).1);
    assert_eq!((of_a.packets, of_a.sealed, of_a.opened, of_a.dropped), (1, (1, inner), (0, 0), 0));
    assert_eq!((of_b.packets, of_b.sealed, of_b.opened, of_b.dropped), (2, (0, 0), (1, inner), 1));
}

#[test]
fn a_protected_flow_is_not_taken_in_clear() {
    let keys = Keys::new();
    let (_, mut b) = keys.edges("");
    assert!(b.pass(UPLINK, &packet(b"spoofed")).is_empty());
    assert_eq!(b.dropped(DropReason::ClearOnProtected), 1);
}

#[test]
fn a_tunnel_brings_only_what_a_rule_lets_it() {
    let keys = Keys::new();
    let (mut a, _) = keys.edges("");
    let mut b = Harness::new(keys.policy('b', "protocol = \"tcp\"", "")).unwrap();
    let sealed = a.pass(APPS, &packet(b"udp")).remove(0).1;
    assert!(b.pass(UPLINK, &sealed).is_empty());
    assert_eq!(b.dropped(DropReason::WrongTunnel), 1);
}

#[test]
fn damaged_and_foreign_esp_is_named() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("");
    let good = a.pass(APPS, &packet(b"x")).remove(0).1;
    let mut bad_icv = good.clone();
    *bad_icv.last_mut().unwrap() ^= 1;
    let mut no_sa = good.clone();
    no_sa[34] ^= 0x40;
    let mut wrong_peer = good.clone();
    wrong_peer[29] = 9;
    wrong_peer[24..26].fill(0);
    let sum = softdpu::wire::checksum::of(&wrong_peer[14..34]);
    wrong_peer[24..26].copy_from_slice(&sum);
    for (frame, reason) in
        [(bad_icv, DropReason::BadIcv), (no_sa, DropReason::NoSa), (wrong_peer, DropReason::WrongPeer)]
    {
        assert!(b.pass(UPLINK, &frame).is_empty());
        assert_eq!(b.dropped(reason), 1, "{reason}");
    }
    assert_eq!(b.pass(UPLINK, &good).len(), 1, "the good one still passes");
}

#[test]
fn an_expired_packet_is_answered_in_clear_or_by_its_tunnel() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("");
    let mut fib = softdpu::worker::build::wire_fib(&keys.policy('a', "", ""));
    fib.set_link_address(0, "10.1.0.1".parse().unwrap());
    a.set_fib(fib);
    let answers = a.pass(APPS, &udp4(CLIENT, SERVER, (40000, 33434), 1, b"traceroute"));
    let [(to, icmp)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(*to, APPS, "back to its sender");
    assert_eq!((icmp[23], icmp[34], icmp[35]), (1, 11, 0));
    assert_eq!(icmp[26..34], [10, 1, 0, 1, 10, 1, 0, 2]);
    let mut fib = softdpu::worker::build::wire_fib(&keys.policy('b', "", ""));
    fib.set_link_address(0, "10.2.0.1".parse().unwrap());
    b.set_fib(fib);
    let sealed = a.pass(APPS, &udp4(CLIENT, SERVER, (40000, 33435), 2, b"traceroute")).remove(0).1;
    let answers = b.pass(UPLINK, &sealed);
    let [(_, answer)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(answer[23], 50, "an answer about a protected packet is protected");
}

#[test]
fn too_big_is_answered_or_cut() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("");
    let mut fib = softdpu::worker::build::wire_fib(&keys.policy('a', "", ""));
    fib.set_link_address(0, "10.1.0.1".parse().unwrap());
    a.set_fib(fib);
    let payload: Vec<u8> = (0..1472u32).map(|i| (i * 7) as u8).collect();
    let df = packet(&payload);
    assert_eq!(df[20] & 0x40, 0x40);
    let answer = a.pass(APPS, &df).remove(0).1;
    assert_eq!((answer[23], answer[34], answer[35]), (1, 3, 4));
    let mtu = usize::from(u16::from_be_bytes([answer[40], answer[41]]));
    let fits = a.pass(APPS, &packet(&payload[..mtu - 28]));
    assert_eq!(fits[0].1[23], 50);
    assert!(fits[0].1.len() - 14 <= 1500 && fits[0].1.len() - 14 > 1490, "{}", fits[0].1.len());

    let mut cuttable = df.clone();
    cuttable[20] = 0;
    cuttable[24..26].fill(0);
    let sum = softdpu::wire::checksum::of(&cuttable[14..34]);
    cuttable[24..26].copy_from_slice(&sum);
    let pieces = a.pass(APPS, &cuttable);
    assert_eq!(pieces.len(), 2);
    let mut whole = Vec::new();
    for (_, piece) in pieces {
        let out = b.pass(UPLINK, &piece).remove(0).1;
        assert!(softdpu::wire::checksum::ipv4_header_ok(&out[14..34]));
        whole.extend_from_slice(&out[34..14 + usize::from(u16::from_be_bytes([out[16], out[17]]))]);
    }
    assert_eq!(whole, cuttable[34..]);
    a.assert_no_leak();
    b.assert_no_leak();
}

#[test]
fn ipv6_is_forwarded_and_told_of_its_mtu() {
    let (src, dst) = (
        [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    );
    let policy = plain("");
    let mut fib = softdpu::worker::build::wire_fib(&policy);
    fib.set_link_address(0, "2001:db8:1::1".parse().unwrap());
    let mut edge = Harness::with_fib(policy, fib).unwrap();
    let out = edge.pass(APPS, &udp6(src, dst, 9, b"six"));
    assert_eq!(out[0].1[21], 8);
    let answer = edge.pass(APPS, &udp6(src, dst, 9, &[0; 1500])).remove(0).1;
    assert_eq!((answer[20], answer[54], answer[55]), (58, 2, 0));
    let expired = edge.pass(APPS, &udp6(src, dst, 1, b"x")).remove(0).1;
    assert_eq!((expired[54], expired[55]), (3, 0));
    edge.assert_no_leak();
}

#[test]
fn a_flow_is_classed_by_its_bytes_and_keeps_its_name() {
    let mut edge = Harness::new(plain("")).unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["shop", "example"] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    edge.pass(APPS, &udp4(CLIENT, SERVER, (40000, 53), 64, &query));
    let (_, flow) = edge.worker.flows.iter().next().unwrap();
    assert_eq!(flow.class().name(), "dns");
    assert_eq!(edge.worker.inspector.host_of(flow), Some("shop.example"));
}

#[test]
fn a_rule_over_hosts_drops_once_the_name_is_known() {
    let mut edge =
        Harness::new(plain("[[rule]]\nname = \"no-ads\"\nhost = [\"*.ads.example\"]\naction = \"drop\"\n")).unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["x", "ads", "example"] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let frame = udp4(CLIENT, SERVER, (40000, 53), 64, &query);
    let first = edge.pass(APPS, &frame).len();
    let later = edge.pass(APPS, &frame).len();
    assert_eq!((first, later), (0, 0));
    assert_eq!(edge.dropped(DropReason::PolicyDrop), 2);
}

/// A DNS query for the address of a name, given by its labels.
fn query(labels: &[&str]) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

#[test]
fn a_name_that_comes_after_the_class_is_asked_about() {
    let mut edge =
        Harness::new(plain("[[rule]]\nname = \"no-ads\"\nhost = [\"*.ads.example\"]\naction = \"drop\"\n")).unwrap();
    let ask = |labels: &[&str]| udp4(CLIENT, SERVER, (40000, 53), 64, &query(labels));
    assert_eq!(edge.pass(APPS, &ask(&[])).len(), 1, "the root has no name");
    let (_, flow) = edge.worker.flows.iter().next().unwrap();
    assert!(flow.is_settled() && flow.host().is_none());
    assert_eq!(edge.pass(APPS, &ask(&["x", "ads", "example"])).len(), 0);
    assert_eq!(edge.dropped(DropReason::PolicyDrop), 1);
}

#[test]
fn waits_for_the_next_hops_address_and_gives_up_in_time() {
    use softdpu::host::fib::{Fib, Link, Route};
    use softdpu::wire::ethernet::Mac;
    let links: Vec<_> =
        (1..=2).map(|n| Link { mac: Mac([2, 0, 0, 0, 0, n]), mtu: 1500, up: true, ..Link::default() }).collect();
    let mut fib = Fib::new(1, links);
    fib.add_route("10.2.0.0/24".parse().unwrap(), Route::Port { port: 1, gateway: None }, 0);
    let mut edge = Harness::with_fib(plain(""), fib.clone()).unwrap();
    assert!(edge.pass(APPS, &packet(b"first")).is_empty());
    fib.add_neighbour(1, "10.2.0.2".parse().unwrap(), Mac([6; 6]));
    fib.set_generation(2);
    edge.set_fib(fib);
    edge.wait(20_000_000);
    let frame = edge.receive(UPLINK).expect("the first packet was held, not lost");
    assert_eq!(frame[..6], [6; 6]);

    let unknown = udp4(CLIENT, [10, 2, 0, 99], (1, 2), 64, b"nobody");
    assert!(edge.pass(APPS, &unknown).is_empty());
    edge.wait(2_000_000_000);
    assert_eq!(edge.dropped(DropReason::NeighbourUnresolved), 1);
    edge.assert_no_leak();
}

#[test]
fn every_garbage_frame_is_counted_and_none_is_lost() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("compress = \"lz4\"");
    let good = packet(b"some payload that is long enough to be mutated in interesting places");
    let sealed = a.pass(APPS, &good).remove(0).1;
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut sent, mut out) = (0u64, 0u64);
    for round in 0..20_000 {
        let mut frame = if round % 2 == 0 { good.clone() } else { sealed.clone() };
        for _ in 0..random() % 6 {
            let at = random() as usize % frame.len();
            frame[at] = random() as u8;
        }
        frame.truncate(14 + random() as usize % (frame.len() - 13));
        out += b.pass(round % 2, &frame).len() as u64;
        sent += 1;
    }
    b.wait(3_000_000_000);
    while b.receive(APPS).is_some() || b.receive(UPLINK).is_some() {
        out += 1;
    }
    let dropped: u64 = b.worker.counters.drops.iter().map(|c| c.get()).sum();
    assert_eq!(sent, dropped + out, "every frame went out or was counted");
    assert_eq!(b.worker.counters.escaped_bytes.get(), 0);
    b.assert_no_leak();
}
