//! The plots. Each stands in a figure with its name, and the table that it was drawn from behind it.

use super::svg::{COLOURS, Drawing, Scale, WIDTH, short};
use super::{escaped, table};
use crate::machine::Noise;
use crate::report::{Better, Curve, Line, Report, Section, figure};
use crate::stats::latency::{Latencies, SHOWN};

/// Where plots end: the last mark's name needs room.
const RIGHT: f64 = WIDTH - 26.0;

/// A drawing with its name, and its figures for those who want or need them.
fn figure_of(caption: &str, svg: &str, legend: &[String], figures: &str) -> String {
    let mut keys = String::new();
    for (n, name) in legend.iter().enumerate() {
        keys += &format!(
            "<li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path d=\"M0 4L24 4\" class=\"l c{}\"/></svg>{}</li>",
            n % COLOURS,
            escaped(name)
        );
    }
    let keys = if keys.is_empty() { keys } else { format!("<ul class=\"legend\">{keys}</ul>") };
    format!(
        "<figure><figcaption>{}</figcaption>{svg}{keys}<details><summary>The figures</summary>{figures}</details></figure>",
        escaped(caption)
    )
}

/// Bars of a section's medians, with every round as a dot and a line from the least to the most. Empty where nothing was measured.
pub fn bars(section: &Section) -> String {
    let measured: Vec<_> = section.contenders.iter().filter(|c| !c.rounds.is_empty()).collect();
    let most = measured.iter().filter_map(|c| c.summary.as_ref()).map(|s| s.max).fold(0.0, f64::max);
    if measured.is_empty() || most <= 0.0 {
        return String::new();
    }
    let better = if section.better() == Better::Higher { "longer is better" } else { "shorter is better" };
    let title = format!("{} ({}; {better})", section.title, section.unit);
    const ROW: f64 = 36.0;
    let height = measured.len() as f64 * ROW + 24.0;
    let mut d = Drawing::new(height, &title, "One bar per contender; its figures are in the table behind.");
    let scale = Scale::new((0.0, most), (4.0, RIGHT), false);
    for mark in scale.marks() {
        let x = scale.at(mark);
        d.line((x, 4.0), (x, height - 20.0), "grid");
        d.text(x, height - 6.0, "mark", &short(mark));
    }
    for (n, c) in measured.iter().enumerate() {
        let Some(s) = &c.summary else { continue };
        let y = n as f64 * ROW + 4.0;
        d.text(4.0, y + 11.0, "label", &cut(&c.title, 52));
        d.text(WIDTH - 4.0, y + 11.0, "value", &figure(s.median));
        d.rect(4.0, y + 16.0, (scale.at(s.median) - 4.0, 12.0), "bar");
        let middle = y + 22.0;
        d.line((scale.at(s.min), middle), (scale.at(s.max), middle), "spread");
        for round in &c.rounds {
            d.dot(scale.at(*round), middle, "round");
        }
    }
    let caption = format!("Medians, {} ({better}); dots are rounds", section.unit);
    figure_of(&caption, &d.done(), &[], &rounds_table(section))
}

/// What a section measured, as a table.
pub fn rounds_table(section: &Section) -> String {
    let more: std::collections::BTreeSet<&String> = section.contenders.iter().flat_map(|c| c.more.keys()).collect();
    let median = format!("median, {}", section.unit);
    let mut header = vec!["", median.as_str(), "least", "most", "rounds"];
    header.extend(more.iter().map(|m| m.as_str()));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for c in &section.contenders {
        let mut row = match &c.summary {
            Some(s) => {
                vec![c.title.clone(), figure(s.median), figure(s.min), figure(s.max), c.rounds.len().to_string()]
            }
            None => vec![c.title.clone(), "missing".into(), "–".into(), "–".into(), "0".into()],
        };
        for m in &more {
            let of = c.more.get(*m).and_then(|r| crate::stats::summary(r));
            row.push(of.map_or_else(String::new, |s| figure(s.median)));
        }
        rows.push(row);
    }
    for r in &section.ratios {
        if let Some(s) = &r.summary {
            let title = format!("{} / {}", r.over, r.under);
            let median = format!("× {}", figure(s.median));
            let mut row = vec![title, median, figure(s.min), figure(s.max), r.rounds.len().to_string()];
            row.resize(header.len(), String::new());
            rows.push(row);
        }
    }
    table(&section.title, &header, &rows)
}

