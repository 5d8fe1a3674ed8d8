//! The families of everything but the workers' loops.

use std::fmt;

use super::super::intents::IntentTraffic;
use super::super::snapshot::{ClassTraffic, PortTraffic, QueueTraffic, RuleTraffic, TunnelTraffic};
use super::{Family, Put, Scrape, counter, gauge};
use crate::control::{LimitStatus, PeerStatus, TierStatus};
use crate::plan::contract::{Outcome, Verdict};

/// Applications, intents and peers with series of their own; what is beyond is summed as `_other`, so that a long list does
/// not swamp a scrape.
pub const MAX_SERIES: usize = 1000;
const OTHER: &str = "_other";

pub const INSTANCE: &[Family] = &[
    gauge("build", &["version", "instance_name"], "As build_info; kept for dashboards that have it.", build),
    gauge("build_info", &["version", "instance_name"], "Version and instance; the value is always 1.", build),
    gauge("uptime_seconds", &[], "Seconds since the start.", |s, put| put.add_f64(&[], s.status.uptime_s)),
];

fn build(s: &Scrape, put: &mut Put<'_, '_>) -> fmt::Result {
    put.add(&[&s.status.version, &s.status.name], 1)
}

pub const PORTS: &[Family] = &[
    counter("port_rx_packets", &["port"], "Packets received on a port.", |s, put| port(s, put, |p| p.rx.packets)),
    counter("port_rx_bytes", &["port"], "Bytes received on a port, Ethernet header included.", |s, put| {
        port(s, put, |p| p.rx.bytes)
    }),
    counter("port_tx_packets", &["port"], "Packets sent on a port.", |s, put| port(s, put, |p| p.tx.packets)),
    counter("port_tx_bytes", &["port"], "Bytes sent on a port, Ethernet header included.", |s, put| {
        port(s, put, |p| p.tx.bytes)
    }),
    counter(
        "port_queue_rx_packets",
        &["port", "queue", "worker"],
        "Packets received on a queue, and the worker that has it.",
        |s, put| queue(s, put, |q| q.rx.packets),
    ),
    counter("port_queue_rx_bytes", &["port", "queue", "worker"], "Bytes received on a queue.", |s, put| {
        queue(s, put, |q| q.rx.bytes)
    }),
    counter("port_queue_tx_packets", &["port", "queue", "worker"], "Packets sent on a queue.", |s, put| {
        queue(s, put, |q| q.tx.packets)
    }),
    counter("port_queue_tx_bytes", &["port", "queue", "worker"], "Bytes sent on a queue.", |s, put| {
        queue(s, put, |q| q.tx.bytes)
    }),
    counter(
        "port_queue_rx_ring_full_packets",
        &["port", "queue", "worker"],
        "Packets lost because the worker did not keep up with the receive ring; drop reason rx_ring_full.",
        |s, put| queue(s, put, |q| q.rx_ring_full),
    ),
    counter(
        "port_queue_tx_ring_full_packets",
        &["port", "queue", "worker"],
        "Packets lost because the transmit ring stayed full; drop reason tx_full.",
        |s, put| queue(s, put, |q| q.tx_ring_full),
    ),
];

fn port(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&PortTraffic) -> u64) -> fmt::Result {
    s.counters.ports.iter().try_for_each(|port| put.add(&[&port.name], of(port)))
}

fn queue(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&QueueTraffic) -> u64) -> fmt::Result {
    let mut queues = s.counters.ports.iter().flat_map(|port| port.queues.iter().map(move |queue| (port, queue)));
    queues.try_for_each(|(port, queue)| {
        put.add(&[&port.name, &queue.queue.to_string(), &queue.worker.to_string()], of(queue))
    })
}

pub const TIERS: &[Family] = &[
    counter(
        "tier_packets",
        &["tier"],
        "Packets that ended with a tier: nic (the device), xdp (the driver), worker, kernel (passed up the stack).",
        |s, put| tier(s, put, |t| Some(t.packets)),
    ),
    counter("tier_bytes", &["tier"], "Bytes of those packets.", |s, put| tier(s, put, |t| Some(t.bytes))),
    gauge("tier_flows", &["tier"], "Flows that a tier has now; the kernel's are not known.", |s, put| {
        tier(s, put, |t| t.flows)
    }),
    counter("xdp_packets", &["verdict"], "Packets that the XDP program saw, each under one verdict.", |s, put| {
        s.status.xdp.iter().try_for_each(|x| put.add(&[&x.verdict], x.packets))
    }),
    counter("xdp_bytes", &["verdict"], "Bytes that the XDP program saw, by verdict.", |s, put| {
        s.status.xdp.iter().try_for_each(|x| put.add(&[&x.verdict], x.bytes))
    }),
    counter(
        "steer_rule_packets",
        &["rule"],
        "Packets that a steering rule decided, those of tunnels too.",
        |s, put| s.status.steer.iter().try_for_each(|r| put.add(&[&r.name], r.packets)),
    ),
    counter("steer_rule_bytes", &["rule"], "Bytes that a steering rule decided.", |s, put| {
        s.status.steer.iter().try_for_each(|r| put.add(&[&r.name], r.bytes))
    }),
];

