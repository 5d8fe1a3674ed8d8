//! CPU time in layers: user, kernel and softirq, by contender where it was looked at, and by core.

use super::html::on_links;
use super::plots::{areas_legend, cut, figure_of};
use super::svg::{Drawing, Scale, WIDTH, short};
use super::table;
use crate::machine::Noise;
use crate::report::{Contender, Report, Section, figure};
use crate::stats::summary;

/// Where bars end: the sum stands behind them.
const RIGHT: f64 = WIDTH - 60.0;

/// What each contender took of the cores, by core. Empty where that was not looked at.
pub fn contenders(section: &Section) -> String {
    let medians = |c: &Contender, what: &str, part: &str| {
        let named = |key: &&String| key.strip_prefix(what).is_some_and(|rest| rest.starts_with(&format!(", {part} ")));
        c.more.keys().find(named).and_then(|key| summary(&c.more[key])).map(|s| s.median)
    };
    let mut cores: Vec<(String, String)> = Vec::new();
    for key in section.contenders.iter().flat_map(|c| c.more.keys()) {
        if let Some((core, unit)) = key.split_once(", user ")
            && !cores.iter().any(|(seen, _)| seen == core)
        {
            cores.push((core.to_owned(), unit.to_owned()));
        }
    }
    let Some((_, unit)) = cores.first() else { return String::new() };
    let mut rows: Vec<(String, [f64; 3])> = Vec::new();
    for c in section.contenders.iter().filter(|c| !c.rounds.is_empty()) {
        for (core, _) in &cores {
            let parts = ["user", "kernel", "softirq"].map(|part| medians(c, core, part));
            if let [Some(user), Some(kernel), Some(softirq)] = parts {
                rows.push((format!("{}: {core}", c.title), [user, kernel, softirq]));
            }
        }
    }
    let most = rows.iter().map(|(_, parts)| parts.iter().sum::<f64>()).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let caption = format!("CPU time by contender and core, {unit} (medians)");
    const ROW: f64 = 34.0;
    let mut d = Drawing::new(
        rows.len() as f64 * ROW + 4.0,
        &caption,
        "A bar per contender and core, cut by what the time went to.",
    );
    let scale = Scale::new((0.0, most), (4.0, RIGHT), false);
    for (n, (name, parts)) in rows.iter().enumerate() {
        let (y, mut from) = (n as f64 * ROW, 0.0);
        d.text(4.0, y + 12.0, "label", &cut(name, 64));
        for (part, value) in parts.iter().enumerate() {
            d.rect(scale.at(from), y + 16.0, (scale.at(from + value) - scale.at(from), 12.0), &format!("f{part}"));
            from += value;
        }
        d.text(WIDTH - 4.0, y + 26.0, "value small", &short(from));
    }
    let cells = rows.iter().map(|(name, parts)| {
        let all: f64 = parts.iter().sum();
        [name.clone()].into_iter().chain(parts.iter().chain([&all]).map(|v| figure(*v))).collect()
    });
    let figures = table(&caption, &["", "user", "kernel", "softirq", "all"], &cells.collect::<Vec<_>>());
    let legend = areas_legend(PARTS.iter().take(3).enumerate().map(|(n, name)| (format!("f{n}"), *name)));
    figure_of(&caption, &d.done(), &legend, &figures)
}

const PARTS: [&str; 5] = ["user", "kernel", "softirq", "stolen", "idle"];

/// What the CPU did in each section, and on each core. Empty where it was not looked at.
pub fn cores(report: &Report) -> String {
    let sum = |noise: &Noise| -> [f64; 5] {
        noise.cores.iter().fold([0.0; 5], |all, c| {
            let next = [c.user, c.kernel, c.softirq, c.stolen, c.idle];
            std::array::from_fn(|i| all[i] + next[i])
        })
    };
    let mut rows: Vec<(String, [f64; 5])> = Vec::new();
    for s in report.sections.iter().filter(|s| on_links(&s.name)) {
        if let Some(noise) = &s.noise {
            rows.push((s.title.clone(), sum(noise)));
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
    let legend = areas_legend(PARTS.iter().enumerate().map(|(n, name)| (format!("f{n}"), *name)));
    figure_of(caption, &d.done(), &legend, &figures)
}
