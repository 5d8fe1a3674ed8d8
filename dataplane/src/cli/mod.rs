//! The command line: one file per verb, each of which calls the library and shows what it says.

mod args;
mod ask;
mod capture;
mod check;
pub mod classify;
mod complete;
mod doctor;
mod events;
mod explain;
mod filter;
mod flows;
mod inventory;
mod man;
mod plan;
mod rekey;
mod reload;
mod replay;
mod run;
mod show;
mod status;
mod test;
#[cfg(test)]
mod tests;
mod top;
mod trace;
mod tune;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

pub use args::Cli;
use args::Verb;
use clap::{CommandFactory, Parser};

use crate::config::use_colour;
use crate::worker::runtime::RunOptions;

/// Runs the command line of the process. Exit codes: 0 done, 1 failed or something was found, 2 wrong usage.
pub fn main() -> ExitCode {
    // Where a shell asks what could come next: COMPLETE names it.
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    let result = dispatch(&cli, &mut out).and_then(|good| {
        out.flush()?;
        Ok(good)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read us has seen enough, as in `softdpu flows | head`.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            let code = if e.is::<Unusable>() { ExitCode::from(2) } else { ExitCode::FAILURE };
            let red = use_colour(&std::io::stderr());
            let (on, off) = if red { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
            eprintln!("{on}error:{off} {e:#}");
            code
        }
    }
}

/// What was given cannot be used: exit code 2, as for wrong usage.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(String);

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// Runs one verb. `Ok(false)` when it worked and found something wrong, which it has said.
fn dispatch(cli: &Cli, out: &mut impl Write) -> anyhow::Result<bool> {
    match &cli.verb {
        Verb::Run { config, steer_log, wireguard_dir, watch } => {
            let options = RunOptions {
                policy_path: config.clone(),
                steer_log: *steer_log,
                wireguard_folder: Some(wireguard_dir.clone()),
                watch: *watch,
            };
            run::run(&options, &cli.log_level)
        }
        Verb::Reload(args) => reload::run(args, None, out),
        Verb::Rollback(args) => reload::run(&args.how, Some(args.plan), out),
        Verb::History(args) => reload::history(args, out),
        Verb::Rekey(args) => rekey::run(args, out),
        Verb::Check(args) => check::run(args, out),
        Verb::Plan(args) => plan::run(args, out),
        Verb::Status(args) => status::run(args, out),
        Verb::Top(args) => top::run(args, out),
        Verb::Events(args) => events::run(args, out),
        Verb::Flows(args) => flows::run(args, out),
        Verb::Explain(args) => explain::run(args, out),
        Verb::Demote(args) => explain::demote(args, out),
        Verb::Replay(args) => replay::run(args, &cli.log_level, out),
        Verb::Classify { files, policy, json } => {
            let applications = policy.as_deref().map(classify::applications).transpose()?;
            let sum = classify::run(files, applications.as_ref(), *json, out)?;
            if sum.skipped > 0 {
                eprintln!("{} of {} packets belong to no flow", sum.skipped, sum.packets);
            }
            Ok(true)
        }
        Verb::Doctor(args) => doctor::run(args, out),
        Verb::Inventory(args) => inventory::run(args, out),
        Verb::Test(args) => test::run(args, out),
        Verb::Tune(args) => tune::run(args, out),
        Verb::Trace(args) => trace::run(args, &cli.log_level, out),
        Verb::Capture(args) => capture::run(args, out),
        Verb::Schema => {
            writeln!(out, "{:#}", crate::config::json_schema())?;
            Ok(true)
        }
        Verb::Man { out: folder } => man::run(folder, out),
        Verb::Completions { shell } => {
            // clap_complete panics when it cannot write: let it write to memory.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "softdpu", &mut script);
            out.write_all(&script)?;
            Ok(true)
        }
    }
}