/// Latencies by percentile, both axes logarithmic. Empty where there are none.
pub fn latencies(section: &Section) -> String {
    let all: Vec<(&str, &str, Latencies)> = section
        .contenders
        .iter()
        .filter_map(|c| {
            let l = c.latency.as_ref()?;
            Some((c.title.as_str(), l.of.as_str(), Latencies::of(&l.counts).ok()?))
        })
        .filter(|(_, _, l)| !l.is_empty())
        .collect();
    let Some((_, of, first)) = all.first() else { return String::new() };
    let caption = format!("Latency by percentile: {of}");
    let (mut low, mut high, mut nines) = (first.percentile(0.0) as f64, 0.0f64, 2.0f64);
    for (_, _, l) in &all {
        low = low.min(l.percentile(0.0) as f64);
        high = high.max(l.percentile(100.0) as f64);
        nines = nines.max((l.len() as f64).log10().floor().min(5.0));
    }
    const HEIGHT: f64 = 240.0;
    let mut d = Drawing::new(HEIGHT, &caption, "A line per contender, from the median to the rarest percentile.");
    // Places by how rare: 1 − 10^−n, from the least value (0) on.
    let x = Scale::new((0.0, nines), (48.0, RIGHT), false);
    let y = Scale::new((low, high), (HEIGHT - 34.0, 10.0), true);
    axes(&mut d, &y, HEIGHT, "ns");
    for n in 0..=nines as i32 {
        let at = x.at(f64::from(n));
        d.line((at, 10.0), (at, HEIGHT - 34.0), "grid");
        let name = if n == 0 { "least".to_owned() } else { format!("p{}", short_nines(n)) };
        d.text(at, HEIGHT - 20.0, "mark", &name);
    }
    for (n, (_, _, l)) in all.iter().enumerate() {
        let points: Vec<(f64, f64)> = (0..=(nines * 10.0) as i32)
            .map(|step| {
                let rare = f64::from(step) / 10.0;
                let q = 100.0 * (1.0 - 10f64.powf(-rare));
                (x.at(rare), y.at(l.percentile(q) as f64))
            })
            .collect();
        d.path(&points, n);
    }
    let mut header = vec![""];
    header.extend(SHOWN.iter().map(|(_, name)| *name));
    header.push("values");
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(title, _, l)| {
            let mut row = vec![(*title).to_owned()];
            row.extend(SHOWN.iter().map(|(q, _)| l.percentile(*q).to_string()));
            row.push(l.len().to_string());
            row
        })
        .collect();
    let legend: Vec<String> = all.iter().map(|(title, ..)| (*title).to_owned()).collect();
    figure_of(&caption, &d.done(), &legend, &table(&format!("{caption}, ns"), &header, &rows))
}

/// `90`, `99`, `99.9` …
fn short_nines(n: i32) -> String {
    match n {
        1 => "90".into(),
        2 => "99".into(),
        n => format!("99.{}", "9".repeat(n as usize - 2)),
    }
}

/// A left axis with marks and its unit.
fn axes(d: &mut Drawing, y: &Scale, height: f64, unit: &str) {
    for mark in y.marks() {
        let at = y.at(mark);
        d.line((48.0, at), (RIGHT, at), "grid");
        d.text(44.0, at + 4.0, "value small", &short(mark));
    }
    d.line((48.0, 10.0), (48.0, height - 34.0), "axis");
    d.line((48.0, height - 34.0), (RIGHT, height - 34.0), "axis");
    d.text(4.0, height - 20.0, "label small", unit);
}

/// Lines of a curve: load and latency, workers and rate, length and time.
pub fn curve(curve: &Curve) -> String {
    let points = || curve.lines.iter().flat_map(|l| &l.points);
    let place = |(x, y): &(f64, f64)| (!curve.log.0 || *x > 0.0) && (!curve.log.1 || *y > 0.0);
    let sound: Vec<(f64, f64)> = points().filter(|p| place(p)).copied().collect();
    if sound.is_empty() {
        return String::new();
    }
    let range = |of: fn(&(f64, f64)) -> f64, log: bool| {
        let low = sound.iter().map(of).fold(f64::INFINITY, f64::min);
        let high = sound.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        (if log { low } else { low.min(0.0) }, high)
    };
    const HEIGHT: f64 = 250.0;
    let mut d = Drawing::new(HEIGHT, &curve.title, &format!("{} over {}, a line each.", curve.y, curve.x));
    let x = Scale::new(range(|p| p.0, curve.log.0), (48.0, RIGHT), curve.log.0);
    let y = Scale::new(range(|p| p.1, curve.log.1), (HEIGHT - 34.0, 10.0), curve.log.1);
    axes(&mut d, &y, HEIGHT, &curve.y);
    for mark in x.marks() {
        d.line((x.at(mark), 10.0), (x.at(mark), HEIGHT - 34.0), "grid");
        d.text(x.at(mark), HEIGHT - 20.0, "mark", &short(mark));
    }
    d.text(RIGHT, HEIGHT - 5.0, "value small", &curve.x);
    for (n, line) in curve.lines.iter().enumerate() {
        let at: Vec<(f64, f64)> = line.points.iter().filter(|p| place(p)).map(|p| (x.at(p.0), y.at(p.1))).collect();
        d.path(&at, n);
    }
    if let Some((value, says)) = &curve.mark {
        d.line((x.at(*value), 10.0), (x.at(*value), HEIGHT - 34.0), "here");
        d.text((x.at(*value) + 4.0).min(WIDTH - 190.0), 22.0, "label small", says);
    }
    let legend: Vec<String> = curve.lines.iter().map(|l| l.title.clone()).collect();
    figure_of(&curve.title, &d.done(), &legend, &curve_table(curve))
}

