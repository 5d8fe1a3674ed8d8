//! iperf3 TCP from client to server through two edges with an encrypted tunnel between them, contenders in turn:
//!
//! ```text
//!   client ── edge-a ══ wire ══ edge-b ── server
//! ```
//!
//! Each turn has hosts of its own. Its first part, the warm-up, is captured on the wire to see that what should be encrypted is;
//! the measured part is not disturbed by that.

pub mod contenders;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use softdpu_testbed::{
    capture::{Capture, describe},
    cleanup::RunDir,
    netns::LinkCounter,
    peers::probe::{Iperf, Throughput},
    topology::{self, SERVER, Topology},
};

use crate::{
    progress,
    report::{Bound, Section, Target},
    stop,
};
use contenders::{Contender, Start};

/// What a tunnel between the edges may not show: the addresses of client and server.
const CLEAR: &str = "(net 10.0.0.0/8 or net fd01::/64 or net fd02::/64)";

#[derive(Debug, Clone)]
pub struct Options {
    pub rounds: usize,
    /// Both in whole seconds: iperf3's unit.
    pub warm_up: Duration,
    pub turn: Duration,
    /// The `softdpu` binary.
    pub softdpu: PathBuf,
    /// Names of contenders; empty for all.
    pub only: Vec<String>,
}

/// Runs all, and returns the section and its targets.
///
/// # Errors
/// Without root, or with a name in `only` that no contender has. A contender that fails is named as missing instead.
pub fn run(options: &Options) -> Result<(Section, Vec<Target>)> {
    ensure!(softdpu_testbed::is_root(), "network namespaces need root");
    let names = || contenders::ALL.iter().map(|c| c.name);
    if let Some(unknown) = options.only.iter().find(|only| !names().any(|name| name == *only)) {
        anyhow::bail!("no contender `{unknown}`; there are {}", names().collect::<Vec<_>>().join(", "));
    }
    let wanted = |c: &&Contender| options.only.is_empty() || options.only.iter().any(|only| only == c.name);
    let contenders: Vec<&Contender> = contenders::ALL.iter().filter(wanted).collect();
    let mut section = Section::new("tunnels", "iperf3 TCP through two edges, a tunnel between them", "Gbit/s");
    for c in &contenders {
        section.declare(c.name, c.title);
    }
    let bar = progress::bar((options.rounds * contenders.len()) as u64);
    for round in 0..options.rounds {
        for c in &contenders {
            if stop::asked() {
                break;
            }
            bar.set_message(format!("round {}: {}", round + 1, c.title));
            match turn(c, options) {
                Ok(t) => {
                    let line = section.round(c.name, c.title, t.gbit_s);
                    line.more.entry("CPU s/GB".into()).or_default().push(t.cpu_s_per_gb);
                    line.more.entry("retransmits".into()).or_default().push(t.retransmits as f64);
                }
                Err(e) => section.missing(c.name, c.title, format!("{e:#}")),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let targets = targets(&mut section);
    section.notes = notes(&contenders, options);
    Ok((section, targets))
}

fn targets(section: &mut Section) -> Vec<Target> {
    let mut target = |over: &str, under: &str, wanted: f64| {
        let seen = section.ratio(over, under);
        Target::new(format!("{over} / {under}"), Bound::AtLeast, wanted, seen)
    };
    let targets = vec![
        target("softdpu-wireguard", "wireguard-go", 4.0),
        target("softdpu-wireguard", "boringtun-cli", 3.0),
        target("softdpu-esp-aes128", "strongswan-aes128-own", 10.0),
        target("softdpu-esp-aes128", "strongswan-aes128", 10.0),
        target("softdpu-esp-aes128", "softdpu-wireguard", 1.0),
    ];
    for (over, under) in [
        ("softdpu-wireguard", "gotatun"),
        ("softdpu-esp-aes128", "strongswan-aes128-sha256"),
        ("softdpu-esp-chacha", "strongswan-chacha"),
        ("softdpu-esp-chacha", "softdpu-wireguard"),
        ("softdpu-wireguard", "kernel-wireguard"),
        ("softdpu-esp-aes128", "kernel-esp-aes128"),
        ("softdpu-esp-aes128", "clear"),
    ] {
        section.ratio(over, under);
    }
    targets
}

fn notes(contenders: &[&Contender], options: &Options) -> Vec<String> {
    let versions: Vec<String> =
        contenders.iter().filter_map(|c| Some(format!("{} {}", c.name, c.version()?))).collect();
    let mut notes = vec![
        format!(
            "MTU 1500, IPv4, everything on one machine; {} s a turn after {} s of warm-up; ESP is in UDP for all.",
            options.turn.as_secs(),
            options.warm_up.as_secs()
        ),
        "CPU s/GB: processor time of the whole machine per gigabyte delivered, iperf3 and all four hosts included.".into(),
        "Before each turn a second was captured between the edges: nothing of client or server in clear, else it does not count.".into(),
    ];
    if !versions.is_empty() {
        notes.push(versions.join(", "));
    }
    notes
}

/// One turn of one contender: first on hosts with a wire between the edges, to see what is on it; then on a link of their
/// own, to measure.
fn turn(contender: &Contender, options: &Options) -> Result<Throughput> {
    look(contender, options)?;
    let folder = RunDir::new("bench")?;
    let topology = Topology::new(&topology::Options { direct: true, ..topology::Options::new("bench") })?;
    let running = contender.start(&Start { topology: &topology, folder: &folder, options }).context("starting")?;
    topology.reachable(SERVER[0], Duration::from_secs(15))?;
    let iperf = Iperf::start(&topology, &folder)?;
    iperf.tcp(&topology, false, false, options.warm_up)?;
    let carried = || topology.edge_b.link_counter("uplink", LinkCounter::RxBytes);
    let before = carried()?;
    let throughput = iperf.tcp(&topology, false, false, options.turn)?;
    let wire = carried()? - before;
    ensure!(wire as f64 >= throughput.bytes, "{wire} bytes between the edges, {} at the server", throughput.bytes);
    ensure!(throughput.bytes <= throughput.bytes_sent, "the server has more than was sent");
    drop(running);
    Ok(throughput)
}

/// Fails where the wire shows what it should not.
fn look(contender: &Contender, options: &Options) -> Result<()> {
    let folder = RunDir::new("bench")?;
    let topology = Topology::new(&topology::Options::new("bench"))?;
    let running = contender.start(&Start { topology: &topology, folder: &folder, options }).context("starting")?;
    topology.reachable(SERVER[0], Duration::from_secs(15))?;
    let iperf = Iperf::start(&topology, &folder)?;
    let filter = if contender.encrypts() { CLEAR } else { "ip proto 50" };
    let capture = Capture::start(&topology.wire, "wire", filter, 96, 0, &folder)?;
    iperf.tcp(&topology, false, false, options.warm_up)?;
    let seen = capture.stop()?;
    drop(running);
    if let Some(frame) = seen.frames.first() {
        anyhow::bail!("{} frames on the wire that should not be, the first: {}", seen.frames.len(), describe(frame));
    }
    Ok(())
}
