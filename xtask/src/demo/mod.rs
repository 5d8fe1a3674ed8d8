//! `cargo xtask demo`: real applications between two edges, first with the kernel forwarding in clear, then with softdpu on
//! both edges, ESP and LZ4 between them.

mod apps;
mod checks;
mod classes;
mod corpus;
mod packets;
mod phases;
mod replay;
mod report;
mod workload;

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use report::Report;

use crate::{ebpf, run, setup};

/// Shows the dataplane at work: namespaces `client - edge-a - edge-b - server`, nginx, dnsmasq and iperf3 on the server,
/// curl, dig and iperf3 on the client. The same work runs twice, with the kernel forwarding in clear and with softdpu on
/// both edges. Ends with 0 when every check of the report is true.
///
/// Needs root; without it, it runs the same graph from a capture that it makes, and says so.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the folder with captures, policies and logs behind, and say where it is
    #[arg(long)]
    keep: bool,
    /// Less of everything: about a third of the time
    #[arg(long)]
    quick: bool,
    /// Only the kernel's half: shows that the rig itself works
    #[arg(long)]
    kernel_only: bool,
    /// Replay a capture even where there are privileges
    #[arg(long, conflicts_with = "kernel_only")]
    replay: bool,
    /// Use this softdpu instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs the demo. Whether every check is true.
///
/// # Errors
/// When something it needs is missing or the rig itself fails.
pub fn main(arguments: &Arguments) -> Result<bool> {
    let rooted = softdpu_testbed::is_root() && !arguments.replay;
    if rooted {
        setup::ensure(setup::Need::Run)?;
    } else if arguments.binary.is_none() {
        setup::ensure(setup::Need::Build)?;
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize()?,
        None if arguments.kernel_only => PathBuf::new(),
        None => build()?,
    };
    let start = Instant::now();
    let mut report = Report::default();
    if rooted {
        phases::run(arguments, &binary, &mut report)?;
    } else {
        replay::run(arguments, &binary, &mut report)?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    report.print();
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    Ok(report.ok())
}

/// Builds softdpu in release; figures of a debug build would mislead.
pub fn build() -> Result<PathBuf> {
    eprintln!("building the XDP program and softdpu (release)");
    ebpf::build()?;
    let done = run::loud(run::cargo().args(["build", "--release", "--package", "softdpu"]))?;
    anyhow::ensure!(done, "softdpu does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| run::root().join("target"), PathBuf::from);
    Ok(target.join("release/softdpu"))
}

/// Says what happens now.
fn say(what: &str) {
    eprintln!("• {what}");
}
