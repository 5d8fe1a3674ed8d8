//! Tables as they are meant, before anything is drawn: cells with a tone, columns with a rank, sorting and filtering.

use std::cmp::Ordering;

use super::sample::Rate;
use crate::telemetry::figures::{clean, count, unit};

/// How a cell is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// Nothing to see: zeros and dashes.
    Dim,
    Good,
    Warn,
    Bad,
}

/// What a cell is sorted by.
#[derive(Clone, Debug, PartialEq)]
enum By {
    Text,
    /// Nothing is less than any figure.
    Number(Option<f64>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
    by: By,
}

impl Cell {
    /// Names may come from packets: nothing in them may steer the terminal.
    pub fn text(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        if text.is_empty() { Self::none() } else { Self { text: clean(text), tone: Tone::Plain, by: By::Text } }
    }

    pub fn none() -> Self {
        Self { text: "-".into(), tone: Tone::Dim, by: By::Number(None) }
    }

    pub fn number(value: f64, text: String) -> Self {
        Self { text, tone: if value == 0.0 { Tone::Dim } else { Tone::Plain }, by: By::Number(Some(value)) }
    }

    pub fn count(n: u64) -> Self {
        Self::number(n as f64, count(n))
    }

    pub fn bytes(n: u64) -> Self {
        Self::number(n as f64, unit(n as f64, "B"))
    }

    /// A rate in `what` per second: "pps", "bit/s".
    pub fn rate(rate: Rate, what: &str) -> Self {
        rate.map_or_else(Self::none, |rate| {
            let rounded = if rate >= 1.0 { rate.round() } else { (rate * 100.0).round() / 100.0 };
            Self::number(rate, unit(rounded, what))
        })
    }

    /// Bytes per second, shown as bits.
    pub fn bits(rate: Rate) -> Self {
        Self::rate(rate.map(|bytes| bytes * 8.0), "bit/s")
    }

    pub fn percent(share: Option<f64>) -> Self {
        share.map_or_else(Self::none, |share| Self::number(share, format!("{:.0} %", share * 100.0)))
    }

    pub fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// With this tone if its figure is above 0.
    pub fn if_any(self, tone: Tone) -> Self {
        let any = matches!(self.by, By::Number(Some(n)) if n > 0.0);
        if any { self.toned(tone) } else { self }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (&self.by, &other.by) {
            (By::Number(a), By::Number(b)) => {
                // The larger first.
                b.unwrap_or(f64::NEG_INFINITY).total_cmp(&a.unwrap_or(f64::NEG_INFINITY))
            }
            _ => self.text.cmp(&other.text),
        }
    }
}

/// A column's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub title: &'static str,
    /// Figures stand to the right.
    pub right: bool,
    /// Where there is not room for all, the highest rank goes first; rank 0 stays.
    pub rank: u8,
}

/// A name or a word.
pub const fn text(title: &'static str, rank: u8) -> Column {
    Column { title, right: false, rank }
}

/// A figure.
pub const fn figure(title: &'static str, rank: u8) -> Column {
    Column { title, right: true, rank }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Names the row from one look to the next.
    pub key: String,
    pub cells: Vec<Cell>,
    /// What its history is of.
    pub value: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub title: &'static str,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// What histories are of, "packets/s"; empty: no history.
    pub history_of: &'static str,
    /// Column that it is sorted by unless somebody chose another; `None`: as it came.
    pub sorted_by: Option<usize>,
    /// Column whose text is shown whole, below, of the chosen row.
    pub detail: Option<usize>,
    /// What is said where there are no rows.
    pub nothing: &'static str,
    /// Asides, below.
    pub notes: Vec<String>,
}

impl Table {
    pub fn add(&mut self, key: impl Into<String>, value: Rate, cells: impl IntoIterator<Item = Cell>) {
        let row = Row { key: key.into(), cells: cells.into_iter().collect(), value: value.unwrap_or_default() };
        debug_assert_eq!(row.cells.len(), self.columns.len(), "{}", self.title);
        self.rows.push(row);
    }

    /// Sorted by `column` (or as the table would have it), figures from the top, words from A. Equal rows keep their order.
    pub fn sort(&mut self, column: Option<usize>, reverse: bool) {
        if let Some(at) = column.or(self.sorted_by).filter(|at| *at < self.columns.len()) {
            self.rows.sort_by(|a, b| {
                let order = a.cells[at].order(&b.cells[at]);
                if reverse { order.reverse() } else { order }
            });
        } else if reverse {
            self.rows.reverse();
        }
    }

    /// Keeps rows that have `what` in some cell, whatever the case.
    pub fn filter(&mut self, what: &str) {
        if what.is_empty() {
            return;
        }
        let what = what.to_lowercase();
        self.rows.retain(|row| row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&what)));
    }
}