fn tier(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&TierStatus) -> Option<u64>) -> fmt::Result {
    let known = s.status.tiers.iter().filter_map(|tier| Some((tier, of(tier)?)));
    known.into_iter().try_for_each(|(tier, value)| put.add(&[&tier.tier], value))
}

pub const RULES: &[Family] = &[
    counter("rule_packets", &["rule"], "Packets of flows that a rule decided.", |s, put| rule(s, put, |r| r.packets)),
    counter("rule_bytes", &["rule"], "Bytes of flows that a rule decided.", |s, put| rule(s, put, |r| r.bytes)),
    counter(
        "rule_metered",
        &["rule"],
        "Packets that a rule's meter dropped, in the driver and by workers.",
        |s, put| rule(s, put, |r| r.metered),
    ),
    counter("rule_sampled", &["rule"], "Packets that a rule sampled, in the driver and by workers.", |s, put| {
        rule(s, put, |r| r.sampled)
    }),
    counter("rule_copied_packets", &["rule"], "Copies sent to the port that a rule's `mirror` names.", |s, put| {
        rule(s, put, |r| r.copied.packets)
    }),
    counter("rule_copied_bytes", &["rule"], "Bytes of these copies, without the link header.", |s, put| {
        rule(s, put, |r| r.copied.bytes)
    }),
    counter(
        "rule_not_copied_packets",
        &["rule", "reason"],
        "Packets of a rule with `mirror` that went on without having been copied, by reason.",
        |s, put| {
            let all = s.counters.rules.iter().flat_map(|r| r.not_copied.iter().map(move |(why, n)| (r, why, n)));
            all.into_iter().try_for_each(|(r, why, n)| put.add(&[&r.name, why], *n))
        },
    ),
    counter(
        "rule_dropped_packets",
        &["rule"],
        "Packets dropped once they were known to be of a rule, whatever the reason.",
        |s, put| rule(s, put, |r| r.dropped),
    ),
    counter("rule_sealed_packets", &["rule"], "Packets of a rule encrypted.", |s, put| {
        rule(s, put, |r| r.sealed.packets)
    }),
    counter("rule_sealed_bytes", &["rule"], "Inner bytes of a rule encrypted.", |s, put| {
        rule(s, put, |r| r.sealed.bytes)
    }),
    counter("rule_opened_packets", &["rule"], "Packets of a rule that came out of its tunnel.", |s, put| {
        rule(s, put, |r| r.opened.packets)
    }),
    counter("rule_opened_bytes", &["rule"], "Inner bytes of a rule that came out of its tunnel.", |s, put| {
        rule(s, put, |r| r.opened.bytes)
    }),
];

fn rule(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&RuleTraffic) -> u64) -> fmt::Result {
    s.counters.rules.iter().try_for_each(|rule| put.add(&[&rule.name], of(rule)))
}

