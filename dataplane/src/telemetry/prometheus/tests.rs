//! What the text says, and that names keep to the conventions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::control::{LimitStatus, PeerStatus, PortStatus, TierStatus, TunnelStatus, XdpVerdict};
use crate::plan::contract::{Outcome, Verdict};
use crate::telemetry::snapshot::ClassTraffic;
use crate::telemetry::snapshot::tests::two_workers;

/// Sample name with labels to value, by the line grammar of the format.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(out.insert(name.to_owned(), value.parse().unwrap()).is_none(), "twice: {name}");
    }
    out
}

/// An instance with something to say in every family.
fn everything() -> Scrape {
    let peer = PeerStatus { name: "b".into(), last_handshake_s: Some(3.5), sent_bytes: 9, ..PeerStatus::default() };
    let status = Status {
        name: "edge\"a".into(),
        version: "1".into(),
        uptime_s: 1.5,
        ports: vec![PortStatus { name: "apps".into(), queues: 1, ..PortStatus::default() }],
        workers: vec![crate::control::WorkerStatus { state: "running".into(), ..Default::default() }],
        tunnels: vec![TunnelStatus { name: "wg".into(), peers: vec![peer], ..TunnelStatus::default() }],
        tiers: vec![
            TierStatus { tier: "xdp".into(), packets: 7, bytes: 700, flows: Some(2) },
            TierStatus { tier: "kernel".into(), packets: 1, ..TierStatus::default() },
        ],
        xdp: vec![XdpVerdict { verdict: "flow_forward".into(), packets: 7, bytes: 700 }],
        steer: vec![crate::control::SteerStatus { name: "web".into(), packets: 4, ..Default::default() }],
        limits: vec![LimitStatus { application: "payments".into(), connections: 3, most: 3, refused: 9 }],
        wireguard_messages: [("initiation".to_owned(), 2)].into(),
        ..Status::default()
    };
    let intent = Outcome {
        name: "payments".into(),
        owner: "them".into(),
        verdict: Verdict::Degraded,
        tunnel: Some("to-b".into()),
        rules: vec!["protect".into()],
        latency_p99_us: Some(2000),
        ..Outcome::default()
    };
    let contract = Contract { intents: vec![intent], ..Contract::default() };
    let mut counters = two_workers();
    for worker in &mut counters.workers {
        worker.l7.given_up.insert("no_match".into(), 1);
        worker.l7.cut_short.insert("no_buffer".into(), 1);
    }
    for rule in &mut counters.rules {
        rule.not_copied.insert("no_frame".into(), 1);
    }
    Scrape::new(status, counters, Arc::new(contract))
}

#[test]
fn the_values_are_those_of_the_counters() {
    let text = text(everything()).unwrap();
    let samples = parse(&text);
    let at = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    assert_eq!(at("softdpu_port_rx_packets_total{port=\"apps\"}"), 30.0);
    assert_eq!(at("softdpu_port_tx_bytes_total{port=\"uplink\"}"), 2700.0);
    assert_eq!(at("softdpu_port_queue_rx_packets_total{port=\"apps\",queue=\"0\",worker=\"1\"}"), 20.0);
    assert_eq!(at("softdpu_drop_packets_total{reason=\"no_route\"}"), 2.0);
    assert_eq!(at("softdpu_drop_packets_total{reason=\"parse_short\"}"), 0.0);
    assert_eq!(at("softdpu_tunnel_sealed_packets_total{tunnel=\"to-b\"}"), 27.0);
    assert_eq!(at("softdpu_tunnel_compress_out_bytes_total{tunnel=\"to-b\"}"), 600.0);
    assert_eq!(at("softdpu_tunnel_peer_handshake_age_seconds{tunnel=\"wg\",peer=\"b\"}"), 3.5);
    assert_eq!(at("softdpu_class_flows_total{class=\"http\"}"), 3.0);
    assert_eq!(at("softdpu_application_bytes_total{application=\"payments\"}"), 210.0);
    assert_eq!(at("softdpu_worker_frames{worker=\"1\",place=\"free\"}"), 64.0);
    assert_eq!(at("softdpu_worker_busy_seconds_total{worker=\"1\"}"), 3.0);
    assert_eq!(at("softdpu_tier_packets_total{tier=\"xdp\"}"), 7.0);
    assert!(!text.contains("softdpu_tier_flows{tier=\"kernel\"}"), "not known, so not told");
    assert_eq!(at("softdpu_intent_packets_total{intent=\"payments\"}"), 27.0);
    assert_eq!(at("softdpu_intent_encrypted_bytes_total{intent=\"payments\",direction=\"out\"}"), 2100.0);
    assert_eq!(at("softdpu_intent_dropped_packets_total{intent=\"payments\"}"), 3.0);
    assert_eq!(at("softdpu_intent_verdict{intent=\"payments\",verdict=\"degraded\"}"), 1.0);
    assert_eq!(at("softdpu_intent_verdict{intent=\"payments\",verdict=\"met\"}"), 0.0);
    assert_eq!(at("softdpu_intent_latency_wish_seconds{intent=\"payments\"}"), 0.002);
    assert_eq!(at("softdpu_escaped_bytes_total"), 0.0);
    assert_eq!(at("softdpu_uptime_seconds"), 1.5);
    assert!(text.contains("instance_name=\"edge\\\"a\""), "labels are escaped");
}

