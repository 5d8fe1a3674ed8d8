//! `softdpu tune`: what settings are worth on this host.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::args::TuneArgs;
use crate::config;
use crate::host::probe;
use crate::tune::{self, Options, Setting};

pub fn run(args: &TuneArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let policy = match config::load(&args.policy) {
        Ok(policy) => policy,
        Err(errors) => {
            let page = errors.source.render(&errors.problems, config::use_colour(&std::io::stderr()));
            bail!("the policy is not valid\n{page}");
        }
    };
    ensure!((0.05..=600.0).contains(&args.turn), "--turn: from 0.05 to 600 seconds");
    ensure!(args.flows.is_power_of_two() && args.flows <= 1 << 20, "--flows: a power of two, at most 1048576");
    let setting = |name: &String| {
        let known = Setting::ALL.into_iter().find(|s| s.name() == name || s.key() == name);
        known.with_context(|| {
            let names = Setting::ALL.map(Setting::name);
            let near = config::nearest(name, names).map_or(String::new(), |n| format!(": did you mean {n}?"));
            format!("--only: no setting `{name}`{near} (there are {})", names.join(", "))
        })
    };
    let options = Options {
        rounds: args.rounds as usize,
        turn: Duration::from_secs_f64(args.turn),
        only: args.only.iter().map(setting).collect::<anyhow::Result<_>>()?,
        size: usize::from(args.size),
        flows: args.flows,
        real: args.real,
        binary: std::env::current_exe().context("finding this program")?,
        policy_path: args.policy.clone(),
    };
    if args.real && !args.yes {
        ensure!(std::io::stdin().is_terminal(), "--real restarts the instance for each turn: say --yes");
        eprint!("The policy's ports are taken and released for each turn. Go on? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was measured");
    }
    let host = probe::inventory()?;
    let report = tune::run(&policy, &host, &options)?;
    let text = tune::fragment(&report);
    // What was written is to be usable: a fragment that is none would be our mistake.
    config::parse(&text, "the fragment").map_err(|_| anyhow::anyhow!("the fragment is no policy:\n{text}"))?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, &text).with_context(|| path.display().to_string())?;
            writeln!(out, "{} written", path.display())?;
        }
        None => write!(out, "{text}")?,
    }
    Ok(true)
}
