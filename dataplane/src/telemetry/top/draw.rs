//! How it looks. Everything is cut to the area there is, down to nothing.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Clear, Paragraph, RenderDirection, Sparkline, Widget, Wrap};

use super::app::{App, Shown};
use super::pages::Tab;
use super::table::{Cell, Table, Tone, fit, pad, wide};
use crate::telemetry::figures::{clean, count, duration, unit};

/// From this height on the bottom has a history.
const HISTORY_FROM: u16 = 18;
/// Its lines, with the title.
const HISTORY: u16 = 5;
/// Widest history beside a row.
const BARS: u16 = 60;

const HELP: &str = "\
 tab  ->        next tab            1 to 7   that tab
 shift-tab <-   the one before      ?  h     this help
 s  S           sort by the next column, by the one before
 r              upside down
 /              only rows that have a text; Enter keeps it, Esc clears it
 j k  arrows    choose a row: the history below is its own; Esc: of all
 page up/down, home, end
 p  space       hold still, and go on
 q  ctrl-c      quit

 Rates are over the time between two looks. A dash: not known, since the
 instance or the counter has just begun. Red: something is lost or wrong.";

/// Everything.
pub fn screen(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    let buf = frame.buffer_mut();
    let shown = app.shown();
    let mut rest = area;
    head(app, take_top(&mut rest, 1), buf);
    tabs(app, take_top(&mut rest, 1), buf);
    let foot = take_bottom(&mut rest, 1);
    if let Some(why) = &app.away {
        let name = app.now().map_or("the instance", |now| now.status.name.as_str());
        let text = format!("{} does not answer; waiting for it: {}", clean(name), clean(why));
        line(take_top(&mut rest, 1), buf, &text, style(app, Tone::Bad));
    }
    let graph = shown.tables.first().is_some_and(|table| !table.history_of.is_empty() && !table.rows.is_empty());
    if area.height >= HISTORY_FROM && graph {
        history(app, &shown, take_bottom(&mut rest, HISTORY), buf);
    }
    body(app, &shown, rest, buf);
    footer(app, foot, buf);
    // What a page is, for the keys.
    app.page = usize::from(rest.height.saturating_sub(3)).max(1);
    if app.help {
        help(area, buf);
    }
}

fn take_top(rest: &mut Rect, lines: u16) -> Rect {
    let lines = lines.min(rest.height);
    let top = Rect { height: lines, ..*rest };
    *rest = Rect { y: rest.y + lines, height: rest.height - lines, ..*rest };
    top
}

fn take_bottom(rest: &mut Rect, lines: u16) -> Rect {
    let lines = lines.min(rest.height);
    rest.height -= lines;
    Rect { y: rest.y + rest.height, height: lines, ..*rest }
}

/// Writes what there is room for, from the left edge of an area's first line; gives where it ended.
fn line(area: Rect, buf: &mut Buffer, text: &str, style: Style) -> u16 {
    if area.is_empty() {
        return area.x;
    }
    buf.set_stringn(area.x, area.y, text, usize::from(area.width), style).0
}

fn style(app: &App, tone: Tone) -> Style {
    let plain = Style::new();
    match (tone, app.colour) {
        (Tone::Plain, _) => plain,
        (Tone::Dim, true) => plain.fg(Color::DarkGray),
        (Tone::Dim, false) => plain,
        (Tone::Good, true) => plain.fg(Color::Green),
        (Tone::Good, false) => plain,
        (Tone::Warn, true) => plain.fg(Color::Yellow),
        (Tone::Warn, false) => plain.add_modifier(Modifier::BOLD),
        (Tone::Bad, true) => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
        (Tone::Bad, false) => plain.add_modifier(Modifier::BOLD),
    }
}

