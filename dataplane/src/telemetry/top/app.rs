//! What is being looked at, and what keys do about it. Knows no terminal.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Options;
use super::history::History;
use super::pages::{Tab, Totals, totals};
use super::sample::{Rekeys, Sample, View};
use super::table::Table;

/// What the caller has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    GoOn,
    Quit,
}

/// How a tab's first table is sorted.
#[derive(Clone, Copy, Debug, Default)]
struct Sorting {
    /// `None`: as the table would have it.
    column: Option<usize>,
    reverse: bool,
}

pub struct App {
    pub tab: Tab,
    pub paused: bool,
    pub help: bool,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub colour: bool,
    pub interval: Duration,
    /// Why there is nothing new, while the instance is away.
    pub away: Option<String>,
    before: Option<Sample>,
    now: Option<Sample>,
    rekeys: Rekeys,
    history: History,
    sorting: [Sorting; Tab::ALL.len()],
    selected: Option<String>,
    /// Rows that the screen had room for when it was drawn last.
    pub page: usize,
}

/// What is to be drawn of a tab.
pub struct Shown {
    pub tables: Vec<Table>,
    /// Row of the first table that is chosen.
    pub selected: Option<usize>,
}

impl App {
    pub fn new(options: &Options) -> Self {
        Self {
            tab: options.tab.unwrap_or_default(),
            paused: false,
            help: false,
            filter: options.filter.clone(),
            typing: false,
            colour: options.colour,
            interval: options.interval,
            away: None,
            before: None,
            now: None,
            rekeys: Rekeys::default(),
            history: History::default(),
            sorting: Default::default(),
            selected: None,
            page: 10,
        }
    }

    /// Another look. While paused it is let go by.
    pub fn take(&mut self, sample: Sample) {
        if self.paused {
            return;
        }
        self.away = None;
        self.before = self.now.replace(sample);
        if let (Some(before), Some(now)) = (&self.before, &self.now) {
            self.rekeys.look(before, now);
        }
        let values: Vec<(String, f64)> = self.view().map_or_else(Vec::new, |view| {
            // Without a look before there are no rates to remember.
            if view.before().is_none() {
                return Vec::new();
            }
            let tabs = Tab::ALL.into_iter().filter(|tab| *tab != Tab::Flows || view.now.flows.is_some());
            let rows = tabs.flat_map(|tab| {
                let tables = tab.tables(&view).into_iter().filter(|table| !table.history_of.is_empty());
                tables.flat_map(|table| table.rows).map(move |row| (history_key(tab, &row.key), row.value))
            });
            rows.collect()
        });
        if !values.is_empty() {
            self.history.push(values);
        }
    }

    /// The instance does not answer. What it said last stays in sight.
    pub fn lost(&mut self, why: String) {
        self.away = Some(why);
    }

    pub fn now(&self) -> Option<&Sample> {
        self.now.as_ref()
    }

