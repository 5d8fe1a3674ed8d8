//! The steering rules of a policy, for the XDP program: the tunnels' own first, then the operator's in their order.

use crate::config::policy::{Encapsulation, OnLoss, Policy, Prefix, SteerAction};
use crate::crypto::esp::{NAT_T_PORT, PROTO_ESP, PROTO_UDP};
use crate::io::steer::SteerRule;
use softdpu_ebpf_common::maps;
use std::net::IpAddr;

/// `interfaces[port]`: the interface index of each port, `None` for ports that XDP has no part in.
///
/// ESP from a tunnel's peer always goes to the worker, whatever the operator's rules say: without it the tunnel could not
/// work. It is dropped while no worker is there, since the kernel could do nothing with it.
pub fn rules(policy: &Policy, interfaces: &[Option<u32>]) -> Vec<SteerRule> {
    let tunnels = policy.tunnels.iter().map(|tunnel| {
        let mut rule = SteerRule::any(format!("tunnel:{}", tunnel.name), maps::RuleAction::Worker);
        rule.from = vec![host(tunnel.remote)];
        rule.to = vec![host(tunnel.local)];
        rule.on_loss = maps::OnLoss::Drop;
        match tunnel.encapsulation {
            Encapsulation::None => rule.protocol = Some(PROTO_ESP),
            Encapsulation::Udp => {
                rule.protocol = Some(PROTO_UDP);
                rule.ports = std::iter::once(NAT_T_PORT..=NAT_T_PORT).collect();
            }
        }
        rule
    });
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
    tunnels.chain(own).collect()
}

fn host(addr: IpAddr) -> (IpAddr, u8) {
    pair(&Prefix::host(addr))
}

fn pair(prefix: &Prefix) -> (IpAddr, u8) {
    (prefix.addr(), prefix.prefix_len())
}
