//! What must not leave, whatever comes in: protected packets in clear, packets that nobody may forward, foreign ones sealed.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::config::Policy;
use softdpu::config::policy::{Lifetime, SequenceMode, TunnelKind};
use softdpu::graph::DropReason;
use softdpu::host::fib::{Fib, Link, Route};
use softdpu::tunnel::keys::Seal;
use softdpu::wire::checksum;
use softdpu::wire::ethernet::Mac;
use softdpu::wire::icmp::{Complaint, V4_OVERHEAD, write};
use softdpu::worker::harness::Harness;
use softdpu_ebpf_common::walk::L3;
use support::{APPS, Keys, UPLINK, plain, udp4, udp6};

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];
const ESP: u8 = 50;

/// A router's table, as the kernel would give it, for edge `a` or `b`: its applications behind one port, the rest behind
/// the other. `apps`: the port that leads to the applications.
fn routed(edge: char, apps: u8) -> Fib {
    let me = if edge == 'a' { 1 } else { 2 };
    let link = || Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true, ..Link::default() };
    let mut fib = Fib::new(1, vec![link(), link()]);
    fib.add_route(format!("10.{me}.0.0/24").parse().unwrap(), Route::Port { port: apps, gateway: None }, 0);
    for all in ["0.0.0.0/0", "::/0"] {
        let gateway = if all.contains(':') { "2001:db8::99" } else { "192.0.2.99" }.parse().unwrap();
        fib.add_route(all.parse().unwrap(), Route::Port { port: UPLINK as u8, gateway: Some(gateway) }, 0);
        fib.add_neighbour(UPLINK as u8, gateway, Mac([6; 6]));
    }
    for host in [CLIENT, SERVER] {
        fib.add_neighbour(apps, host.into(), Mac([8; 6]));
    }
    fib.set_link_address(APPS as u8, format!("10.{me}.0.1").parse().unwrap());
    fib
}

fn packet(payload: &[u8]) -> Vec<u8> {
    udp4(CLIENT, SERVER, (40000, 9000), 64, payload)
}

