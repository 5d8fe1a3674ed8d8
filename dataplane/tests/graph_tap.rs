//! The host's own kernel behind a tap: what goes up to it, what comes from it, and that neither is a way round a tunnel.
#![allow(clippy::unwrap_used)]

mod support;

use softdpu::graph::DropReason;
use softdpu::host::fib::{Fib, Link, Route};
use softdpu::wire::ethernet::Mac;
use softdpu::worker::harness::Harness;
use support::{Keys, UPLINK, udp4};

/// The port that is the tap.
const HOST: usize = 0;
const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];
const STRANGER: [u8; 4] = [198, 51, 100, 7];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A host's table: its applications' network is behind an interface of the kernel's, the other site's is routed by the tap.
fn fib(edge: char) -> Fib {
    let (me, other) = if edge == 'a' { (1, 2) } else { (2, 1) };
    let link = || Link { mac: Mac(MAC), mtu: 1500, up: true, ..Link::default() };
    let mut fib = Fib::new(1, vec![link(), link()]);
    fib.set_host(HOST as u8);
    fib.add_route(format!("10.{me}.0.0/24").parse().unwrap(), Route::Elsewhere, 0);
    for by_tap in [format!("10.{other}.0.0/24"), "10.77.0.0/16".to_owned()] {
        fib.add_route(by_tap.parse().unwrap(), Route::Port { port: HOST as u8, gateway: None }, 0);
    }
    let gateway = "192.0.2.99".parse().unwrap();
    fib.add_route("0.0.0.0/0".parse().unwrap(), Route::Port { port: UPLINK as u8, gateway: Some(gateway) }, 0);
    fib.add_neighbour(UPLINK as u8, gateway, Mac([6; 6]));
    fib.add_local(format!("10.{me}.0.1").parse().unwrap());
    fib.add_local(format!("192.0.2.{me}").parse().unwrap());
    fib.set_link_address(UPLINK as u8, format!("192.0.2.{me}").parse().unwrap());
    fib
}

fn edges() -> (Keys, Harness, Harness) {
    let keys = Keys::new();
    let [a, b] = ['a', 'b'].map(|edge| Harness::with_fib(keys.policy(edge, "", ""), fib(edge)).unwrap());
    (keys, a, b)
}

fn packet(from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    udp4(from, to, (40000, 9000), 1, payload)
}

fn one(mut out: Vec<(usize, Vec<u8>)>) -> (usize, Vec<u8>) {
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

/// From an application, through the tunnel, to another host's kernel and to that host itself: changed in nothing, its TTL too.
#[test]
fn from_kernel_to_kernel() {
    let (_keys, mut a, mut b) = edges();
    for to in [SERVER, [10, 2, 0, 1]] {
        let sent = packet(CLIENT, to, b"hello");
        let (port, sealed) = one(a.pass(HOST, &sent));
        assert_eq!((port, sealed[23]), (UPLINK, 50));
        let mut sealed = sealed;
        sealed[..6].copy_from_slice(&MAC);
        let (port, got) = one(b.pass(UPLINK, &sealed));
        assert_eq!(port, HOST);
        assert_eq!((&got[..6], &got[6..12]), (&MAC[..], &MAC[..]), "the tap knows one address");
        assert_eq!(got[14..], sent[14..]);
    }
    a.assert_no_leak();
    b.assert_no_leak();
}

#[test]
fn what_no_rule_takes_does_not_go_back_where_it_came_from() {
    let (_keys, mut a, _) = edges();
    assert!(a.pass(HOST, &packet(CLIENT, [10, 77, 0, 1], b"nobody's")).is_empty());
    assert_eq!(a.dropped(DropReason::HostLoop), 1);
    // Nor what a stranger sends to the other site by us.
    assert!(a.pass(UPLINK, &udp4(STRANGER, [10, 77, 0, 1], (1, 2), 64, b"loop")).is_empty());
    assert_eq!(a.dropped(DropReason::HostLoop), 2);
    a.assert_no_leak();
}

#[test]
fn in_clear_only_what_no_rule_protects_goes_up() {
    let (_keys, mut a, _) = edges();
    let (port, _) = one(a.pass(UPLINK, &udp4(STRANGER, [192, 0, 2, 1], (1, 2), 1, b"for the host")));
    assert_eq!(port, HOST);
    assert!(a.pass(UPLINK, &packet(SERVER, CLIENT, b"forged")).is_empty());
    assert_eq!(a.dropped(DropReason::ClearOnProtected), 1);
    a.assert_no_leak();
}

/// A peer that the kernel would reach by an interface of its own: what is sealed for it comes from an address of ours, and the
/// kernel would refuse it.
#[test]
fn what_is_sealed_does_not_go_up() {
    let keys = Keys::new();
    let mut fib = fib('a');
    fib.add_route("192.0.2.2/32".parse().unwrap(), Route::Elsewhere, 0);
    let mut a = Harness::with_fib(keys.policy('a', "", ""), fib).unwrap();
    assert!(a.pass(HOST, &packet(CLIENT, SERVER, b"secret")).is_empty());
    assert_eq!(a.dropped(DropReason::NoPort), 1);
    a.assert_no_leak();
}

/// "Fragmentation needed" comes from where the packet was to go: the kernel refuses what comes in from an address of its own.
#[test]
fn what_is_too_big_is_answered_up_the_tap() {
    let (_keys, mut a, _) = edges();
    let (port, answer) = one(a.pass(HOST, &packet(CLIENT, SERVER, &[7; 1460])));
    assert_eq!((port, answer[23]), (HOST, 1));
    assert_eq!((&answer[26..30], &answer[30..34]), (&SERVER[..], &CLIENT[..]));
    assert_eq!(answer[34..36], [3, 4]);
    a.assert_no_leak();
}
