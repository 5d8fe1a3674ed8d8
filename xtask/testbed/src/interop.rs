//! What was tried with which peer, and whether it went well: tests leave a line each, `cargo xtask interop` makes the table
//! `docs/interop.md` of them.
//!
//! The lines are JSON in `target/interop/*.jsonl`, a [`Row`] each; of the same combination the newest counts. Whoever cannot
//! call [`Check`] (a guest in a VM) writes the same lines.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Where the lines go, unless it says otherwise: `target/interop`.
pub const FOLDER_VARIABLE: &str = "SOFTDPU_INTEROP";

/// One combination and how it went. The order of the fields is that of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// `esp` or `wireguard`.
    pub tunnel: String,
    pub peer: String,
    /// softdpu's: `initiator` or `responder`.
    pub role: String,
    /// Of the outer addresses: `IPv4` or `IPv6`.
    pub family: String,
    pub cipher: String,
    /// What else: `UDP`, `ESN`, `preshared key`; empty for nothing special.
    pub mode: String,
    pub pass: bool,
    /// Of the peer.
    pub version: String,
    /// UTC, `YYYY-MM-DD`.
    pub date: String,
    /// Seconds since the epoch.
    pub time: u64,
}

impl Row {
    /// A row that has not passed yet, of now.
    pub fn new(tunnel: &str, peer: &str, version: Option<String>) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            tunnel: tunnel.into(),
            peer: peer.into(),
            role: String::new(),
            family: String::new(),
            cipher: String::new(),
            mode: String::new(),
            pass: false,
            version: version.unwrap_or_default(),
            date: date(time),
            time,
        }
    }

    /// Fills in softdpu's role.
    #[must_use]
    pub fn initiator(mut self, initiator: bool) -> Self {
        self.role = if initiator { "initiator" } else { "responder" }.into();
        self
    }

    /// Fills in the family of the outer addresses.
    #[must_use]
    pub fn outer_v6(mut self, v6: bool) -> Self {
        self.family = if v6 { "IPv6" } else { "IPv4" }.into();
        self
    }

    /// Fills in cipher and mode.
    #[must_use]
    pub fn cipher(mut self, cipher: &str, mode: &str) -> Self {
        (self.cipher, self.mode) = (cipher.into(), mode.into());
        self
    }

    /// What tells combinations apart.
    fn key(&self) -> [&str; 6] {
        [&self.tunnel, &self.peer, &self.role, &self.family, &self.cipher, &self.mode]
    }
}

/// One combination while it is tried: fails unless [`Check::passed`] is called.
#[derive(Debug)]
pub struct Check {
    row: Row,
}

impl Check {
    /// Begins.
    pub fn new(row: Row) -> Self {
        Self { row }
    }

    /// It went well.
    pub fn passed(mut self) {
        self.row.pass = true;
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if let Err(error) = record(&self.row) {
            eprintln!("the table of peers lacks a row: {error:#}");
        }
    }
}

/// The folder of the lines.
pub fn folder() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/interop");
    std::env::var_os(FOLDER_VARIABLE).map_or_else(usual, PathBuf::from)
}

fn record(row: &Row) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let mut file = File::options().create(true).append(true).open(folder.join("tests.jsonl"))?;
    // One write: other tests append to the same file.
    file.write_all((serde_json::to_string(row)? + "\n").as_bytes())?;
    Ok(())
}

/// All rows of a folder, of each combination the newest, in the order of the table.
///
/// # Errors
/// When a file cannot be read or a line is no row.
pub fn read(folder: &Path) -> Result<Vec<Row>> {
    let mut rows = BTreeMap::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let files = entries.flatten().map(|entry| entry.path());
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "jsonl")) {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let row: Row = serde_json::from_str(line).with_context(|| format!("{}: {line}", file.display()))?;
            let key = row.key().map(str::to_owned);
            let newer = rows.get(&key).is_none_or(|other: &Row| other.time <= row.time);
            if newer {
                rows.insert(key, row);
            }
        }
    }
    Ok(rows.into_values().collect())
}

/// The page.
pub fn page(rows: &[Row]) -> String {
    let mut out = String::from(
        "# Peers\n\nWhat softdpu's tunnels were tried with: traffic of both families both ways through the tunnel with its content \
         checked, and nothing in clear on the wire. The role is softdpu's. Made by `cargo xtask interop` of what \
         `cargo xtask test` and `cargo xtask vm` found; do not edit.\n",
    );
    let passed = rows.iter().filter(|row| row.pass).count();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n{passed} of {} combinations pass.", rows.len());
    for (tunnel, title) in [("esp", "ESP"), ("wireguard", "WireGuard")] {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.tunnel == tunnel).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n## {title}\n\n| peer | version | role | outer | cipher | mode | result | tried |");
        let _ = writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- |");
        for row in rows {
            let Row { peer, version, role, family, cipher, mode, date, .. } = row;
            let result = if row.pass { "pass" } else { "**fail**" };
            let _ = writeln!(out, "| {peer} | {version} | {role} | {family} | {cipher} | {mode} | {result} | {date} |");
        }
    }
    out
}

/// `YYYY-MM-DD` of seconds since the epoch, by the proleptic Gregorian calendar.
fn date(seconds: u64) -> String {
    let (mut days, mut year) = (seconds / 86_400, 1970);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cleanup::RunDir;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_827_696), "2000-02-29");
        assert_eq!(date(1_735_689_599), "2024-12-31");
    }

    #[test]
    fn the_newest_of_each_combination_is_in_the_table() {
        let folder = RunDir::new("unit-interop").unwrap();
        let row = |peer: &str, pass: bool, time: u64| {
            let row =
                Row::new("esp", peer, Some("1.2".into())).initiator(true).outer_v6(false).cipher("aes-128-gcm", "UDP");
            Row { pass, time, ..row }
        };
        let lines =
            |rows: &[Row]| rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect::<String>();
        fs::write(folder.file("a.jsonl"), lines(&[row("x", false, 1), row("y", true, 5)])).unwrap();
        fs::write(folder.file("b.jsonl"), lines(&[row("x", true, 2), row("y", false, 4)])).unwrap();
        fs::write(folder.file("c.txt"), "not ours").unwrap();
        let rows = read(folder.path()).unwrap();
        assert_eq!(
            rows.iter().map(|row| (row.peer.as_str(), row.pass)).collect::<Vec<_>>(),
            [("x", true), ("y", true)]
        );
        let text = page(&rows);
        assert!(text.contains("2 of 2 combinations pass"), "{text}");
        assert!(text.contains("| x | 1.2 | initiator | IPv4 | aes-128-gcm | UDP | pass |"), "{text}");
        fs::write(folder.file("d.jsonl"), "garbage\n").unwrap();
        assert!(read(folder.path()).is_err());
    }
}
