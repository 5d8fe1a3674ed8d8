//! The snapshot as Prometheus (OpenMetrics) text. Names and labels are a promise: dashboards are built on them.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::snapshot::{Frames, L7Refusals, Snapshot, TunnelTraffic, WorkerLoop};

/// Content type of the text (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the metrics are of, besides the counters.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub version: String,
    pub instance: String,
    /// Seconds since the instance started.
    pub uptime_s: f64,
}

/// The text of `/metrics`.
///
/// # Errors
/// Only when the encoder fails, which means a name or label it cannot write.
pub fn text(facts: Facts, snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("softdpu");
    registry.register_collector(Box::new(Scrape { facts, snapshot }));
    let mut out = String::with_capacity(8 << 10);
    encode(&mut out, &registry)?;
    Ok(out)
}

/// One scrape.
#[derive(Debug)]
struct Scrape {
    facts: Facts,
    snapshot: Snapshot,
}

/// One series: its labels and its value.
type Series<'a> = (Vec<(&'static str, &'a str)>, u64);

fn counters<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = Series<'a>>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = Series<'a>>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        let s = &self.snapshot;
        let facts = &self.facts;
        let info = vec![("version", facts.version.as_str()), ("instance_name", facts.instance.as_str())];
        gauges(e, "build", "Version and instance; the value is always 1.", [(info, 1)])?;
        let mut uptime = e.encode_descriptor("uptime_seconds", "Seconds since the start.", None, MetricType::Gauge)?;
        uptime.encode_gauge(&facts.uptime_s)?;
        ports(e, s)?;
        let rules = |f: fn(&super::snapshot::RuleTraffic) -> u64| {
            s.rules.iter().map(move |r| (vec![("rule", r.name.as_str())], f(r)))
        };
        counters(e, "rule_packets", "Packets of flows that a rule decided.", rules(|r| r.packets))?;
        counters(e, "rule_bytes", "Bytes of flows that a rule decided.", rules(|r| r.bytes))?;
        counters(
            e,
            "rule_metered",
            "Packets that a rule's meter dropped, in the driver and by workers.",
            rules(|r| r.metered),
        )?;
        counters(
            e,
            "rule_sampled",
            "Packets that a rule sampled, in the driver and by workers.",
            rules(|r| r.sampled),
        )?;
        tunnels(e, s)?;
        let classes = |f: fn(&super::snapshot::ClassTraffic) -> u64| {
            s.classes.iter().map(move |c| (vec![("class", c.name.as_str())], f(c)))
        };
        counters(e, "class_flows", "Flows recognised as a class.", classes(|c| c.flows))?;
        counters(e, "class_packets", "Packets of flows of a class.", classes(|c| c.packets))?;
        counters(e, "class_bytes", "Bytes of flows of a class.", classes(|c| c.bytes))?;
        applications(e, s)?;
        let drops = s.drops.iter().map(|d| (vec![("reason", d.reason.as_str())], d.packets));
        counters(e, "drop_packets", "Packets dropped, by reason.", drops)?;
        let escaped = "Bytes held back at the last step because they were in clear although a rule encrypts their flow. Stays zero.";
        let total = ConstCounter::new(s.escaped_bytes);
        total.encode(e.encode_descriptor("escaped_bytes", escaped, None, MetricType::Counter)?)?;
        workers(e, s)
    }
}

/// Applications with series of their own; what is beyond is summed as `_other`, so that a long list does not swamp a scrape.
const MAX_APPLICATIONS: usize = 1000;

fn applications(e: &mut DescriptorEncoder<'_>, s: &Snapshot) -> fmt::Result {
    let (own, others) = s.applications.split_at(s.applications.len().min(MAX_APPLICATIONS));
    let series = |f: fn(&super::snapshot::ClassTraffic) -> u64| {
        let other = (!others.is_empty()).then(|| (vec![("application", "_other")], others.iter().map(f).sum::<u64>()));
        own.iter().map(move |a| (vec![("application", a.name.as_str())], f(a))).chain(other)
    };
    counters(e, "application_flows", "Flows of an application of the policy.", series(|a| a.flows))?;
    counters(e, "application_packets", "Packets of flows of an application.", series(|a| a.packets))?;
    counters(e, "application_bytes", "Bytes of flows of an application.", series(|a| a.bytes))
}