    fn view(&self) -> Option<View<'_>> {
        Some(View::new(self.before.as_ref(), self.now.as_ref()?, &self.rekeys))
    }

    pub fn totals(&self) -> Totals {
        self.view().map(|view| totals(&view)).unwrap_or_default()
    }

    /// Whether flows should be asked for.
    pub fn wants_flows(&self) -> bool {
        self.tab == Tab::Flows
    }

    /// The tab's tables, filtered and sorted.
    pub fn shown(&self) -> Shown {
        let mut tables = self.view().map(|view| self.tab.tables(&view)).unwrap_or_default();
        let sorting = self.sorting[self.tab as usize];
        for (at, table) in tables.iter_mut().enumerate() {
            table.filter(&self.filter);
            let sorting = if at == 0 { sorting } else { Sorting::default() };
            table.sort(sorting.column, sorting.reverse);
        }
        let rows = tables.first().map_or(&[][..], |table| &table.rows);
        let selected = self.selected.as_ref().and_then(|key| rows.iter().position(|row| row.key == *key));
        Shown { tables, selected }
    }

    /// Column that the first table is sorted by, and whether upside down.
    pub fn sorted_by(&self, table: &Table) -> (Option<usize>, bool) {
        let sorting = self.sorting[self.tab as usize];
        (sorting.column.or(table.sorted_by), sorting.reverse)
    }

    /// A row's history as bars.
    pub fn bars(&self, key: &str, width: usize) -> String {
        self.history.bars(&history_key(self.tab, key), width)
    }

    /// A row's history, or the sum of all rows'.
    pub fn history(&self, shown: &Shown, width: usize) -> Vec<f64> {
        let Some(table) = shown.tables.first() else { return Vec::new() };
        match shown.selected.and_then(|at| table.rows.get(at)) {
            Some(row) => self.history.last(&history_key(self.tab, &row.key), width),
            None => {
                let mut sum: Vec<f64> = Vec::new();
                for row in &table.rows {
                    let one = self.history.last(&history_key(self.tab, &row.key), width);
                    // The newest of each stand at the same place.
                    if one.len() > sum.len() {
                        let missing = one.len() - sum.len();
                        sum.splice(0..0, std::iter::repeat_n(0.0, missing));
                    }
                    sum.iter_mut().rev().zip(one.iter().rev()).for_each(|(sum, value)| *sum += value);
                }
                sum
            }
        }
    }

    pub fn key(&mut self, key: KeyEvent) -> Then {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Then::Quit } else { Then::GoOn };
        }
        if self.typing {
            self.type_filter(key.code);
            return Then::GoOn;
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Then::Quit } else { Then::GoOn };
        }
        match key.code {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.next_column(true),
            KeyCode::Char('S') => self.next_column(false),
            KeyCode::Char('r') => {
                let sorting = &mut self.sorting[self.tab as usize];
                sorting.reverse = !sorting.reverse;
            }
            KeyCode::Char(digit @ '1'..='7') => self.go(Tab::ALL[digit as usize - '1' as usize]),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.step(1),
            KeyCode::BackTab | KeyCode::Left => self.step(Tab::ALL.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::PageDown => self.select(self.page.max(1) as isize),
            KeyCode::PageUp => self.select(-(self.page.max(1) as isize)),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX),
            KeyCode::Esc if self.selected.is_some() => self.selected = None,
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        Then::GoOn
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < 64 && !c.is_control() => self.filter.push(c),
            _ => {}
        }
    }

    fn step(&mut self, by: usize) {
        self.go(Tab::ALL[(self.tab as usize + by) % Tab::ALL.len()]);
    }

    fn go(&mut self, tab: Tab) {
        if tab != self.tab {
            self.tab = tab;
            self.selected = None;
        }
    }

    fn next_column(&mut self, on: bool) {
        let shown = self.shown();
        let Some(table) = shown.tables.first().filter(|table| !table.columns.is_empty()) else { return };
        let columns = table.columns.len();
        let (at, _) = self.sorted_by(table);
        let next = match (at, on) {
            (None, true) => 0,
            (None, false) => columns - 1,
            (Some(at), true) => (at + 1) % columns,
            (Some(at), false) => (at + columns - 1) % columns,
        };
        self.sorting[self.tab as usize] = Sorting { column: Some(next), reverse: false };
    }

    fn select(&mut self, by: isize) {
        let shown = self.shown();
        let rows = shown.tables.first().map_or(&[][..], |table| &table.rows);
        let Some(last) = rows.len().checked_sub(1) else { return };
        let next = match shown.selected {
            Some(at) => at.saturating_add_signed(by).min(last),
            None if by == isize::MAX => last,
            None => 0,
        };
        self.selected = rows.get(next).map(|row| row.key.clone());
    }
}

fn history_key(tab: Tab, row: &str) -> String {
    format!("{}/{row}", tab.name())
}
