//! `softdpu doctor`: what keeps a policy from running well here, and what puts it right.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{bail, ensure};
use serde::Serialize;

use super::args::DoctorArgs;
use super::show::clean;
use crate::config::{self, Policy, PortKind};
use crate::doctor::fix::Change;
use crate::doctor::live::{self, Live};
use crate::doctor::state::{Record, Undone};
use crate::doctor::{CHECKS, Finding, Situation, State, examine};
use crate::host::inventory::Inventory;
use crate::host::probe;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    host: &'a str,
    counts: Counts,
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fixes: Vec<Fixed>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    fail: usize,
    warn: usize,
    ok: usize,
    not_applicable: usize,
}

/// One change that was made, or was to be.
#[derive(Serialize)]
struct Fixed {
    command: String,
    before: Option<String>,
    error: Option<String>,
}

pub fn run(args: &DoctorArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    if args.undo {
        return undo(args, out);
    }
    let policy = match &args.policy {
        Some(path) => match config::load(path) {
            Ok(policy) => Some(policy),
            Err(errors) => {
                let page = errors.source.render(&errors.problems, config::use_colour(&std::io::stderr()));
                bail!("the policy is not valid\n{page}");
            }
        },
        None => None,
    };
    let look = || -> anyhow::Result<(Inventory, Vec<Finding>)> {
        let host = match &args.host {
            Some(file) => Inventory::read(file)?,
            None => probe::inventory()?,
        };
        let live = args.host.is_none().then(|| tried(args, policy.as_ref()));
        let situation =
            Situation { host: &host, policy: policy.as_ref(), interfaces: &args.interface, live: live.as_ref() };
        let findings = examine(&situation);
        Ok((host, findings))
    };
    let (host, mut findings) = look()?;
    let mut fixes = Vec::new();
    if !args.json {
        write!(out, "{}", page(&findings, args.all, config::use_colour(&std::io::stdout())))?;
    }
    if args.fix {
        ensure!(args.host.is_none(), "--fix is for this host, not for one from a file");
        fixes = fix(args, &findings, out)?;
        if fixes.iter().any(|f| f.error.is_none()) {
            findings = look()?.1;
        }
    }
    let counts = count(&findings);
    if args.json {
        let report = Report { version: 1, host: &host.hostname, counts, findings: &findings, fixes };
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let Counts { fail, warn, ok, not_applicable } = counts;
        writeln!(out, "\n{fail} failed, {warn} to improve, {ok} ok, {not_applicable} not applicable")?;
        let left = changes(&findings).len();
        if left > 0 && !args.fix {
            writeln!(out, "`--fix` would change {left} setting{}", if left == 1 { "" } else { "s" })?;
        }
    }
    Ok(counts.fail == 0)
}

fn tried(args: &DoctorArgs, policy: Option<&Policy>) -> Live {
    let of_policy = policy.into_iter().flat_map(|p| &p.ports).filter_map(|p| match &p.kind {
        PortKind::Xdp(xdp) => Some(xdp.interface.clone()),
        _ => None,
    });
    let ports: Vec<String> = of_policy.chain(args.interface.iter().cloned()).collect();
    live::probe(&ports, args.probe)
}

fn count(findings: &[Finding]) -> Counts {
    let mut counts = Counts::default();
    for finding in findings {
        match finding.state {
            State::Fail => counts.fail += 1,
            State::Warn => counts.warn += 1,
            State::Ok => counts.ok += 1,
            State::NotApplicable => counts.not_applicable += 1,
        }
    }
    counts
}

/// What `--fix` would do, each once.
fn changes(findings: &[Finding]) -> Vec<&Change> {
    let mut all: Vec<&Change> = Vec::new();
    for change in findings.iter().flat_map(|f| &f.changes) {
        if !all.contains(&change) {
            all.push(change);
        }
    }
    all
}

