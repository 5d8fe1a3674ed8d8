//! How the tables for people look: a section as rows, and figures no finer than a noisy machine can tell.

use comfy_table::{CellAlignment, LineStyle, Table, presets};

use super::Section;
use crate::stats::summary;

/// Four significant digits or so: more would claim more than a noisy machine can tell.
pub fn figure(v: f64) -> String {
    match v.abs() {
        a if a >= 1000.0 => format!("{v:.0}"),
        a if a >= 100.0 => format!("{v:.1}"),
        a if a >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

impl Section {
    /// A row for each contender and each ratio.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        let more: Vec<&String> = self
            .contenders
            .iter()
            .flat_map(|c| c.more.keys())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut header = vec![String::new(), format!("median {}", self.unit), "min – max".into(), "rounds".into()];
        header.extend(more.iter().map(|m| (*m).clone()));
        let columns = header.len();
        style(&mut table).set_header(header);
        for c in &self.contenders {
            let mut row = match (&c.summary, &c.missing) {
                (Some(s), _) => vec![
                    c.title.clone(),
                    figure(s.median),
                    format!("{} – {}", figure(s.min), figure(s.max)),
                    c.rounds.len().to_string(),
                ],
                (None, _) => vec![c.title.clone(), "–".into(), "missing".into(), "0".into()],
            };
            row.extend(
                more.iter()
                    .map(|m| c.more.get(*m).and_then(|r| summary(r)).map_or_else(String::new, |s| figure(s.median))),
            );
            table.add_row(row);
        }
        for r in &self.ratios {
            if let Some(s) = &r.summary {
                let spread = format!("{} – {}", figure(s.min), figure(s.max));
                table.add_row([
                    format!("{} / {}", r.over, r.under),
                    format!("× {}", figure(s.median)),
                    spread,
                    r.rounds.len().to_string(),
                ]);
            }
        }
        right(&mut table, 1..columns);
        table
    }
}

/// Lines above and below, none between rows.
pub(crate) fn style(table: &mut Table) -> &mut Table {
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
}

pub(crate) fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for i in columns {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
