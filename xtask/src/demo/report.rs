//! The demo's report: for people as tables, for programs as JSON.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;
use softdpu_testbed::status::Figures;

use super::{classes::Class, workload::Measured};

/// One thing that must be true.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

/// Bytes before and after compression.
#[derive(Debug, Clone, Serialize)]
pub struct Compression {
    pub of: &'static str,
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub ratio: f64,
}

impl Compression {
    /// From the bytes of the packets before and after.
    pub fn new(of: &'static str, (bytes_before, bytes_after): (u64, u64)) -> Self {
        let ratio = if bytes_after > 0 { bytes_before as f64 / bytes_after as f64 } else { 0.0 };
        Self { of, bytes_before, bytes_after, ratio }
    }
}

/// What the capture of the wire between the edges saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Wire {
    pub esp_frames_looked_into: usize,
    pub frames_not_esp: usize,
    pub frames_missed: u64,
    /// The first of those that are not ESP.
    pub examples: Vec<String>,
}

/// Everything.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// `namespaces`, or `replay` where there are no privileges.
    pub mode: &'static str,
    pub notes: Vec<String>,
    pub kernel_forwarding: Option<Measured>,
    pub softdpu: Option<Measured>,
    pub edges: BTreeMap<&'static str, Figures>,
    pub flows_by_class: Vec<Class>,
    pub compression: Vec<Compression>,
    pub wire: Option<Wire>,
    pub idle_core_percent: Option<f64>,
    pub checks: Vec<Check>,
    pub seconds: f64,
}

impl Report {
    /// Adds a check.
    pub fn check(&mut self, name: &'static str, ok: bool, detail: impl Into<String>) {
        self.checks.push(Check { name, ok, detail: detail.into() });
    }

    /// Whether there are checks and all are true.
    pub fn ok(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// Writes the report as JSON, with `ok` for the whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut value = serde_json::to_value(self)?;
        value["ok"] = self.ok().into();
        fs::write(path, serde_json::to_string_pretty(&value)? + "\n").with_context(|| path.display().to_string())
    }

    /// Prints the report.
    pub fn print(&self) {
        if self.kernel_forwarding.is_some() || self.softdpu.is_some() {
            self.print_phases();
        }
        if !self.compression.is_empty() {
            self.print_flows();
        }
        if !self.edges.is_empty() {
            self.print_edges();
        }
        let mut table = table(&["check", "", "seen"]);
        for check in &self.checks {
            table.add_row([check.name, if check.ok { "ok" } else { "FAILED" }, &check.detail]);
        }
        println!("\n{table}");
        for note in &self.notes {
            println!("note: {note}");
        }
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        println!("\n{} of {} checks true, {:.1} s", self.checks.len() - failed, self.checks.len(), self.seconds);
    }

    fn print_phases(&self) {
        type Row = (&'static str, fn(&Measured) -> String);
        let rows: [Row; 8] = [
            ("iperf3 TCP, Gbit/s", |m| format!("{:.2}", m.tcp_gbit_s)),
            ("HTTP, Gbit/s", |m| format!("{:.2}", m.http_gbit_s)),
            ("iperf3 UDP of 0.2 Gbit/s: arrived", |m| format!("{:.2}", m.udp_gbit_s)),
            ("iperf3 UDP: lost, %", |m| format!("{:.2}", m.udp_lost_percent)),
            ("CPU s per GB of TCP, whole machine", |m| format!("{:.2}", m.cpu_s_per_gb)),
            ("  of it softdpu, both edges", |m| m.softdpu_cpu_s_per_gb.map_or("-".into(), |s| format!("{s:.2}"))),
            ("round trip p50, µs", |m| format!("{:.0}", m.rtt_p50_us)),
            ("round trip p99, µs", |m| format!("{:.0}", m.rtt_p99_us)),
        ];
        let mut table = table(&["client to server", "kernel forwarding, in clear", "softdpu, ESP + LZ4"]);
        for (name, value) in rows {
            let [kernel, softdpu] =
                [&self.kernel_forwarding, &self.softdpu].map(|of| of.as_ref().map_or("-".into(), value));
            table.add_row([name.to_owned(), kernel, softdpu]);
        }
        right(&mut table, 1..3);
        println!("\n{table}");
    }

    fn print_flows(&self) {
        let mut flows = table(&["class", "host", "flows", "packets", "bytes"]);
        for class in &self.flows_by_class {
            let numbers = [class.flows.to_string(), class.packets.to_string(), class.bytes.to_string()];
            flows.add_row([vec![class.class.clone(), class.host.clone()], numbers.to_vec()].concat());
        }
        right(&mut flows, 2..5);
        println!("\n{flows}");
        let mut compression = table(&["compression", "bytes before", "bytes after", "ratio"]);
        for row in &self.compression {
            let numbers = [row.bytes_before.to_string(), row.bytes_after.to_string(), format!("{:.2}", row.ratio)];
            compression.add_row([vec![row.of.to_owned()], numbers.to_vec()].concat());
        }
        right(&mut compression, 1..4);
        println!("\n{compression}");
    }

    fn print_edges(&self) {
        let mut edges = table(&["edge", "attached", "encrypted", "decrypted", "drops by reason"]);
        for (name, figures) in &self.edges {
            edges.add_row([
                (*name).to_owned(),
                figures.attach_mode.clone(),
                figures.packets_encrypted.to_string(),
                figures.packets_decrypted.to_string(),
                list(&figures.drops_by_reason),
            ]);
        }
        right(&mut edges, 2..4);
        println!("\n{edges}");
    }
}

/// `name 3, other 4`, or `none`.
pub fn list(counts: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.iter().copied());
    table
}

fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
