//! The plots. Each stands in a figure with its name, and the table that it was drawn from behind it.

use std::collections::BTreeSet;

use super::role::{Role, line_classes};
use super::svg::{Drawing, Scale, WIDTH, short, time};
use super::{escaped, table};
use crate::gain::ledger::cores;
use crate::report::{Better, Curve, Line, Section, figure};
use crate::stats::latency::{Latencies, SHOWN};

/// Where plots end: the last mark's name needs room.
const RIGHT: f64 = WIDTH - 26.0;

/// A drawing with its name, and its figures for those who want or need them.
pub(super) fn figure_of(caption: &str, svg: &str, legend: &str, figures: &str) -> String {
    format!(
        "<figure><figcaption>{}</figcaption>{svg}{legend}<details><summary>The figures</summary>{figures}</details></figure>",
        escaped(caption)
    )
}

/// What lines are of.
fn lines_legend(lines: &[(String, String)]) -> String {
    let keys = lines.iter().map(|(class, name)| {
        let line =
            format!("<svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path d=\"M0 4L24 4\" class=\"{class}\"/></svg>");
        format!("<li>{line}{}</li>", escaped(name))
    });
    format!("<ul class=\"legend\">{}</ul>", keys.collect::<String>())
}

/// What areas are of: class and name.
pub(super) fn areas_legend<'a>(areas: impl Iterator<Item = (String, &'a str)>) -> String {
    let keys = areas.map(|(class, name)| {
        let area = format!(
            "<svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><rect width=\"24\" height=\"8\" class=\"{class}\"/></svg>"
        );
        format!("<li>{area}{}</li>", escaped(name))
    });
    format!("<ul class=\"legend\">{}</ul>", keys.collect::<String>())
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
        d.text(WIDTH - 4.0, y + 11.0, "value", &of_unit(section, s.median));
        d.rect(
            4.0,
            y + 16.0,
            (scale.at(s.median) - 4.0, 12.0),
            &format!("bar {}", Role::of(&c.name, &c.title).class()),
        );
        let middle = y + 22.0;
        d.line((scale.at(s.min), middle), (scale.at(s.max), middle), "spread");
        for round in &c.rounds {
            d.dot(scale.at(*round), middle, "round");
        }
    }
    // What the ledger adds up has no rounds of its own.
    let dots = if section.name == super::ledger::OVERVIEW { "least, median and most of the rounds" } else { "rounds" };
    let caption = format!("Medians, {} ({better}); dots are {dots}", section.unit);
    let seen: BTreeSet<Role> = measured.iter().map(|c| Role::of(&c.name, &c.title)).collect();
    // One colour alone says nothing.
    let legend = if seen.len() > 1 {
        areas_legend(seen.iter().map(|r| (format!("bar {}", r.class()), r.title())))
    } else {
        String::new()
    };
    figure_of(&caption, &d.done(), &legend, &rounds_table(section))
}

/// A figure of a section.
fn of_unit(section: &Section, v: f64) -> String {
    if section.unit.starts_with("cores") { cores(v) } else { figure(v) }
}

/// What a section measured, as a table.
pub fn rounds_table(section: &Section) -> String {
    let more: BTreeSet<&String> = section.contenders.iter().flat_map(|c| c.more.keys()).collect();
    let median = format!("median, {}", section.unit);
    let mut header = vec!["", median.as_str(), "least", "most", "rounds"];
    header.extend(more.iter().map(|m| m.as_str()));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for c in &section.contenders {
        let mut row = match &c.summary {
            Some(s) => {
                let [median, min, max] = [s.median, s.min, s.max].map(|v| of_unit(section, v));
                vec![c.title.clone(), median, min, max, c.rounds.len().to_string()]
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
    axes(&mut d, &y, HEIGHT, "", time);
    for n in 0..=nines as i32 {
        let at = x.at(f64::from(n));
        d.line((at, 10.0), (at, HEIGHT - 34.0), "grid");
        let name = if n == 0 { "least".to_owned() } else { format!("p{}", short_nines(n)) };
        d.text(at, HEIGHT - 20.0, "mark", &name);
    }
    let half = x.at(2f64.log10());
    d.line((half, 10.0), (half, HEIGHT - 34.0), "grid");
    d.text(half, HEIGHT - 20.0, "mark", "p50");
    let classes = line_classes(all.iter().map(|(title, ..)| *title));
    for (class, (_, _, l)) in classes.iter().zip(&all) {
        let points: Vec<(f64, f64)> = (0..=(nines * 10.0) as i32)
            .map(|step| {
                let rare = f64::from(step) / 10.0;
                let q = 100.0 * (1.0 - 10f64.powf(-rare));
                (x.at(rare), y.at(l.percentile(q) as f64))
            })
            .collect();
        d.path(&points, class);
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
    let legend: Vec<_> = classes.into_iter().zip(all.iter().map(|(title, ..)| (*title).to_owned())).collect();
    figure_of(&caption, &d.done(), &lines_legend(&legend), &table(&format!("{caption}, ns"), &header, &rows))
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
fn axes(d: &mut Drawing, y: &Scale, height: f64, unit: &str, shown: fn(f64) -> String) {
    for mark in y.marks() {
        let at = y.at(mark);
        d.line((48.0, at), (RIGHT, at), "grid");
        d.text(44.0, at + 4.0, "value small", &shown(mark));
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
    axes(&mut d, &y, HEIGHT, &curve.y, short);
    for mark in x.marks() {
        d.line((x.at(mark), 10.0), (x.at(mark), HEIGHT - 34.0), "grid");
        d.text(x.at(mark), HEIGHT - 20.0, "mark", &short(mark));
    }
    d.text(RIGHT, HEIGHT - 5.0, "value small", &curve.x);
    let classes = line_classes(curve.lines.iter().map(|l| l.title.as_str()));
    for (class, line) in classes.iter().zip(&curve.lines) {
        let at: Vec<(f64, f64)> = line.points.iter().filter(|p| place(p)).map(|p| (x.at(p.0), y.at(p.1))).collect();
        d.path(&at, class);
        // Few points are measured ones; many are a computed line.
        if at.len() <= ROWS {
            at.iter().for_each(|(x, y)| d.dot(*x, *y, "round"));
        }
    }
    if let Some((value, says)) = &curve.mark {
        d.line((x.at(*value), 10.0), (x.at(*value), HEIGHT - 34.0), "here");
        d.text((x.at(*value) + 4.0).min(WIDTH - 190.0), 22.0, "label small", says);
    }
    let legend: Vec<_> = classes.into_iter().zip(curve.lines.iter().map(|l| l.title.clone())).collect();
    figure_of(&curve.title, &d.done(), &lines_legend(&legend), &curve_table(curve))
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

/// No longer than there is room for.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
