//! What an instance said at one time, and rates as differences of two such.

use std::collections::HashMap;
use std::sync::Arc;

use crate::control::{FlowInfo, Status};
use crate::plan::contract::Contract;
use crate::telemetry::snapshot::Snapshot;

/// One look at an instance.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Seconds of a clock that never goes back, when the answers were there.
    pub taken: f64,
    pub status: Status,
    pub counters: Snapshot,
    pub contract: Arc<Contract>,
    /// `None`: not asked for.
    pub flows: Option<Flows>,
}

/// Flows as they were listed.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    pub list: Vec<FlowInfo>,
    /// There are more than were asked for.
    pub more: bool,
    /// When they were listed, as [`Sample::taken`].
    pub taken: f64,
}

/// Per second; `None` where it is not known: the first look, or a counter that began anew.
pub type Rate = Option<f64>;

/// A sample and the one before.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    before: Option<&'a Sample>,
    pub now: &'a Sample,
    pub rekeys: &'a Rekeys,
}

impl<'a> View<'a> {
    /// Nothing is compared with an instance that was another one.
    pub fn new(before: Option<&'a Sample>, now: &'a Sample, rekeys: &'a Rekeys) -> Self {
        Self { before: before.filter(|before| same_run(before, now)), now, rekeys }
    }

    /// Increase per second of what `pick` finds. Counters begin anew with the instance, and with a rule of another name.
    pub fn rate(&self, pick: impl Fn(&Sample) -> Option<u64>) -> Rate {
        let before = self.before?;
        per_second(pick(before)?, pick(self.now)?, self.now.taken - before.taken)
    }

    /// The sample before, of the same run of the instance.
    pub fn before(&self) -> Option<&'a Sample> {
        self.before
    }

    /// Between the two; 0 without a sample before.
    pub fn seconds(&self) -> f64 {
        self.before.map_or(0.0, |before| self.now.taken - before.taken)
    }

    /// Of two counters, how much of the one came for each of the other.
    pub fn ratio(&self, of: impl Fn(&Sample) -> Option<u64>, per: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let (of, per) = (self.rate(of)?, self.rate(per)?);
        (per > 0.0).then(|| of / per)
    }

    /// Flows of the sample before, by name, with the seconds since.
    pub fn flows_before(&self) -> Option<(HashMap<&'a str, &'a FlowInfo>, f64)> {
        let (before, now) = (self.before?.flows.as_ref()?, self.now.flows.as_ref()?);
        Some((before.list.iter().map(|flow| (flow.id.as_str(), flow)).collect(), now.taken - before.taken))
    }
}

/// Difference over time.
pub fn per_second(was: u64, is: u64, seconds: f64) -> Rate {
    (seconds > 0.0).then(|| is.checked_sub(was).map(|more| more as f64 / seconds)).flatten()
}

fn same_run(before: &Sample, now: &Sample) -> bool {
    before.status.pid == now.status.pid && before.status.uptime_s <= now.status.uptime_s
}

/// New keys seen in tunnels since the looking began: another SPI, or a handshake younger than the last one.
#[derive(Clone, Debug, Default)]
pub struct Rekeys(HashMap<String, u64>);

impl Rekeys {
    pub fn look(&mut self, before: &Sample, now: &Sample) {
        if !same_run(before, now) {
            return;
        }
        for tunnel in &now.status.tunnels {
            let Some(was) = before.status.tunnels.iter().find(|was| was.name == tunnel.name) else { continue };
            if tunnel.spi_out != was.spi_out && was.spi_out != 0 {
                *self.0.entry(tunnel.name.clone()).or_default() += 1;
            }
            for peer in &tunnel.peers {
                let was = was.peers.iter().find(|was| was.public_key == peer.public_key && was.name == peer.name);
                let younger = match (was.and_then(|was| was.last_handshake_s), peer.last_handshake_s) {
                    (Some(was), Some(is)) => is < was,
                    (None, Some(_)) => was.is_some(),
                    _ => false,
                };
                if younger {
                    *self.0.entry(tunnel.name.clone()).or_default() += 1;
                }
            }
        }
    }

    pub fn of(&self, tunnel: &str) -> u64 {
        self.0.get(tunnel).copied().unwrap_or_default()
    }
}