#[test]
fn long_lists_have_bounded_series() {
    let one = |n: usize| ClassTraffic { name: format!("a{n}"), bytes: 1, ..Default::default() };
    let counters = Snapshot { applications: (0..4000).map(one).collect(), ..Snapshot::default() };
    let intents = (0..1002).map(|n| Outcome { name: format!("i{n}"), ..Outcome::default() }).collect();
    let contract = Contract { intents, ..Contract::default() };
    let text = text(Scrape::new(Status::default(), counters, Arc::new(contract))).unwrap();
    assert_eq!(text.lines().filter(|l| l.starts_with("softdpu_application_bytes_total{")).count(), 1001);
    assert!(text.contains("softdpu_application_bytes_total{application=\"_other\"} 3000"));
    assert!(text.contains("softdpu_intent_bytes_total{intent=\"_other\"} 0"));
    assert_eq!(text.lines().filter(|l| l.starts_with("softdpu_intent_info{")).count(), 1000);
}

/// Every family with something to say has a sample, in the shape that the table promises.
#[test]
fn the_text_is_what_the_table_says() {
    let text = text(everything()).unwrap();
    for family in GROUPS.iter().flat_map(|(_, families)| families.iter()) {
        let (base, name) = (format!("{PREFIX}_{}", family.name), family.sample_name());
        assert!(text.contains(&format!("# HELP {base} ")), "{base} has no help");
        let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
        assert!(text.contains(&format!("# TYPE {base} {kind}\n")), "{base} has no type");
        let is_its = |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let sample = text.lines().find(is_its).unwrap_or_else(|| panic!("no sample of {name}"));
        for label in family.labels {
            assert!(sample.contains(&format!("{label}=\"")), "{sample} lacks {label}");
        }
    }
}

/// The rules of prometheus.io/docs/practices/naming, as `promtool check metrics` holds them.
#[test]
fn names_keep_to_the_conventions() {
    let mut seen = BTreeSet::new();
    for family in GROUPS.iter().flat_map(|(_, families)| families.iter()) {
        let name = family.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_')), "{name}: snake case");
        for (at, word) in name.split('_').enumerate() {
            let units = [
                "milliseconds",
                "microseconds",
                "nanoseconds",
                "minutes",
                "hours",
                "days",
                "bits",
                "kilobytes",
                "percent",
            ];
            let short = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "m", "h", "d"];
            assert!(!units.contains(&word) && !short.contains(&word), "{name}: base units, in full");
            assert!(
                !["counter", "gauge", "histogram", "summary", "total"].contains(&word),
                "{name}: {word} says nothing"
            );
            assert!(at == 0 || word != "softdpu", "{name}: once is enough");
        }
        assert!(
            !["count", "sum", "bucket", "info"].iter().any(|end| family.kind == Kind::Counter && name.ends_with(end)),
            "{name}"
        );
        assert!(
            family.help.ends_with('.') && !family.help.contains('\n') && !family.help.contains('|'),
            "{name}: {}",
            family.help
        );
        assert!(!family.labels.iter().any(|label| ["le", "quantile", "instance", "job"].contains(label)), "{name}");
    }
}

