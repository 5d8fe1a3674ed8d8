//! `cargo xtask test`: everything that must hold before a change goes in, each step timed.

mod beside;
mod counts;
mod leftovers;
mod steps;

use std::time::{Duration, Instant};

use anyhow::Result;
use counts::Counts;
use leftovers::Machine;

use crate::setup;

/// Checks everything: setup, the XDP program, format, lints, unit, property and end-to-end tests, documentation tests, the
/// rings under loom, the tests that need a virtual machine, instructions beside the kept list, a short run of each fuzz target; then that no namespace, link, program or process is left behind.
/// All steps run, whatever fails. The last line is `N passed, N failed`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this; leaves out format, lints and the slow steps
    filter: Option<String>,
    /// Without loom, documentation tests, virtual machine, instructions and fuzzing
    #[arg(long)]
    quick: bool,
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 6, value_name = "SECONDS")]
    fuzz_time: u32,
}

/// How one step went.
#[derive(Debug)]
struct Outcome {
    step: String,
    took: Duration,
    counts: Counts,
}

/// Runs all steps. Whether none failed.
///
/// # Errors
/// When what the tests need is missing.
pub fn main(arguments: &Arguments) -> Result<bool> {
    let start = Instant::now();
    softdpu_testbed::cleanup::on_signals();
    for name in softdpu_testbed::cleanup::sweep() {
        eprintln!("removed what a killed run had left: {name}");
    }
    let mut outcomes = Vec::new();
    let setup_start = Instant::now();
    setup::ensure(setup::Need::Test)?;
    setup::try_python()?;
    outcomes.push(Outcome { step: "setup".into(), took: setup_start.elapsed(), counts: Counts::one(true) });

    let before = Machine::look();
    let run = format!("{}-{:x}", std::process::id(), start.elapsed().as_nanos());
    for step in steps::all(arguments, &run) {
        eprintln!("\n==> {}", step.name);
        let step_start = Instant::now();
        let counts = (step.job)().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Counts::one(false)
        });
        outcomes.push(Outcome { step: step.name, took: step_start.elapsed(), counts });
    }
    let leftovers_start = Instant::now();
    let left = leftovers::find(&before, &run, Duration::from_secs(10));
    for thing in &left {
        eprintln!("left behind: {thing}");
    }
    let counts = Counts::one(left.is_empty());
    outcomes.push(Outcome { step: "nothing left behind".into(), took: leftovers_start.elapsed(), counts });
    Ok(summary(&outcomes, start.elapsed()))
}

fn summary(outcomes: &[Outcome], took: Duration) -> bool {
    let mut all = Counts::default();
    println!("\n{:<28} {:>8} {:>8} {:>8} {:>8}", "step", "seconds", "passed", "failed", "skipped");
    for Outcome { step, took, counts } in outcomes {
        let (seconds, mark) = (took.as_secs_f64(), if counts.failed > 0 { "  <-" } else { "" });
        let Counts { passed, failed, skipped } = counts;
        println!("{step:<28} {seconds:>8.1} {passed:>8} {failed:>8} {skipped:>8}{mark}");
        all.add(counts);
    }
    println!("{:<28} {:>8.1}", "together", took.as_secs_f64());
    println!("{} passed, {} failed", all.passed, all.failed);
    all.failed == 0
}
