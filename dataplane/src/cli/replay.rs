//! `softdpu replay`: the graph over capture files.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;

use super::args::ReplayArgs;
use super::show::bytes;
use super::{run, status};
use crate::config::{self, Policy};
use crate::control::describe;
use crate::telemetry::log;
use crate::worker::replay::{ReplayReport, replay};

pub fn run(args: &ReplayArgs, log_level: &str, out: &mut impl Write) -> anyhow::Result<bool> {
    log::init(log_level)?;
    let Some(policy) = run::load(&args.config) else { return Ok(false) };
    known(&policy, &args.inputs, "--in")?;
    known(&policy, &args.outputs, "--out")?;
    for (_, file) in &args.outputs {
        if args.inputs.iter().any(|(_, input)| input == file) {
            bail!("{} is read and written: give --out another file", file.display());
        }
    }
    let report = replay(policy.clone(), &args.inputs, &args.outputs)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        show(&policy, &report, out)?;
    }
    Ok(report.balanced)
}

/// Every port is one of the policy's, and given once.
pub fn known(policy: &Policy, files: &[(String, PathBuf)], option: &str) -> anyhow::Result<()> {
    for (i, (name, _)) in files.iter().enumerate() {
        if policy.port(name).is_none() {
            let names: Vec<&str> = policy.ports.iter().map(|p| p.name.as_str()).collect();
            let near = config::nearest(name, names.iter().copied());
            let help =
                near.map_or_else(|| format!("there is {}", names.join(", ")), |n| format!("did you mean `{n}`?"));
            bail!("{option}: the policy has no port `{name}`: {help}");
        }
        if files[..i].iter().any(|(earlier, _)| earlier == name) {
            bail!("{option}: port `{name}` is given twice");
        }
    }
    Ok(())
}

fn show(policy: &Policy, report: &ReplayReport, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{} packets in, {} out, {} dropped", report.received, report.sent, report.dropped)?;
    if !report.balanced {
        writeln!(out, "FRAMES LOST: the account does not balance; please report this with the capture")?;
    }
    let status = describe(policy, &report.counters);
    if !status.tunnels.is_empty() {
        write!(out, "\nTunnels\n{}", status::tunnels(&status.tunnels))?;
        for t in status.tunnels.iter().filter(|t| t.compress_in_bytes > 0) {
            let (before, after) = (bytes(t.compress_in_bytes), bytes(t.compress_out_bytes));
            writeln!(out, "   {}: {before} before compression, {after} after", t.name)?;
        }
    }
    for (title, rows) in [
        ("Rules", status::rules(&status.rules)),
        ("Classes", status::classes(&status.classes)),
        ("Drops", status::drops(&status.drops)),
    ] {
        if !rows.is_empty() {
            write!(out, "\n{title}\n{rows}")?;
        }
    }
    Ok(())
}
