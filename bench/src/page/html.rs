//! The page: everything in one file, no script, nothing fetched.

use super::{escaped, ledger, plots, table};
use crate::absent;
use crate::report::{Bound, Report, Section, figure};

const STYLE: &str = include_str!("style.css");

/// The whole report.
pub fn html(report: &Report) -> String {
    let m = &report.machine;
    let title = format!("softdpu {}: measured {}", m.version, m.date);
    let mut body = format!("<header><h1>{}</h1>{}</header>", escaped(&title), headline(report));
    body += &contents(report);
    body += "<main>";
    if let Some(l) = &report.ledger {
        body += &ledger::measured(l);
    }
    body += &ledger::modelled(&report.modelled);
    body += &targets(report);
    for (n, s) in report.sections.iter().enumerate() {
        body += &section(n, s);
    }
    let cpu = plots::cpu(report);
    if !cpu.is_empty() {
        body += &format!("<section id=\"cpu\"><h2>CPU time</h2>{cpu}</section>");
    }
    body += &missing(report);
    body += &not_measured(report);
    body += &format!(
        "<section id=\"machine\"><h2>Where, with what, and how quiet it was</h2>{}</section>",
        machine(report)
    );
    body += "</main>";
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escaped(&title)
    )
}

/// Where, with what, and how noisy it was there.
fn machine(report: &Report) -> String {
    let (m, n) = (&report.machine, &report.noise);
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let mut rows = vec![
        vec!["CPU".to_owned(), m.cpu.clone()],
        vec!["Cores used".into(), m.cores.to_string()],
        vec!["Memory".into(), format!("{:.1} GiB", m.memory_bytes as f64 / f64::from(1 << 30))],
        vec!["Kernel".into(), format!("Linux {}", m.kernel)],
        vec!["Kind".into(), if m.virtual_machine { "virtual machine" } else { "no sign of a virtual machine" }.into()],
        vec!["softdpu".into(), format!("{} ({} build, {})", m.version, m.build, or(&m.build_id, "no id"))],
        vec!["Frequency scaling".into(), or(&m.governor, "the kernel does not say")],
    ];
    let settings: Vec<String> = report.settings.iter().map(|(k, v)| format!("{k} = {v}")).collect();
    rows.push(vec!["Settings".into(), or(&settings.join(", "), "not recorded")]);
    let frequency = if n.mhz_before > 0.0 {
        format!("{:.0} MHz before, {:.0} MHz after", n.mhz_before, n.mhz_after)
    } else {
        "the kernel does not say".into()
    };
    let noise = vec![
        vec!["Stolen by the hypervisor".to_owned(), format!("{:.1} % of the CPU time", n.stolen_percent)],
        vec!["Used by other programs".into(), format!("{:.0} % of the CPU time", n.others_percent)],
        vec!["Load".into(), format!("{} before, {} after", n.load_before, n.load_after)],
        vec!["Frequency".into(), frequency],
        vec!["Took".into(), format!("{:.0} s", n.seconds)],
    ];
    facts("Machine", &rows) + &facts("Noise while it was measured", &noise)
}

/// What a reader with half a minute should know: the answer, where it is from, and how far to trust it.
fn headline(report: &Report) -> String {
    let (m, n) = (&report.machine, &report.noise);
    let mut out = report
        .ledger
        .as_ref()
        .map_or_else(String::new, |l| format!("<p><strong>{}</strong></p>", escaped(&l.sentence())));
    let judged: Vec<bool> = report.targets.iter().filter_map(|t| t.met).collect();
    if !judged.is_empty() {
        let met = judged.iter().filter(|met| **met).count();
        out += &format!("<p><strong>{met} of {} <a href=\"#targets\">targets</a> met.</strong></p>", judged.len());
    }
    out += &format!(
        "<p>On {} cores of {}, Linux {}, in {:.0} s. <a href=\"#machine\">More of the machine and its noise</a></p>",
        m.cores,
        escaped(&m.cpu),
        escaped(&m.kernel),
        n.seconds
    );
    if m.build == "debug" {
        out += "<p class=\"missed\">This was a debug build: figures of softdpu's own code mean nothing.</p>";
    }
    let noisy = n.stolen_percent > 2.0 || n.others_percent > 10.0;
    out += if noisy {
        "<p class=\"missed\">The machine was not quiet. Compare contenders of one section, which took turns, rather than figures \
         with those of other runs.</p>"
    } else {
        "<p class=\"soft\">Contenders of a section took turns, round by round. Medians are shown; dots are rounds.</p>"
    };
    out
}