fn ports(e: &mut DescriptorEncoder<'_>, s: &Snapshot) -> fmt::Result {
    let port = |f: fn(&super::snapshot::PortTraffic) -> u64| {
        s.ports.iter().map(move |p| (vec![("port", p.name.as_str())], f(p)))
    };
    counters(e, "port_rx_packets", "Packets received on a port.", port(|p| p.rx.packets))?;
    counters(e, "port_rx_bytes", "Bytes received on a port, Ethernet header included.", port(|p| p.rx.bytes))?;
    counters(e, "port_tx_packets", "Packets sent on a port.", port(|p| p.tx.packets))?;
    counters(e, "port_tx_bytes", "Bytes sent on a port, Ethernet header included.", port(|p| p.tx.bytes))
}

fn tunnels(e: &mut DescriptorEncoder<'_>, s: &Snapshot) -> fmt::Result {
    let tunnel =
        |f: fn(&TunnelTraffic) -> u64| s.tunnels.iter().map(move |t| (vec![("tunnel", t.name.as_str())], f(t)));
    counters(e, "tunnel_sealed_packets", "Packets encrypted.", tunnel(|t| t.sealed.packets))?;
    counters(e, "tunnel_sealed_bytes", "Inner bytes encrypted.", tunnel(|t| t.sealed.bytes))?;
    counters(e, "tunnel_opened_packets", "Packets decrypted.", tunnel(|t| t.opened.packets))?;
    counters(e, "tunnel_opened_bytes", "Inner bytes decrypted.", tunnel(|t| t.opened.bytes))?;
    counters(e, "tunnel_replayed_packets", "Packets the replay window refused.", tunnel(|t| t.replayed))?;
    counters(e, "tunnel_forged_packets", "Packets that failed authentication.", tunnel(|t| t.forged))?;
    counters(e, "tunnel_compress_in_bytes", "Bytes before compression.", tunnel(|t| t.compress_in_bytes))?;
    counters(e, "tunnel_compress_out_bytes", "Bytes after compression.", tunnel(|t| t.compress_out_bytes))?;
    counters(e, "tunnel_compressed_packets", "Packets sent compressed.", tunnel(|t| t.compressed))?;
    counters(e, "tunnel_left_alone_packets", "Packets that would not shrink.", tunnel(|t| t.left_alone))?;
    counters(e, "tunnel_expanded_packets", "Packets received compressed.", tunnel(|t| t.expanded))?;
    counters(
        e,
        "tunnel_escaped_bytes",
        "Bytes held back because they were not sealed. Stays zero.",
        tunnel(|t| t.escaped_bytes),
    )
}

