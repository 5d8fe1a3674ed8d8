//! What is not a bench of softdpu by itself: comparing runs, reports of runs, and the ledger of somebody's captures.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use softdpu_bench::compare::{self, Settings, Verdict};
use softdpu_bench::gain;
use softdpu_bench::instructions;
use softdpu_bench::machine::{Machine, NoiseWatch};
use softdpu_bench::micro::Effort;
use softdpu_bench::modelled::{self, PERSONAS};
use softdpu_bench::page;
use softdpu_bench::report::Report;

#[derive(Subcommand)]
pub enum Command {
    /// Says of each thing that two runs measured: better, worse, or cannot tell. Ends with 3 where something is worse.
    Compare(Compare),
    /// Makes a report of a run: HTML, JSON, CSV and Markdown.
    Report {
        /// The record that `--json` wrote.
        run: PathBuf,
        /// Where the files go; made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// What offload would gain for the traffic of captures: cores per Gbit/s by function and tier, and break-even flow lengths.
    Gain(Gain),
    /// Writes a capture of made-up traffic, for `gain` where there is no capture at hand: pages, names, calls, shells,
    /// databases, logs, with lengths of a heavy tail.
    Mix {
        /// Where it goes (pcap).
        file: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        packets: u64,
        /// The same seed makes the same capture.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Counts instructions by callgrind, and compares them with those that are kept. Ends with 1 where something takes more.
    Instructions(instructions::Options),
}

#[derive(Args)]
pub struct Compare {
    /// The record of the run before.
    a: PathBuf,
    /// The record of the run after.
    b: PathBuf,
    /// Writes the comparison to FILE as JSON; `-` is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Smaller differences are not told, in %.
    #[arg(long, default_value_t = 2.0)]
    least: f64,
    /// Compares runs of different machines, too.
    #[arg(long)]
    across: bool,
    /// Of the resampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub struct Gain {
    /// Captures (pcap or pcapng).
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Short turns and few rounds: to see that it runs, not to conclude from.
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, every function has one turn.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Most classes of flows that are measured, those with most bytes first.
    #[arg(long, default_value_t = 12)]
    classes: usize,
    /// DPUs to model by others' figures: names, files, or `none`.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values_t = PERSONAS.map(String::from))]
    persona: Vec<String>,
    /// Writes everything, raw rounds too, to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes HTML, JSON, CSV and Markdown into DIR.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Ends with this where something is worse.
const WORSE: u8 = 3;

/// Does what measures nothing. `None`: it does measure.
pub fn without_session(command: &Command) -> Option<ExitCode> {
    let done = match command {
        Command::Compare(options) => compare(options),
        Command::Report { run, out } => Report::read(run).and_then(|report| {
            page::write(&report, out)?;
            println!("{}", out.join(page::HTML).display());
            Ok(ExitCode::SUCCESS)
        }),
        Command::Mix { file, packets, seed } => {
            gain::mix::write(file, gain::mix::Options { packets: *packets, seed: *seed }).map(|packets| {
                println!("{}: {packets} packets", file.display());
                ExitCode::SUCCESS
            })
        }
        Command::Instructions(options) => {
            instructions::main(options).map(|good| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Gain(_) => return None,
    };
    Some(done.unwrap_or_else(|e| {
        eprintln!("softdpu-bench: {e:#}");
        ExitCode::FAILURE
    }))
}

fn compare(options: &Compare) -> Result<ExitCode> {
    anyhow::ensure!((0.0..100.0).contains(&options.least), "--least is a percentage, 0 to 100");
    let settings =
        Settings { least: options.least / 100.0, across: options.across, seed: options.seed, ..Settings::default() };
    let done = compare::files(&options.a, &options.b, settings)?;
    let json = || serde_json::to_string_pretty(&done).map(|text| text + "\n");
    match &options.json {
        Some(path) if path.as_os_str() == "-" => print!("{}", json()?),
        Some(path) => {
            std::fs::write(path, json()?).with_context(|| format!("writing {}", path.display()))?;
            print!("{}", done.text());
        }
        None => print!("{}", done.text()),
    }
    Ok(if done.count(Verdict::Worse) > 0 { ExitCode::from(WORSE) } else { ExitCode::SUCCESS })
}

/// Does what measures.
///
/// # Errors
/// Captures cannot be read, a persona is not known, or files cannot be written.
pub fn run(command: &Command) -> Result<()> {
    let Command::Gain(options) = command else { return Ok(()) };
    let personas: Vec<&String> = options.persona.iter().filter(|p| *p != "none").collect();
    for name in &personas {
        // Before minutes of measuring, not after.
        modelled::model(name, &gain::ledger::Ledger::default())?;
    }
    let noise = NoiseWatch::start();
    let rounds = options.rounds.map_or(if options.quick { 3 } else { 7 }, usize::from);
    let turn_ns = if options.quick { 5_000_000 } else { 40_000_000 };
    let effort = Effort::new(rounds, turn_ns);
    let (sections, ledger) =
        gain::run(&gain::Options { files: options.files.clone(), effort, classes: options.classes })?;
    let mut report = Report::new(Machine::look());
    report.sections = sections;
    report.settings = [("quick", options.quick.to_string()), ("classes", options.classes.to_string())]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
    for name in personas {
        report.modelled.extend(modelled::model(name, &ledger)?);
    }
    report.noise = noise.finish();
    print!("{}\n{}", report.text(), ledger.text());
    print!("{}", modelled::text(&report.modelled));
    report.ledger = Some(ledger);
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    if let Some(folder) = &options.out {
        page::write(&report, folder)?;
    }
    Ok(())
}
