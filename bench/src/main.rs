//! `softdpu-bench`: see `--help` and README.md beside this package.

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
use softdpu_bench::report::{Report, Section, Target};
use softdpu_bench::{
    aead, applications, cases, classify, esp, esp_many, flows, graph, hostile, idle, memory, offload, page, rules,
    session, steer, stop, tunnels, veth, wg, wg_many,
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
    /// Only these contenders of `tunnels`, a wrong name lists all; only cases of `micro` with this in their names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Captures for `classify`; default: SOFTDPU_CAPTURES, or shared/captures beside the checkout.
    #[arg(long, value_name = "DIR")]
    captures: Option<PathBuf>,
    /// `classify` counts instructions per packet too, by valgrind's callgrind.
    #[arg(long)]
    instructions: bool,
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
    /// What strangers can send to a recogniser, in turn with packets of old flows.
    Hostile,
    /// CPU of an instance without traffic (root).
    Idle,
    /// The steer program by BPF_PROG_TEST_RUN (root).
    Steer,
    /// iperf3 through encrypted tunnels, softdpu's and others' (root).
    Tunnels,
    All,
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
    let effort = Effort { rounds, turn_ns: if quick { 5_000_000 } else { 40_000_000 } };
    if wanted(What::Veth) && !stop::asked() {
        let options = veth::Options {
            rounds,
            warm_up: Duration::from_millis(if quick { 200 } else { 400 }),
            turn: Duration::from_millis(if quick { 400 } else { 1500 }),
            flows: u32::from(arguments.flows),
            dut_core,
            generator_core,
            softdpu: softdpu.clone(),
        };
        let (section, targets) = veth::run(&options)?;
        report.add([section], targets);
    }
    if wanted(What::Offload) && !stop::asked() {
        let options = veth::Options {
            rounds,
            warm_up: Duration::from_millis(if quick { 200 } else { 400 }),
            turn: Duration::from_millis(if quick { 400 } else { 1500 }),
            flows: 1,
            dut_core,
            generator_core,
            softdpu: softdpu.clone(),
        };
        let (sections, targets) = offload::run(&options)?;
        report.add(sections, targets);
    }
    if wanted(What::Aead) && !stop::asked() {
        let (sections, targets) = aead::run(effort)?;
        report.add(sections, targets);
    }
    if wanted(What::Esp) && !stop::asked() {
        let (sections, targets) = esp::run(effort)?;
        report.add(sections, targets);
        let (section, targets) = esp_many::run(effort, 10_000)?;
        report.add([section], targets);
    }
    if wanted(What::Wg) && !stop::asked() {
        let (sections, targets) = wg::run(effort)?;
        report.add(sections, targets);
        let (section, targets) = wg_many::run(effort, 10_000)?;
        report.add([section], targets);
    }
    if wanted(What::Graph) && !stop::asked() {
        let (section, targets) = graph::run(effort)?;
        report.add([section], targets);
        report.add([memory::parts(effort)?], []);
    }
    if wanted(What::Micro) && !stop::asked() {
        // With `all`, `--only` is of the tunnels.
        let only = if arguments.what == What::Micro { arguments.only.as_slice() } else { &[] };
        report.add(cases::run(effort, only)?, []);
    }
    if wanted(What::Classify) && !stop::asked() {
        let captures = classify::folder(arguments.captures.as_deref());
        if let (None, Some(named)) = (&captures, &arguments.captures) {
            anyhow::bail!("{}: no such folder", named.display());
        }
        let loops = if quick { 3 } else { 20 };
        let options = classify::Options { effort, captures, loops, instructions: arguments.instructions };
        let (sections, targets) = classify::run(&options)?;
        report.add(sections, targets);
    }
    if wanted(What::Flows) && !stop::asked() {
        let many = if quick { 1_000_000 } else { 10_000_000 };
        let (sections, targets) = flows::run(effort, many, many)?;
        report.add(sections, targets);
    }
    if wanted(What::Applications) && !stop::asked() {
        let (sections, targets) = applications::run(effort)?;
        report.add(sections, targets);
    }
    if wanted(What::Rules) && !stop::asked() {
        let (section, targets) = rules::packets(effort)?;
        report.add([section], targets);
    }
    if wanted(What::Plan) && !stop::asked() {
        let (section, targets) = rules::plan(rounds)?;
        report.add([section], targets);
    }
    if wanted(What::Hostile) && !stop::asked() {
        let (section, targets) = hostile::run(effort, if quick { 20_000 } else { 200_000 })?;
        report.add([section], targets);
    }
    if wanted(What::Steer) && !stop::asked() {
        report.add([steer::run(rounds, if quick { 10_000 } else { 50_000 })?], []);
    }
    if wanted(What::Idle) && !stop::asked() {
        let time = Duration::from_millis(if quick { 1000 } else { 5000 });
        let (section, targets) = idle::run(&softdpu, dut_core, if quick { 1 } else { 3 }, time)?;
        report.add([section], targets);
    }
    if wanted(What::Tunnels) && !stop::asked() {
        let options = tunnels::Options {
            // A turn is long, and there are many contenders.
            rounds: arguments.rounds.map_or(if quick { 1 } else { 5 }, usize::from),
            warm_up: Duration::from_secs(1),
            turn: Duration::from_secs(if quick { 1 } else { 4 }),
            softdpu: softdpu.clone(),
            only: arguments.only.clone(),
        };
        let (section, targets) = tunnels::run(&options)?;
        report.add([section], targets);
    }
    let mut report = report.report;
    report.noise = noise.finish();
    report.settings = [
        ("quick", quick.to_string()),
        ("flows", arguments.flows.to_string()),
        ("instructions", arguments.instructions.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
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
}