fn workers(e: &mut DescriptorEncoder<'_>, s: &Snapshot) -> fmt::Result {
    let ids: Vec<String> = s.workers.iter().map(|w| w.worker.to_string()).collect();
    let worker = |f: fn(&super::snapshot::WorkerLoop) -> u64| {
        s.workers.iter().zip(&ids).map(move |(w, id)| (vec![("worker", id.as_str())], f(w)))
    };
    counters(e, "worker_batches", "Batches that had packets.", worker(|w| w.batches))?;
    counters(e, "worker_packets", "Packets that walked the graph.", worker(|w| w.packets))?;
    counters(e, "worker_idle_rounds", "Rounds that found nothing.", worker(|w| w.idle))?;
    counters(e, "worker_polls", "Times the worker slept.", worker(|w| w.polls))?;
    let refused = "Packets that found the flow table full and were judged by themselves.";
    counters(e, "worker_flows_refused", refused, worker(|w| w.flows_refused))?;
    let unread = "Flows of which too little could be read for rules over class and host: those that protect hold.";
    counters(e, "worker_flows_unread", unread, worker(|w| w.flows_unread))?;
    let reasons = |of: fn(&WorkerLoop) -> [u64; 2]| {
        s.workers.iter().zip(&ids).flat_map(move |(w, id)| {
            ["table_full", "unproven"]
                .into_iter()
                .zip(of(w))
                .map(move |(reason, n)| (vec![("worker", id.as_str()), ("reason", reason)], n))
        })
    };
    let evicted = reasons(|w| [w.flows_evicted_full, w.flows_evicted_unproven]);
    counters(e, "worker_flows_evicted", "Flows that made way for others, by what there were too many of.", evicted)?;
    let refused = reasons(|w| [w.flows_refused_full, w.flows_refused_unproven]);
    counters(e, "worker_flow_refusals", "Packets within and without that got no flow, by reason.", refused)?;
    let unbelieved = "RST and FIN segments forwarded, but too far from what their sender sends to end a flow.";
    counters(e, "worker_tcp_unbelieved", unbelieved, worker(|w| w.tcp_unbelieved))?;
    let orphaned = "Later fragments whose first was not seen, judged by themselves.";
    counters(e, "worker_fragments_orphaned", orphaned, worker(|w| w.fragments_orphaned))?;
    recognition(e, s, &ids)?;
    let inner = "Packets within packets of overlays, counted to their own flows too.";
    counters(e, "worker_inner_packets", inner, worker(|w| w.inner_packets))?;
    let matched = "ICMP errors counted to the flow that they quote.";
    counters(e, "worker_icmp_matched", matched, worker(|w| w.icmp_matched))?;
    gauges(e, "worker_flows_unproven", "Flows that are opening or one-sided.", worker(|w| w.flows_unproven))?;
    counters(e, "worker_icmp_sent", "ICMP errors sent.", worker(|w| w.icmp_sent))?;
    counters(e, "worker_reassembled", "Datagrams put together from fragments.", worker(|w| w.reassembled))?;
    counters(e, "worker_outer_fragmented", "Sealed packets cut into fragments.", worker(|w| w.outer_fragmented))?;
    counters(e, "worker_mss_clamped", "SYNs whose MSS was lowered.", worker(|w| w.mss_clamped))?;
    gauges(e, "worker_datagrams_held", "Incomplete datagrams.", worker(|w| w.datagrams_held))?;
    gauges(e, "worker_fragments_held", "Fragments held for their datagrams.", worker(|w| w.fragments_held))?;
    gauges(e, "worker_flows", "Flows in the table.", worker(|w| w.flows))?;
    let places = |f: &Frames| [("free", f.free), ("fill", f.fill), ("tx", f.tx), ("graph", f.graph)];
    let series =
        s.workers.iter().zip(&ids).flat_map(|(w, id)| {
            places(&w.frames).map(|(place, n)| (vec![("worker", id.as_str()), ("place", place)], n))
        });
    gauges(e, "worker_frames", "Frames of the UMEM, by where they are.", series)?;
    gauges(e, "worker_frames_all", "Frames of the UMEM.", worker(|w| w.frames.total))
}

