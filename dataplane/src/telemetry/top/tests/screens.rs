//! What it looks like. `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu top::tests::screens` writes the expected screens anew.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::super::app::App;
use super::super::draw::screen;
use super::super::pages::Tab;
use super::super::plain;
use super::made_up::{app, options, sample};

fn draw(app: &mut App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen(frame, app)).unwrap();
    terminal
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|line| {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

/// Against the file, or into it.
fn expect(name: &str, is: &str) {
    let path = format!("{}/src/telemetry/top/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
        std::fs::write(&path, is).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(is == expected, "{name} is\n{is}\nand was\n{expected}");
}

#[test]
fn the_tabs_on_a_small_terminal() {
    for tab in Tab::ALL {
        let mut app = app(12);
        app.tab = tab;
        expect(&format!("80x24-{}", tab.name()), &text(&draw(&mut app, 80, 24)));
    }
}

#[test]
fn a_wide_terminal_has_more_columns_and_histories() {
    let mut app = app(40);
    app.tab = Tab::Apps;
    expect("160x24-apps", &text(&draw(&mut app, 160, 24)));
    app.tab = Tab::Ports;
    expect("200x30-ports", &text(&draw(&mut app, 200, 30)));
}

#[test]
fn help_pause_filter_and_an_instance_that_is_away() {
    let mut app = app(12);
    app.help = true;
    expect("80x24-help", &text(&draw(&mut app, 80, 24)));
    app.help = false;
    (app.paused, app.filter) = (true, "upl".into());
    app.lost("no socket /run/softdpu/edge-a.sock: is the instance running? (`softdpu run -c FILE`)".into());
    expect("80x24-away", &text(&draw(&mut app, 80, 24)));
}

#[test]
fn before_the_first_answer() {
    let mut app = App::new(&options());
    assert!(text(&draw(&mut app, 80, 24)).contains("asking"));
    app.lost("no instance is running".into());
    let said = text(&draw(&mut app, 80, 24));
    assert!(said.contains("the instance does not answer; waiting for it: no instance is running"), "{said}");
}

#[test]
fn escaped_bytes_are_red_and_in_every_tab() {
    let mut app = App::new(&options());
    for n in 0..3 {
        let mut sample = sample(n);
        (sample.counters.escaped_bytes, sample.counters.tunnels[0].escaped_bytes) = (64, 64);
        app.take(sample);
    }
    for tab in Tab::ALL {
        app.tab = tab;
        let terminal = draw(&mut app, 80, 24);
        let buffer = terminal.backend().buffer();
        let at = text(&terminal).lines().next().unwrap().find("ESCAPED 64 B").expect("it is said");
        assert_eq!(buffer.content[at].fg, Color::Red);
    }
    app.tab = Tab::Tunnels;
    let terminal = draw(&mut app, 80, 24);
    let red = terminal.backend().buffer().content.iter().filter(|cell| cell.fg == Color::Red).count();
    assert!(red >= "ESCAPED 64 B64 B".len(), "in the table too");
}

#[test]
fn without_colour_there_is_none() {
    for tab in Tab::ALL {
        let mut app = app(5);
        (app.tab, app.colour) = (tab, false);
        app.lost("gone".into());
        let terminal = draw(&mut app, 120, 40);
        let plain = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
        assert!(terminal.backend().buffer().content.iter().all(plain));
    }
}

#[test]
fn one_page_of_text() {
    expect("once", &plain::page(&sample(3), &sample(4), &options()));
    let mut only = options();
    (only.tab, only.filter) = (Some(Tab::Drops), "policy".into());
    expect("once-drops", &plain::page(&sample(3), &sample(4), &only));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the size, nothing breaks, and nothing is drawn outside (the buffer would panic).
    #[test]
    fn any_size_will_do(
        width in 1u16..260, height in 1u16..70, tab in 0usize..7, looks in 0u64..5, help: bool, away: bool, chosen: bool,
    ) {
        let mut app = app(looks);
        (app.tab, app.help) = (Tab::ALL[tab], help);
        if away {
            app.lost("x".repeat(300));
        }
        if chosen {
            use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
            app.key(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
        }
        let terminal = draw(&mut app, width, height);
        prop_assert!(!text(&terminal).contains('\x1b'), "names from packets steer nothing");
    }
}

#[test]
fn the_smallest_sizes() {
    for (width, height) in [(1, 1), (1, 24), (80, 1), (2, 2), (3, 5), (9, 3), (80, 2), (20, 20)] {
        for tab in Tab::ALL {
            let mut app = app(3);
            app.tab = tab;
            draw(&mut app, width, height);
            app.help = true;
            draw(&mut app, width, height);
        }
    }
}
