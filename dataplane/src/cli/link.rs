//! The two calls into the dataplane. The lead replaces the bodies by:
//! `pub use crate::worker::runtime::{RunOptions, run};` and `pub use crate::worker::replay::replay;`

use std::path::PathBuf;

use anyhow::bail;

use crate::config::Policy;
use crate::control::ReplayReport;

/// What the dataplane is told beside its policy.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Path of the policy, for `softdpu status`.
    pub policy_path: PathBuf,
}

/// Runs the dataplane until SIGINT or SIGTERM.
pub fn run(policy: Policy, options: RunOptions) -> anyhow::Result<()> {
    bail!("instance {} ({}): the dataplane is not linked yet", policy.name, options.policy_path.display())
}

/// Runs the graph over captures. `inputs` and `outputs` are (index of the port in `policy.ports`, file), each port at most
/// once in either; a port of any kind is treated as kind pcap.
pub fn replay(
    policy: Policy,
    inputs: Vec<(usize, PathBuf)>,
    outputs: Vec<(usize, PathBuf)>,
) -> anyhow::Result<ReplayReport> {
    bail!("instance {}: {} in, {} out: the graph is not linked yet", policy.name, inputs.len(), outputs.len())
}
