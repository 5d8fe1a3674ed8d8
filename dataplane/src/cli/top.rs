//! `softdpu top`: a running instance as it goes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::TopArgs;
use crate::config::use_colour;
use crate::control::client;
use crate::telemetry::top::{self, Options};

pub fn run(args: &TopArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let (socket, name) = (args.instance.socket.clone(), args.instance.name.clone());
    let find: top::Find = Box::new(move || -> anyhow::Result<PathBuf> {
        client::find_socket(socket.as_deref(), name.as_deref(), Path::new(client::SOCKET_FOLDER))
    });
    let options = Options {
        interval: args.interval,
        tab: args.tab,
        filter: args.filter.clone(),
        flows: args.flows,
        colour: use_colour(&std::io::stdout()),
    };
    if args.once {
        top::once(&find, &options, out)?;
    } else {
        top::run(find, &options)?;
    }
    Ok(true)
}

/// "500ms", "1s", "2".
pub fn interval(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| format!("`{text}` is no time: 500ms, 1s"))? * unit;
    // Less is more work for the instance than it is worth; more is no watching.
    if !(0.1..=60.0).contains(&seconds) {
        return Err("between 100ms and 60s".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
