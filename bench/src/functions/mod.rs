//! What the functions cost together: TCP from client to server through two softdpu edges, encrypted alone, and classified,
//! compressed and encrypted, with what can be compressed and with what cannot:
//!
//! ```text
//!   client ── edge-a ══ wire ══ edge-b ── server
//! ```
//!
//! On a wire without a limit the processors are the limit, and compression costs; on one of 500 Mbit/s, as many an edge has for its uplink, the wire is, and it pays.

mod stream;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use softdpu_testbed::{
    account,
    cleanup::RunDir,
    edge::Edge,
    netns::LinkCounter,
    peers::{
        keys::{Child, ChildSa},
        ours::{self, Apps},
    },
    policy::{EdgeFiles, Side},
    process,
    topology::{self, SERVER, Topology},
};

use crate::progress;
use crate::report::{Bound, Section, Target};
use crate::stop;
use stream::Data;

#[derive(Debug, Clone)]
pub struct Options {
    pub rounds: usize,
    pub turn: Duration,
    /// The `softdpu` binary.
    pub softdpu: PathBuf,
}

/// What the edges do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Nothing: the kernel forwards.
    Clear,
    Encrypt,
    All,
}

/// How much the wire takes each way, as `tc` writes it: less than any processor here encrypts.
const WIRE: &str = "500mbit";

struct Contender {
    name: &'static str,
    title: &'static str,
    work: Work,
    data: Data,
    limited: bool,
}

const fn contender(name: &'static str, title: &'static str, work: Work, data: Data, limited: bool) -> Contender {
    Contender { name, title, work, data, limited }
}

const ALL: [Contender; 10] = [
    contender("clear", "kernel forwards in clear", Work::Clear, Data::Noise, false),
    contender("encrypt-noise", "encrypt, noise", Work::Encrypt, Data::Noise, false),
    contender("all-noise", "classify, compress and encrypt, noise", Work::All, Data::Noise, false),
    contender("encrypt-text", "encrypt, text", Work::Encrypt, Data::Text, false),
    contender("all-text", "classify, compress and encrypt, text", Work::All, Data::Text, false),
    contender("clear-wire", "kernel forwards in clear; wire of 500 Mbit/s", Work::Clear, Data::Noise, true),
    contender("encrypt-noise-wire", "encrypt, noise; wire of 500 Mbit/s", Work::Encrypt, Data::Noise, true),
    contender(
        "all-noise-wire",
        "classify, compress and encrypt, noise; wire of 500 Mbit/s",
        Work::All,
        Data::Noise,
        true,
    ),
    contender("encrypt-text-wire", "encrypt, text; wire of 500 Mbit/s", Work::Encrypt, Data::Text, true),
    contender("all-text-wire", "classify, compress and encrypt, text; wire of 500 Mbit/s", Work::All, Data::Text, true),
];

