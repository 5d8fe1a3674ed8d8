//! What the kernel's policies want sealed does not leave in clear, whatever is known and whoever speaks first.

use crate::crypto::esp::Mode;
use crate::crypto::inbound::{InboundOptions, Sequence};
use crate::crypto::outbound::{OutboundOptions, Start};
use crate::crypto::outer::{Encapsulation, Endpoints};
use crate::crypto::{InboundConfig, InboundSa, OutboundConfig, OutboundSa};
use crate::graph::DropReason;
use crate::tunnel::keys::{EspIn, Keys, Seal, Selector, TunnelKeys, Way};
use crate::tunnel::wireguard::allowed::AllowedIps;
use crate::tunnel::xfrm::model::{Action, Direction, Policy, State};
use crate::tunnel::xfrm::selector::XfrmSelector;
use crate::tunnel::xfrm::spd::Spd;
use crate::tunnel::xfrm::tables::Snapshot;
use crate::tunnel::xfrm::testing::{policy, selector, state, template};
use crate::wire::{checksum, ip::write_v4};
use crate::worker::harness::Harness;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

const APPS: usize = 0;
const UPLINK: usize = 1;
const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];

fn harness() -> Harness {
    harness_with("")
}

/// With a tunnel of type xfrm, a WireGuard one, and these rules.
fn harness_with(rules: &str) -> Harness {
    let text = "name = \"x\"\n[workers]\nframes = 1024\n[[port]]\nname = \"apps\"\nkind = \"loopback\"\nloop_to = \"apps\"\n[[port]]\nname = \"uplink\"\nkind = \"loopback\"\nloop_to = \"uplink\"\n[[tunnel]]\nname = \"ike\"\ntype = \"xfrm\"\n[[tunnel]]\nname = \"wg0\"\ntype = \"wireguard\"\nlisten_port = 51820\nprivate_key_file = \"/none\"\n";
    let parsed =
        crate::config::parse(&format!("{text}{rules}"), "x.toml").unwrap_or_else(|errors| panic!("{errors:?}"));
    Harness::new(parsed).unwrap()
}

/// Publishes these tables; no state has a way out, so what is to be sealed waits or is dropped. So does what is for the one
/// peer of the WireGuard tunnel, which has 10.2.0.0/16.
fn publish(harness: &Harness, generation: u32, policies: Vec<Policy>, inbound: Vec<EspIn>) {
    let mut snapshot = Snapshot { policies: policies.into_iter().map(Arc::new).collect(), ..Snapshot::default() };
    snapshot.policies.sort_by_key(|policy| policy.rank());
    let spd = Spd::new(&snapshot);
    let nowhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let mut allowed = AllowedIps::default();
    allowed.insert("10.2.0.0/16".parse().unwrap(), 0);
    let selectors = [
        Selector::Xfrm(Arc::new(XfrmSelector { spd, ways: HashMap::new() })),
        Selector::Allowed(Arc::new(allowed.table())),
    ];
    let tunnels = selectors.map(|selector| {
        let way = Way { remote: nowhere, seal: Seal::Nothing, state: Arc::default() };
        TunnelKeys { selector, ways: vec![Some(Arc::new(way))] }
    });
    let tunnels = tunnels.into();
    let keys = Keys::new((generation, generation), inbound, Vec::new(), Vec::new(), tunnels).unwrap();
    harness.shared.keys.store(Arc::new(keys));
}

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    frame.resize(14 + 28 + 16, 0);
    write_v4(&mut frame[14..], src, dst, 17, 64, 44);
    frame[34..36].copy_from_slice(&ports.0.to_be_bytes());
    frame[36..38].copy_from_slice(&ports.1.to_be_bytes());
    frame[38..40].copy_from_slice(&24_u16.to_be_bytes());
    frame
}