/// Sets the fragment word of an IPv4 frame, and its checksum.
fn with_fragment(mut frame: Vec<u8>, id: u16, word: u16) -> Vec<u8> {
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// An ICMP error "fragmentation needed" about `offender` (an IPv4 frame), from `from` to `to`.
fn error_about(offender: &[u8], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut frame = offender[..14].to_vec();
    let quoted = &offender[14..offender.len().min(14 + 200)];
    frame.resize(14 + V4_OVERHEAD, 0);
    frame.extend_from_slice(quoted);
    let wide = |a: [u8; 4]| {
        let mut wide = [0; 16];
        wide[..4].copy_from_slice(&a);
        wide
    };
    write(&mut frame[14..], L3::V4, Complaint::TooBig(1400), &wide(from), &wide(to));
    frame
}

fn udp_only(keys: &Keys, edge: char) -> Policy {
    keys.policy(edge, "protocol = \"udp\"", "")
}

#[test]
fn an_icmp_error_about_a_protected_flow_is_protected_like_it() {
    let keys = Keys::new();
    let [mut a, mut b] = ['a', 'b'].map(|edge| Harness::new(udp_only(&keys, edge)).unwrap());
    let error = error_about(&packet(b"the secret that is quoted"), [10, 2, 0, 7], CLIENT);
    let sealed = b.pass(APPS, &error);
    let [(UPLINK, sealed)] = sealed.as_slice() else { panic!("{sealed:?}") };
    assert_eq!(sealed[23], ESP);
    let opened = a.pass(UPLINK, sealed);
    let [(APPS, opened)] = opened.as_slice() else { panic!("{opened:?}") };
    assert_eq!(opened[34..], error[34..]);

    assert!(a.pass(UPLINK, &error).is_empty(), "from outside it is as forged as any clear packet of the flow");
    assert_eq!(a.dropped(DropReason::ClearOnProtected), 1);
    let other = error_about(&udp4([10, 1, 0, 2], [10, 3, 0, 2], (1, 2), 64, b"not protected"), [10, 3, 0, 2], CLIENT);
    assert_eq!(a.pass(UPLINK, &other).len(), 1, "errors about other flows pass");
}

#[test]
fn an_error_of_our_own_shows_a_protected_packet_to_nobody_but_its_sender() {
    let keys = Keys::new();
    let expired = udp4(CLIENT, SERVER, (40000, 9000), 1, b"the secret that is quoted");
    let mut a = Harness::with_fib(keys.policy('a', "", ""), routed('a', APPS as u8)).unwrap();
    let out = a.pass(APPS, &expired);
    let [(APPS, answer)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((answer[23], answer[34]), (1, 11));
    // The way back to the sender leads over the uplink now.
    let mut a = Harness::with_fib(keys.policy('a', "", ""), routed('a', UPLINK as u8)).unwrap();
    assert_eq!(a.pass(APPS, &expired), []);
    assert_eq!(a.dropped(DropReason::TtlExpired), 1);
    a.assert_no_leak();
}

#[test]
fn what_was_protected_does_not_leave_again_where_it_came_from() {
    let keys = Keys::new();
    let mut a = Harness::with_fib(keys.policy('a', "", ""), routed('a', APPS as u8)).unwrap();
    let [first, second] = [b"one", b"two"].map(|payload| {
        let mut sealed = a.pass(APPS, &packet(payload)).remove(0).1;
        assert_eq!(sealed[..6], [6; 6]);
        sealed[..6].copy_from_slice(&packet(b"")[..6]);
        sealed
    });
    let mut b = Harness::with_fib(keys.policy('b', "", ""), routed('b', APPS as u8)).unwrap();
    assert!(matches!(b.pass(UPLINK, &first).as_slice(), [(APPS, _)]));
    // The link to the applications goes down, and the default route takes its place.
    let mut failed = routed('b', UPLINK as u8);
    failed.set_generation(2);
    b.set_fib(failed);
    assert_eq!(b.pass(UPLINK, &second), []);
    assert_eq!(b.dropped(DropReason::SamePort), 1);
    b.assert_no_leak();
}

#[test]
fn a_stranger_on_the_uplink_gets_nothing_sealed() {
    let keys = Keys::new();
    let mut a = Harness::with_fib(keys.policy('a', "", ""), routed('a', APPS as u8)).unwrap();
    assert_eq!(a.pass(UPLINK, &packet(b"as if from within")), []);
    assert_eq!(a.dropped(DropReason::SamePort), 1);
    assert!(matches!(a.pass(APPS, &packet(b"from within")).as_slice(), [(UPLINK, sealed)] if sealed[23] == ESP));
    a.assert_no_leak();
}

#[test]
fn a_tunnel_does_not_bring_packets_of_the_other_way() {
    let keys = Keys::new();
    let mut turned = keys.policy('a', "", "");
    let protect = &mut turned.rules[0].matches;
    std::mem::swap(&mut protect.from, &mut protect.to);
    let mut a = Harness::new(turned).unwrap();
    let sealed = a.pass(APPS, &udp4(SERVER, CLIENT, (1, 2), 64, b"reflected")).remove(0).1;
    assert_eq!(sealed[23], ESP);
    let (_, mut b) = keys.edges("");
    assert_eq!(b.pass(UPLINK, &sealed), [], "b would send it on in clear");
    assert_eq!(b.dropped(DropReason::WrongTunnel), 1);
}

#[test]
fn fragments_without_ports_are_protected_where_their_flow_may_be() {
    let keys = Keys::new();
    let mut policy = keys.policy('a', "", "[[rule]]\nname = \"dns\"\nprotocol = \"udp\"\nports = [\"53\"]\n");
    policy.rules.swap(0, 1);
    let mut a = Harness::new(policy).unwrap();
    let dns = udp4(CLIENT, SERVER, (40000, 53), 64, &[7; 64]);
    // Cut behind 8 of 64 bytes; the header of the first speaks of the whole datagram.
    let mut first = with_fragment(dns.clone(), 9, 0x2000);
    first[16..18].copy_from_slice(&36u16.to_be_bytes());
    let first = with_fragment(first[..50].to_vec(), 9, 0x2000);
    let later = with_fragment(dns.clone(), 9, 2);
    assert_eq!(a.pass(APPS, &later), [], "which port it is for is not known yet");
    let out = a.pass(APPS, &first);
    assert_eq!(out.iter().map(|(_, frame)| frame[23]).collect::<Vec<_>>(), [17, 17], "dns goes in clear, all of it");
    assert_eq!(out[0].1[34..42], dns[34..42], "the first first");
    let orphan = with_fragment(dns, 10, 2);
    assert_eq!(a.pass(APPS, &orphan), [], "whose first was not seen may be of any flow");
    a.wait(31_000_000_000);
    assert_eq!(a.dropped(DropReason::ReassemblyTimeout), 1);
    a.assert_no_leak();
}

#[test]
fn addresses_that_no_router_forwards() {
    let mut edge = Harness::with_fib(plain(""), routed('a', APPS as u8)).unwrap();
    let global = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let mut local = global;
    local[..8].copy_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
    let bad = [
        udp6(local, global, 64, b"from link-local"),
        udp6(global, local, 64, b"to link-local"),
        udp6([0; 16], global, 64, b"from nobody"),
        udp4([127, 0, 0, 1], SERVER, (1, 2), 64, b"loopback"),
        udp4(CLIENT, [127, 0, 0, 53], (1, 53), 64, b"loopback"),
        udp4([0; 4], SERVER, (68, 67), 64, b"unspecified"),
        udp4(CLIENT, [239, 1, 1, 1], (1, 2), 64, b"multicast to our own address"),
        udp4([255; 4], SERVER, (1, 2), 64, b"from broadcast"),
    ];
    for frame in &bad {
        assert_eq!(edge.pass(APPS, frame), []);
        assert_eq!(edge.pass(APPS, frame), [], "nor the next one of the flow");
    }
    assert_eq!(edge.dropped(DropReason::Martian), 2 * bad.len() as u64);
    assert_eq!(edge.pass(APPS, &udp6(global, global, 64, b"good")).len(), 1);
    assert_eq!(edge.pass(APPS, &packet(b"good")).len(), 1);
    edge.assert_no_leak();
}

#[test]
fn vlans_are_not_joined_with_the_untagged_link() {
    let tagged = |vid: u16| {
        let mut frame = packet(b"in a VLAN");
        let vid = vid.to_be_bytes();
        frame.splice(12..12, [0x81, 0, vid[0], vid[1]]);
        frame
    };
    let mut edge = Harness::with_fib(plain(""), routed('a', APPS as u8)).unwrap();
    assert_eq!(edge.pass(APPS, &tagged(7)), []);
    assert_eq!(edge.dropped(DropReason::Tagged), 1);
    assert_eq!(edge.pass(APPS, &tagged(0x6000)).len(), 1, "a priority tag is no VLAN");
    edge.assert_no_leak();
}

#[test]
fn a_nat_keepalive_is_called_one() {
    let keys = Keys::new();
    let (_, mut b) = keys.edges("");
    let from = |payload: &[u8]| udp4([192, 0, 2, 1], [192, 0, 2, 2], (4500, 4500), 64, payload);
    assert_eq!(b.pass(UPLINK, &from(&[0xff])), []);
    assert_eq!(b.dropped(DropReason::Keepalive), 1);
    b.pass(UPLINK, &from(&[0; 40]));
    assert_eq!(
        (b.dropped(DropReason::NoSa), b.dropped(DropReason::Keepalive)),
        (0, 1),
        "a zero marker is IKE, not ESP"
    );
}

#[test]
fn a_whole_batch_may_be_fragmented() {
    let keys = Keys::new();
    let mut policy = keys.policy('a', "", "");
    policy.workers.batch = 256;
    let mut a = Harness::new(policy).unwrap();
    let large = with_fragment(packet(&[5; 1472]), 1, 0);
    for _ in 0..256 {
        assert!(a.send(APPS, &large));
    }
    a.settle();
    let out = std::iter::from_fn(|| a.receive(UPLINK)).count();
    assert_eq!((out, a.dropped(DropReason::FragmentRoom)), (512, 0));
    a.assert_no_leak();
}

#[test]
fn more_rules_than_a_flow_can_remember_are_refused() {
    let keys = Keys::new();
    let mut policy = keys.policy('a', "", "");
    let rule = policy.rules[0].clone();
    policy.rules = vec![rule; 32_768];
    let refused = Harness::new(policy).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("rules"), "{refused:#}");
}

#[test]
fn one_key_for_both_directions_is_refused_by_content_and_not_shown() {
    let keys = Keys::new();
    support::write_key(&keys.dir().join("ba.key"), 0x11, 36);
    let refused = Harness::new(keys.policy('a', "", "")).err().expect("the two files hold the same key");
    let said = format!("{refused:?}");
    assert!(said.contains("`to-b.out`") && said.contains("`to-b.in`") && said.contains("same key"), "{said}");
    assert!(!said.contains("1111"), "{said}");
}

#[test]
fn at_the_end_of_the_sequence_numbers_nothing_goes_in_clear() {
    let keys = Keys::new();
    for (sequence, last) in [("iv", u64::MAX), ("extended", u64::MAX), ("short", u64::from(u32::MAX))] {
        let mut policy = keys.policy('a', "", "");
        let TunnelKind::Esp(esp) = &mut policy.tunnels[0].kind else { panic!() };
        esp.sequence = match sequence {
            "iv" => SequenceMode::Iv,
            "extended" => SequenceMode::Extended,
            _ => SequenceMode::Short,
        };
        let mut a = Harness::new(policy).unwrap();
        let loaded = a.shared.keys.load_full();
        let Some(Seal::Esp(out)) = loaded.way(0, 0).map(|way| &way.seal) else { panic!() };
        out.sa.skip_to(last - 10);
        let sealed = (0..50).flat_map(|_| a.pass(APPS, &packet(b"near the end"))).collect::<Vec<_>>();
        // One is skipped by `skip_to`.
        assert_eq!(sealed.len(), 9, "{sequence}");
        assert!(sealed.iter().all(|(port, frame)| *port == UPLINK && frame[23] == ESP), "{sequence}");
        assert_eq!(a.dropped(DropReason::SequenceExhausted) + a.dropped(DropReason::SaExpired), 41, "{sequence}");
        assert!(a.dropped(DropReason::SequenceExhausted) > 0, "{sequence}");
        assert_eq!(a.worker.counters.escaped_bytes.get(), 0);
        a.assert_no_leak();
    }
}

#[test]
fn a_lifetime_ends_sealing_and_opening_under_a_name() {
    let keys = Keys::new();
    let limited = |edge: char, lifetime: Lifetime| {
        let mut policy = keys.policy(edge, "", "");
        let TunnelKind::Esp(esp) = &mut policy.tunnels[0].kind else { panic!() };
        esp.lifetime = lifetime;
        Harness::new(policy).unwrap()
    };
    let none = Lifetime::default();
    let ten = Lifetime { packets: Some(10), ..none };
    // 28 bytes of headers and 12 of payload.
    let bytes = Lifetime { bytes: Some(400), ..none };
    for lifetime in [ten, bytes] {
        let (mut a, mut b) = (limited('a', lifetime), limited('b', none));
        let sealed: Vec<_> = (0..30).flat_map(|_| a.pass(APPS, &packet(b"twelve bytes"))).collect();
        assert_eq!(sealed.len(), 10, "{lifetime:?}");
        assert!(sealed.iter().all(|(port, frame)| *port == UPLINK && frame[23] == ESP));
        assert_eq!(a.dropped(DropReason::SaExpired) + a.dropped(DropReason::SequenceExhausted), 20, "{lifetime:?}");
        let back: Vec<_> =
            (0..30).flat_map(|_| b.pass(APPS, &udp4(SERVER, CLIENT, (1, 2), 64, b"twelve bytes"))).collect();
        assert_eq!(back.iter().flat_map(|(_, frame)| a.pass(UPLINK, frame)).count(), 10, "{lifetime:?}");
        assert_eq!(a.dropped(DropReason::SaExpired) + a.dropped(DropReason::SequenceExhausted), 40, "{lifetime:?}");
    }
}

/// A TCP segment from the client's port to the server's 443.
fn segment(port: u16, flags: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = udp4(CLIENT, SERVER, (port, 443), 64, &[&[0; 12], payload].concat());
    frame[23] = 6;
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame[38..54].fill(0);
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    (frame[46], frame[47]) = (0x50, flags);
    frame
}

/// Protocol numbers of what leaves by the uplink.
fn leaves(edge: &mut Harness, frame: &[u8]) -> Vec<u8> {
    edge.pass(APPS, frame).iter().filter(|(port, _)| *port == UPLINK).map(|(_, frame)| frame[23]).collect()
}

const SYN: u8 = 2;
const ACK: u8 = 16;
/// The beginning of a ClientHello of 512 bytes.
const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

#[test]
fn what_no_buffer_is_left_for_is_protected_as_what_is_undecided() {
    let keys = Keys::new();
    let mut a = Harness::new(keys.policy('a', "host = [\"secret.example\"]", "")).unwrap();
    for port in 1000..1200 {
        assert_eq!(leaves(&mut a, &segment(port, SYN, 0, b"")), [ESP]);
        assert_eq!(leaves(&mut a, &segment(port, ACK, 1, HELLO)), [ESP], "port {port}");
    }
    assert_eq!(a.worker.counters.flows_unread.get(), 200 - 128);
    assert_eq!(leaves(&mut a, &segment(1199, ACK, 12, b"more of it")), [ESP], "and stays so");
    // Read to the end, another flow goes as it is.
    leaves(&mut a, &segment(80, SYN, 0, b""));
    assert_eq!(leaves(&mut a, &segment(80, ACK, 1, b"GET / HTTP/1.1\r\nHost: open.example\r\n\r\n")), [6]);
    a.assert_no_leak();
}

#[test]
fn what_no_buffer_is_left_for_is_dropped_where_a_rule_might_drop_it() {
    let rule = "[[rule]]\nname = \"no-ads\"\nhost = [\"*.ads.example\"]\naction = \"drop\"\n";
    let mut a = Harness::new(plain(rule)).unwrap();
    for port in 1000..1128 {
        assert_eq!(leaves(&mut a, &segment(port, ACK, 1, HELLO)), [6]);
    }
    assert!(leaves(&mut a, &segment(2000, ACK, 1, HELLO)).is_empty());
    assert_eq!(a.dropped(DropReason::PolicyDrop), 1);
    a.assert_no_leak();
}

#[test]
fn a_flow_that_is_older_than_its_entry_stays_protected_and_is_not_dropped() {
    let keys = Keys::new();
    let ads = "[[rule]]\nname = \"no-ads\"\nhost = [\"*.ads.example\"]\naction = \"drop\"\n";
    let mut a = Harness::new(keys.policy('a', "class = [\"postgresql\"]", "")).unwrap();
    let mut other = Harness::new(plain(ads)).unwrap();
    for n in 0..100 {
        let middle = segment(1000, ACK, 7_000_000 + n * 12, b"\x01 in between");
        assert_eq!(leaves(&mut a, &middle), [ESP], "packet {n}");
        assert_eq!(leaves(&mut other, &middle), [6], "packet {n}");
    }
    assert_eq!(a.worker.counters.flows_unread.get(), 1);
}
