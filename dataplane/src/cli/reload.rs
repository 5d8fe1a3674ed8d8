//! `softdpu reload`, `rollback` and `history`: another policy for a running instance, and those it had.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args::{ReloadArgs, StatusArgs};
use super::ask::ask;
use super::show::{Rows, duration};
use crate::config::use_colour;
use crate::control::client;
use crate::control::types::ReloadReport;

/// `rollback`: the plan to go back to; `None`: the file.
pub fn run(args: &ReloadArgs, rollback: Option<u64>, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let report = ask(client::reload(&socket, rollback, args.dry_run))?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write(&report, args.dry_run, use_colour(&std::io::stdout()), out)?;
    }
    Ok(report.rolled_back.is_none())
}

fn write(report: &ReloadReport, dry: bool, colour: bool, out: &mut impl Write) -> std::io::Result<()> {
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for change in &report.changes {
        let line = change.to_string();
        let paint = match line.as_bytes().first() {
            Some(b'+') => "\x1b[32m",
            Some(b'-') => "\x1b[31m",
            _ => "\x1b[33m",
        };
        if colour { writeln!(out, "{paint}{line}\x1b[0m")? } else { writeln!(out, "{line}")? }
    }
    let figures = format!("compiled in {:.1} ms, switched in {:.1} ms", report.compile_ms, report.switch_ms);
    match &report.rolled_back {
        Some(why) => writeln!(out, "taken back: {why}\nplan {} is in force, as before", report.plan),
        None if report.changes.is_empty() => writeln!(out, "nothing changes: plan {} stays in force", report.plan),
        None if dry => writeln!(out, "{} changes, none made: --dry-run", report.changes.len()),
        None => writeln!(out, "plan {} is in force ({figures})", report.plan),
    }
}

pub fn history(args: &StatusArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let plans = ask(client::history(&socket))?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&plans)?)?;
        return Ok(true);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut rows = Rows::new(&[">plan", "since", "by", ">changes", "outcome"]);
    for plan in plans {
        let ago = format!("{} ago", duration(now.saturating_sub(plan.since) as f64));
        let outcome = match &plan.why {
            Some(why) => format!("{}: {why}", plan.outcome.as_str()),
            None => plan.outcome.as_str().to_owned(),
        };
        rows.add([plan.plan.to_string(), ago, plan.by, plan.changes.to_string(), outcome]);
    }
    write!(out, "{rows}")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Change, change::What};

    #[test]
    fn a_reload_says_what_it_did() {
        let said = |report: &ReloadReport, dry| {
            let mut out = Vec::new();
            write(report, dry, false, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let change = Change { kind: "rule".into(), name: "web".into(), what: What::Added, keys: Vec::new() };
        let mut report = ReloadReport { plan: 2, applied: true, changes: vec![change], ..ReloadReport::default() };
        assert!(said(&report, false).starts_with("+ rule web\nplan 2 is in force"));
        assert!(said(&report, true).contains("1 changes, none made"));
        report.rolled_back = Some("the health check `false` failed".into());
        assert!(said(&report, false).contains("taken back: the health check `false` failed"));
        assert!(said(&ReloadReport::default(), false).contains("nothing changes"));
    }
}
