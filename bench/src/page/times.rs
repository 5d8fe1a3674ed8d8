//! How many times as much: ratios as dots with their range, on a logarithmic axis with 1 in it.

use super::plots::{cut, figure_of};
use super::svg::{Drawing, Scale, WIDTH, short};
use super::told::Told;
use super::{escaped, table};
use crate::report::{Ratio, Section, figure};

use super::answer::Answer;

/// The answer, drawn. Empty where there is none.
pub fn overview(answers: &[Answer<'_>]) -> String {
    let sums: Vec<_> = answers.iter().filter_map(|a| Some((a, a.ratio.summary.as_ref()?))).collect();
    if sums.is_empty() {
        return String::new();
    }
    let low = sums.iter().map(|(_, s)| s.min).fold(1.0, f64::min).max(0.01);
    let high = sums.iter().map(|(_, s)| s.max).fold(1.0, f64::max);
    const ROW: f64 = 40.0;
    let height = sums.len() as f64 * ROW + 26.0;
    let caption = "Times as much: right of 1 is more, left of it less";
    let mut d = Drawing::new(
        height,
        caption,
        "A dot per comparison, with a line from the least to the most round; figures are in the table behind.",
    );
    let scale = Scale::new((low / 1.2, high * 1.2), (8.0, WIDTH - 60.0), true);
    for mark in [0.01, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        .into_iter()
        .filter(|m| *m > low / 1.2 && *m < high * 1.2)
    {
        let x = scale.at(mark);
        d.line((x, 2.0), (x, height - 20.0), if mark == 1.0 { "one" } else { "grid" });
        d.text(x, height - 6.0, "mark", &format!("× {}", short(mark)));
    }
    for (n, (answer, s)) in sums.iter().enumerate() {
        let y = n as f64 * ROW + 4.0;
        let class = match answer.good() {
            Some(true) => "good",
            Some(false) => "bad",
            None => "unsure",
        };
        d.text(4.0, y + 11.0, "label small", &cut(&answer.says, 80));
        d.line((scale.at(s.min), y + 24.0), (scale.at(s.max), y + 24.0), &format!("range {class}"));
        d.big_dot(scale.at(s.median), y + 24.0, class);
        d.text(WIDTH - 4.0, y + 28.0, "value", &format!("× {}", figure(s.median)));
    }
    let rows: Vec<Vec<String>> = sums
        .iter()
        .map(|(a, s)| {
            vec![
                a.says.clone(),
                format!("× {}", figure(s.median)),
                format!("{} – {}", figure(s.min), figure(s.max)),
                a.ratio.rounds.len().to_string(),
                verdict(a).to_owned(),
                a.told.words().to_owned(),
            ]
        })
        .collect();
    let legend = "<ul class=\"legend\"><li><b class=\"met\">●</b> better</li><li><b class=\"missed\">●</b> worse</li>\
                  <li><b class=\"soft\">○</b> cannot tell: noise larger than the difference, or one round only</li></ul>";
    figure_of(caption, &d.done(), legend, &table(caption, &["", "times", "least – most", "rounds", "", "why"], &rows))
}

/// In a word or two.
pub fn verdict(answer: &Answer<'_>) -> &'static str {
    match (answer.good(), &answer.told) {
        (Some(true), Told::Sure(_)) => "better",
        (Some(true), _) => "better, few rounds",
        (Some(false), Told::Sure(_)) => "worse",
        (Some(false), _) => "worse, few rounds",
        (None, _) => "cannot tell",
    }
}

/// More than these stand behind a line to open.
const SHOWN: usize = 8;

/// A section's ratios, each with what it allows to say. Empty where there are none.
pub fn ratios(section: &Section) -> String {
    let title = |name: &str| {
        let c = section.contenders.iter().find(|c| c.name == name);
        c.map_or_else(|| name.to_owned(), |c| c.title.clone())
    };
    let row = |r: &Ratio| {
        let s = r.summary.as_ref()?;
        Some(vec![
            format!("{} / {}", title(&r.over), title(&r.under)),
            format!("× {}", figure(s.median)),
            format!("{} – {}", figure(s.min), figure(s.max)),
            Told::of(r, section.noise.as_ref()).words().to_owned(),
        ])
    };
    let rows: Vec<Vec<String>> = section.ratios.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let all = table("One over another, round by round", &["", "median", "least – most", "what it says"], &rows);
    if rows.len() > SHOWN {
        return format!("<details><summary>{} ratios</summary>{all}</details>", escaped(&rows.len().to_string()));
    }
    all
}
