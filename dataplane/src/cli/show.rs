//! How figures and tables look.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

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

/// Host names come from packets: nothing in them may steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// With three figures and a decimal prefix: 1.23 M.
pub fn number(n: f64) -> String {
    const PREFIXES: [&str; 6] = ["", " k", " M", " G", " T", " P"];
    let mut value = n;
    let mut prefix = 0;
    // What would round up to 1000 belongs to the next prefix.
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        _ if prefix == 0 && value.fract() == 0.0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", PREFIXES[prefix])
}

/// Bytes: 1.23 MB.
pub fn bytes(n: u64) -> String {
    let text = number(n as f64);
    if text.contains(' ') { format!("{text}B") } else { format!("{text} B") }
}

/// A count, exact while it is readable.
pub fn count(n: u64) -> String {
    if n < 100_000 { n.to_string() } else { number(n as f64) }
}

/// Time in the two largest units: 3m 20s.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0 => format!("{:.0}ms", seconds.max(0.0) * 1000.0),
        1..=59 => format!("{s}s"),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// The text, or a dash for none.
pub fn or_dash(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or("-").to_owned()
}