pub const INTENTS: &[Family] = &[
    gauge(
        "intent_info",
        &["intent", "owner", "encrypt", "tier", "tunnel", "reason"],
        "What was asked and what was planned; the value is always 1.",
        |s, put| {
            own_intents(s).try_for_each(|i| {
                let (tier, tunnel) = (i.tier.as_deref().unwrap_or(""), i.tunnel.as_deref().unwrap_or(""));
                put.add(&[&i.name, &i.owner, &i.encrypt, tier, tunnel, i.because.reason.code()], 1)
            })
        },
    ),
    gauge(
        "intent_verdict",
        &["intent", "verdict"],
        "1 for the verdict that the plan gave an intent (met, degraded or refused), 0 for the others.",
        |s, put| {
            own_intents(s).try_for_each(|intent| {
                [Verdict::Met, Verdict::Degraded, Verdict::Refused].into_iter().try_for_each(|verdict| {
                    put.add(&[&intent.name, verdict.as_str()], u64::from(verdict == intent.verdict))
                })
            })
        },
    ),
    gauge("intent_latency_wish_seconds", &["intent"], "The latency that an intent wishes for at p99.", |s, put| {
        let wishes = own_intents(s).filter_map(|intent| Some((intent, intent.latency_p99_us?)));
        wishes.into_iter().try_for_each(|(intent, us)| put.add_f64(&[&intent.name], us as f64 / 1e6))
    }),
    gauge(
        "intent_booked_bytes_per_second",
        &["intent"],
        "Bandwidth booked for an intent; 0 where it asks for none.",
        |s, put| own_intents(s).try_for_each(|i| put.add_f64(&[&i.name], i.takes.bandwidth as f64 / 8.0)),
    ),
    counter("intent_packets", &["intent"], "Packets of an intent's flows.", |s, put| {
        intent(s, put, &[], |i| i.all.packets)
    }),
    counter("intent_bytes", &["intent"], "Bytes of an intent's flows.", |s, put| intent(s, put, &[], |i| i.all.bytes)),
    counter(
        "intent_dropped_packets",
        &["intent"],
        "Packets of an intent's flows dropped, whatever the reason.",
        |s, put| intent(s, put, &[], |i| i.dropped),
    ),
    counter(
        "intent_encrypted_packets",
        &["intent", "direction"],
        "Packets of an intent that went into a tunnel (out) or came from one (in).",
        |s, put| {
            intent(s, put, &["out"], |i| i.sealed.packets)?;
            intent(s, put, &["in"], |i| i.opened.packets)
        },
    ),
    counter(
        "intent_encrypted_bytes",
        &["intent", "direction"],
        "Inner bytes of an intent that went into a tunnel (out) or came from one (in).",
        |s, put| {
            intent(s, put, &["out"], |i| i.sealed.bytes)?;
            intent(s, put, &["in"], |i| i.opened.bytes)
        },
    ),
];

/// Intents with series of their own.
fn own_intents(s: &Scrape) -> impl Iterator<Item = &Outcome> {
    s.contract.intents.iter().take(MAX_SERIES)
}

fn intent(s: &Scrape, put: &mut Put<'_, '_>, more: &[&str], of: fn(&IntentTraffic) -> u64) -> fmt::Result {
    let mut add = |name: &str, traffic: &IntentTraffic| {
        let labels: Vec<&str> = std::iter::once(name).chain(more.iter().copied()).collect();
        put.add(&labels, of(traffic))
    };
    let each = s.contract.intents.iter().zip(&s.intents);
    each.take(MAX_SERIES).try_for_each(|(intent, traffic)| add(&intent.name, traffic))?;
    match s.intents.get(MAX_SERIES..) {
        Some(others) if !others.is_empty() => add(OTHER, &IntentTraffic::sum(others.iter().copied())),
        _ => Ok(()),
    }
}

pub const TUNNELS: &[Family] = &[
    counter("tunnel_sealed_packets", &["tunnel"], "Packets encrypted.", |s, put| tunnel(s, put, |t| t.sealed.packets)),
    counter("tunnel_sealed_bytes", &["tunnel"], "Inner bytes encrypted.", |s, put| tunnel(s, put, |t| t.sealed.bytes)),
    counter("tunnel_opened_packets", &["tunnel"], "Packets decrypted.", |s, put| tunnel(s, put, |t| t.opened.packets)),
    counter("tunnel_opened_bytes", &["tunnel"], "Inner bytes decrypted.", |s, put| tunnel(s, put, |t| t.opened.bytes)),
    counter("tunnel_replayed_packets", &["tunnel"], "Packets the replay window refused.", |s, put| {
        tunnel(s, put, |t| t.replayed)
    }),
    counter("tunnel_forged_packets", &["tunnel"], "Packets that failed authentication.", |s, put| {
        tunnel(s, put, |t| t.forged)
    }),
    counter("tunnel_compress_in_bytes", &["tunnel"], "Bytes before compression.", |s, put| {
        tunnel(s, put, |t| t.compress_in_bytes)
    }),
    counter("tunnel_compress_out_bytes", &["tunnel"], "Bytes after compression.", |s, put| {
        tunnel(s, put, |t| t.compress_out_bytes)
    }),
    counter("tunnel_compressed_packets", &["tunnel"], "Packets sent compressed.", |s, put| {
        tunnel(s, put, |t| t.compressed)
    }),
    counter("tunnel_left_alone_packets", &["tunnel"], "Packets that would not shrink.", |s, put| {
        tunnel(s, put, |t| t.left_alone)
    }),
    counter("tunnel_expanded_packets", &["tunnel"], "Packets received compressed.", |s, put| {
        tunnel(s, put, |t| t.expanded)
    }),
    counter(
        "tunnel_escaped_bytes",
        &["tunnel"],
        "Bytes held back because they were not sealed. Stays zero.",
        |s, put| tunnel(s, put, |t| t.escaped_bytes),
    ),
    counter("tunnel_peer_sent_bytes", &["tunnel", "peer"], "Outer bytes sent to a WireGuard peer.", |s, put| {
        peers(s).try_for_each(|(tunnel, peer)| put.add(&[tunnel, &peer.name], peer.sent_bytes))
    }),
    counter(
        "tunnel_peer_received_bytes",
        &["tunnel", "peer"],
        "Outer bytes received from a WireGuard peer.",
        |s, put| peers(s).try_for_each(|(tunnel, peer)| put.add(&[tunnel, &peer.name], peer.received_bytes)),
    ),
    gauge(
        "tunnel_peer_handshake_age_seconds",
        &["tunnel", "peer"],
        "Seconds since the last handshake with a WireGuard peer; absent where there was none.",
        |s, put| {
            let shaken = peers(s).filter_map(|(tunnel, peer)| Some((tunnel, &peer.name, peer.last_handshake_s?)));
            shaken.into_iter().try_for_each(|(tunnel, peer, age)| put.add_f64(&[tunnel, peer], age))
        },
    ),
    counter(
        "wireguard_messages",
        &["result"],
        "WireGuard messages that came to the control side, by what became of them.",
        |s, put| s.status.wireguard_messages.iter().try_for_each(|(result, n)| put.add(&[result], *n)),
    ),
];

