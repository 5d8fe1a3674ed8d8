//! `softdpu replay`: the graph over capture files.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;

use super::args::ReplayArgs;
use super::show::{bytes, duration};
use super::{flows, run, status};
use crate::config::{self, Policy};
use crate::control::ReplayReport;
use crate::telemetry::log;
use crate::worker::replay::replay;

pub fn run(args: &ReplayArgs, log_level: &str, out: &mut impl Write) -> anyhow::Result<bool> {
    log::init(log_level)?;
    let Some(policy) = run::load(&args.config) else { return Ok(false) };
    let inputs = resolve(&policy, &args.inputs, "--in")?;
    let outputs = resolve(&policy, &args.outputs, "--out")?;
    for (_, file) in &outputs {
        if inputs.iter().any(|(_, input)| input == file) {
            bail!("{} is read and written: give --out another file", file.display());
        }
    }
    let report = replay(policy, &inputs, &outputs)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        show(report, out)?;
    }
    Ok(true)
}

/// Port names to indices, each once.
pub fn resolve(policy: &Policy, files: &[(String, PathBuf)], option: &str) -> anyhow::Result<Vec<(usize, PathBuf)>> {
    let mut found: Vec<(usize, PathBuf)> = Vec::with_capacity(files.len());
    for (name, file) in files {
        let Some(index) = policy.port(name) else {
            let names: Vec<&str> = policy.ports.iter().map(|p| p.name.as_str()).collect();
            let near = config::nearest(name, names.iter().copied());
            let help =
                near.map_or_else(|| format!("there is {}", names.join(", ")), |n| format!("did you mean `{n}`?"));
            bail!("{option}: the policy has no port `{name}`: {help}");
        };
        if found.iter().any(|(i, _)| *i == index) {
            bail!("{option}: port `{name}` is given twice");
        }
        found.push((index, file.clone()));
    }
    Ok(found)
}

fn show(report: ReplayReport, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{} packets in, {} out, in {}", report.packets_in, report.packets_out, duration(report.seconds))?;
    if !report.tunnels.is_empty() {
        write!(out, "\nTunnels\n{}", status::tunnel_rows(&report.tunnels))?;
        for t in report.tunnels.iter().filter(|t| t.compress_in_bytes > 0) {
            let (before, after) = (bytes(t.compress_in_bytes), bytes(t.compress_out_bytes));
            writeln!(out, "   {}: {before} before compression, {after} after", t.name)?;
        }
    }
    let drops = status::drops(&report.drops);
    if !drops.is_empty() {
        write!(out, "\nDrops\n{drops}")?;
    }
    if !report.flows.is_empty() {
        write!(out, "\nFlows\n{}", flows::biggest_first(report.flows))?;
    }
    Ok(())
}
