//! How tables look.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

pub use crate::telemetry::figures::{bytes, clean, count, duration, number, or_dash};

/// A plain table. Columns whose header begins with `>` are figures, aligned to the right.
pub struct Rows {
    table: Table,
    right: Vec<bool>,
}

impl Rows {
    pub fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        // Never wrapped to a width: whoever pipes into grep wants one line per row.
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let right: Vec<bool> = header.iter().map(|h| h.starts_with('>')).collect();
        table.set_header(header.iter().zip(&right).map(|(h, r)| cell(h.trim_start_matches('>').to_uppercase(), *r)));
        Self { table, right }
    }

    pub fn add(&mut self, row: impl IntoIterator<Item = String>) {
        self.table
            .add_row(row.into_iter().zip(&self.right).map(|(text, r)| cell(clean(&text), *r)).collect::<Vec<_>>());
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.table.lines() {
            writeln!(f, " {}", line.trim_end())?;
        }
        Ok(())
    }
}

fn cell(text: String, right: bool) -> Cell {
    Cell::new(text).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left })
}
