//! What the later steps need is compiled, and checked by clippy, while the end-to-end tests run, which mostly wait: on what these
//! leave over of the processors, and on nothing else.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use softdpu_testbed::cleanup::RUN_VARIABLE;

use super::steps::{LINTS, Step};
use crate::{fuzz, instructions, run, vm};

/// The step, with those builds beside it. One that fails is said; the step that needs it builds again, and fails. `run` marks every
/// process.
pub fn builds(step: Step, run: &str) -> Step {
    let run = run.to_owned();
    let job = move || {
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = use_what_is_left_over().and_then(|()| build(&run)) {
                    eprintln!("built beside the tests: {error:#}");
                }
            });
            (step.job)()
        })
    };
    Step { name: step.name, job: Box::new(job) }
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