/// Renaming one of these breaks somebody's dashboard. New ones go to the end.
#[test]
fn the_names_are_stable() {
    let names: BTreeSet<String> =
        GROUPS.iter().flat_map(|(_, families)| families.iter().map(|family| family.sample_name())).collect();
    #[rustfmt::skip]
    let promised = [
        "build", "uptime_seconds",
        "port_rx_packets_total", "port_rx_bytes_total", "port_tx_packets_total", "port_tx_bytes_total",
        "rule_packets_total", "rule_bytes_total", "rule_metered_total", "rule_sampled_total",
        "tunnel_sealed_packets_total", "tunnel_sealed_bytes_total", "tunnel_opened_packets_total",
        "tunnel_opened_bytes_total", "tunnel_replayed_packets_total", "tunnel_forged_packets_total",
        "tunnel_compress_in_bytes_total", "tunnel_compress_out_bytes_total", "tunnel_compressed_packets_total",
        "tunnel_left_alone_packets_total", "tunnel_expanded_packets_total", "tunnel_escaped_bytes_total",
        "class_flows_total", "class_packets_total", "class_bytes_total",
        "application_flows_total", "application_packets_total", "application_bytes_total",
        "drop_packets_total", "escaped_bytes_total",
        "worker_batches_total", "worker_packets_total", "worker_idle_rounds_total", "worker_polls_total",
        "worker_flows_refused_total", "worker_flows_unread_total", "worker_flows_evicted_total", "worker_flow_refusals_total",
        "worker_tcp_unbelieved_total", "worker_fragments_orphaned_total",
        "worker_l7_given_up_total", "worker_l7_cut_short_total", "worker_l7_names_refused_total", "worker_l7_names_bad_total",
        "worker_l7_buffers_lost_total", "worker_l7_conflicts_total", "worker_l7_buffers",
        "worker_inner_packets_total", "worker_icmp_matched_total", "worker_flows_unproven", "worker_icmp_sent_total",
        "worker_reassembled_total", "worker_outer_fragmented_total", "worker_mss_clamped_total",
        "worker_datagrams_held", "worker_fragments_held", "worker_flows", "worker_frames", "worker_frames_all",
        "build_info", "port_queue_rx_packets_total", "port_queue_rx_bytes_total", "port_queue_tx_packets_total",
        "port_queue_tx_bytes_total", "port_queue_rx_ring_full_packets_total", "port_queue_tx_ring_full_packets_total",
        "tier_packets_total", "tier_bytes_total", "tier_flows", "xdp_packets_total", "xdp_bytes_total",
        "steer_rule_packets_total", "steer_rule_bytes_total",
        "rule_dropped_packets_total", "rule_sealed_packets_total", "rule_sealed_bytes_total",
        "rule_opened_packets_total", "rule_opened_bytes_total",
        "intent_info", "intent_verdict", "intent_latency_wish_seconds", "intent_booked_bytes_per_second",
        "intent_packets_total", "intent_bytes_total", "intent_dropped_packets_total",
        "intent_encrypted_packets_total", "intent_encrypted_bytes_total",
        "tunnel_peer_sent_bytes_total", "tunnel_peer_received_bytes_total", "tunnel_peer_handshake_age_seconds",
        "wireguard_messages_total", "worker_running", "worker_busy_seconds_total",
        "rule_copied_packets_total", "rule_copied_bytes_total", "rule_not_copied_packets_total",
        "intent_connections", "intent_connections_most", "intent_refused_packets_total",
    ];
    let promised: BTreeSet<String> = promised.iter().map(|name| format!("{PREFIX}_{name}")).collect();
    assert_eq!(promised.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "these are gone");
    assert_eq!(names.difference(&promised).collect::<Vec<_>>(), Vec::<&String>::new(), "add these to the promise");
}
