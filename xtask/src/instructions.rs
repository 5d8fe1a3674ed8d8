//! `cargo xtask instructions`: what each part of the packet path takes in instructions, beside the kept list.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{ebpf, run, setup};

/// Counts the instructions of every part of the packet path under valgrind's callgrind, and compares them with bench/instructions.json:
/// ends with 1 where something takes over 3 % more. bench/README.md says what is counted, and when to accept a change.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Write what is counted now into the list
    #[arg(long)]
    accept: bool,
    /// Only cases whose name contains this; several are separated by commas
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Runs the verb. Whether nothing takes more than it may.
///
/// # Errors
/// When something needed is missing and cannot be installed, or the bench does not build.
pub fn main(arguments: &Arguments) -> Result<bool> {
    setup::ensure(setup::Need::Build)?;
    setup::ensure_program("valgrind")?;
    ebpf::build()?;
    let mut command = command(&mut run::cargo())?;
    if arguments.accept {
        command.arg("--accept");
    }
    if let Some(only) = &arguments.only {
        command.arg("--only").arg(only);
    }
    run::loud(&mut command)
}

/// Builds the bench as the virtual machine's tests are, with the features that all their packages want together, so that the library
/// is compiled once for both.
///
/// # Errors
/// It does not build.
pub fn build(cargo: &mut Command) -> Result<()> {
    cargo.args(["test", "--release", "--package", "softdpu", "--package", "softdpu-bench", "--no-run"]);
    // A package's programs are built for its tests.
    ensure!(run::loud(cargo.args(["--test", "commands"]))?, "the bench does not build");
    Ok(())
}

/// Builds the bench; the command that counts.
///
/// # Errors
/// The bench does not build.
pub fn command(cargo: &mut Command) -> Result<Command> {
    build(cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| run::root().join("target"), PathBuf::from);
    let mut command = Command::new(target.join("release/softdpu-bench"));
    command.current_dir(run::root()).arg("instructions");
    Ok(command)
}
