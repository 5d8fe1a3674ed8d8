//! What each tab shows, as tables.

mod drops;
mod flows;
mod intents;
mod ports;
mod tiers;
mod tunnels;
mod workers;

use super::sample::{Rate, Sample, View};
use super::table::Table;
use crate::telemetry::snapshot::Snapshot;

/// The tabs, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tab {
    #[default]
    Ports,
    Workers,
    Tiers,
    Apps,
    Tunnels,
    Drops,
    Flows,
}

impl Tab {
    pub const ALL: [Self; 7] =
        [Self::Ports, Self::Workers, Self::Tiers, Self::Apps, Self::Tunnels, Self::Drops, Self::Flows];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Workers => "workers",
            Self::Tiers => "tiers",
            Self::Apps => "apps",
            Self::Tunnels => "tunnels",
            Self::Drops => "drops",
            Self::Flows => "flows",
        }
    }

    /// Its tables. The first is the one that keys sort; the others are what belongs to it.
    pub fn tables(self, view: &View<'_>) -> Vec<Table> {
        match self {
            Self::Ports => vec![ports::ports(view), ports::queues(view)],
            Self::Workers => vec![workers::workers(view)],
            Self::Tiers => vec![tiers::tiers(view), tiers::verdicts(view)],
            Self::Apps => vec![intents::intents(view), intents::applications(view)],
            Self::Tunnels => vec![tunnels::tunnels(view), tunnels::peers(view)],
            Self::Drops => vec![drops::drops(view)],
            Self::Flows => vec![flows::flows(view)],
        }
    }
}

impl std::str::FromStr for Tab {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tab| tab.name() == text)
            .ok_or_else(|| format!("no tab is called `{text}`: {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The instance as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub rx: Rate,
    pub tx: Rate,
    /// Bytes per second.
    pub rx_bytes: Rate,
    pub tx_bytes: Rate,
    pub drops: Rate,
    pub flows: u64,
    pub escaped_bytes: u64,
}

pub fn totals(view: &View<'_>) -> Totals {
    let sum = |of: fn(&crate::telemetry::snapshot::PortTraffic) -> u64| {
        view.rate(|sample| Some(sample.counters.ports.iter().map(of).sum()))
    };
    Totals {
        rx: sum(|port| port.rx.packets),
        tx: sum(|port| port.tx.packets),
        rx_bytes: sum(|port| port.rx.bytes),
        tx_bytes: sum(|port| port.tx.bytes),
        drops: view.rate(|sample| Some(sample.counters.dropped())),
        flows: view.now.counters.workers.iter().map(|worker| worker.flows).sum(),
        escaped_bytes: view.now.counters.escaped_bytes,
    }
}

/// A rate of something in a list that is found by name.
fn by_name<T>(
    view: &View<'_>,
    name: &str,
    list: impl Fn(&Snapshot) -> &[T],
    name_of: impl Fn(&T) -> &str,
    of: impl Fn(&T) -> u64,
) -> Rate {
    view.rate(|sample: &Sample| list(&sample.counters).iter().find(|item| name_of(item) == name).map(&of))
}

/// Sum of rates, where any is known.
fn plus(a: Rate, b: Rate) -> Rate {
    match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or_default() + b.unwrap_or_default()),
    }
}
