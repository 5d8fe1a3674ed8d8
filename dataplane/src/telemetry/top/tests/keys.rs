//! What keys do.
#![allow(clippy::unwrap_used)]

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::app::{App, Then};
use super::super::pages::Tab;
use super::made_up::{app, sample};

fn press(app: &mut App, code: KeyCode) -> Then {
    app.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn types(app: &mut App, text: &str) {
    for c in text.chars() {
        press(app, KeyCode::Char(c));
    }
}

fn rows(app: &App) -> Vec<String> {
    app.shown().tables[0].rows.iter().map(|row| row.cells[0].text.clone()).collect()
}

#[test]
fn digits_and_tab_choose_a_tab() {
    let mut app = app(3);
    types(&mut app, "7");
    assert_eq!(app.tab, Tab::Flows);
    assert!(app.wants_flows());
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.tab, Tab::Ports);
    press(&mut app, KeyCode::BackTab);
    assert_eq!(app.tab, Tab::Flows);
    types(&mut app, "8");
    assert_eq!(app.tab, Tab::Flows, "there is no eighth");
}

#[test]
fn s_sorts_by_the_next_column_and_r_turns_it() {
    let mut app = app(3);
    types(&mut app, "4");
    assert_eq!(rows(&app), ["backups", "payments", "video"], "by packets");
    // From packets on: rate, drops, tier, tunnel, why, owner, and round to the name.
    types(&mut app, "sssssss");
    assert_eq!(rows(&app), ["backups", "payments", "video"]);
    types(&mut app, "r");
    assert_eq!(rows(&app), ["video", "payments", "backups"]);
    types(&mut app, "s");
    let shown = app.shown();
    assert_eq!(app.sorted_by(&shown.tables[0]), (Some(1), false), "the verdict, the right way up");
    types(&mut app, "S");
    assert_eq!(app.sorted_by(&app.shown().tables[0]), (Some(0), false));
    types(&mut app, "1");
    assert_eq!(app.sorted_by(&app.shown().tables[0]).0, None, "each tab has its own order");
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut app = app(3);
    types(&mut app, "4/vidq");
    assert!(app.typing, "q is a letter here");
    press(&mut app, KeyCode::Backspace);
    assert_eq!(rows(&app), ["video"]);
    press(&mut app, KeyCode::Enter);
    assert_eq!((app.typing, app.filter.as_str()), (false, "vid"));
    press(&mut app, KeyCode::Esc);
    assert_eq!(rows(&app).len(), 3);
    types(&mut app, "/");
    types(&mut app, &"x".repeat(1000));
    assert!(app.filter.len() <= 64);
    press(&mut app, KeyCode::Esc);
    assert_eq!((app.typing, app.filter.as_str()), (false, ""));
}

#[test]
fn a_chosen_row_stays_chosen_and_has_its_own_history() {
    let mut app = app(4);
    press(&mut app, KeyCode::Down);
    let all = app.history(&app.shown(), 10);
    assert_eq!(app.shown().selected, Some(0));
    press(&mut app, KeyCode::End);
    let shown = app.shown();
    assert_eq!(shown.selected, Some(1));
    assert_eq!(app.history(&shown, 2), [525_000.0, 900_000.0], "of uplink, in and out");
    assert_eq!(all.len(), 3, "one look less than looks: the first has no rate");
    types(&mut app, "r");
    assert_eq!(app.shown().selected, Some(0), "the row went up");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.history(&app.shown(), 1), [1_800_000.0], "of both ports");
    press(&mut app, KeyCode::PageDown);
    press(&mut app, KeyCode::PageDown);
    press(&mut app, KeyCode::Home);
    assert_eq!(app.shown().selected, Some(0));
}

#[test]
fn paused_it_holds_still() {
    let mut app = app(3);
    types(&mut app, "p");
    app.take(sample(99));
    assert_eq!(app.now().unwrap().taken, 2.0);
    types(&mut app, "p");
    app.take(sample(100));
    assert_eq!(app.now().unwrap().taken, 100.0);
}

#[test]
fn an_instance_that_is_away_and_comes_back() {
    let mut app = app(3);
    app.lost("no socket".into());
    assert!(app.away.is_some() && app.now().is_some(), "what it said last stays");
    let mut back = sample(0);
    (back.taken, back.status.pid) = (9.0, 4712);
    app.take(back);
    assert!(app.away.is_none());
    assert_eq!(app.totals().rx, None, "nothing to compare with yet");
}

#[test]
fn q_ends_it_and_help_does_not() {
    let mut app = app(2);
    types(&mut app, "?");
    assert!(app.help);
    assert_eq!(press(&mut app, KeyCode::Char('x')), Then::GoOn);
    assert!(!app.help, "any key closes it");
    assert_eq!(press(&mut app, KeyCode::Char('q')), Then::Quit);
    types(&mut app, "/");
    assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
}
