//! A running instance answers: HTTP + JSON on a Unix socket, Prometheus text there and on loopback. All it
//! says, and the one thing it does (new keys for a tunnel), comes through [`ControlSource`].

#[cfg(test)]
mod answers_tests;
mod api;
pub mod client;
mod events;
#[cfg(test)]
mod events_tests;
mod extract;
pub mod follow;
mod lease;
pub mod openapi;
mod server;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
pub mod types;
pub(crate) mod watch;
pub mod watch_client;

use futures::future::BoxFuture;
pub use server::Server;
pub use types::{
    CipherStatus, Demoted, DropCount, ExportStatus, FlowFilter, FlowInfo, LimitStatus, NicStatus, PeerStatus,
    PlanEntry, PlanOutcome, PortStatus, ReloadReport, ReplayReport, RuleStatus, Status, SteerStatus, TierStatus,
    TunnelStatus, WorkerStatus, XdpVerdict,
};

use crate::plan::contract::Contract;
use crate::telemetry::journal::Journal;
use crate::telemetry::snapshot::Snapshot;
use crate::watch::{Feed, WatchRequest};
pub use watch::WatchRefused;

/// Where the next policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// Its file, and who asked: "reload", "SIGHUP", "watch".
    File(&'static str),
    /// One that was in force before, by its number.
    History(u64),
    /// The one in force, made anew because names have other addresses: which, in words.
    Names(String),
}

/// What a running instance knows about itself.
pub trait ControlSource: Send + Sync + 'static {
    /// Everything at a glance. Must not block: it runs on the control thread.
    fn status(&self) -> BoxFuture<'_, Status>;

    /// Makes new session keys in a tunnel, with one peer or with all; answers how many handshakes were begun.
    fn rekey<'a>(&'a self, tunnel: &'a str, peer: Option<&'a str>) -> BoxFuture<'a, anyhow::Result<usize>>;

    /// Begins to look at packets on their way: all nodes (`trace`), or some points. One at a time. `by`: the user who asks.
    fn watch(&self, request: &WatchRequest, trace: bool, by: u32) -> Result<Feed, WatchRefused> {
        let _ = (request, trace, by);
        Err(WatchRefused::Unable("this instance has no packets".to_owned()))
    }

    /// Ends what [`Self::watch`] began. `false`: there was nothing.
    fn stop_watch(&self) -> bool {
        false
    }

    /// Takes flows back to their workers: one, or all.
    fn demote<'a>(&'a self, flow: Option<&'a FlowInfo>) -> anyhow::Result<usize>;

    /// What happens, for who follows it.
    fn events(&self) -> std::sync::Arc<Journal>;

    /// What became of the intents.
    fn plan(&self) -> std::sync::Arc<Contract> {
        Default::default()
    }

    /// Goes on to another policy, and answers when it is in force, or the old one is again. `dry`: only says what would change.
    fn reload(&self, from: PlanSource, dry: bool) -> BoxFuture<'_, anyhow::Result<ReloadReport>>;

    /// The policies that were in force, newest first.
    fn history(&self) -> Vec<PlanEntry>;

    /// All counters.
    fn counters(&self) -> Snapshot;

    /// The flows that `filter` lets through, at most `filter.limit` of them. Asks the workers, so it takes until their next
    /// batch; the API gives up after two seconds.
    fn flows(&self, filter: FlowFilter) -> BoxFuture<'_, anyhow::Result<Vec<FlowInfo>>>;
}
