//! The steering rules of a policy, for the XDP program: the tunnels' own first, then the operator's in their order.

use crate::config::policy::{self, Encapsulation, OnLoss, Policy, Prefix, SteerAction, TunnelKind};
use crate::crypto::esp::{NAT_T_PORT, PROTO_ESP, PROTO_UDP};
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
pub fn of_tunnels(policy: &Policy) -> Vec<SteerRule> {
    let tunnel = |tunnel: &policy::Tunnel| {
        let mut rule = SteerRule::any(format!("tunnel:{}", tunnel.name), maps::RuleAction::Worker);
        rule.on_loss = maps::OnLoss::Drop;
        match &tunnel.kind {
            TunnelKind::Esp(esp) => {
                rule.from = vec![host(esp.remote)];
                rule.to = vec![host(esp.local)];
                // Matches ESP in UDP too, but not IKE on the same port, which is the kernel's.
                rule.protocol = Some(PROTO_ESP);
                if esp.encapsulation == Encapsulation::Udp {
                    // Behind a NAT the peer's address may change.
                    rule.from = Vec::new();
                    rule.ports = std::iter::once(NAT_T_PORT..=NAT_T_PORT).collect();
                }
                // Of a fragmented packet only the first shows what it is.
                rule.fragments = true;
            }
            TunnelKind::WireGuard(wireguard) => {
                rule.to = wireguard.local.map(host).into_iter().collect();
                rule.protocol = Some(PROTO_UDP);
                rule.ports = std::iter::once(wireguard.listen_port..=wireguard.listen_port).collect();
                // Fragments do not show their port: without an address of its own they are left to the kernel.
                rule.fragments = wireguard.local.is_some();
            }
            TunnelKind::Xfrm(_) => return None,
        }
        Some(rule)
    };
    policy.tunnels.iter().filter_map(tunnel).collect()
}

fn host(addr: IpAddr) -> (IpAddr, u8) {
    pair(&Prefix::host(addr))
}

fn pair(prefix: &Prefix) -> (IpAddr, u8) {
    (prefix.addr(), prefix.prefix_len())
}
