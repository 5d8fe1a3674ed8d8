//! What came of the cases: for people, as JSON, and as JUnit XML for a CI that shows it.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use super::device::{FlowSeen, Seen};
use super::{Outcome, Unusable};

/// What became of a packet and its flow, in a line.
pub(super) fn seen(seen: &Seen, flow: &FlowSeen) -> String {
    let mut line = seen.verdict.as_str().to_owned();
    // Writing to a String cannot fail.
    if let Some(out) = seen.out.first() {
        let _ = write!(line, " to {}", out.port);
    }
    if let Some(reason) = &seen.reason {
        let _ = write!(line, " under {reason}");
    }
    let tunnel = seen.out.iter().find_map(|out| out.tunnel.clone());
    let facts = [
        ("steer", &seen.steer),
        ("rule", &flow.rule),
        ("intent", &flow.intent),
        ("tunnel", &tunnel),
        ("class", &flow.class),
        ("host", &flow.host),
        ("application", &flow.application),
        ("tier", &Some(flow.tier.as_str().to_owned())),
        ("offload", &flow.offload),
    ];
    for (what, value) in facts {
        if let Some(value) = value {
            let _ = write!(line, ", {what} {value}");
        }
    }
    if seen.compressed {
        line.push_str(", compressed");
    }
    line
}

/// One case as a person reads it: a line, and what is not as expected.
///
/// # Errors
/// It cannot be written.
pub fn case(outcome: &Outcome, verbose: bool, colour: bool, out: &mut impl Write) -> io::Result<()> {
    let (on, off) = match (colour, outcome.ok) {
        (false, _) => ("", ""),
        (true, true) => ("\x1b[32m", "\x1b[0m"),
        (true, false) => ("\x1b[1;31m", "\x1b[0m"),
    };
    let word = if outcome.ok { "ok  " } else { "FAIL" };
    writeln!(out, "{on}{word}{off}  {}:{}  {}", outcome.file, outcome.line, outcome.name)?;
    for failure in &outcome.failures {
        let place = format!("{}:{}:{}", failure.file, failure.line, failure.column);
        writeln!(out, "      {place}: {}: expected {}, seen {}", failure.what, failure.expected, failure.seen)?;
    }
    if (verbose || !outcome.ok) && !outcome.seen.is_empty() {
        writeln!(out, "      seen: {}", outcome.seen)?;
    }
    Ok(())
}

/// The last line.
///
/// # Errors
/// It cannot be written.
pub fn sum(outcomes: &[Outcome], out: &mut impl Write) -> io::Result<()> {
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let cases = if outcomes.len() == 1 { "case" } else { "cases" };
    writeln!(out, "{} {cases}, {} ok, {failed} failed", outcomes.len(), outcomes.len() - failed)
}

#[derive(Serialize)]
struct Report<'a> {
    cases: &'a [Outcome],
    ok: usize,
    failed: usize,
}

/// One JSON object: cases, ok, failed.
///
/// # Errors
/// It cannot be written.
pub fn json(outcomes: &[Outcome], out: &mut impl Write) -> anyhow::Result<()> {
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let report = Report { cases: outcomes, ok: outcomes.len() - failed, failed };
    writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// JUnit XML: a suite per file.
pub fn junit(outcomes: &[Outcome]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let _ = writeln!(text, "<testsuites name=\"softdpu\" tests=\"{}\" failures=\"{failed}\">", outcomes.len());
    for of_file in outcomes.chunk_by(|a, b| a.file == b.file) {
        let failed = of_file.iter().filter(|outcome| !outcome.ok).count();
        let seconds: f64 = of_file.iter().map(|outcome| outcome.seconds).sum();
        let name = of_file.first().map_or("", |outcome| &outcome.file);
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" time=\"{seconds:.3}\">",
            escaped(name),
            of_file.len()
        );
        for outcome in of_file {
            let (file, name) = (escaped(&outcome.file), escaped(&outcome.name));
            let (line, seconds) = (outcome.line, outcome.seconds);
            let _ = write!(
                text,
                "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{line}\" time=\"{seconds:.3}\""
            );
            if outcome.ok {
                text.push_str("/>\n");
                continue;
            }
            text.push_str(">\n");
            for f in &outcome.failures {
                let message = escaped(&format!("{}: expected {}, seen {}", f.what, f.expected, f.seen));
                let place = escaped(&format!("{}:{}:{}\nseen: {}", f.file, f.line, f.column, outcome.seen));
                let _ = writeln!(text, "      <failure message=\"{message}\">{place}</failure>");
            }
            text.push_str("    </testcase>\n");
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

/// Text in XML 1.0, which has no control characters but three.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// What keeps the cases from being run, as `softdpu check` says it.
pub fn unusable(wrong: &[Unusable], colour: bool) -> String {
    let mut out = String::new();
    for one in wrong {
        let text = match one {
            Unusable::Nothing(path, error) => format!(
                "{}: {error}\n  help: name a folder of case files, or a case file; docs/config-tests.md shows how they look\n",
                path.display()
            ),
            Unusable::Case(source, problems) => source.render(problems, colour),
            Unusable::Policy(errors) => errors.render(colour),
        };
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&text);
    }
    out
}
