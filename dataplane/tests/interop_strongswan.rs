//! ESP in UDP with strongSwan. The two charons agree on keys; the one on edge-a hands its own to softdpu and carries no packet.
#![allow(clippy::unwrap_used)]

mod common;
mod interop;

use interop::Lone;
use softdpu_testbed::{
    interop::{Check, Row},
    peers::{
        ours,
        strongswan::{self, Options, Proposal, StrongSwan},
    },
    policy::Side,
};

/// softdpu and strongSwan with a CHILD_SA between them. softdpu's side initiated, or answered. Both charons stay.
struct Pair {
    lone: Lone,
    charons: (StrongSwan, StrongSwan),
}

/// `None` where something is missing.
fn pair(proposal: Proposal, v6: bool, initiator: bool) -> Option<Pair> {
    if strongswan::version().is_none() {
        eprintln!("SKIPPED: strongSwan is not installed");
        return None;
    }
    let mut lone = Lone::new("iop-swan")?;
    let options = Options { outer_v6: v6, ..Options::new(proposal) };
    let (edge_a, edge_b) = (&lone.topology.edge_a, &lone.topology.edge_b);
    let a = StrongSwan::start(edge_a, Side::A, &lone.folder, &Options { ike_only: true, ..options.clone() }).unwrap();
    let b = StrongSwan::start(edge_b, Side::B, &lone.folder, &options).unwrap();
    if initiator {
        a.initiate(edge_a).unwrap();
    } else {
        b.initiate(edge_b).unwrap();
    }
    a.established(1).unwrap();
    b.established(1).unwrap();
    let child = a.child_keys(initiator).unwrap();
    let files = ours::esp(&lone.folder, Side::A, proposal.cipher().unwrap(), "short", v6, &child).unwrap();
    lone.start(&files);
    Some(Pair { lone, charons: (a, b) })
}

/// One combination.
fn speak(proposal: Proposal, v6: bool, initiator: bool) {
    let cipher = proposal.cipher().unwrap();
    eprintln!("{cipher}, IPv{}, {}", if v6 { 6 } else { 4 }, if initiator { "initiator" } else { "responder" });
    let row = Row::new("esp", "strongSwan (kernel-libipsec)", strongswan::version());
    let row = row.initiator(initiator).outer_v6(v6).cipher(cipher, "IKEv2 keys, UDP");
    // Where nothing can be tried there is nothing to tell.
    if strongswan::version().is_none() || !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: needs root and strongSwan");
        return;
    }
    let check = Check::new(row);
    let Some(Pair { mut lone, charons: _charons }) = pair(proposal, v6, initiator) else { return };
    lone.first_packet(initiator);
    lone.exchange(&[]);
    check.passed();
}

#[test]
fn interop_strongswan_every_cipher_as_initiator() {
    for proposal in Proposal::SHARED {
        speak(proposal, false, true);
    }
}

#[test]
fn interop_strongswan_every_cipher_as_responder() {
    for proposal in Proposal::SHARED {
        speak(proposal, false, false);
    }
}

#[test]
fn interop_strongswan_over_ipv6() {
    for proposal in Proposal::SHARED {
        speak(proposal, true, true);
        speak(proposal, true, false);
    }
}

/// Data packets of the peer: UDP 4500 without the marker of IKE (RFC 3948 section 2.2), longer than a keepalive.
const DATA: &str = "src host 192.0.2.2 and udp port 4500 and udp[8:4] != 0 and udp[4:2] > 16";

#[test]
fn interop_strongswan_replayed_packets_are_refused() {
    let Some(Pair { mut lone, charons: _charons }) = pair(Proposal::Aes128Gcm16, false, true) else { return };
    lone.first_packet(true);
    lone.replay(DATA);
}

#[test]
fn interop_strongswan_reordered_packets_arrive() {
    let Some(Pair { mut lone, charons: _charons }) = pair(Proposal::Aes256Gcm16, false, false) else { return };
    lone.first_packet(false);
    lone.reordered();
}

#[test]
fn interop_strongswan_ike_goes_by_on_the_same_port() {
    let Some(Pair { mut lone, charons: (a, b) }) = pair(Proposal::Aes128Gcm16, false, true) else { return };
    lone.first_packet(true);
    // Both charons are behind softdpu's port by now: the exchange passes it in UDP 4500, beside the ESP.
    b.rekey(&lone.topology.edge_b).unwrap();
    a.established(2).unwrap();
    b.established(2).unwrap();
    let (ours, theirs) = (a.child_keys(true).unwrap(), b.child_keys(false).unwrap());
    assert!(ours.inbound == theirs.outbound && ours.outbound == theirs.inbound, "{ours:?} {theirs:?}");
    assert!(lone.edge().alive());
}
