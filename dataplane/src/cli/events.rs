//! `softdpu events`: what happens to an instance, one line each, over its restarts too.

use std::io::Write;
use std::time::Duration;

use super::args::EventsArgs;
use super::ask::ask;
use super::show::clean;
use crate::config::use_colour;
use crate::control::follow::{Ask, Ended, follow};
use crate::telemetry::journal::{Event, Kind, Level, now};

/// Between two tries to find the instance again.
const AGAIN: Duration = Duration::from_millis(500);

pub fn run(args: &EventsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let mut wanted = Ask { kinds: args.kind.join(","), since: None };
    // Events before it are passed over.
    let mut not_before = 0.0;
    match args.since {
        Some(Since::Number(number)) => wanted.since = Some(number),
        Some(Since::Ago(ago)) => (wanted.since, not_before) = (Some(0), now() - ago.as_secs_f64()),
        None => {}
    }
    let colour = use_colour(&std::io::stdout());
    let mut teller = Teller { colour, json: args.json, not_before, last: wanted.since, pid: None, away: false };
    ask(async {
        let mut first = true;
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        loop {
            let ended = tokio::select! {
                _ = &mut stop => return Ok(true),
                ended = follow(&socket, &wanted, |event| teller.tell(&event, out)) => ended,
            };
            match ended {
                Ended::Enough(error) | Ended::Refused(error) => return Err(error),
                // Never there: nothing to wait for.
                Ended::Gone(error) if first && teller.pid.is_none() => return Err(error),
                Ended::Gone(_) => teller.gone(),
            }
            first = false;
            wanted.since = teller.last;
            tokio::select! {
                _ = &mut stop => return Ok(true),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    })
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    /// Behind the event of this number.
    Number(u64),
    /// With what happened this long ago.
    Ago(Duration),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        match text.parse::<crate::config::values::Span>() {
            Ok(span) => Ok(Self::Ago(span.0)),
            Err(_) => Err("write the number of an event, or how long ago: 30s, 5m, 2h".into()),
        }
    }
}

struct Teller {
    colour: bool,
    json: bool,
    not_before: f64,
    /// Number of the last event: where to go on.
    last: Option<u64>,
    /// Of the instance that answered last.
    pid: Option<u64>,
    /// It is waited for.
    away: bool,
}

impl Teller {
    fn tell(&mut self, event: &Event, out: &mut impl Write) -> anyhow::Result<()> {
        self.last = Some(event.id).max(self.last.filter(|_| event.kind != Kind::Hello));
        if event.kind == Kind::Hello {
            let pid = event.facts.get("pid").and_then(serde_json::Value::as_u64);
            if self.pid.is_some() && self.away {
                let again = if self.pid == pid { "is back" } else { "runs again" };
                eprintln!("-- {} {again} (pid {})", clean(&event.about), pid.unwrap_or(0));
            }
            if let Some(missed) = event.facts.get("missed") {
                eprintln!("-- at most {missed} events have gone before they could be read");
            }
            (self.pid, self.away) = (pid, false);
            return Ok(());
        }
        if event.at < self.not_before {
            return Ok(());
        }
        if self.json {
            writeln!(out, "{}", serde_json::to_string(event)?)?;
        } else {
            writeln!(out, "{}", line(event, self.colour))?;
        }
        Ok(out.flush()?)
    }

    fn gone(&mut self) {
        if !self.away {
            eprintln!("-- the instance has closed the connection; waiting for it to come back (Ctrl-C ends)");
            self.away = true;
        }
    }
}

/// `02:41:07.123  plan_applied    reload  plan 3 is in force, 2 changes`
fn line(event: &Event, colour: bool) -> String {
    let (paint, dim, off) = match (colour, event.level) {
        (false, _) => ("", "", ""),
        (true, Level::Error) => ("\x1b[1;31m", "\x1b[2m", "\x1b[0m"),
        (true, Level::Warn) => ("\x1b[33m", "\x1b[2m", "\x1b[0m"),
        (true, Level::Info) => ("\x1b[32m", "\x1b[2m", "\x1b[0m"),
    };
    let about = if event.about.is_empty() { String::new() } else { format!("{}  ", clean(&event.about)) };
    let kind = event.kind.code();
    format!("{dim}{}{off}  {paint}{kind:<17}{off} {about}{}", time_of(event.at), clean(&event.text))
}

/// Hours, minutes, seconds and milliseconds, where this host's clock hangs.
fn time_of(at: f64) -> String {
    let seconds = at as libc::time_t;
    // SAFETY: an all-zero `tm` is valid: numbers and a null pointer.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values.
    let known = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    let millis = ((at - at.floor()) * 1e3) as u32;
    if known.is_null() {
        return format!("{at:.3}");
    }
    format!("{:02}:{:02}:{:02}.{millis:03}", parts.tm_hour, parts.tm_min, parts.tm_sec)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::journal::Note;

    fn teller(json: bool) -> Teller {
        Teller { colour: false, json, not_before: 0.0, last: None, pid: None, away: false }
    }

    #[test]
    fn a_line_says_when_what_and_about_whom() {
        let event = Note::new(Kind::PeerUp, "wg0/branch\x1b[31m", "has keys").event(7);
        let text = line(&event, false);
        assert!(text.contains("  peer_up           wg0/branch\u{fffd}[31m  has keys"), "{text}");
        assert_eq!(text.as_bytes()[2], b':');
        assert!(line(&event, true).contains("\x1b[32mpeer_up"));
        let failed = Note::new(Kind::WorkerFailed, "0", "x").event(8);
        assert!(line(&failed, true).contains("\x1b[1;31m"));
    }

    #[test]
    fn where_to_go_on_is_known_over_restarts() {
        let mut out = Vec::new();
        let mut teller = teller(true);
        let hello = |pid: u64, id| Note::new(Kind::Hello, "edge-a", "").with("pid", pid).event(id);
        teller.tell(&hello(1, 100), &mut out).unwrap();
        assert_eq!(teller.last, Some(100));
        teller.tell(&Note::new(Kind::PortUp, "uplink", "up").event(101), &mut out).unwrap();
        teller.gone();
        teller.tell(&hello(2, 5), &mut out).unwrap();
        assert_eq!((teller.last, teller.pid, teller.away), (Some(5), Some(2), false), "another instance's numbers");
        let text = String::from_utf8(out).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap().id, 101);
    }

    #[test]
    fn a_beginning_is_a_number_or_a_time() {
        assert_eq!("17".parse(), Ok(Since::Number(17)));
        assert_eq!("5m".parse(), Ok(Since::Ago(Duration::from_secs(300))));
        assert!("yesterday".parse::<Since>().unwrap_err().contains("30s"));
    }

    #[test]
    fn what_is_older_is_passed_over() {
        let mut out = Vec::new();
        let mut teller = teller(false);
        teller.not_before = now() + 60.0;
        teller.tell(&Note::new(Kind::PortUp, "uplink", "up").event(1), &mut out).unwrap();
        assert!(out.is_empty());
    }
}