fn page(findings: &[Finding], all: bool, colour: bool) -> String {
    use std::fmt::Write;
    let mut page = String::new();
    for family in CHECKS {
        let mut head = Some(family.name);
        for finding in findings.iter().filter(|f| family.checks.iter().any(|c| c.id == f.check)) {
            if finding.state == State::NotApplicable && !all {
                continue;
            }
            if let Some(name) = head.take() {
                // Writing to a String cannot fail.
                let _ = writeln!(page, "{}{name}", if page.is_empty() { "" } else { "\n" });
            }
            let (on, off) = if colour { (tint(finding.state), "\x1b[0m") } else { ("", "") };
            let subject = finding.subject.as_deref().map_or(String::new(), |s| format!("{}: ", clean(s)));
            let (state, found) = (finding.state.name(), clean(&finding.found));
            let _ = writeln!(page, "  {on}{state:<4}{off}  {:<16}  {subject}{found}", finding.check);
            if !finding.meaning.is_empty() {
                for line in wrapped(finding.meaning, 92) {
                    let _ = writeln!(page, "        {line}");
                }
            }
            for command in &finding.commands {
                let _ = writeln!(page, "        > {}", clean(command));
            }
        }
    }
    page
}

fn tint(state: State) -> &'static str {
    match state {
        State::Fail => "\x1b[1;31m",
        State::Warn => "\x1b[33m",
        State::Ok => "\x1b[32m",
        State::NotApplicable => "\x1b[2m",
    }
}

/// Lines of at most `width` characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

/// Shows what is to be changed, asks, and does it.
fn fix(args: &DoctorArgs, findings: &[Finding], out: &mut impl Write) -> anyhow::Result<Vec<Fixed>> {
    let changes = changes(findings);
    if changes.is_empty() {
        if !args.json {
            writeln!(out, "\nnothing that could safely be changed unasked")?;
        }
        return Ok(Vec::new());
    }
    if !args.json {
        writeln!(out, "\nTo be changed (and put back by `softdpu doctor --undo`):")?;
        for change in &changes {
            let now = change.now().unwrap_or_else(|_| "not known".to_owned());
            writeln!(out, "  {:<64}  now {now}", change.command())?;
        }
    }
    if !args.yes && !agreed(out)? {
        writeln!(out, "nothing was changed")?;
        return Ok(Vec::new());
    }
    let mut record = Record::load(&args.state)?;
    let mut fixes = Vec::new();
    for change in changes {
        let done = record.apply(change, &args.state);
        if !args.json {
            match &done {
                Ok(before) => writeln!(out, "  done    {}  (was {before})", change.command())?,
                Err(error) => writeln!(out, "  failed  {}: {error:#}", change.command())?,
            }
        }
        let error = done.as_ref().err().map(|e| format!("{e:#}"));
        fixes.push(Fixed { command: change.command(), before: done.ok(), error });
    }
    Ok(fixes)
}

fn agreed(out: &mut impl Write) -> anyhow::Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "nobody to ask: say --yes to change these settings");
    write!(out, "Change them? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn undo(args: &DoctorArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let path: &Path = &args.state;
    let mut record = Record::load(path)?;
    if record.made.is_empty() {
        writeln!(out, "nothing to put back: {} has no changes", path.display())?;
        return Ok(true);
    }
    writeln!(out, "To be put back, the last change first:")?;
    for made in record.made.iter().rev() {
        writeln!(out, "  {}", made.command())?;
    }
    if !args.yes && !agreed(out)? {
        writeln!(out, "nothing was changed")?;
        return Ok(true);
    }
    let mut lines = Vec::new();
    let mut well = true;
    record.undo(path, |made, undone| {
        lines.push(match undone {
            Undone::Restored => format!("  done    {}", made.command()),
            Undone::Changed(now) => {
                format!("  left    {}: somebody has set it to {now} since", made.change.command())
            }
            Undone::Failed(why) => {
                well = false;
                format!("  failed  {}: {why}", made.command())
            }
        });
    })?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(well)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(state: State) -> Finding {
        Finding {
            check: "lro",
            state,
            subject: Some("eth0".into()),
            found: "on\x1b".into(),
            meaning: "Merged packets cannot be forwarded.",
            commands: vec!["ethtool -K eth0 lro off".into()],
            changes: vec![Change::offload(None, "eth0", "lro", false)],
        }
    }

    #[test]
    fn a_finding_says_what_where_why_and_how() {
        let page = page(&[finding(State::Fail), finding(State::NotApplicable)], false, false);
        for part in ["Offloads\n", "fail  lro ", "eth0: on\u{fffd}", "cannot be forwarded", "> ethtool -K eth0 lro off"]
        {
            assert!(page.contains(part), "no {part:?} in\n{page}");
        }
        assert!(!page.contains("n/a") && !page.contains('\x1b'));
        assert_eq!(changes(&[finding(State::Fail), finding(State::Warn)]).len(), 1, "each once");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("overlong", 3), ["overlong"]);
    }
}
