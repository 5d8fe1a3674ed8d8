//! `softdpu run`: the dataplane in the foreground.

use std::path::Path;

use crate::config;
use crate::telemetry::log;
use crate::worker::runtime::{self, RunOptions};

pub fn run(options: &RunOptions, log_level: &str) -> anyhow::Result<bool> {
    log::init(log_level)?;
    let Some(policy) = load(&options.policy_path) else { return Ok(false) };
    runtime::run(policy, options)?;
    Ok(true)
}

/// The policy, or `None` when it is not valid. Says on standard error what is to be said about it.
pub fn load(path: &Path) -> Option<config::Policy> {
    let colour = config::use_colour(&std::io::stderr());
    match config::load(path) {
        Ok(policy) => {
            eprint!("{}", policy.source.render(&policy.warnings, colour));
            Some(policy)
        }
        Err(errors) => {
            eprint!("{}", errors.render(colour));
            eprintln!("{}: not valid, nothing was started", path.display());
            None
        }
    }
}
