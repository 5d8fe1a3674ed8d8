//! nDPI's example reader, `ndpiReader`, over a file of packets.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A filter that no packet passes: what is left is the start, and reading the file.
const NOTHING: &str = "less 1";

#[derive(Clone, Debug)]
pub struct Reader {
    pub path: PathBuf,
}

/// What it says of itself, of one loop over the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// Packets per second by the clock: `nDPI throughput`. From the first packet read to the last one looked at.
    pub per_second: f64,
    /// Those that the figure counts.
    pub ip_packets: f64,
    pub flows: f64,
}

impl Reader {
    /// The program on the path, if it is there.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let found = std::env::split_paths(&path).map(|folder| folder.join("ndpiReader")).find(|p| p.is_file())?;
        Some(Self { path: found })
    }

    /// First line of its help: its version.
    pub fn version(&self) -> String {
        let said = Command::new(&self.path).arg("-h").stdin(Stdio::null()).output();
        let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("nDPI").trim_start_matches("Welcome to ").to_owned()
    }

    /// Arguments for so many loops over a file, each with tables of its own. Protocols guessed by ports, which it does by
    /// default, are left out: `softdpu classify` does not guess either.
    pub fn arguments(file: &Path, loops: usize, quiet: bool, nothing: bool) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["-i".into(), file.into(), "-l".into(), loops.to_string().into(), "-d".into()];
        if quiet {
            all.push("-q".into());
        }
        if nothing {
            all.extend(["-f".into(), NOTHING.into()]);
        }
        all
    }

    /// What it says of each loop.
    ///
    /// # Errors
    /// It cannot be run, or says something else than expected.
    pub fn loops(&self, file: &Path, loops: usize) -> Result<Vec<Said>> {
        let mut command = Command::new(&self.path);
        command.args(Self::arguments(file, loops, false, false)).stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().context("running ndpiReader")?;
        ensure!(output.status.success(), "ndpiReader ended with {}", output.status);
        let said = parse(&String::from_utf8_lossy(&output.stdout));
        ensure!(said.len() == loops, "ndpiReader told of {} of {loops} loops", said.len());
        Ok(said)
    }

    /// Seconds of CPU time, its own and the kernel's, for so many loops; with `nothing`, without looking at any packet.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn cpu(&self, file: &Path, loops: usize, nothing: bool) -> Result<f64> {
        let before = children_cpu();
        let mut command = Command::new(&self.path);
        command.args(Self::arguments(file, loops, true, nothing));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.context("running ndpiReader")?;
        ensure!(status.success(), "ndpiReader ended with {status}");
        Ok(children_cpu() - before)
    }
}

/// Seconds of CPU time of all children that have ended and been waited for.
fn children_cpu() -> f64 {
    // SAFETY: an all-zero rusage is valid, and the call writes one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// One entry per loop that the text tells of.
fn parse(text: &str) -> Vec<Said> {
    let mut all = Vec::new();
    let (mut ip_packets, mut flows) = (0.0, 0.0);
    for line in text.lines().map(str::trim) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let mut words = value.split_whitespace();
        let number = words.next().and_then(|w| w.parse::<f64>().ok());
        let Some(number) = number else { continue };
        match name {
            "IP packets" => ip_packets = number,
            "Unique flows" => flows = number,
            // `682.04 K pps / 1.27 Gb/sec`
            "nDPI throughput" => {
                let unit = match words.next() {
                    Some("K") => 1e3,
                    Some("M") => 1e6,
                    Some("G") => 1e9,
                    _ => 1.0,
                };
                all.push(Said { per_second: number * unit, ip_packets, flows });
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_read() {
        let text = "\tIP packets:            24861         of 25343 packets total\n\tUnique flows:          1151\n\
                    \tnDPI throughput:       682.04 K pps / 1.27 Gb/sec\n\tIP packets:  7 of 7 packets total\n\
                    \tUnique flows:          2\n\tnDPI throughput:       1.5 M pps / 1.26 Gb/sec\n";
        let said = parse(text);
        assert_eq!(said[0], Said { per_second: 682_040.0, ip_packets: 24861.0, flows: 1151.0 });
        assert_eq!(said[1], Said { per_second: 1_500_000.0, ip_packets: 7.0, flows: 2.0 });
    }
}
