//! A running instance answers: HTTP + JSON on a Unix socket, Prometheus text there and on loopback. All it
//! says, and the one thing it does (new keys for a tunnel), comes through [`ControlSource`].

mod api;
pub mod client;
mod server;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
pub mod types;

use futures::future::BoxFuture;
pub use server::Server;
pub use types::{
    CipherStatus, Demoted, DropCount, ExportStatus, FlowFilter, FlowInfo, PortStatus, ReplayReport, RuleStatus, Status,
    SteerStatus, TunnelStatus, WorkerStatus, XdpVerdict,
};

use crate::plan::contract::Contract;
use crate::telemetry::snapshot::Snapshot;

/// What a running instance knows about itself.
pub trait ControlSource: Send + Sync + 'static {
    /// Everything at a glance. Must not block: it runs on the control thread.
    fn status(&self) -> BoxFuture<'_, Status>;

    /// Makes new session keys in a tunnel, with one peer or with all; answers how many handshakes were begun.
    fn rekey<'a>(&'a self, tunnel: &'a str, peer: Option<&'a str>) -> BoxFuture<'a, anyhow::Result<usize>>;

    /// Takes flows back to their workers: one, or all.
    fn demote<'a>(&'a self, flow: Option<&'a FlowInfo>) -> anyhow::Result<usize>;

    /// What became of the intents.
    fn plan(&self) -> std::sync::Arc<Contract> {
        Default::default()
    }

    /// All counters.
    fn counters(&self) -> Snapshot;

    /// The flows that `filter` lets through, at most `filter.limit` of them. Asks the workers, so it takes until their next
    /// batch; the API gives up after two seconds.
    fn flows(&self, filter: FlowFilter) -> BoxFuture<'_, anyhow::Result<Vec<FlowInfo>>>;
}