fn head(app: &App, area: Rect, buf: &mut Buffer) {
    let Some(now) = app.now() else {
        line(area, buf, "softdpu top: asking …", Style::new());
        return;
    };
    let all = app.totals();
    let rate = |rate: Option<f64>, what: &str| rate.map_or_else(|| "-".to_owned(), |rate| unit(rate.round(), what));
    let mut parts = vec![(format!("{}  up {}", clean(&now.status.name), duration(now.status.uptime_s)), Tone::Good)];
    if all.escaped_bytes > 0 {
        parts.push((format!("ESCAPED {}", unit(all.escaped_bytes as f64, "B")), Tone::Bad));
    }
    if app.paused {
        parts.push(("PAUSED".to_owned(), Tone::Warn));
    }
    if all.drops.is_some_and(|drops| drops > 0.0) {
        parts.push((format!("drops {}", rate(all.drops, "pps")), Tone::Warn));
    }
    parts.push((format!("rx {} {}", rate(all.rx, "pps"), rate(all.rx_bytes.map(|b| b * 8.0), "bit/s")), Tone::Plain));
    parts.push((format!("tx {} {}", rate(all.tx, "pps"), rate(all.tx_bytes.map(|b| b * 8.0), "bit/s")), Tone::Plain));
    parts.push((format!("{} flows", count(all.flows)), Tone::Plain));
    parts.push((format!("pid {}  softdpu {}", now.status.pid, clean(&now.status.version)), Tone::Dim));
    let mut at = area;
    for (text, tone) in parts {
        // Whole or not at all: half a figure is a wrong one.
        if wide(&text) > usize::from(at.width) {
            break;
        }
        let end = line(at, buf, &text, style(app, tone)).saturating_add(3).min(area.right());
        at = Rect { x: end, width: area.right() - end, ..at };
    }
}

