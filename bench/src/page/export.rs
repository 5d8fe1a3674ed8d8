//! The same for spreadsheets and for text.

use std::fmt::Write as _;

use super::told::{self, Told};
use super::{answer, times};
use crate::absent;
use crate::gain::function::Function;
use crate::gain::ledger::{Tier, cores};
use crate::report::{Better, Bound, Report, Section, figure};

/// A field, quoted where it must be (RFC 4180 §2). Spreadsheets take `=`, `+`, `-` and `@` in front of text for formulas: it gets a
/// space in front.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@']) && text.parse::<f64>().is_err();
    let text = if formula { format!(" {text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn line(out: &mut String, fields: &[String]) {
    let all: Vec<String> = fields.iter().map(|f| field(f)).collect();
    // Writing to a string cannot fail.
    let _ = write!(out, "{}\r\n", all.join(","));
}

/// Every raw round, one per line.
pub fn csv(report: &Report) -> String {
    let mut out = String::from("section,contender,title,measure,unit,better,round,value\r\n");
    for s in &report.sections {
        let better = if s.better() == Better::Higher { "higher" } else { "lower" };
        let mut put = |name: &str, title: &str, measure: &str, unit: &str, better: &str, rounds: &[f64]| {
            for (n, value) in rounds.iter().enumerate() {
                let n = (n + 1).to_string();
                let fields = [&s.name, name, title, measure, unit, better, &n, &value.to_string()];
                line(&mut out, &fields.map(str::to_owned));
            }
        };
        for c in &s.contenders {
            put(&c.name, &c.title, "figure", &s.unit, better, &c.rounds);
            for (name, rounds) in &c.more {
                put(&c.name, &c.title, name, "", "", rounds);
            }
        }
        for r in &s.ratios {
            let name = format!("{}/{}", r.over, r.under);
            put(&name, &name, "ratio", "", "", &r.rounds);
        }
        put("reference", "a fixed piece of work", "figure", "ns", "lower", &s.reference);
    }
    out
}

/// What is modelled, for a file of its own.
pub fn modelled_csv(report: &Report) -> String {
    let mut out = String::from("persona,function,modelled_gbit,modelled_cores_freed_per_gbit,says,sources\r\n");
    let shown = |f: Option<f64>| f.map_or_else(String::new, |f| f.to_string());
    for r in &report.modelled {
        let sources: Vec<&str> = r.sources.iter().map(|s| s.source.as_str()).collect();
        let fields = [
            r.persona.clone(),
            r.function.name().to_owned(),
            shown(r.modelled_gbit),
            shown(r.modelled_cores_freed_per_gbit),
            r.says.clone(),
            sources.join(" "),
        ];
        line(&mut out, &fields);
    }
    out
}

fn row(out: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|").replace('\n', " ")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn head(out: &mut String, cells: &[&str]) {
    row(out, &cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
    row(
        out,
        &cells.iter().enumerate().map(|(n, _)| if n == 0 { "---" } else { "---:" }.to_owned()).collect::<Vec<_>>(),
    );
}

/// A summary for a page or a mail.
pub fn markdown(report: &Report) -> String {
    let (m, n) = (&report.machine, &report.noise);
    let mut out = format!("# What offload gains here: softdpu {}, measured {}\n\n", m.version, m.date);
    for sentence in answer::sentences(report) {
        let _ = writeln!(out, "**{sentence}**\n");
    }
    let answers = answer::answers(report);
    if !answers.is_empty() {
        head(&mut out, &["", "times", "least – most", "rounds", "", "why"]);
        for a in &answers {
            let Some(s) = &a.ratio.summary else { continue };
            let (times, range) = (format!("× {}", figure(s.median)), format!("{} – {}", figure(s.min), figure(s.max)));
            let (rounds, says) = (a.ratio.rounds.len().to_string(), times::verdict(a).to_owned());
            row(&mut out, &[a.says.clone(), times, range, rounds, says, a.told.words().to_owned()]);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{} ({} cores), Linux {}, {} build {}.", m.cpu, m.cores, m.kernel, m.build, m.build_id);
    let _ = writeln!(out, "{}\n", told::noise(n, &[]));
    if !report.targets.is_empty() {
        let met = report.targets.iter().filter(|t| t.met == Some(true)).count();
        let missed = report.targets.iter().filter(|t| t.met == Some(false)).count();
        let _ = writeln!(out, "Targets: {met} of {} met, {missed} missed.\n", report.targets.len());
        head(&mut out, &["target", "wanted", "seen", ""]);
        // Those that were missed first.
        let order = |met: Option<bool>| met.map_or(1, |met| if met { 2 } else { 0 });
        let mut targets: Vec<_> = report.targets.iter().collect();
        targets.sort_by_key(|t| order(t.met));
        for t in targets {
            let sign = if t.bound == Bound::AtLeast { "≥" } else { "≤" };
            let met = t.met.map_or("not measured", |met| if met { "met" } else { "**missed**" });
            let seen = t.seen.map_or_else(|| "–".into(), figure);
            row(&mut out, &[t.title.clone(), format!("{sign} {}", figure(t.wanted)), seen, met.into()]);
        }
        out.push('\n');
    }
    ledger(report, &mut out);
    for s in &report.sections {
        section(s, &mut out);
    }
    if !report.not_measured.is_empty() {
        let _ = writeln!(out, "## Not measured here, and why\n");
        words_head(&mut out, &absent::HEADER);
        report.not_measured.iter().for_each(|a| row(&mut out, &a.cells()));
        out.push('\n');
    }
    out
}

/// Of a table without figures.
fn words_head(out: &mut String, cells: &[&str]) {
    row(out, &cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
    row(out, &vec!["---".to_owned(); cells.len()]);
}

fn section(s: &Section, out: &mut String) {
    let _ = writeln!(out, "## {}\n", s.title);
    head(out, &["", &format!("median, {}", s.unit), "least – most", "rounds"]);
    for c in &s.contenders {
        let cells = match &c.summary {
            Some(sum) => [
                c.title.clone(),
                figure(sum.median),
                format!("{} – {}", figure(sum.min), figure(sum.max)),
                c.rounds.len().to_string(),
            ],
            None => [c.title.clone(), "–".into(), "missing".into(), "0".into()],
        };
        row(out, &cells);
    }
    for r in &s.ratios {
        if let Some(sum) = &r.summary {
            let range = format!("{} – {}", figure(sum.min), figure(sum.max));
            row(
                out,
                &[
                    format!("{} / {}", r.over, r.under),
                    format!("× {}", figure(sum.median)),
                    range,
                    r.rounds.len().to_string(),
                ],
            );
        }
    }
    out.push('\n');
    for c in &s.contenders {
        if let Some(why) = &c.missing {
            // The rest of what a program said is in the other files.
            let _ = writeln!(out, "- missing: {}: {}", c.title, why.trim().lines().next().unwrap_or_default());
        }
    }
    for r in s.ratios.iter().filter(|r| r.summary.is_some()) {
        let _ = writeln!(out, "- {} / {}: {}", r.over, r.under, Told::of(r, s.noise.as_ref()).words());
    }
    for note in &s.notes {
        let _ = writeln!(out, "- {note}");
    }
    if let Some(noise) = &s.noise {
        let _ = writeln!(out, "- {}", told::noise(noise, &s.reference));
    }
    out.push('\n');
}

fn ledger(report: &Report, out: &mut String) {
    let shown = |f: Option<f64>| f.map_or_else(|| "–".into(), figure);
    if let Some(l) = &report.ledger {
        let _ = writeln!(out, "## Ledger (measured): cores per Gbit/s\n");
        head(out, &["traffic", "tier", "none", "classify", "encrypt", "compress", "all", "saved"]);
        for class in l.names() {
            for tier in [Tier::Worker, Tier::Xdp] {
                let of = |f| l.entries.iter().find(|e| e.class == class && e.function == f && e.tier == tier);
                let mut cells = vec![class.to_owned(), tier.name().to_owned()];
                let cores = |f: Option<f64>| f.map_or_else(|| "–".into(), cores);
                cells.extend(Function::ALL.iter().map(|f| cores(of(*f).and_then(|e| e.cores_per_gbit))));
                cells.push(cores(of(Function::None).and_then(|e| e.saved_per_gbit)));
                row(out, &cells);
            }
        }
        let _ = writeln!(out, "\n## Flows (measured)\n");
        head(
            out,
            &[
                "class",
                "flows",
                "break-even, packets",
                "break-even packet size, bytes",
                "flows that pay",
                "worker's time saved",
            ],
        );
        for c in &l.classes {
            let even =
                c.break_even.map_or_else(|| "–".into(), |(m, low, high)| format!("{m:.0} ({low:.0} – {high:.0})"));
            let saved = c.saved.map_or_else(|| "–".into(), |s| format!("{:.1} %", 100.0 * s));
            let size = c.break_even_size().map_or_else(|| "–".into(), |b| format!("{b:.0}"));
            row(out, &[c.class.clone(), c.flows.to_string(), even, size, c.paying_flows.to_string(), saved]);
        }
        out.push('\n');
        for c in &l.classes {
            for says in &c.says {
                let _ = writeln!(out, "- {}: {says}", c.class);
            }
        }
        out.push('\n');
    }
    if let Some(l) = report.ledger.as_ref().filter(|l| !l.scaling.is_empty()) {
        let _ = writeln!(out, "## With more cores (measured, 64-byte packets in memory)\n");
        for note in &l.scaling {
            let _ = writeln!(out, "- {note}");
        }
        out.push('\n');
    }
    if !report.modelled.is_empty() {
        let _ = writeln!(out, "## Modelled, not measured\n");
        head(out, &["DPU and function", "modelled Gbit/s", "modelled host cores freed per Gbit/s", ""]);
        for r in report.modelled.iter().filter(|r| r.is_known()) {
            let name = format!("{}: {}", r.title, r.function.name());
            row(out, &[name, shown(r.modelled_gbit), shown(r.modelled_cores_freed_per_gbit), r.says.clone()]);
        }
        out.push('\n');
        let _ = writeln!(out, "{}\n", crate::modelled::not_modelled(&report.modelled));
        let mut seen = std::collections::BTreeSet::new();
        for r in &report.modelled {
            for s in &r.sources {
                seen.insert(format!("- {}: {} {}: {} (<{}>)", r.persona, s.key, s.value, s.says, s.source));
            }
        }
        let _ = writeln!(out, "{}\n", seen.into_iter().collect::<Vec<_>>().join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_no_formulas() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(field("=1+1"), " =1+1");
        assert_eq!(field("-3.5"), "-3.5");
    }
}