/// What recognition refused, and how much of its room is taken.
fn recognition(e: &mut DescriptorEncoder<'_>, s: &Snapshot, ids: &[String]) -> fmt::Result {
    let by_reason = |of: fn(&L7Refusals) -> &BTreeMap<String, u64>| {
        s.workers.iter().zip(ids).flat_map(move |(w, id)| {
            of(&w.l7).iter().map(move |(reason, n)| (vec![("worker", id.as_str()), ("reason", reason.as_str())], *n))
        })
    };
    let worker = |of: fn(&L7Refusals) -> u64| {
        s.workers.iter().zip(ids).map(move |(w, id)| (vec![("worker", id.as_str())], of(&w.l7)))
    };
    counters(e, "worker_l7_given_up", "Flows that stay unknown, by reason.", by_reason(|l7| &l7.given_up))?;
    let cut = "Flows with a class of which less was read than they say, by the bound that was reached.";
    counters(e, "worker_l7_cut_short", cut, by_reason(|l7| &l7.cut_short))?;
    counters(e, "worker_l7_names_refused", "Host names that found no place.", worker(|l7| l7.names_refused))?;
    let bad = "Messages whose host name was none: too long, not printable, or of parts that do not add up.";
    counters(e, "worker_l7_names_bad", bad, worker(|l7| l7.names_bad))?;
    let lost = "Reassembly buffers that silent flows lost to others.";
    counters(e, "worker_l7_buffers_lost", lost, worker(|l7| l7.buffers_lost))?;
    let conflicts = "Segments that said something else than one before them at the same place.";
    counters(e, "worker_l7_conflicts", conflicts, worker(|l7| l7.conflicts))?;
    gauges(e, "worker_l7_buffers", "Reassembly buffers in use.", worker(|l7| l7.buffers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
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

    #[test]
    fn the_values_are_those_of_the_snapshot() {
        let facts = Facts { version: "1".into(), instance: "edge\"a".into(), uptime_s: 1.5 };
        let text = text(facts, two_workers()).unwrap();
        let samples = parse(&text);
        let at = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        assert_eq!(at("softdpu_port_rx_packets_total{port=\"apps\"}"), 30.0);
        assert_eq!(at("softdpu_port_tx_bytes_total{port=\"uplink\"}"), 2700.0);
        assert_eq!(at("softdpu_drop_packets_total{reason=\"no_route\"}"), 2.0);
        assert_eq!(at("softdpu_drop_packets_total{reason=\"parse_short\"}"), 0.0);
        assert_eq!(at("softdpu_tunnel_sealed_packets_total{tunnel=\"to-b\"}"), 27.0);
        assert_eq!(at("softdpu_tunnel_compress_out_bytes_total{tunnel=\"to-b\"}"), 600.0);
        assert_eq!(at("softdpu_class_flows_total{class=\"http\"}"), 3.0);
        assert_eq!(at("softdpu_application_bytes_total{application=\"payments\"}"), 210.0);
        assert_eq!(at("softdpu_worker_frames{worker=\"1\",place=\"free\"}"), 64.0);
        assert_eq!(at("softdpu_escaped_bytes_total"), 0.0);
        assert_eq!(at("softdpu_uptime_seconds"), 1.5);
        assert!(text.contains("instance_name=\"edge\\\"a\""), "labels are escaped");
    }

    #[test]
    fn a_long_list_of_applications_has_bounded_series() {
        let one =
            |n: usize| super::super::snapshot::ClassTraffic { name: format!("a{n}"), bytes: 1, ..Default::default() };
        let snapshot = Snapshot { applications: (0..4000).map(one).collect(), ..Snapshot::default() };
        let text = text(Facts::default(), snapshot).unwrap();
        assert_eq!(text.lines().filter(|l| l.starts_with("softdpu_application_bytes_total{")).count(), 1001);
        assert!(text.contains("softdpu_application_bytes_total{application=\"_other\"} 3000"));
    }

    /// Renaming one of these breaks somebody's dashboard.
    #[test]
    fn the_names_are_stable() {
        let text = text(Facts::default(), two_workers()).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        #[rustfmt::skip]
        assert_eq!(names, [
            "softdpu_build", "softdpu_uptime_seconds",
            "softdpu_port_rx_packets", "softdpu_port_rx_bytes", "softdpu_port_tx_packets", "softdpu_port_tx_bytes",
            "softdpu_rule_packets", "softdpu_rule_bytes", "softdpu_rule_metered", "softdpu_rule_sampled",
            "softdpu_tunnel_sealed_packets", "softdpu_tunnel_sealed_bytes", "softdpu_tunnel_opened_packets",
            "softdpu_tunnel_opened_bytes", "softdpu_tunnel_replayed_packets", "softdpu_tunnel_forged_packets",
            "softdpu_tunnel_compress_in_bytes", "softdpu_tunnel_compress_out_bytes", "softdpu_tunnel_compressed_packets",
            "softdpu_tunnel_left_alone_packets", "softdpu_tunnel_expanded_packets", "softdpu_tunnel_escaped_bytes",
            "softdpu_class_flows", "softdpu_class_packets", "softdpu_class_bytes",
            "softdpu_application_flows", "softdpu_application_packets", "softdpu_application_bytes",
            "softdpu_drop_packets", "softdpu_escaped_bytes",
            "softdpu_worker_batches", "softdpu_worker_packets", "softdpu_worker_idle_rounds", "softdpu_worker_polls",
            "softdpu_worker_flows_refused", "softdpu_worker_flows_unread", "softdpu_worker_flows_evicted", "softdpu_worker_flow_refusals",
            "softdpu_worker_tcp_unbelieved", "softdpu_worker_fragments_orphaned",
            "softdpu_worker_l7_given_up", "softdpu_worker_l7_cut_short", "softdpu_worker_l7_names_refused",
            "softdpu_worker_l7_names_bad",
            "softdpu_worker_l7_buffers_lost", "softdpu_worker_l7_conflicts", "softdpu_worker_l7_buffers",
            "softdpu_worker_inner_packets", "softdpu_worker_icmp_matched",
            "softdpu_worker_flows_unproven", "softdpu_worker_icmp_sent",
            "softdpu_worker_reassembled", "softdpu_worker_outer_fragmented", "softdpu_worker_mss_clamped",
            "softdpu_worker_datagrams_held", "softdpu_worker_fragments_held",
            "softdpu_worker_flows", "softdpu_worker_frames", "softdpu_worker_frames_all",
        ]);
        for name in names {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
}