fn tabs(app: &App, area: Rect, buf: &mut Buffer) {
    let mut at = area;
    for (number, tab) in Tab::ALL.into_iter().enumerate() {
        let text = format!(" {} {} ", number + 1, tab.name());
        let chosen = if tab == app.tab { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let end = line(at, buf, &text, chosen).min(area.right());
        at = Rect { x: end, width: area.right() - end, ..at };
    }
}

fn footer(app: &App, area: Rect, buf: &mut Buffer) {
    let text = if app.typing {
        format!("/{}_   Enter: keep   Esc: clear", app.filter)
    } else {
        let filter = if app.filter.is_empty() { "/ filter".to_owned() } else { format!("/{}", app.filter) };
        let pause = if app.paused { "p go on" } else { "p pause" };
        let every = duration_of(app.interval.as_secs_f64());
        format!("tab 1-7  s sort  r reverse  {filter}  {pause}  ? help  q quit   every {every}")
    };
    line(area, buf, &text, style(app, Tone::Dim));
}

fn duration_of(seconds: f64) -> String {
    if seconds.fract() == 0.0 { format!("{seconds:.0}s") } else { format!("{:.0}ms", seconds * 1000.0) }
}

/// Tables one below the other. The first has two thirds at least, where they have not room for all.
fn body(app: &App, shown: &Shown, area: Rect, buf: &mut Buffer) {
    let Some((first, others)) = shown.tables.split_first() else { return };
    let others: Vec<&Table> = others.iter().filter(|table| !table.rows.is_empty()).collect();
    let lines = |table: &Table| (2 + table.rows.len().max(1) + table.notes.len() + 1).min(1 << 15) as u16;
    let wanted = others.iter().fold(0u16, |sum, table| sum.saturating_add(lines(table)));
    let for_first = lines(first).min(area.height.saturating_sub(wanted).max(area.height / 3 * 2));
    let mut rest = area;
    one_table(app, first, (true, shown.selected), take_top(&mut rest, for_first), buf);
    for (at, table) in others.iter().enumerate() {
        let left = (others.len() - at) as u16;
        let part = lines(table).min(if left == 1 { rest.height } else { rest.height / left });
        one_table(app, table, (false, None), take_top(&mut rest, part), buf);
    }
}

fn one_table(app: &App, table: &Table, (first, selected): (bool, Option<usize>), area: Rect, buf: &mut Buffer) {
    let mut rest = area;
    let (by, reverse) = if first { app.sorted_by(table) } else { (table.sorted_by, false) };
    let mut title = table.title.to_owned();
    if let Some(column) = by.and_then(|at| table.columns.get(at)) {
        title += &format!(", by {}{}", column.title, if reverse { ", upside down" } else { "" });
    }
    let place = take_top(&mut rest, 1);
    line(place, buf, &title, Style::new().add_modifier(Modifier::BOLD));
    if table.rows.is_empty() {
        let text =
            if app.filter.is_empty() { table.nothing.to_owned() } else { format!("nothing has `{}`", app.filter) };
        line(take_top(&mut rest, 1), buf, &format!(" {text}"), style(app, Tone::Dim));
    } else {
        let columns = fit(table, usize::from(area.width.saturating_sub(1)));
        heads(app, table, &columns, by, take_top(&mut rest, 1), buf);
        let room = usize::from(rest.height);
        // The chosen row stays in sight.
        let from = selected.map_or(0, |at| (at + 1).saturating_sub(room)).min(table.rows.len());
        for (at, row) in table.rows.iter().enumerate().skip(from).take(room) {
            let place = take_top(&mut rest, 1);
            let end = cells(app, table, &columns, &row.cells, place, buf);
            if !table.history_of.is_empty() {
                bars(app, &row.key, Rect { x: end, width: place.right().saturating_sub(end), ..place }, buf);
            }
            if selected == Some(at) {
                buf.set_style(place, Style::new().add_modifier(Modifier::REVERSED));
            }
        }
        let hidden = table.rows.len() - room.min(table.rows.len());
        if hidden > 0 {
            // Over the right end of the title: no row is spent on it.
            let text = format!("{hidden} more");
            let width = wide(&text) as u16;
            if place.width > width + wide(&title) as u16 {
                let place = Rect { x: place.right() - width, width, ..place };
                line(place, buf, &text, style(app, Tone::Dim));
            }
        }
    }
    for note in &table.notes {
        line(take_top(&mut rest, 1), buf, &format!("   {}", clean(note)), style(app, Tone::Dim));
    }
}

fn heads(app: &App, table: &Table, columns: &[(usize, usize)], by: Option<usize>, area: Rect, buf: &mut Buffer) {
    let heads = table.columns.iter().enumerate().map(|(at, column)| {
        let cell = Cell::text(column.title.to_uppercase());
        if Some(at) == by { cell } else { cell.toned(Tone::Dim) }
    });
    cells(app, table, columns, &heads.collect::<Vec<_>>(), area, buf);
}

/// One line of cells; gives where it ended.
fn cells(app: &App, table: &Table, columns: &[(usize, usize)], row: &[Cell], area: Rect, buf: &mut Buffer) -> u16 {
    let mut x = area.x.saturating_add(1);
    for (at, width) in columns {
        let (Some(cell), true) = (row.get(*at), x < area.right()) else { break };
        let width = (*width).min(usize::from(area.right() - x));
        let text = pad(&cell.text, table.columns[*at].right, width);
        let place = Rect { x, width: width as u16, ..area };
        line(place, buf, &text, style(app, cell.tone));
        x = x.saturating_add(width as u16 + 2);
    }
    x
}

/// A row's history, where there is room beside it.
fn bars(app: &App, key: &str, area: Rect, buf: &mut Buffer) {
    if area.width < 8 || area.right() > buf.area.right() {
        return;
    }
    let tone = if app.colour { Style::new().fg(Color::Cyan) } else { Style::new() };
    line(area, buf, &app.bars(key, usize::from(area.width.min(BARS))), tone);
}

fn history(app: &App, shown: &Shown, area: Rect, buf: &mut Buffer) {
    let Some(table) = shown.tables.first() else { return };
    let values = app.history(shown, usize::from(area.width));
    let top = values.iter().copied().fold(0.0, f64::max);
    let of = shown
        .selected
        .and_then(|at| table.rows.get(at))
        .and_then(|row| row.cells.first())
        .map_or("all", |cell| &cell.text);
    let mut rest = area;
    let top_text = if top < 10.0 { format!("{top:.2}") } else { unit(top.round(), "").trim().to_owned() };
    let title = format!("{}: {of}, highest {top_text}", table.history_of);
    line(take_top(&mut rest, 1), buf, &title, style(app, Tone::Dim));
    let chosen = shown.selected.and_then(|at| table.rows.get(at));
    if let Some(cell) = table.detail.and_then(|at| chosen.or(table.rows.first())?.cells.get(at)) {
        let lines = (wide(&cell.text) / usize::from(area.width.max(1)) + 1).min(3) as u16;
        Paragraph::new(cell.text.as_str()).wrap(Wrap { trim: true }).render(take_top(&mut rest, lines), buf);
    }
    // In thousandths: shares are below 1. The newest stands at the right edge.
    let bars: Vec<u64> = values.iter().rev().map(|value| (value * 1000.0) as u64).collect();
    let colour = if app.colour { Style::new().fg(Color::Cyan) } else { Style::new() };
    Sparkline::default().data(&bars).direction(RenderDirection::RightToLeft).style(colour).render(rest, buf);
}

fn help(area: Rect, buf: &mut Buffer) {
    let (width, height) = (75.min(area.width), 15.min(area.height));
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buf);
    Paragraph::new(HELP).block(Block::bordered().title(" softdpu top ")).render(place, buf);
}
