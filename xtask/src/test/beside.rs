//! What the later steps need is compiled, and checked by clippy, while the end-to-end tests run, which mostly wait: on what these
//! leave over of the processors, and on nothing else. A few tests look at packets that must not be late: one that fails here is run
//! once more, alone, and that is said.

use std::{process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use softdpu_testbed::cleanup::RUN_VARIABLE;

use super::counts::{self, Counts};
use super::steps::{LINTS, counted};
use crate::{fuzz, instructions, run, vm};

/// More failures than these are no matter of load.
const FEW: usize = 5;

/// Runs the tests with the builds beside them. `again` makes the command that runs the tests of a filter expression of nextest's.
/// A build that fails is said; the step that needs it builds once more, and fails. `run` marks every process.
///
/// # Errors
/// The tests cannot be started.
pub fn tests(mut tests: Command, again: impl FnOnce(&str) -> Command, run: &str) -> Result<Counts> {
    let mut failed = Vec::new();
    let counts = thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = use_what_is_left_over().and_then(|()| build(run)) {
                eprintln!("built beside the tests: {error:#}");
            }
        });
        counted(&mut tests, |line| failed.extend(counts::failed_of_line(line)))
    })?;
    // nextest lists them once more at the end.
    failed.sort();
    failed.dedup();
    if failed.is_empty() || failed.len() > FEW {
        return Ok(counts);
    }
    let one = |(binary, test): &(String, String)| format!("binary_id(={binary}) & test(={test})");
    let filter = failed.iter().map(one).collect::<Vec<_>>().join(" | ");
    eprintln!("\nfailed beside the builds, and run once more without them: {filter}");
    let alone = counted(&mut again(&filter), |_| {})?;
    let failed = counts.failed - (failed.len() as u64).min(counts.failed) + alone.failed;
    Ok(Counts { passed: counts.passed + alone.passed, failed, ..counts })
}

/// In the order of the steps.
fn build(run: &str) -> Result<()> {
    let cargo = || {
        let mut command = run::cargo();
        // Which crate it is nobody reads amid the tests' lines.
        command.env(RUN_VARIABLE, run).env("CARGO_TERM_QUIET", "true");
        command
    };
    if vm::possible().is_ok() {
        vm::prepare(&mut cargo())?;
    }
    instructions::build(&mut cargo())?;
    fuzz::build(&mut cargo())?;
    ensure!(run::loud(cargo().args(LINTS))?, "see the step of the lints");
    Ok(())
}

/// This thread, and what it starts, get a processor when nobody else wants it: sched(7), SCHED_IDLE.
fn use_what_is_left_over() -> Result<()> {
    // SAFETY: all of its fields are numbers.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    (done == 0).then_some(()).ok_or_else(std::io::Error::last_os_error).context("SCHED_IDLE")
}
