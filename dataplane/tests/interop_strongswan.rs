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

/// One combination. softdpu's side initiates, or answers.
fn speak(proposal: Proposal, v6: bool, initiator: bool) {
    let Some(version) = strongswan::version() else {
        eprintln!("SKIPPED: strongSwan is not installed");
        return;
    };
    let Some(mut lone) = Lone::new("iop-swan") else { return };
    let cipher = proposal.cipher().unwrap();
    eprintln!("{cipher}, IPv{}, {}", if v6 { 6 } else { 4 }, if initiator { "initiator" } else { "responder" });
    let row = Row::new("esp", "strongSwan (kernel-libipsec)", Some(version)).initiator(initiator).outer_v6(v6);
    let check = Check::new(row.cipher(cipher, "IKEv2 keys, UDP"));
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
    let files = ours::esp(&lone.folder, Side::A, cipher, "short", v6, &child).unwrap();
    lone.start(&files);
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
