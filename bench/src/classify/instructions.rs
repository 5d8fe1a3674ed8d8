//! Instructions per packet, counted by valgrind's callgrind: figures that no noise changes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::captures::{Merged, Packets};
use super::established::{Established, Transport};
use super::ndpi::Reader;
use super::ours::Ours;
use crate::report::Section;

/// What this program does once more under callgrind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Counted {
    /// All packets of the captures, once.
    Captures,
    /// Packets of decided TCP flows.
    Tcp,
    /// Packets of decided UDP flows.
    Udp,
}

/// Flows whose packets are counted.
const FLOWS: u32 = 1000;

/// Does what is to be counted, and prints how many packets it were.
///
/// # Errors
/// Captures that are not there.
pub fn be_counted(what: Counted, folder: Option<&Path>) -> Result<()> {
    let packets = match what {
        Counted::Captures => {
            let packets = Packets::read(folder.context("no captures")?)?;
            Ours::new(1 << 16).counted_pass(&packets);
            packets.len()
        }
        Counted::Tcp => Established::new(Transport::Tcp, FLOWS)?.count(),
        Counted::Udp => Established::new(Transport::Udp, FLOWS)?.count(),
    };
    println!("{packets}");
    Ok(())
}

/// Counts ours, and those of nDPI's reader where it and captures are there.
///
/// # Errors
/// Where callgrind fails. Without valgrind it says so in the section.
pub fn run(folder: Option<&Path>, captures: Option<(&Packets, &Merged)>) -> Result<Section> {
    let mut section = Section::new("classify-instructions", "instructions per packet, by callgrind", "instructions");
    let ours = "softdpu, all packets of the captures";
    let valgrind = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output();
    let Some(version) = valgrind.ok().filter(|said| said.status.success()) else {
        section.missing("instructions", ours, "valgrind is not installed: apt-get install valgrind");
        return Ok(section);
    };
    section.notes.push(String::from_utf8_lossy(&version.stdout).trim().to_owned());
    let own = std::env::current_exe().context("finding this program")?;
    let count = |name: &str, function: &str| -> Result<f64> {
        let mut arguments: Vec<&OsStr> = vec!["classify".as_ref(), "--count".as_ref(), name.as_ref()];
        if let Some(folder) = folder {
            arguments.extend(["--captures".as_ref(), folder.as_os_str()]);
        }
        let (instructions, said) = callgrind(&own, &arguments, Some(function))?;
        let packets: f64 = said.trim().parse().with_context(|| format!("counted packets: {said:?}"))?;
        Ok(instructions / packets)
    };
    if let Some((packets, merged)) = captures {
        section.round("instructions", ours, count("captures", "*counted_pass*")?);
        match Reader::find() {
            Some(reader) => of_ndpi(&mut section, &reader, packets, merged)?,
            None => section.missing("ndpi-instructions", "ndpiReader", "not installed: apt-get install libndpi-bin"),
        }
    } else {
        section.missing("instructions", ours, "no captures");
    }
    for (name, transport) in [("tcp", "TCP"), ("udp", "UDP")] {
        for (suffix, stages, function) in
            [("", "flow, classify", "*counted_understand*"), ("-parse", "parse", "*counted_parse*")]
        {
            let title = format!("softdpu, {transport} packets of {FLOWS} decided flows: {stages}");
            section.round(&format!("instructions-{name}{suffix}"), &title, count(name, function)?);
        }
    }
    Ok(section)
}

fn of_ndpi(section: &mut Section, reader: &Reader, packets: &Packets, merged: &Merged) -> Result<()> {
    let run = |nothing, function| -> Result<f64> {
        let arguments = Reader::arguments(&merged.path, 1, true, nothing);
        let arguments: Vec<&OsStr> = arguments.iter().map(|a| a.as_os_str()).collect();
        Ok(callgrind(&reader.path, &arguments, function)?.0 / packets.len() as f64)
    };
    let (whole, without) = (run(false, None)?, run(true, None)?);
    section.round("ndpi-instructions", "ndpiReader, less its start and reading the file", whole - without);
    let library = run(false, Some("ndpi_detection_process_packet"))?;
    section.round("ndpi-library", "of these in ndpi_detection_process_packet", library);
    section.ratio("ndpi-instructions", "instructions");
    section.ratio("ndpi-library", "instructions");
    Ok(())
}

/// Runs a program under callgrind; its instructions (with `function`: those in it and in what it calls), and what it printed.
fn callgrind(program: &Path, arguments: &[&OsStr], function: Option<&str>) -> Result<(f64, String)> {
    let out = Output(std::env::temp_dir().join(format!("softdpu-bench-callgrind-{}", std::process::id())));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.0.display()));
    if let Some(function) = function {
        command.arg(format!("--toggle-collect={function}"));
    }
    command.arg(program).args(arguments).stdin(Stdio::null());
    let output = command.output().context("running valgrind")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind {}: {}\n{errors}", program.display(), output.status);
    let text = fs::read_to_string(&out.0).context("reading what callgrind wrote")?;
    let total = total(&text).with_context(|| format!("{}: callgrind counted nothing", program.display()))?;
    Ok((total, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Of a callgrind file: all instructions.
fn total(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:")))?;
    line.split_whitespace().next()?.parse().ok().filter(|total| *total > 0.0)
}

/// A file that goes when this does.
struct Output(PathBuf);

impl Drop for Output {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        assert_eq!(total("# callgrind format\nevents: Ir\nsummary: 1234\n\ntotals: 1234\n"), Some(1234.0));
        assert_eq!(total("events: Ir\ntotals: 0\n"), None);
    }
}
