//! `softdpu-bench`: see `--help` and README.md beside this package.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

mod commands;

use softdpu_bench::classify::instructions::Counted;
use softdpu_bench::machine::{Machine, NoiseWatch};
use softdpu_bench::micro::Effort;
use softdpu_bench::net::cores;
use softdpu_bench::path::turns::Rig;
use softdpu_bench::report::{Report, Section, Target};
use softdpu_bench::{
    absent, aead, applications, bulk, cases, classify, connect, esp, esp_many, flows, fresh, functions, graph, hostile,
    https, idle, latency, memory, offload, page, progress, reload, rules, scale, session, steer, stop, tunnels, udp,
    veth, wg, wg_many,
};

/// Measures softdpu beside the kernel, a bare AF_XDP loop and bare libraries, in turn and in one run.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<commands::Command>,
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Short turns and few rounds: to see that it runs, not to conclude from.
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, every contender has one turn.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Writes everything, raw rounds too, to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Adds the rounds to those that FILE has from an earlier run, and writes them there: builds that take turns are compared
    /// round by round.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    append: Option<PathBuf>,
    /// Writes HTML, JSON, CSV and Markdown into DIR.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Flows the generator makes, a power of two up to 16384.
    #[arg(long, default_value_t = 1, value_parser = power_of_two)]
    flows: u16,
    /// The `softdpu` binary to run; default: the one beside this program.
    #[arg(long, value_name = "FILE")]
    softdpu: Option<PathBuf>,
    /// Loads of 25, 50, 75 and 90 % too in `latency`.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only these contenders of `tunnels`, `latency`, `udp`, `connect`, `https` or `bulk`, a wrong name lists all; only cases of `micro` with this in their names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Captures for `classify`; default: SOFTDPU_CAPTURES, or shared/captures beside the checkout.
    #[arg(long, value_name = "DIR")]
    captures: Option<PathBuf>,
    /// `classify` counts instructions per packet too, by valgrind's callgrind.
    #[arg(long)]
    instructions: bool,
    /// Rounds that were before those of this process: contenders' order turns around every other round.
    #[arg(long, hide = true, default_value_t = 0)]
    first: usize,
    /// Does what callgrind is to count, and nothing else.
    #[arg(long, hide = true)]
    count: Option<Counted>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Forwarding between veths: kernel, bare loop, worker, XDP (root).
    Veth,
    /// Offloaded flows against a bare XDP redirect and the worker, with one entry and a million; inserts per second (root).
    Offload,
    /// The AEAD back ends against bare `ring`.
    Aead,
    /// ESP seal and open against bare `ring`.
    Esp,
    /// WireGuard seal and open against bare `ring`.
    Wg,
    /// The graph in memory, rings, flow look-up.
    Graph,
    /// Workers in memory on 1, 2, … cores at once, and the universal scalability law through their rates.
    Scaling,
    /// The packet path part by part: nodes, rings, tables, ciphers, codecs, recognisers; what `instructions` counts, by the clock.
    Micro,
    /// Classification of captures beside nDPI's reader, and packets of flows that are decided.
    Classify,
    /// The flow table at ten million flows, and in a flood of ten million SYNs (2 GB of memory).
    Flows,
    /// The operator's applications: compiling 100,000 patterns, finding one, and what packets notice of them.
    Applications,
    /// Packets of old and of new flows under 10,000 rules against 10.
    Rules,
    /// Making the plan of 10,000 rules and 1,000 intents, part by part.
    Plan,
    /// 100 reloads of 10,000 rules and 1,000 intents beside a stream at half of the maximum (root).
    Reload,
    /// What strangers can send to a recogniser, in turn with packets of old flows.
    Hostile,
    /// CPU of an instance without traffic (root).
    Idle,
    /// The steer program by BPF_PROG_TEST_RUN (root).
    Steer,
    /// Round trips of small requests, alone and under load: kernel, nftables, worker, XDP (root).
    Latency,
    /// UDP at fixed rates: loss and latency against offered load, through the same (root).
    Udp,
    /// New TCP connections per second: kernel, nftables, haproxy, worker, XDP (root).
    Connect,
    /// HTTPS by wrk and nginx, small objects and large ones, through the same (root).
    Https,
    /// iperf3 with 1, 8 and 64 TCP connections through the same (root).
    Bulk,
    /// iperf3 through encrypted tunnels, softdpu's and others' (root).
    Tunnels,
    /// TCP through two edges: encrypted alone, and classified, compressed and encrypted; noise and text, on two wires (root).
    Functions,
    All,
}

