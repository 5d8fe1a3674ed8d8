//! `softdpu check`: everything that is wrong with a policy.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::args::CheckArgs;
use crate::config::{self, Located, Problem, Source};
use crate::plan::contract::Verdict;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    valid: bool,
    errors: Vec<Located>,
    warnings: Vec<Located>,
}

pub fn run(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let path = args.file.as_deref().or(args.config.as_deref()).unwrap_or(Path::new("-"));
    let (source, problems, intents, summary) = match config::load(path) {
        Ok(policy) => {
            let applications = match policy.applications.len() {
                0 => String::new(),
                n => format!(", {}", count(n, "application")),
            };
            let summary = format!(
                "{}: {}, {}, {}, {}{}{applications}",
                policy.name,
                count(policy.ports.len(), "port"),
                count(policy.steer.len(), "steering rule"),
                count(policy.tunnels.len(), "tunnel"),
                count(policy.rules.len(), "rule"),
                with_intents(&policy)
            );
            (policy.source, policy.warnings, Vec::new(), Some(summary))
        }
        Err(errors) => (errors.source, errors.problems, errors.intents, None),
    };
    if args.json {
        let mut report = report(&source, &problems);
        report.errors.extend(intents.iter().flat_map(|(source, problems)| problems.iter().map(|p| source.locate(p))));
        report.valid = report.errors.is_empty();
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", source.render(&problems, config::use_colour(&std::io::stdout())))?;
        for (source, problems) in &intents {
            write!(out, "{}", source.render(problems, config::use_colour(&std::io::stdout())))?;
        }
        let warnings = problems.iter().filter(|p| p.warning).count();
        let aside = if warnings > 0 { format!(", {}", count(warnings, "warning")) } else { String::new() };
        match &summary {
            Some(summary) => writeln!(out, "{}: valid{aside} ({summary})", path.display())?,
            None => {
                let errors =
                    count(problems.len() - warnings + intents.iter().map(|(_, p)| p.len()).sum::<usize>(), "error");
                writeln!(out, "{}: not valid, {errors}{aside}", path.display())?;
            }
        }
    }
    Ok(summary.is_some())
}

/// How many intents, where there are any, and how many are refused.
fn with_intents(policy: &config::Policy) -> String {
    match (policy.intents.len(), policy.contract.count(Verdict::Refused)) {
        (0, _) => String::new(),
        (n, 0) => format!(", {}", count(n, "intent")),
        (n, refused) => format!(", {}, {refused} refused: `softdpu plan` says why", count(n, "intent")),
    }
}

fn report(source: &Source, problems: &[Problem]) -> Report {
    let pick = |warning| problems.iter().filter(|p| p.warning == warning).map(|p| source.locate(p)).collect();
    let errors: Vec<Located> = pick(false);
    Report { valid: errors.is_empty(), errors, warnings: pick(true) }
}

/// "1 port", "2 ports".
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
