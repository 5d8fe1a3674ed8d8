//! A round in a process of its own.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::stop;

/// Runs this program with `line` for one round, the one with number `round`, and reads what it found. What the round says of
/// missing things goes to standard error; its tables are not shown.
///
/// # Errors
/// It cannot be started, or ends with an error.
pub fn round(line: &[OsString], round: usize) -> Result<Report> {
    let record = tempfile::NamedTempFile::new().context("a file for the round's record")?;
    let status = Command::new(std::env::current_exe().context("finding this program")?)
        .args(line)
        .args(["--rounds", "1", "--first", &round.to_string(), "--json"])
        .arg(record.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("starting a process for the round")?;
    if !status.success() && !stop::asked() {
        bail!("its process ended with {status}");
    }
    Report::read(record.path())
}
