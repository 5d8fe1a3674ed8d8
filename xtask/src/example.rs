//! `cargo xtask example`: the worked example of `docs/example.md`, told with real traffic.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use softdpu_testbed::example::{self, Options};

use crate::{demo, run, setup};

/// Tells the worked example: what three applications ask for (`configs/intents`) and one policy (`configs/policies/example-a.toml`)
/// become a plan; payments over HTTPS, backups by rsync and a stream of video prove it between two sites of namespaces, with the
/// wire captured; then a conflict, a mistake, and the operator's changes. Ends with 0 when every claim holds.
///
/// Needs root. Leaves nothing behind.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Write the claims, and what was seen, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the folder with policies, intents, captures and logs behind, and say where it is
    #[arg(long)]
    keep: bool,
    /// Less traffic
    #[arg(long)]
    quick: bool,
    /// Use this softdpu instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Tells it. Whether every claim holds.
///
/// # Errors
/// Without root, when a program is missing, or when the rig itself fails.
pub fn main(arguments: &Arguments) -> Result<bool> {
    ensure!(softdpu_testbed::is_root(), "network namespaces need root: sudo -E cargo xtask example");
    setup::ensure(setup::Need::Run)?;
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string())?,
        None => demo::build()?,
    };
    let start = Instant::now();
    let claims = example::run(&Options {
        binary,
        configs: run::root().join("configs"),
        tag: "example".into(),
        quick: arguments.quick,
        keep: arguments.keep,
        aloud: true,
    })?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&claims)? + "\n")
            .with_context(|| path.display().to_string())?;
    }
    let holding = claims.iter().filter(|claim| claim.ok).count();
    println!("\n{holding} of {} claims hold, {:.1} s", claims.len(), start.elapsed().as_secs_f64());
    for claim in claims.iter().filter(|claim| !claim.ok) {
        println!("✘ {}: {}", claim.claim, claim.seen);
    }
    Ok(holding == claims.len() && !claims.is_empty())
}