/// Columns that `width` has room for, by index, and how wide each is. Two cells of space stand between them. The last one, if it
/// is text, takes what is left.
pub fn fit(table: &Table, width: usize) -> Vec<(usize, usize)> {
    let wanted = |at: usize| {
        let cells = table.rows.iter().filter_map(|row| row.cells.get(at)).map(|cell| wide(&cell.text));
        cells.max().unwrap_or(0).max(wide(table.columns[at].title))
    };
    // A long name must not push out the figures.
    let most = if width == usize::MAX { usize::MAX } else { (width / 3).max(12) };
    let mut kept: Vec<(usize, usize)> = (0..table.columns.len()).map(|at| (at, wanted(at))).collect();
    loop {
        let last = kept.len().saturating_sub(1);
        let least = |(place, (at, wanted)): (usize, &(usize, usize))| {
            if place == last && !table.columns[*at].right { (*wanted).min(14) } else { (*wanted).min(most) }
        };
        let needed: usize = kept.iter().enumerate().map(least).sum::<usize>() + 2 * last;
        let droppable = kept.iter().map(|(at, _)| table.columns[*at].rank).max().unwrap_or(0);
        if needed <= width || droppable == 0 {
            let widths: Vec<usize> = kept.iter().enumerate().map(least).collect();
            kept.iter_mut().zip(widths).for_each(|(column, width)| column.1 = width.min(column.1));
            if let Some((at, of_last)) = kept.last_mut()
                && !table.columns[*at].right
            {
                *of_last += width.saturating_sub(needed).min(wanted(*at) - *of_last);
            }
            return kept;
        }
        let goes = kept.iter().rposition(|(at, _)| table.columns[*at].rank == droppable).unwrap_or(last);
        kept.remove(goes);
    }
}

/// Cells on a terminal.
pub fn wide(text: &str) -> usize {
    ratatui::text::Span::raw(text).width()
}

/// Filled up with spaces to `width`; a longer text stays.
pub fn pad(text: &str, right: bool, width: usize) -> String {
    let space = " ".repeat(width.saturating_sub(wide(text)));
    if right { format!("{space}{text}") } else { format!("{text}{space}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table =
            Table { columns: vec![text("name", 0), figure("rate", 0), text("what", 1)], ..Table::default() };
        for (name, rate, what) in [("b", Some(5.0), "Web"), ("a", None, "dns, long in words"), ("c", Some(70.0), "x")] {
            table.add(name, rate, [Cell::text(name), Cell::rate(rate, "pps"), Cell::text(what)]);
        }
        table
    }

    fn names(table: &Table) -> String {
        table.rows.iter().map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn figures_sort_from_the_top_words_from_a_and_the_unknown_last() {
        let mut table = table();
        table.sort(Some(1), false);
        assert_eq!(names(&table), "cba");
        table.sort(Some(1), true);
        assert_eq!(names(&table), "abc");
        table.sort(Some(0), false);
        assert_eq!(names(&table), "abc");
        table.sort(Some(99), false);
        table.sort(None, false);
        assert_eq!(names(&table), "abc", "there is no such column: as it was");
        table.sort(None, true);
        assert_eq!(names(&table), "cba");
    }

    #[test]
    fn a_filter_looks_into_every_cell() {
        let mut table = table();
        table.filter("WEB");
        assert_eq!(names(&table), "b");
        table.filter("");
        assert_eq!(names(&table), "b");
        table.filter("nowhere");
        assert!(table.rows.is_empty());
    }

    #[test]
    fn what_has_no_room_goes_by_rank_and_the_last_text_takes_the_rest() {
        let table = table();
        assert_eq!(fit(&table, usize::MAX), [(0, 4), (1, 6), (2, 18)]);
        assert_eq!(fit(&table, 30), [(0, 4), (1, 6), (2, 16)]);
        assert_eq!(fit(&table, 28), [(0, 4), (1, 6), (2, 14)]);
        assert_eq!(fit(&table, 20), [(0, 4), (1, 6)]);
        assert_eq!(fit(&table, 0).len(), 2, "rank 0 stays");
    }

    #[test]
    fn cells_say_what_they_know() {
        assert_eq!(Cell::rate(Some(1_234_567.0), "pps").text, "1.23 Mpps");
        assert_eq!(Cell::bits(Some(125.0)).text, "1.00 kbit/s");
        assert_eq!(Cell::rate(Some(0.25), "/s").text, "0.25 /s");
        assert_eq!(Cell::rate(None, "pps"), Cell::none());
        assert_eq!(Cell::text("\x1b[2J").text, "\u{fffd}[2J");
        assert_eq!(
            (Cell::count(0).if_any(Tone::Bad).tone, Cell::count(1).if_any(Tone::Bad).tone),
            (Tone::Dim, Tone::Bad)
        );
    }
}
