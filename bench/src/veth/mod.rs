//! Forwarding of 64-byte packets between two veths, contenders in turn.
//!
//! A veth's receiving half does its work in softirq on the core that sends to it. So by default the generator's core also
//! does what the receiving driver does: with AF_XDP that is the XDP program and the copy into the UMEM, with kernel
//! forwarding and XDP forwarding it is everything. Because the kernel then shares a core with the generator while the other
//! core idles, it is measured a second time with the near port's NAPI in a thread of its own on the core where the workers
//! run.

pub mod contenders;
pub mod worker;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::instance;
use crate::net::cores;
use crate::net::generator::{Generator, Limits};
use crate::net::topology::{Napi, Topology};
use crate::progress;
use crate::report::{Bound, Section, Target};
use crate::stop;
use contenders::{Contender, Placement, Start};

/// 64 bytes on the wire are 60 without the checksum at the end.
pub const SHORTEST: usize = 60;

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub warm_up: Duration,
    pub turn: Duration,
    /// Number of flows, a power of two.
    pub flows: u32,
    /// Of each frame, bytes, without the checksum at the end: [`SHORTEST`] to 1514.
    pub length: usize,
    /// Where the thing under test runs, and where the generator does.
    pub dut_core: usize,
    pub generator_core: usize,
    /// The `softdpu` binary.
    pub softdpu: std::path::PathBuf,
}

/// What one turn showed.
pub struct Turn {
    /// Million packets per second made by the generator, and arrived at the sink.
    pub sent: f64,
    pub arrived: f64,
    /// Busy share of the core of the thing under test, %.
    pub core: f64,
    /// Busy time of both cores in that of one: 0 to 2. The generator's work is in it.
    pub cores: f64,
    /// Memory of softdpu's process at the end, MiB.
    pub rss_mib: Option<f64>,
}

/// Runs all, and returns the section and its targets.
///
/// # Errors
/// Without root or where the links cannot be made. A contender that fails is named as missing instead.
pub fn run(options: &Options) -> Result<(Section, Vec<Target>)> {
    let shared = Topology::new('a', Napi::Inline)?;
    let own = Topology::new('b', Napi::Thread(options.dut_core))?;
    let mut section = Section::new("veth", "forwarding between two veths, 64 B", "Mpps");
    let mut contenders = contenders::all();
    for c in &contenders {
        section.declare(c.name, c.title);
    }
    let bar = progress::bar((options.rounds * contenders.len()) as u64);
    for round in 0..options.rounds {
        for c in &mut contenders {
            if stop::asked() {
                break;
            }
            bar.set_message(format!("round {}: {}", round + 1, c.title));
            let topology = if c.placement == Placement::OwnCore { &own } else { &shared };
            match turn(topology, c, options) {
                Ok(t) => {
                    let line = section.round(c.name, c.title, t.arrived);
                    line.more.entry("sent Mpps".into()).or_default().push(t.sent);
                    line.more.entry("core busy %".into()).or_default().push(t.core);
                    if let Some(rss) = t.rss_mib {
                        line.more.entry("RSS MiB".into()).or_default().push(rss);
                    }
                }
                Err(e) => section.missing(c.name, c.title, format!("{e:#}")),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let targets = targets(&mut section);
    section.notes = vec![
        format!(
            "{} flow(s), UDP; generator and the near veth's softirq on core {}, the thing under test on core {}.",
            options.flows, options.generator_core, options.dut_core
        ),
        "sent: what the generator made meanwhile, the limit of that row; in the first rows it waits for the receiver."
            .into(),
        "core busy: of the tested core. Rows of 0 did all their work on the generator's core, generation included."
            .into(),
    ];
    Ok((section, targets))
}

fn targets(section: &mut Section) -> Vec<Target> {
    let ratio = |s: &mut Section, a: &str, b: &str| s.ratio(a, b);
    let bare = ratio(section, "worker", "bare");
    let kernel = ratio(section, "worker", "kernel");
    let kernel_own = ratio(section, "worker", "kernel-own-core");
    let xdp = ratio(section, "xdp", "worker");
    ratio(section, "xdp", "bare-xdp");
    let worker = section.median("worker");
    vec![
        Target::new("worker forward / bare AF_XDP loop", Bound::AtLeast, 0.9, bare),
        Target::new("worker forward / kernel ip_forward on a core of its own", Bound::AtLeast, 1.0, kernel_own),
        Target::new("worker forward / kernel ip_forward in the sender's softirq", Bound::AtLeast, 1.0, kernel),
        Target::new("worker forward, Mpps (VPP's af_xdp: 1.14)", Bound::AtLeast, 1.14, worker),
        Target::new("XDP forward / worker forward", Bound::AtLeast, 5.0, xdp),
    ]
}

/// One turn of one contender: start, warm up, count, stop.
///
/// # Errors
/// Whatever keeps it from running.
pub fn turn(topology: &Topology, contender: &mut Contender, options: &Options) -> Result<Turn> {
    let traffic = topology.traffic(options.flows, options.length);
    let _sink = contender.xdp_sink.then(|| topology.xdp_sink()).transpose()?;
    let running = (contender.start)(&Start { topology, options }).context("starting")?;
    let time = options.warm_up + options.turn;
    let limits = Limits {
        // At 50 Mpps nobody is slowed down by the bound.
        packets: (time.as_secs_f64() * 50e6) as u64,
        time: time * 2,
        rate: contender.offered,
        core: options.generator_core,
        batch: 64,
    };
    let generator = Generator::start(topology, &traffic, limits)?;
    stop::sleep(options.warm_up);
    let sample = || -> Result<_> {
        let far = running.count(topology)?;
        Ok((
            Instant::now(),
            generator.sent()?,
            far,
            cores::core_ticks(options.dut_core)?,
            cores::core_ticks(options.generator_core)?,
        ))
    };
    let a = sample()?;
    stop::sleep(options.turn);
    let b = sample()?;
    generator.finish()?;
    let rss_mib = running.pid.and_then(instance::rss_mib);
    drop(running);
    let seconds = b.0.duration_since(a.0).as_secs_f64();
    let share = |from: (u64, u64), to: (u64, u64)| (to.0 - from.0) as f64 / (to.1 - from.1).max(1) as f64;
    let core = share(a.3, b.3);
    Ok(Turn {
        sent: (b.1 - a.1) as f64 / seconds / 1e6,
        arrived: (b.2 - a.2) as f64 / seconds / 1e6,
        core: 100.0 * core,
        cores: core + share(a.4, b.4),
        rss_mib,
    })
}
