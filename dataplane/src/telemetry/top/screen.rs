//! The terminal: taken over, drawn on, and given back, whatever happens.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Result, bail};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::app::{App, Then};
use super::asker::{Asker, Heard};
use super::{Find, Options, draw};

/// How long a key may wait for its answer, at most.
const BEAT: Duration = Duration::from_millis(50);

/// Gives the terminal back when it is dropped. After a panic ratatui's hook does.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Waits for a key, a beat at most. `false`: the terminal is gone; crossterm would read its end over and over.
fn wait() -> bool {
    let mut stdin = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element, which outlives the call.
    unsafe { libc::poll(&raw mut stdin, 1, BEAT.as_millis() as libc::c_int) };
    stdin.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) == 0
}

/// Runs until `q`, Ctrl-C, a signal or the end of the terminal.
///
/// # Errors
/// No terminal, or one that cannot be drawn on.
pub fn run(find: Find, options: &Options) -> Result<()> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("this is no terminal: `softdpu top --once` prints one page");
    }
    let asker = Asker::start(find, options)?;
    let mut app = App::new(options);
    let mut terminal = ratatui::try_init()?;
    let _restore = Restore;
    asker.want_flows(app.wants_flows());
    let mut changed = true;
    loop {
        if changed {
            terminal.draw(|frame| draw::screen(frame, &mut app))?;
        }
        changed = false;
        if !wait() {
            return Ok(());
        }
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if app.key(key) == Then::Quit {
                        return Ok(());
                    }
                    asker.want_flows(app.wants_flows());
                    changed = true;
                }
                Event::Resize(..) => changed = true,
                _ => {}
            }
        }
        for heard in asker.heard() {
            match heard {
                Heard::Sample(sample) => app.take(*sample),
                Heard::Away(why) => app.lost(why),
                Heard::Stop => return Ok(()),
            }
            changed = true;
        }
    }
}
