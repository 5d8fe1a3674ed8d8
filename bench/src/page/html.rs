//! The page: everything in one file, no script, nothing fetched.

use super::{answer, escaped, ledger, plots, prose, stacks, table, times, told};
use crate::absent;
use crate::report::{Bound, Report, Section, Target, figure};

const STYLE: &str = include_str!("style.css");

/// The whole report.
pub fn html(report: &Report) -> String {
    let m = &report.machine;
    let title = format!("softdpu {}: what offload gains, measured {}", m.version, m.date);
    let mut body = format!("<header><h1>What offload gains here</h1>{}</header>", headline(report));
    body += &contents(report);
    body += "<main>";
    if let Some(l) = &report.ledger {
        body += &ledger::measured(l);
    }
    body += &ledger::modelled(&report.modelled);
    body += &targets(report);
    for (group, title) in GROUPS {
        let all: Vec<_> = sections(report, group).collect();
        if all.is_empty() {
            continue;
        }
        let inside: String = all.iter().map(|(n, s)| section(*n, s)).collect();
        body += &match group {
            // For those who want to know where the time goes.
            Group::Parts => format!(
                "<details class=\"group\"><summary><h2>{title}</h2> <span>{} sections</span></summary>{inside}</details>",
                all.len()
            ),
            _ => format!("<section class=\"group\"><h2>{title}</h2>{inside}</section>"),
        };
    }
    let cpu = stacks::cores(report);
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

/// Sections by who wants to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// Packets that go through network links and a running instance.
    Links,
    /// What the ledger was computed from.
    Gain,
    /// In memory, part by part.
    Parts,
}

const GROUPS: [(Group, &str); 3] = [
    (Group::Links, "Through network links"),
    (Group::Gain, "What the ledger was made from"),
    (Group::Parts, "Parts, in memory"),
];

/// Whether packets of this section went through network links.
pub(super) fn on_links(name: &str) -> bool {
    const LINKS: [&str; 11] =
        ["veth", "offload", "latency", "udp", "connect", "https", "bulk", "tunnels", "functions", "reload", "idle"];
    let first = name.split('-').next().unwrap_or(name);
    LINKS.contains(&first) && name != "offload-table" && name != "reload-plan"
}

fn sections(report: &Report, group: Group) -> impl Iterator<Item = (usize, &Section)> {
    let of = |s: &Section| match s.name.as_str() {
        name if on_links(name) => Group::Links,
        name if name.starts_with("gain-") => Group::Gain,
        _ => Group::Parts,
    };
    report.sections.iter().enumerate().filter(move |(_, s)| of(s) == group)
}

/// A title as a heading has it.
fn heading(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    // Names of classes of flows, such as `tls/tcp`, stay what they are.
    if text.split([' ', ':']).next().is_some_and(|word| word.contains('/')) {
        return escaped(text);
    }
    escaped(&(first + letters.as_str()))
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
        vec![
            "Energy".into(),
            n.energy_j.map_or_else(
                || "no RAPL here: the kernel does not say what the CPU takes".into(),
                |j| {
                    format!(
                        "{j:.0} J of the CPU packages, {:.1} W on average, all programs together",
                        j / n.seconds.max(1e-9)
                    )
                },
            ),
        ],
        vec!["Took".into(), format!("{:.0} s", n.seconds)],
    ];
    facts("Machine", &rows) + &facts("Noise while it was measured", &noise)
}

