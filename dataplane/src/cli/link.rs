//! The call into the dataplane. The lead replaces all of it by `pub use crate::worker::runtime::{RunOptions, run};`.
#![allow(clippy::needless_pass_by_value)] // the dataplane keeps what it is given

use std::path::PathBuf;

use anyhow::bail;

use crate::config::Policy;

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
