//! The part of a status that follows from the policy and the counters; the instance adds what only it knows.

use super::types::{DropCount, PortStatus, RuleStatus, Status, SteerStatus, TunnelStatus, WorkerStatus};
use crate::config::{Compress, OnLoss, Policy, PortKind, Rule, RuleAction, SteerAction};
use crate::graph::reason::DropReason;
use crate::telemetry::snapshot::{Snapshot, Traffic, TunnelTraffic};

/// A status with names, configuration and counters. Left for the caller: `version` is this build's and `pid` this process's,
/// but `uptime_s`, `policy`, each port's `mode`, `copy`, `queues` and `notes`, each worker's `core`, and the counters of
/// `steer`, which the XDP program keeps. Workers are "running".
pub fn describe(policy: &Policy, counters: &Snapshot) -> Status {
    Status {
        name: policy.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ports: policy.ports.iter().map(|port| port_status(port, counters)).collect(),
        workers: counters
            .workers
            .iter()
            .map(|w| WorkerStatus {
                worker: w.worker,
                core: None,
                state: "running".to_owned(),
                batches: w.batches,
                packets: w.packets,
                polls: w.polls,
                flows: w.flows,
                frames: w.frames,
            })
            .collect(),
        tunnels: policy.tunnels.iter().map(|t| tunnel_status(t, counters)).collect(),
        steer: policy.steer.iter().map(steer_status).collect(),
        rules: policy.rules.iter().map(|rule| rule_status(rule, policy, counters)).collect(),
        classes: counters.classes.iter().filter(|c| c.flows > 0).cloned().collect(),
        drops: drops(counters),
        escaped_bytes: counters.escaped_bytes,
        ..Status::default()
    }
}

/// Every reason that has counted something, with its node and meaning.
pub fn drops(counters: &Snapshot) -> Vec<DropCount> {
    let counted = counters.drops.iter().filter(|d| d.packets > 0);
    counted
        .map(|d| {
            let reason = DropReason::ALL.iter().find(|r| r.code() == d.reason);
            DropCount {
                reason: d.reason.clone(),
                node: reason.map_or("", |r| r.node()).to_owned(),
                count: d.packets,
                help: reason.map_or("", |r| r.help()).to_owned(),
            }
        })
        .collect()
}

fn port_status(port: &crate::config::Port, counters: &Snapshot) -> PortStatus {
    let traffic = counters.ports.iter().find(|t| t.name == port.name);
    let (rx, tx) = traffic.map_or((Traffic::default(), Traffic::default()), |t| (t.rx, t.tx));
    let interface = match &port.kind {
        PortKind::Xdp(xdp) => Some(xdp.interface.clone()),
        _ => None,
    };
    PortStatus {
        name: port.name.clone(),
        kind: port.kind.as_str().to_owned(),
        interface,
        queues: 1,
        rx,
        tx,
        ..PortStatus::default()
    }
}

fn tunnel_status(tunnel: &crate::config::Tunnel, counters: &Snapshot) -> TunnelStatus {
    let none = TunnelTraffic::default();
    let t = counters.tunnels.iter().find(|t| t.name == tunnel.name).unwrap_or(&none);
    TunnelStatus {
        name: tunnel.name.clone(),
        local: tunnel.local.to_string(),
        remote: tunnel.remote.to_string(),
        cipher: tunnel.cipher.name().to_owned(),
        spi_out: tunnel.out.spi,
        spi_in: tunnel.inbound.spi,
        sealed: t.sealed,
        opened: t.opened,
        replayed: t.replayed,
        forged: t.forged,
        compress_in_bytes: t.compress_in_bytes,
        compress_out_bytes: t.compress_out_bytes,
        compressed: t.compressed,
        left_alone: t.left_alone,
        expanded: t.expanded,
    }
}

fn steer_status(steer: &crate::config::Steer) -> SteerStatus {
    let action = match steer.action {
        SteerAction::Worker => "worker",
        SteerAction::Pass => "pass",
        SteerAction::Drop => "drop",
    };
    let on_loss = match steer.on_loss {
        OnLoss::Pass => "pass",
        OnLoss::Drop => "drop",
    };
    SteerStatus {
        name: steer.name.clone(),
        action: action.to_owned(),
        on_loss: on_loss.to_owned(),
        packets: 0,
        bytes: 0,
    }
}

fn rule_status(rule: &Rule, policy: &Policy, counters: &Snapshot) -> RuleStatus {
    let traffic = counters.rules.iter().find(|t| t.name == rule.name);
    RuleStatus {
        name: rule.name.clone(),
        what: what(rule, policy),
        packets: traffic.map_or(0, |t| t.packets),
        bytes: traffic.map_or(0, |t| t.bytes),
    }
}

/// What a rule does, in words.
fn what(rule: &Rule, policy: &Policy) -> String {
    if rule.action == RuleAction::Drop {
        return "drop".to_owned();
    }
    let mut words = match rule.encrypt.and_then(|i| policy.tunnels.get(i)) {
        Some(tunnel) => format!("encrypt {}", tunnel.name),
        None => "forward in clear".to_owned(),
    };
    if rule.compress == Compress::Lz4 {
        words.push_str(", compress lz4");
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::snapshot::{DropTraffic, RuleTraffic};

    #[test]
    fn policy_and_counters_make_a_status() {
        let policy = crate::config::parse(include_str!("../../../configs/policies/full.toml"), "full.toml").unwrap();
        let reason = DropReason::ALL[0];
        let counters = Snapshot {
            rules: vec![RuleTraffic { name: "protect-all".into(), packets: 5, bytes: 500 }],
            tunnels: vec![TunnelTraffic { name: "to-b".into(), replayed: 3, ..TunnelTraffic::default() }],
            drops: vec![
                DropTraffic { reason: reason.code().into(), packets: 2 },
                DropTraffic { reason: DropReason::ALL[1].code().into(), packets: 0 },
            ],
            ..Snapshot::default()
        };
        let status = describe(&policy, &counters);
        assert_eq!(status.name, "edge-a");
        assert_eq!(status.ports[0].interface.as_deref(), Some("veth0"));
        assert_eq!((status.rules[0].what.as_str(), status.rules[0].packets), ("drop", 0));
        assert_eq!((status.rules[1].what.as_str(), status.rules[1].packets), ("encrypt to-b, compress lz4", 5));
        assert_eq!((status.tunnels[0].cipher.as_str(), status.tunnels[0].replayed), ("aes-256-gcm", 3));
        assert_eq!(status.steer[0].on_loss, "drop");
        assert_eq!(status.drops.len(), 1);
        assert_eq!((status.drops[0].node.as_str(), status.drops[0].help.as_str()), (reason.node(), reason.help()));
    }
}