/// What a reader with half a minute should know: the answer, how far to trust it, and where it is from.
fn headline(report: &Report) -> String {
    let (m, n) = (&report.machine, &report.noise);
    let mut out: String =
        answer::sentences(report).iter().map(|s| format!("<p class=\"answer\">{}</p>", escaped(s))).collect();
    out += &times::overview(&answer::answers(report));
    let judged: Vec<bool> = report.targets.iter().filter_map(|t| t.met).collect();
    if !judged.is_empty() {
        let met = judged.iter().filter(|met| **met).count();
        let missed = judged.len() - met;
        let missed = if missed == 0 {
            "none missed".to_owned()
        } else {
            format!("<span class=\"missed\">{missed} missed</span>")
        };
        out += &format!(
            "<p><strong><a href=\"#targets\">Targets</a>: {met} of {} met, {missed}.</strong></p>",
            report.targets.len()
        );
    }
    out += &format!(
        "<p>softdpu {}, measured {} UTC on {} cores of {}, Linux {}, in {:.0} s. <a href=\"#machine\">More of the machine</a></p>",
        escaped(&m.version),
        escaped(&m.date),
        m.cores,
        escaped(&m.cpu),
        escaped(&m.kernel),
        n.seconds
    );
    if m.build == "debug" {
        out += "<p class=\"missed\">This was a debug build: figures of softdpu's own code mean nothing.</p>";
    }
    if report.settings.get("quick").is_some_and(|quick| quick == "true") {
        out += "<p class=\"missed\">This was a quick run: few and short rounds, to see that it runs, not to conclude from.</p>";
    }
    let noisy = n.stolen_percent > 2.0 || n.others_percent > 10.0;
    out += &format!("<p class=\"{}\">{}", if noisy { "missed" } else { "soft" }, escaped(&told::noise(n, &[])));
    out += if noisy {
        " The machine was not quiet. Compare contenders of one section, which took turns, rather than figures with those of other \
         runs.</p>"
    } else {
        " Contenders of a section took turns, round by round. Medians are shown; dots are rounds.</p>"
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
    let mut link = |id: &str, title: &str| items += &format!("<li><a href=\"#{id}\">{}</a></li>", heading(title));
    if report.ledger.is_some() {
        link("ledger", "The ledger");
    }
    if !report.modelled.is_empty() {
        link("modelled", "Modelled, not measured");
    }
    if !report.targets.is_empty() {
        link("targets", "Targets");
    }
    for (n, s) in sections(report, Group::Links) {
        link(&format!("s{n}"), &s.title);
    }
    if !report.not_measured.is_empty() {
        link("not-measured", "Not measured here");
    }
    for group in [Group::Gain, Group::Parts] {
        let all: Vec<_> = sections(report, group).collect();
        let Some((first, _)) = all.first() else { continue };
        let title = GROUPS.iter().find(|(g, _)| *g == group).map_or("", |(_, title)| title);
        link(&format!("s{first}"), &format!("{title} ({} sections)", all.len()));
    }
    link("machine", "The machine and its noise");
    format!("<nav><details><summary>Contents</summary><ul>{items}</ul></details></nav>")
}

fn targets(report: &Report) -> String {
    if report.targets.is_empty() {
        return String::new();
    }
    let row = |t: &Target| {
        let sign = if t.bound == Bound::AtLeast { "≥" } else { "≤" };
        let behind = told::evidence(report, t);
        let rounds = behind.map_or_else(|| "–".into(), |(_, s)| format!("{} – {}", figure(s.min), figure(s.max)));
        let (class, verdict) = match t.met {
            Some(met) if behind.is_some_and(|(_, s)| told::on_both_sides(t, s)) => (
                if met { "met" } else { "missed" },
                if met { "✓ met, not by all rounds" } else { "✗ missed, not by all rounds" },
            ),
            Some(true) => ("met", "✓ met"),
            Some(false) => ("missed", "✗ missed"),
            None => ("soft", "not measured"),
        };
        let title = escaped(&t.title);
        let title = behind.map_or_else(|| title.clone(), |(n, _)| format!("<a href=\"#s{n}\">{title}</a>"));
        format!(
            "<tr><td class=\"verdict {class}\">{verdict}</td><th scope=\"row\">{title}</th><td class=\"n\" data-name=\"wanted\">{sign} {}</td>\
             <td class=\"n\" data-name=\"seen\">{}</td><td class=\"n\" data-name=\"rounds\">{rounds}</td></tr>",
            figure(t.wanted),
            t.seen.map_or_else(|| "–".into(), figure),
        )
    };
    let of = |met: Option<bool>| -> Vec<String> { report.targets.iter().filter(|t| t.met == met).map(row).collect() };
    let rows = |caption: &str, rows: &[String]| {
        format!(
            "<div class=\"wide\"><table class=\"targets\"><caption>{caption}</caption><thead><tr><th scope=\"col\">verdict</th>\
             <th scope=\"col\">target</th><th scope=\"col\">wanted</th><th scope=\"col\">seen</th>\
             <th scope=\"col\">rounds</th></tr></thead><tbody>{}</tbody></table></div>",
            rows.concat()
        )
    };
    let (met, missed, unknown) = (of(Some(true)), of(Some(false)), of(None));
    let mut out =
        String::from("<section id=\"targets\"><h2>Targets</h2><p class=\"soft\">What the project asks of itself.</p>");
    if !missed.is_empty() {
        out += &rows(&format!("Missed: {}", missed.len()), &missed);
    }
    if !unknown.is_empty() {
        out += &rows(&format!("Not measured: {}", unknown.len()), &unknown);
    }
    if !met.is_empty() {
        let open = if missed.is_empty() { " open" } else { "" };
        out += &format!("<details{open}><summary>Met: {}</summary>{}</details>", met.len(), rows("Met", &met));
    }
    out + "</section>"
}

/// What is not there is named.
fn missing(report: &Report) -> String {
    let mut items = String::new();
    for s in &report.sections {
        for c in &s.contenders {
            if let Some(why) = &c.missing {
                let what = if c.rounds.is_empty() { "missing" } else { "incomplete" };
                items += &format!("<li>{}: {} ({what}): {}</li>", escaped(&s.name), escaped(&c.title), reason(why));
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

/// Why something is missing: what programs say at length stands behind its first line.
fn reason(why: &str) -> String {
    match why.trim().split_once('\n') {
        None => escaped(why.trim()),
        Some((first, _)) => {
            format!(
                "{}<details><summary>all of it</summary><pre>{}</pre></details>",
                escaped(first),
                escaped(why.trim())
            )
        }
    }
}

fn section(n: usize, s: &Section) -> String {
    let mut out = format!("<section id=\"s{n}\"><h3>{}</h3>", heading(&s.title));
    let bars = plots::bars(s);
    // Contenders that are all missing are a table, too.
    out += &if bars.is_empty() { plots::rounds_table(s) } else { bars };
    out += &times::ratios(s);
    out += &plots::latencies(s);
    for c in &s.curves {
        out += &plots::curve(c);
    }
    out += &stacks::contenders(s);
    let missing = s.contenders.iter().filter_map(|c| Some((c, c.missing.as_ref()?)));
    let mut notes: String = missing
        .map(|(c, why)| format!("<li class=\"missed\">{} is missing: {}</li>", escaped(&c.title), reason(why)))
        .collect();
    notes.extend(s.notes.iter().map(|note| format!("<li>{}</li>", prose(note))));
    if let Some(noise) = &s.noise {
        notes += &format!("<li>{}</li>", escaped(&told::noise(noise, &s.reference)));
    }
    if !notes.is_empty() {
        out += &format!("<ul class=\"soft\">{notes}</ul>");
    }
    out + "</section>"
}