/// At most this many points of a line are in its table.
const ROWS: usize = 16;

fn curve_table(curve: &Curve) -> String {
    let mut header = vec![curve.x.as_str()];
    header.extend(curve.lines.iter().map(|l| l.title.as_str()));
    let Some(longest) = curve.lines.iter().max_by_key(|l| l.points.len()) else { return String::new() };
    let step = longest.points.len().div_ceil(ROWS).max(1);
    let at = |line: &Line, n: usize| line.points.get(n).map_or_else(String::new, |p| figure(p.1));
    let rows: Vec<Vec<String>> = (0..longest.points.len())
        .step_by(step)
        .map(|n| {
            let mut row = vec![figure(longest.points[n].0)];
            row.extend(curve.lines.iter().map(|l| at(l, n)));
            row
        })
        .collect();
    table(&format!("{}, {}", curve.title, curve.y), &header, &rows)
}

const PARTS: [&str; 5] = ["user", "kernel", "softirq", "stolen", "idle"];

/// What the CPU did in each section, and on each core. Empty where it was not looked at.
pub fn cpu(report: &Report) -> String {
    let sum = |noise: &Noise| -> [f64; 5] {
        noise.cores.iter().fold([0.0; 5], |all, c| {
            let next = [c.user, c.kernel, c.softirq, c.stolen, c.idle];
            std::array::from_fn(|i| all[i] + next[i])
        })
    };
    let mut rows: Vec<(String, [f64; 5])> = Vec::new();
    for s in &report.sections {
        if let Some(noise) = &s.noise {
            rows.push((s.name.clone(), sum(noise)));
        }
    }
    for (n, core) in report.noise.cores.iter().enumerate() {
        let one = Noise { cores: vec![*core], ..Noise::default() };
        rows.push((format!("core {n}, whole run"), sum(&one)));
    }
    rows.retain(|(_, parts)| parts.iter().sum::<f64>() > 0.0);
    if rows.is_empty() {
        return String::new();
    }
    let caption = "What the cores did, all programs together";
    const ROW: f64 = 34.0;
    let mut d =
        Drawing::new(rows.len() as f64 * ROW + 4.0, caption, "A bar of the whole time each, cut by what it went to.");
    for (n, (name, parts)) in rows.iter().enumerate() {
        let (y, all) = (n as f64 * ROW, parts.iter().sum::<f64>());
        d.text(4.0, y + 12.0, "label", &cut(name, 60));
        let mut from = 4.0;
        for (part, seconds) in parts.iter().enumerate() {
            let width = seconds / all * (WIDTH - 8.0);
            d.rect(from, y + 16.0, (width, 12.0), &format!("f{part}"));
            from += width;
        }
    }
    let cells = rows.iter().map(|(name, parts)| {
        let all = parts.iter().sum::<f64>();
        let mut row = vec![name.clone()];
        row.extend(parts.iter().map(|p| format!("{:.1} %", 100.0 * p / all)));
        row
    });
    let mut header = vec![""];
    header.extend(PARTS);
    let figures = table(caption, &header, &cells.collect::<Vec<_>>());
    let keys: String = PARTS.iter().enumerate().map(|(n, name)| {
        format!("<li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><rect width=\"24\" height=\"8\" class=\"f{n}\"/></svg>{name}</li>")
    }).collect();
    let svg = format!("{}<ul class=\"legend\">{keys}</ul>", d.done());
    figure_of(caption, &svg, &[], &figures)
}

/// No longer than there is room for.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