fn tunnel(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&TunnelTraffic) -> u64) -> fmt::Result {
    s.counters.tunnels.iter().try_for_each(|tunnel| put.add(&[&tunnel.name], of(tunnel)))
}

/// Peers with series of their own, with the names of their tunnels.
fn peers(s: &Scrape) -> impl Iterator<Item = (&str, &PeerStatus)> {
    let all = s.status.tunnels.iter().flat_map(|tunnel| tunnel.peers.iter().map(|peer| (tunnel.name.as_str(), peer)));
    all.take(MAX_SERIES)
}

pub const FLOWS: &[Family] = &[
    counter("class_flows", &["class"], "Flows recognised as a class.", |s, put| class(s, put, |c| c.flows)),
    counter("class_packets", &["class"], "Packets of flows of a class.", |s, put| class(s, put, |c| c.packets)),
    counter("class_bytes", &["class"], "Bytes of flows of a class.", |s, put| class(s, put, |c| c.bytes)),
    counter("application_flows", &["application"], "Flows of an application of the policy.", |s, put| {
        application(s, put, |a| a.flows)
    }),
    counter("application_packets", &["application"], "Packets of flows of an application.", |s, put| {
        application(s, put, |a| a.packets)
    }),
    counter("application_bytes", &["application"], "Bytes of flows of an application.", |s, put| {
        application(s, put, |a| a.bytes)
    }),
    gauge("intent_connections", &["intent"], "Connections of an application that a [[limit]] counts.", |s, put| {
        limit(s, put, |l| l.connections.into())
    }),
    gauge(
        "intent_connections_most",
        &["intent"],
        "Connections that a [[limit]] lets an application have.",
        |s, put| limit(s, put, |l| l.most.into()),
    ),
    counter(
        "intent_refused_packets",
        &["intent"],
        "Packets of connections beyond an application's [[limit]], which were dropped.",
        |s, put| limit(s, put, |l| l.refused),
    ),
];

fn limit(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&LimitStatus) -> u64) -> fmt::Result {
    s.status.limits.iter().take(MAX_SERIES).try_for_each(|limit| put.add(&[&limit.application], of(limit)))
}

fn class(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&ClassTraffic) -> u64) -> fmt::Result {
    s.counters.classes.iter().try_for_each(|class| put.add(&[&class.name], of(class)))
}

fn application(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&ClassTraffic) -> u64) -> fmt::Result {
    let all = &s.counters.applications;
    all.iter().take(MAX_SERIES).try_for_each(|application| put.add(&[&application.name], of(application)))?;
    match all.get(MAX_SERIES..) {
        Some(others) if !others.is_empty() => put.add(&[OTHER], others.iter().map(of).sum()),
        _ => Ok(()),
    }
}

pub const DROPS: &[Family] = &[
    counter(
        "drop_packets",
        &["reason"],
        "Packets dropped, by reason (docs/drops.md); steer_ in front of those of the XDP program.",
        |s, put| s.counters.drops.iter().try_for_each(|drop| put.add(&[&drop.reason], drop.packets)),
    ),
    counter(
        "escaped_bytes",
        &[],
        "Bytes held back at the last step because they were in clear although a rule encrypts their flow. Stays zero.",
        |s, put| put.add(&[], s.counters.escaped_bytes),
    ),
];
