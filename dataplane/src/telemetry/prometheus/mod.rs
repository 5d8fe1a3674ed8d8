//! The counters as Prometheus (OpenMetrics) text. Names and labels are a promise: dashboards are built on them. Each family is
//! a line of a table (`families.rs`, `workers.rs`), from which text and page (docs/metrics.md) are made.

#[cfg(test)]
mod dashboards;
pub mod docs;
mod families;
#[cfg(test)]
mod tests;
mod workers;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::intents::{IntentTraffic, by_intent};
use super::snapshot::Snapshot;
use crate::control::Status;
use crate::plan::contract::Contract;

/// Content type of the text (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// In front of every name.
pub const PREFIX: &str = "softdpu";

/// What one scrape tells of.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub status: Status,
    pub counters: Snapshot,
    pub contract: Arc<Contract>,
    /// Of each intent of the contract, in its order.
    intents: Vec<IntentTraffic>,
    /// Numbers of workers as text.
    numbers: Vec<String>,
}

impl Scrape {
    pub fn new(status: Status, counters: Snapshot, contract: Arc<Contract>) -> Self {
        let intents = by_intent(&contract, &counters).into_iter().map(|(_, traffic)| traffic).collect();
        let numbers = (0..counters.workers.len()).map(|n| n.to_string()).collect();
        Self { status, counters, contract, intents, numbers }
    }
}

/// The text of `/metrics`.
///
/// # Errors
/// Only when the encoder fails, which means a name or label it cannot write.
pub fn text(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(scrape));
    let mut out = String::with_capacity(16 << 10);
    encode(&mut out, &registry)?;
    Ok(out)
}

/// Families that belong together, with a title for the page.
type Group = (&'static str, &'static [Family]);

/// All families, in the order of the text.
const GROUPS: &[Group] = &[
    ("The instance", families::INSTANCE),
    ("Ports and queues", families::PORTS),
    ("Tiers, and the XDP program", families::TIERS),
    ("Rules", families::RULES),
    ("Intents", families::INTENTS),
    ("Tunnels", families::TUNNELS),
    ("Classes and applications", families::FLOWS),
    ("Drops", families::DROPS),
    ("Workers", workers::WORKERS),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// One metric family.
struct Family {
    /// Without prefix, and without the `_total` that counters get.
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: Samples,
}

/// Writes a family's samples.
type Samples = fn(&Scrape, &mut Put<'_, '_>) -> fmt::Result;

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str, samples: Samples) -> Family {
    Family { name, kind: Kind::Counter, labels, help, samples }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str, samples: Samples) -> Family {
    Family { name, kind: Kind::Gauge, labels, help, samples }
}

impl Family {
    /// Name of its samples.
    fn sample_name(&self) -> String {
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{PREFIX}_{}{total}", self.name)
    }
}

/// Where samples go.
struct Put<'m, 'e> {
    encoder: &'m mut MetricEncoder<'e>,
    family: &'static Family,
}

impl Put<'_, '_> {
    /// A sample, with the family's labels.
    fn add(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.write(labels, &value, &value)
    }

    /// Likewise, for seconds.
    fn add_f64(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        self.write(labels, &value, &value)
    }

    fn write(
        &mut self,
        labels: &[&str],
        counter: &impl prometheus_client::encoding::EncodeCounterValue,
        gauge: &impl prometheus_client::encoding::EncodeGaugeValue,
    ) -> fmt::Result {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        let value = |encoder: &mut MetricEncoder<'_>| match self.family.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(counter, None),
            Kind::Gauge => encoder.encode_gauge(gauge),
        };
        if labels.is_empty() {
            return value(self.encoder);
        }
        let set: Vec<(&str, &str)> = self.family.labels.iter().copied().zip(labels.iter().copied()).collect();
        value(&mut self.encoder.encode_family(&set)?)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in GROUPS.iter().flat_map(|(_, families)| families.iter()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut encoder = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            (family.samples)(self, &mut Put { encoder: &mut encoder, family })?;
        }
        Ok(())
    }
}
