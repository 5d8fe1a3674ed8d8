//! The steering rules of a policy, for the XDP program: the tunnels' own first, then the operator's in their order.

use crate::config::policy::{self, Encapsulation, OnLoss, Policy, Prefix, SteerAction, TunnelKind};
use crate::crypto::esp::{PROTO_ESP, PROTO_UDP};
use crate::io::steer::SteerRule;
use softdpu_ebpf_common::maps;
use std::net::IpAddr;

/// `interfaces[port]`: the interface index of each port, `None` for ports that XDP has no part in. `tunnels`: what the
/// tunnels need at the moment, see [`of_tunnels`].
pub fn rules(policy: &Policy, interfaces: &[Option<u32>], tunnels: Vec<SteerRule>) -> Vec<SteerRule> {
    let own = policy.steer.iter().map(|steer| SteerRule {
        name: steer.name.clone(),
        interfaces: steer.port.and_then(|port| interfaces.get(port).copied().flatten()).into_iter().collect(),
        from: steer.matches.from.iter().map(pair).collect(),
        to: steer.matches.to.iter().map(pair).collect(),
        protocol: steer.matches.protocol.0,
        source_ports: steer.matches.source_ports.iter().map(|r| r.first..=r.last).collect(),
        ports: steer.matches.ports.iter().map(|r| r.first..=r.last).collect(),
        // Fragments without ports go with the flows that have them: to the worker, which knows whose they are.
        fragments: steer.action == SteerAction::Worker,
        action: match steer.action {
            SteerAction::Worker => maps::RuleAction::Worker,
            SteerAction::Pass => maps::RuleAction::Pass,
            SteerAction::Drop => maps::RuleAction::Drop,
        },
        on_loss: match steer.on_loss {
            OnLoss::Pass => maps::OnLoss::Pass,
            OnLoss::Drop => maps::OnLoss::Drop,
        },
    });
    tunnels.into_iter().chain(own).collect()
}

/// The rules that tunnels need by themselves, as the policy says.
///
/// What a peer sends always goes to the worker, whatever the operator's rules say: without it the tunnel could not work. It
/// is dropped while no worker is there, since the kernel could do nothing with it.
///
/// One list per tunnel of the policy. Those of type xfrm begin with none: theirs come with what is mirrored.
pub fn of_tunnels(policy: &Policy) -> Vec<Vec<SteerRule>> {
    let rules = |(at, tunnel): (usize, &policy::Tunnel)| match &tunnel.kind {
        TunnelKind::Esp(esp) => vec![of_esp(&tunnel.name, esp)],
        TunnelKind::WireGuard(wireguard) => of_wireguard(policy, at, wireguard.listen_port),
        TunnelKind::Xfrm(_) => Vec::new(),
    };
    policy.tunnels.iter().enumerate().map(rules).collect()
}

fn of_esp(name: &str, esp: &policy::EspTunnel) -> SteerRule {
    let mut rule = to_worker(name);
    rule.to = vec![host(esp.local)];
    // Behind a NAT the peer's address may change.
    if esp.encapsulation == Encapsulation::None {
        rule.from = vec![host(esp.remote)];
    }
    // Matches ESP in UDP too, but not IKE on the same port, which is the kernel's.
    rule.protocol = Some(PROTO_ESP);
    // Of a fragmented packet only the first shows what it is.
    rule.fragments = true;
    rule
}

/// The rules of a WireGuard tunnel that listens on `port`.
pub fn of_wireguard(policy: &Policy, tunnel: usize, port: u16) -> Vec<SteerRule> {
    let Some(policy::Tunnel { name, kind: TunnelKind::WireGuard(wireguard), .. }) = policy.tunnels.get(tunnel) else {
        return Vec::new();
    };
    if port == 0 {
        return Vec::new();
    }
    let mut rule = to_worker(name);
    rule.to = wireguard.local.map(host).into_iter().collect();
    rule.protocol = Some(PROTO_UDP);
    rule.ports = std::iter::once(port..=port).collect();
    // Fragments do not show their port: without an address of its own they are left to the kernel.
    rule.fragments = wireguard.local.is_some();
    vec![rule]
}

fn to_worker(tunnel: &str) -> SteerRule {
    let mut rule = SteerRule::any(format!("tunnel:{tunnel}"), maps::RuleAction::Worker);
    rule.on_loss = maps::OnLoss::Drop;
    rule
}

fn host(addr: IpAddr) -> (IpAddr, u8) {
    pair(&Prefix::host(addr))
}

fn pair(prefix: &Prefix) -> (IpAddr, u8) {
    (prefix.addr(), prefix.prefix_len())
}