/// Names and what they are.
fn facts(caption: &str, rows: &[Vec<String>]) -> String {
    let items = rows.iter().map(|row| format!("<dt>{}</dt><dd>{}</dd>", escaped(&row[0]), escaped(&row[1])));
    format!("<h3>{}</h3><dl>{}</dl>", escaped(caption), items.collect::<String>())
}

fn contents(report: &Report) -> String {
    let mut items = String::new();
    if report.ledger.is_some() {
        items += "<li><a href=\"#ledger\">The ledger</a></li>";
    }
    if !report.modelled.is_empty() {
        items += "<li><a href=\"#modelled\">Modelled, not measured</a></li>";
    }
    if !report.targets.is_empty() {
        items += "<li><a href=\"#targets\">Targets</a></li>";
    }
    for (n, s) in report.sections.iter().enumerate() {
        items += &format!("<li><a href=\"#s{n}\">{}</a></li>", escaped(&s.title));
    }
    if !report.not_measured.is_empty() {
        items += "<li><a href=\"#not-measured\">Not measured here</a></li>";
    }
    format!("<nav aria-label=\"Contents\"><ul>{items}</ul></nav>")
}

fn targets(report: &Report) -> String {
    if report.targets.is_empty() {
        return String::new();
    }
    let row = |t: &crate::report::Target| {
        let sign = if t.bound == Bound::AtLeast { "≥" } else { "≤" };
        let met = match t.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        };
        vec![
            t.title.clone(),
            format!("{sign} {}", figure(t.wanted)),
            t.seen.map_or_else(|| "–".into(), figure),
            met.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = report.targets.iter().map(row).collect();
    format!("<section id=\"targets\"><h2>Targets</h2>{}</section>", table("", &["target", "wanted", "seen", ""], &rows))
}

/// What is not there is named.
fn missing(report: &Report) -> String {
    let mut items = String::new();
    for s in &report.sections {
        for c in &s.contenders {
            if let Some(why) = &c.missing {
                let what = if c.rounds.is_empty() { "missing" } else { "incomplete" };
                items += &format!("<li>{}: {} ({what}): {}</li>", escaped(&s.name), escaped(&c.title), escaped(why));
            }
        }
    }
    if items.is_empty() {
        return String::new();
    }
    format!("<section id=\"missing\"><h2>Missing</h2><p>Not measured, and not estimated:</p><ul>{items}</ul></section>")
}

/// What would belong beside it.
fn not_measured(report: &Report) -> String {
    if report.not_measured.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = report.not_measured.iter().map(|a| a.cells().into()).collect();
    format!(
        "<section id=\"not-measured\"><h2>Not measured here, and why</h2><p>Named, and not estimated:</p>{}</section>",
        table("", &absent::HEADER, &rows)
    )
}

fn section(n: usize, s: &Section) -> String {
    let mut out = format!("<section id=\"s{n}\"><h2>{}</h2>", escaped(&s.title));
    let bars = plots::bars(s);
    // Contenders that are all missing are a table, too.
    out += &if bars.is_empty() { plots::rounds_table(s) } else { bars };
    out += &plots::latencies(s);
    for c in &s.curves {
        out += &plots::curve(c);
    }
    if !s.notes.is_empty() {
        let notes: String = s.notes.iter().map(|note| format!("<li>{}</li>", escaped(note))).collect();
        out += &format!("<ul class=\"soft\">{notes}</ul>");
    }
    out + "</section>"
}