/// Runs all.
///
/// # Errors
/// Without root. A contender that fails is named as missing instead.
pub fn run(options: &Options) -> Result<(Section, Vec<Target>)> {
    ensure!(softdpu_testbed::is_root(), "network namespaces need root");
    let mut section = Section::new("functions", "TCP through two edges, by what they do with it", "Gbit/s");
    ALL.iter().for_each(|c| section.declare(c.name, c.title));
    let bar = progress::bar((options.rounds * ALL.len()) as u64);
    for round in 0..options.rounds {
        for c in &ALL {
            if stop::asked() {
                break;
            }
            bar.set_message(format!("round {}: {}", round + 1, c.title));
            match turn(c, options) {
                Ok(t) => {
                    let line = section.round(c.name, c.title, t.gbit_s);
                    line.more.entry("CPU s/GB".into()).or_default().push(t.cpu_s_per_gb);
                    line.more.entry("% of it on the wire".into()).or_default().push(100.0 * t.on_wire);
                }
                Err(e) => section.missing(c.name, c.title, format!("{e:#}")),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut target = |title: &str, over, under, wanted| {
        let seen = section.ratio(over, under);
        Target::new(title, Bound::AtLeast, wanted, seen)
    };
    let targets = vec![
        target("all functions / encrypt alone, noise", "all-noise", "encrypt-noise", 0.8),
        target("all functions / encrypt alone, text", "all-text", "encrypt-text", 1.3),
        target("all functions / encrypt alone, noise, wire of 500 Mbit/s", "all-noise-wire", "encrypt-noise-wire", 0.8),
        target("all functions / encrypt alone, text, wire of 500 Mbit/s", "all-text-wire", "encrypt-text-wire", 1.3),
    ];
    section.notes = vec![
        format!(
            "ESP in UDP with AES-128-GCM, LZ4, a rule by class; one TCP connection, {:.0} s a turn, MTU 1500, 2 edges, client, server and \
             wire on one machine.",
            options.turn.as_secs_f64()
        ),
        "Every byte was compared with what was sent. % on the wire: bytes between the edges over bytes that TCP delivered.".into(),
        "Text: records in JSON with numbers that differ. The wire of 500 Mbit/s is a token bucket on both of its ends.".into(),
    ];
    Ok((section, targets))
}

struct Turn {
    gbit_s: f64,
    cpu_s_per_gb: f64,
    on_wire: f64,
}

fn turn(contender: &Contender, options: &Options) -> Result<Turn> {
    let folder = RunDir::new("bench")?;
    let topology = Topology::new(&topology::Options::new("bench"))?;
    if contender.limited {
        for link in ["to-a", "to-b"] {
            let mut tc = topology.wire.command("tc");
            tc.args(["qdisc", "add", "dev", link, "root", "tbf", "rate", WIRE, "burst", "256kb", "latency", "20ms"]);
            process::run(&mut tc, Duration::from_secs(5)).context("limiting the wire")?;
        }
    }
    let edges = edges(contender.work, &topology, &folder, options)?;
    topology.reachable(SERVER[0], Duration::from_secs(15))?;
    let carried = || topology.edge_b.link_counter("uplink", LinkCounter::RxBytes);
    stream::tcp(&topology, contender.data, options.turn / 4).context("warming up")?;
    let (before, busy) = (carried()?, account::machine_busy()?);
    let done = stream::tcp(&topology, contender.data, options.turn)?;
    let (wire, busy) = (carried()? - before, account::machine_busy()? - busy);
    ensure!(edges.into_iter().all(|mut edge| edge.alive()), "an edge has ended");
    Ok(Turn {
        gbit_s: done.bytes as f64 * 8e-9 / done.time.as_secs_f64(),
        cpu_s_per_gb: busy.as_secs_f64() / (done.bytes as f64 / 1e9),
        on_wire: wire as f64 / done.bytes as f64,
    })
}

fn edges(work: Work, topology: &Topology, folder: &RunDir, options: &Options) -> Result<Vec<Edge>> {
    if work == Work::Clear {
        return Ok(Vec::new());
    }
    let (there, back) = (ChildSa::random(0x1001, 20)?, ChildSa::random(0x1002, 20)?);
    let child = Child { inbound: back, outbound: there };
    let files = [files(work, folder, Side::A, &child)?, files(work, folder, Side::B, &child.flipped())?];
    let mut edges = Vec::new();
    for (files, ns) in files.iter().zip([&topology.edge_a, &topology.edge_b]) {
        let binary = &options.softdpu;
        ensure!(binary.exists(), "{} is not there (build it, or --softdpu)", binary.display());
        edges.push(Edge::start(binary, ns, files).context(files.side.name())?);
    }
    Ok(edges)
}

/// The policy and keys of an edge. The tunnel is the same whatever the work is: between two softdpus, or nobody would undo the
/// compression.
fn files(work: Work, folder: &RunDir, side: Side, child: &Child) -> Result<EdgeFiles> {
    let files = ours::esp_of(folder, side, "aes-128-gcm", "iv", false, child, Apps::Tap)?;
    if work == Work::All {
        all(&files)?;
    }
    Ok(files)
}

/// Turns everything on in a policy that only encrypts.
fn all(files: &EdgeFiles) -> Result<()> {
    let text = fs::read_to_string(&files.policy)?;
    let encrypt = format!("encrypt = \"{}\"\n", ours::TUNNEL);
    let text = text.replace(&encrypt, &format!("{encrypt}compress = \"lz4\"\n"));
    // Until it is known what a flow carries, no rule behind this one decides.
    let by_class = "\n[[rule]]\nname = \"no-shares\"\nclass = [\"bittorrent\"]\naction = \"drop\"\n";
    fs::write(&files.policy, text.replacen("\n[[rule]]", &format!("{by_class}\n[[rule]]"), 1))
        .with_context(|| files.policy.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use softdpu::config::{self, Compress, Policy};

    use super::*;

    #[test]
    fn both_edges_have_policies_that_hold_and_the_same_tunnel() {
        let child =
            Child { inbound: ChildSa::random(0x1002, 20).unwrap(), outbound: ChildSa::random(0x1001, 20).unwrap() };
        for side in [Side::A, Side::B] {
            let folder = RunDir::new("unit-functions").unwrap();
            let of = |work| {
                let files = files(work, &folder, side, &child).unwrap();
                config::load(&files.policy).unwrap_or_else(|e| panic!("{work:?}: {e}"))
            };
            let (encrypt, all) = (of(Work::Encrypt), of(Work::All));
            assert_eq!(format!("{:?}", encrypt.tunnels), format!("{:?}", all.tunnels));
            assert_eq!((encrypt.rules.len(), all.rules.len()), (2, 3));
            let compressed = |p: &Policy| p.rules.iter().filter(|r| r.compress == Compress::Lz4).count();
            assert_eq!((compressed(&encrypt), compressed(&all)), (0, 2));
        }
    }
}