impl What {
    /// As it is asked for.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it takes microseconds of one core, and so depends on where the program, its stack and its tables happen to lie:
    /// 10 % from one process to the next is usual. Its rounds are processes of their own, so that what one process is
    /// lucky with is in the spread and not in the difference between two runs.
    fn lies_in_memory(self) -> bool {
        matches!(
            self,
            Self::Aead
                | Self::Esp
                | Self::Wg
                | Self::Graph
                | Self::Micro
                | Self::Applications
                | Self::Plan
                | Self::Hostile
                | Self::Steer
        )
    }
}

fn power_of_two(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(n) if n.is_power_of_two() && n <= 16384 => Ok(n),
        _ => Err("a power of two, at most 16384".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(done) = arguments.command.as_ref().and_then(commands::without_session) {
        return done;
    }
    stop::install();
    if !session::is_own() {
        return match session::run_in_own() {
            Ok(code) => ExitCode::from(code),
            Err(e) => {
                eprintln!("softdpu-bench: {e:#}");
                ExitCode::FAILURE
            }
        };
    }
    let done = match &arguments.command {
        Some(command) => commands::run(command),
        None => run(&arguments),
    };
    match done {
        Ok(()) if stop::asked() => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("softdpu-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(what) = arguments.count {
        return classify::instructions::be_counted(what, classify::folder(arguments.captures.as_deref()).as_deref());
    }
    let quick = arguments.quick;
    let rounds = arguments.rounds.map_or(if quick { 2 } else { 7 }, usize::from);
    let wanted = |what: What| arguments.what == what || arguments.what == What::All;
    let cores = cores::allowed().context("asking which cores there are")?;
    let (Some(&dut_core), Some(&generator_core)) = (cores.first(), cores.last()) else {
        anyhow::bail!("no core to run on");
    };
    let softdpu = match &arguments.softdpu {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("softdpu"),
    };
    if cfg!(debug_assertions) {
        eprintln!("softdpu-bench: a debug build; figures of softdpu's own code mean nothing");
    }
    let noise = NoiseWatch::start();
    let mut report = Run { report: Report::new(Machine::look()), watch: NoiseWatch::start() };
    report.report.settings = [
        ("quick", quick.to_string()),
        ("flows", arguments.flows.to_string()),
        ("instructions", arguments.instructions.to_string()),
        ("full", arguments.full.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let effort = Effort { first: arguments.first, ..Effort::new(rounds, if quick { 5_000_000 } else { 40_000_000 }) };
    let rig = Places { effort, dut_core, generator_core, softdpu };
    for what in What::value_variants().iter().copied().filter(|what| wanted(*what) && *what != What::All) {
        if stop::asked() {
            break;
        }
        if what.lies_in_memory() && rounds > 1 {
            report.fresh(what, arguments, rounds)?;
        } else {
            // On a thread of its own: where a part pins itself, the next is not pinned with it.
            let measured = std::thread::scope(|scope| scope.spawn(|| measure(what, arguments, &rig)).join());
            let (sections, targets) = measured.map_err(|_| anyhow::anyhow!("a part of the bench panicked"))??;
            report.add(sections, targets);
        }
    }
    let mut report = report.report;
    report.noise = noise.finish();
    let parts: Vec<String> = What::value_variants().iter().filter(|w| wanted(**w)).map(|w| w.name()).collect();
    report.not_measured = absent::look(&parts);
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    if let Some(path) = &arguments.append {
        if path.exists() {
            let mut all = Report::read(path)?;
            all.append(report)?;
            report = all;
        }
        report.write(path)?;
    }
    if let Some(folder) = &arguments.out {
        page::write(&report, folder)?;
    }
    Ok(())
}

/// What all parts need to know of how and where to measure.
struct Places {
    effort: Effort,
    dut_core: usize,
    generator_core: usize,
    softdpu: PathBuf,
}

type Measured = (Vec<Section>, Vec<Target>);

/// One part, in this process.
fn measure(what: What, arguments: &Arguments, rig: &Places) -> Result<Measured> {
    let (quick, effort, rounds) = (arguments.quick, rig.effort, rig.effort.rounds);
    let one = |(section, targets): (Section, Vec<Target>)| (vec![section], targets);
    let veth = |flows| veth::Options {
        rounds,
        warm_up: Duration::from_millis(if quick { 200 } else { 400 }),
        turn: Duration::from_millis(if quick { 400 } else { 1500 }),
        flows,
        length: veth::SHORTEST,
        dut_core: rig.dut_core,
        generator_core: rig.generator_core,
        softdpu: rig.softdpu.clone(),
    };
    // A turn is long where a program is started for it.
    let long = arguments.rounds.map_or(if quick { 1 } else { 5 }, usize::from);
    let on_path = Rig {
        rounds: long,
        dut_core: rig.dut_core,
        client_core: rig.generator_core,
        softdpu: rig.softdpu.clone(),
        // With all parts these are names of tunnels.
        only: if arguments.what == what { arguments.only.clone() } else { Vec::new() },
    };
    Ok(match what {
        What::Veth => one(veth::run(&veth(u32::from(arguments.flows)))?),
        What::Offload => offload::run(&veth(1))?,
        What::Aead => aead::run(effort)?,
        What::Esp => with(esp::run(effort)?, one(esp_many::run(effort, 10_000)?)),
        What::Wg => with(wg::run(effort)?, one(wg_many::run(effort, 10_000)?)),
        What::Graph => with(one(graph::run(effort)?), (vec![memory::parts(effort)?], Vec::new())),
        What::Scaling => (vec![scale::run(effort)?], Vec::new()),
        // With `all`, `--only` is of the tunnels.
        What::Micro if arguments.what == What::Micro => (cases::run(effort, &arguments.only)?, Vec::new()),
        What::Micro => (cases::run(effort, &[])?, Vec::new()),
        What::Classify => {
            let captures = classify::folder(arguments.captures.as_deref());
            if let (None, Some(named)) = (&captures, &arguments.captures) {
                anyhow::bail!("{}: no such folder", named.display());
            }
            let loops = if quick { 3 } else { 20 };
            classify::run(&classify::Options { effort, captures, loops, instructions: arguments.instructions })?
        }
        What::Flows => {
            let many = if quick { 1_000_000 } else { 10_000_000 };
            flows::run(effort, many, many)?
        }
        What::Applications => applications::run(effort)?,
        What::Rules => {
            let rounds = if quick { rounds } else { rounds.max(9) };
            one(rules::packets(Effort { rounds, ..effort })?)
        }
        What::Plan => one(rules::plan(rounds)?),
        What::Reload => reload::run(&reload::Options {
            rounds,
            reloads: if quick { 3 } else { 100usize.div_ceil(rounds) },
            dut_core: rig.dut_core,
            sender_core: rig.generator_core,
            softdpu: rig.softdpu.clone(),
        })?,
        What::Hostile => one(hostile::run(effort, if quick { 20_000 } else { 200_000 })?),
        What::Steer => (vec![steer::run(rounds, if quick { 10_000 } else { 50_000 })?], Vec::new()),
        What::Idle => {
            let time = Duration::from_millis(if quick { 1000 } else { 5000 });
            one(idle::run(&rig.softdpu, rig.dut_core, if quick { 1 } else { 3 }, time)?)
        }
        What::Latency => latency::run(&latency::Options {
            rounds,
            warm_up: Duration::from_millis(if quick { 50 } else { 200 }),
            turn: Duration::from_millis(if quick { 300 } else { 1500 }),
            every: Duration::from_micros(500),
            levels: if arguments.full { vec![0, 10, 25, 50, 75, 90] } else { vec![0, 10] },
            dut_core: rig.dut_core,
            client_core: rig.generator_core,
            softdpu: rig.softdpu.clone(),
            only: on_path.only,
        })?,
        What::Udp => udp::run(&latency::Options {
            rounds: long,
            warm_up: Duration::from_millis(50),
            turn: Duration::from_millis(if quick { 250 } else { 500 }),
            every: Duration::from_micros(500),
            levels: if quick { vec![10, 50, 90, 110] } else { (1..=11).map(|n| 10 * n).collect() },
            dut_core: rig.dut_core,
            client_core: rig.generator_core,
            softdpu: rig.softdpu.clone(),
            only: on_path.only,
        })?,
        What::Connect => connect::run(&connect::Options {
            rig: on_path,
            warm_up: Duration::from_millis(if quick { 50 } else { 300 }),
            turn: Duration::from_millis(if quick { 600 } else { 2000 }),
        })?,
        What::Https => https::run(&https::Options {
            rig: on_path,
            warm_up: Duration::from_millis(if quick { 300 } else { 500 }),
            turn: Duration::from_millis(if quick { 700 } else { 2000 }),
        })?,
        What::Bulk => bulk::run(&bulk::Options {
            rig: on_path,
            warm_up: Duration::from_secs(if quick { 0 } else { 1 }),
            turn: Duration::from_secs(if quick { 1 } else { 2 }),
        })?,
        What::Tunnels => one(tunnels::run(&tunnels::Options {
            rounds: long,
            warm_up: Duration::from_secs(1),
            turn: Duration::from_secs(if quick { 1 } else { 4 }),
            softdpu: rig.softdpu.clone(),
            only: arguments.only.clone(),
        })?),
        What::Functions => one(functions::run(&functions::Options {
            rounds: long,
            turn: Duration::from_secs(if quick { 1 } else { 3 }),
            softdpu: rig.softdpu.clone(),
        })?),
        What::All => (Vec::new(), Vec::new()),
    })
}

fn with((mut sections, mut targets): Measured, more: Measured) -> Measured {
    sections.extend(more.0);
    targets.extend(more.1);
    (sections, targets)
}

/// The report as it grows; each part gets the noise that was there meanwhile.
struct Run {
    report: Report,
    watch: NoiseWatch,
}

impl Run {
    fn add(&mut self, sections: impl IntoIterator<Item = Section>, targets: impl IntoIterator<Item = Target>) {
        let noise = self.watch.finish();
        self.watch = NoiseWatch::start();
        let with_noise = |s: Section| Section { noise: Some(noise.clone()), ..s };
        self.report.sections.extend(sections.into_iter().map(with_noise));
        self.report.targets.extend(targets);
    }

    /// Each round in a process of its own (see [`What::lies_in_memory`]).
    fn fresh(&mut self, what: What, arguments: &Arguments, rounds: usize) -> Result<()> {
        let name = what.name();
        let mut line: Vec<OsString> = vec![name.clone().into()];
        line.extend(arguments.quick.then(|| "--quick".into()));
        line.extend(["--flows".into(), arguments.flows.to_string().into()]);
        line.extend(arguments.instructions.then(|| "--instructions".into()));
        if what == arguments.what && !arguments.only.is_empty() {
            line.extend(["--only".into(), arguments.only.join(",").into()]);
        }
        let bar = progress::bar(rounds as u64);
        bar.set_message(name.clone());
        for round in 0..rounds {
            if stop::asked() {
                break;
            }
            self.report
                .append(fresh::round(&line, round).with_context(|| format!("round {} of {name}", round + 1))?)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.watch = NoiseWatch::start();
        Ok(())
    }
}
