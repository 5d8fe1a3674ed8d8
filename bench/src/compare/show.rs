//! A comparison as people read it.

use std::fmt::Write as _;

use comfy_table::Table;

use super::{Comparison, Verdict};
use crate::report::{figure, right, style};

impl Comparison {
    /// The table, and what it is by.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "A: {}   B: {}", self.a, self.b);
        for note in &self.notes {
            let _ = writeln!(out, "  {note}");
        }
        let mut table = Table::new();
        style(&mut table).set_header(["", "A", "B", "unit", "B / A", "95 %", "verdict", "why not"]);
        let percent = |x: f64| format!("{:+.1} %", (x - 1.0) * 100.0);
        for row in &self.rows {
            let j = &row.judged;
            let range = j.low.zip(j.high).map_or_else(String::new, |(l, h)| format!("{} … {}", percent(l), percent(h)));
            table.add_row([
                format!("{}: {}", row.section, row.title),
                figure(row.median_a),
                figure(row.median_b),
                row.unit.clone(),
                j.ratio.map_or_else(|| "–".into(), percent),
                range,
                j.verdict.words().into(),
                j.why.clone().unwrap_or_default(),
            ]);
        }
        right(&mut table, 1..3);
        right(&mut table, 4..6);
        let _ = writeln!(out, "\n{table}");
        for (who, names) in [(&self.a, &self.only_a), (&self.b, &self.only_b)] {
            if !names.is_empty() {
                let _ = writeln!(out, "only in {who}: {}", names.join(", "));
            }
        }
        let _ = writeln!(
            out,
            "\n{} better, {} worse, {} cannot be told; {} comparisons, chance of any false alarm at most {} % \
             (Bonferroni), {} resamples, seed {}",
            self.count(Verdict::Better),
            self.count(Verdict::Worse),
            self.count(Verdict::CannotTell),
            self.comparisons,
            self.settings.alpha * 100.0,
            self.settings.resamples,
            self.settings.seed
        );
        out
    }
}