/// A later fragment: the same addresses, no ports.
fn later(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut frame = udp(src, dst, (0, 0));
    frame[20..22].copy_from_slice(&3_u16.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

fn sealed(direction: Direction, index: u32, src: &str, dst: &str) -> Policy {
    policy(direction, index, 100, selector(src, dst), vec![template("192.0.2.1", "192.0.2.2", 1)])
}

#[test]
fn before_the_policies_are_known_nothing_leaves() {
    let mut harness = harness();
    assert!(harness.pass(APPS, &udp(CLIENT, SERVER, (1, 2))).is_empty());
    assert_eq!(harness.dropped(DropReason::NoSelector), 1);
    publish(&harness, 2, Vec::new(), Vec::new());
    assert_eq!(harness.pass(APPS, &udp(CLIENT, SERVER, (1, 2))).len(), 1, "no policy: it goes as it is");
    publish(&harness, 3, vec![sealed(Direction::Out, 1, "10.1.0.0/24", "10.2.0.0/24")], Vec::new());
    assert!(
        harness.pass(APPS, &udp(CLIENT, SERVER, (1, 2))).is_empty(),
        "the flow was known, and is asked about again"
    );
    harness.assert_no_leak();
}

#[test]
fn the_answer_to_what_came_in_clear_is_asked_about_itself() {
    let mut harness = harness();
    publish(&harness, 2, vec![sealed(Direction::Out, 1, "10.1.0.0/24", "10.2.0.0/24")], Vec::new());
    assert_eq!(harness.pass(UPLINK, &udp(SERVER, CLIENT, (1, 2))).len(), 1, "no policy is for this direction");
    assert!(harness.pass(APPS, &udp(CLIENT, SERVER, (2, 1))).is_empty(), "one is for this");
    harness.assert_no_leak();
}

#[test]
fn what_the_kernel_blocks_is_blocked() {
    let mut harness = harness();
    let mut block = sealed(Direction::Forward, 1, "10.1.0.0/24", "10.2.0.0/24");
    (block.action, block.templates) = (Action::Block, Vec::new());
    publish(&harness, 2, vec![block], Vec::new());
    assert!(harness.pass(APPS, &udp(CLIENT, SERVER, (1, 2))).is_empty());
    assert_eq!(harness.dropped(DropReason::PolicyDrop), 1);
    harness.assert_no_leak();
}

#[test]
fn a_fragment_without_ports_waits_for_the_one_that_has_them() {
    let mut harness = harness();
    let mut https = sealed(Direction::Out, 1, "10.1.0.0/24", "10.2.0.0/24");
    (https.selector.dport, https.selector.dport_mask) = (443, u16::MAX);
    publish(&harness, 2, vec![https], Vec::new());
    assert_eq!(harness.pass(APPS, &udp(CLIENT, SERVER, (1, 2))).len(), 1, "another port is in clear");
    assert!(harness.pass(APPS, &later(CLIENT, SERVER)).is_empty());
    harness.assert_no_leak();
}

/// An association by which a peer's packets come in.
struct Association {
    out: OutboundSa,
    state: State,
}

impl Association {
    fn new() -> Self {
        let state: State = state("192.0.2.2", "192.0.2.1", 0x1001, 1);
        let out = OutboundSa::new(&OutboundConfig {
            spi: 0x1001,
            material: state.material.as_ref().unwrap(),
            endpoints: Endpoints::V4 { local: [192, 0, 2, 2].into(), remote: [192, 0, 2, 1].into() },
            encapsulation: Encapsulation::None,
            extended: false,
            start: Start::After { seq: 0 },
            options: OutboundOptions { mode: Mode::Tunnel, ..OutboundOptions::default() },
        });
        Self { out: out.unwrap(), state }
    }

    /// The kernel's (tunnel 0), or one of another tunnel, of which no policy asks.
    fn inbound(&self, tunnel: u16) -> Vec<EspIn> {
        let sa = InboundSa::new(&InboundConfig {
            spi: 0x1001,
            material: self.state.material.as_ref().unwrap(),
            sequence: Sequence::Short,
            window: 64,
            options: InboundOptions::default(),
        });
        vec![EspIn {
            sa: Arc::new(sa.unwrap()),
            tunnel,
            way: 0,
            local: "192.0.2.1".parse().unwrap(),
            remote: None,
            may_move: false,
            state: (tunnel == 0).then(|| Arc::new(self.state.clone())),
        }]
    }

    fn seal(&self, frame: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 256];
        let inner = &frame[14..];
        buffer[128..128 + inner.len()].copy_from_slice(inner);
        let inner = crate::crypto::esp::Inner { place: 128..128 + inner.len(), next_header: 4, tos: 0 };
        let place = self.out.sealer(1).seal_slice(&mut buffer, &inner).unwrap();
        buffer[place].to_vec()
    }
}

fn let_in(src: &str, dst: &str) -> Policy {
    policy(Direction::Forward, 1, 100, selector(src, dst), vec![template("192.0.2.2", "192.0.2.1", 1)])
}

#[test]
fn what_was_opened_and_is_to_be_sealed_again_does_not_go_on_in_clear() {
    let mut harness = harness();
    let association = Association::new();
    let sealed_packet = || association.seal(&udp(CLIENT, SERVER, (1, 2)));
    let let_in = || let_in("10.1.0.0/24", "10.2.0.0/24");
    publish(&harness, 2, vec![let_in()], association.inbound(0));
    assert_eq!(
        harness.pass(UPLINK, &sealed_packet()).len(),
        1,
        "{:?}",
        harness.worker.counters.drops.iter().map(|d| d.get()).collect::<Vec<_>>()
    );
    let onward = sealed(Direction::Out, 2, "10.1.0.0/24", "10.2.0.0/24");
    publish(&harness, 3, vec![let_in(), onward], association.inbound(0));
    assert!(harness.pass(UPLINK, &sealed_packet()).is_empty(), "on to the next peer");
    assert_eq!(harness.dropped(DropReason::KernelOnly), 1);
    harness.assert_no_leak();
}

#[test]
fn out_of_another_tunnel_the_policies_are_asked_too() {
    let mut harness = harness_with("[[rule]]\nname = \"all\"\nencrypt = \"wg0\"\n");
    let association = Association::new();
    let sealed_packet = || association.seal(&udp(SERVER, CLIENT, (1, 2)));
    publish(&harness, 2, Vec::new(), association.inbound(1));
    assert_eq!(harness.pass(UPLINK, &sealed_packet()).len(), 1, "the rule lets it in, no policy is for it");
    let sealed = sealed(Direction::Out, 2, "10.2.0.0/24", "10.1.0.0/24");
    publish(&harness, 3, vec![sealed], association.inbound(1));
    for _ in 0..2 {
        assert!(harness.pass(UPLINK, &sealed_packet()).is_empty(), "for the kernel's peer, which has no way out yet");
    }
    harness.wait(2_000_000_000);
    assert_eq!(harness.dropped(DropReason::NoSession) + harness.dropped(DropReason::NoSelector), 2);
    // It should have come by the kernel's association.
    publish(&harness, 4, vec![let_in("10.2.0.0/24", "10.1.0.0/24")], association.inbound(1));
    assert!(harness.pass(UPLINK, &sealed_packet()).is_empty());
    assert_eq!(harness.dropped(DropReason::WrongTunnel), 1);
    assert_eq!(harness.worker.counters.escaped_bytes.get(), 0);
    harness.assert_no_leak();
}

#[test]
fn out_of_the_kernels_into_a_tunnel_of_the_policy() {
    // Of a rule that holds both ways, as it names no nets: the allowed IPs say what is there.
    for rule in ["", "to = [\"10.2.0.0/16\"]\n"] {
        let mut harness = harness_with(&format!("[[rule]]\nname = \"all\"\nencrypt = \"wg0\"\n{rule}"));
        let association = Association::new();
        publish(&harness, 2, vec![let_in("10.1.0.0/24", "10.0.0.0/8")], association.inbound(0));
        assert!(harness.pass(UPLINK, &association.seal(&udp(CLIENT, SERVER, (1, 2)))).is_empty(), "{rule}");
        harness.wait(2_000_000_000);
        assert_eq!(harness.dropped(DropReason::NoSession), 1, "it waited for the peer: {rule}");
        assert_eq!(harness.worker.counters.escaped_bytes.get(), 0);
        harness.assert_no_leak();
    }
}

#[test]
fn what_is_let_in_one_way_says_nothing_of_the_other() {
    let mut harness = harness_with("[[rule]]\nname = \"all\"\nencrypt = \"ike\"\n");
    let association = Association::new();
    // The client is on this side and speaks first, under a rule, as no policy is for it.
    publish(&harness, 2, vec![let_in("10.2.0.0/24", "10.1.0.0/24")], association.inbound(0));
    assert!(harness.pass(APPS, &udp(CLIENT, SERVER, (1, 2))).is_empty());
    for _ in 0..2 {
        assert_eq!(harness.pass(UPLINK, &association.seal(&udp(SERVER, CLIENT, (2, 1)))).len(), 1);
        let turned = association.seal(&udp(CLIENT, SERVER, (1, 2)));
        assert!(harness.pass(UPLINK, &turned).is_empty(), "no policy lets this come by the association");
    }
    assert_eq!(harness.dropped(DropReason::WrongTunnel), 2);
    harness.assert_no_leak();
}
