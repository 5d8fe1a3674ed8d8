//! `cargo xtask`: everything a developer does with this repository, one verb each.

mod demo;
mod docs;
mod ebpf;
mod example;
mod fuzz;
mod instructions;
mod interop;
mod run;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything a developer does with this repository. `cargo xtask demo` is the place to start.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find or install all that building and testing needs
    Setup(setup::Arguments),
    /// Build the XDP program from source
    Ebpf,
    /// Show the dataplane at work on real applications, beside plain kernel forwarding
    Demo(demo::Arguments),
    /// Write everything anew that is generated: pages of docs/, expected errors, manual pages, completions
    Docs(docs::Arguments),
    /// Tell the worked example of docs/example.md: three applications, one policy, two sites
    Example(example::Arguments),
    /// Check everything: format, lints, all tests, a short fuzz run
    Test(test::Arguments),
    /// Run the tests that need a kernel of their own, in a virtual machine
    Vm(vm::Arguments),
    /// Run the fuzz targets
    Fuzz(fuzz::Arguments),
    /// Make the table of peers of what the tests found
    Interop(interop::Arguments),
    /// Count instructions of the packet path's parts, and compare them with the kept list
    Instructions(instructions::Arguments),
    /// Run the benches (release build)
    Bench(BenchArguments),
}

/// Runs the benches of `bench/` in a release build: forwarding on veth beside the kernel and a bare AF_XDP loop, ESP beside
/// bare `ring`, and the graph in memory.
#[derive(Debug, clap::Args)]
struct BenchArguments {
    /// Given to `softdpu-bench` as they are; `cargo xtask bench -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    fuzz::be_compiler();
    let done = match Arguments::parse().verb {
        Verb::Setup(arguments) => setup::main(&arguments),
        Verb::Ebpf => ebpf::build().map(|path| {
            println!("{}", path.display());
            true
        }),
        Verb::Demo(arguments) => demo::main(&arguments),
        Verb::Docs(arguments) => docs::main(&arguments),
        Verb::Example(arguments) => example::main(&arguments),
        Verb::Test(arguments) => test::main(&arguments),
        Verb::Vm(arguments) => vm::main(&arguments),
        Verb::Fuzz(arguments) => fuzz::main(&arguments),
        Verb::Interop(arguments) => interop::main(&arguments),
        Verb::Instructions(arguments) => instructions::main(&arguments),
        Verb::Bench(arguments) => bench(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn bench(arguments: &BenchArguments) -> anyhow::Result<bool> {
    setup::ensure(setup::Need::Build)?;
    ebpf::build()?;
    // The worker is measured as it is run: by its own binary, beside the bench's.
    let mut build = run::cargo();
    build.args(["build", "--release", "--package", "softdpu", "--package", "softdpu-bench"]);
    if !run::loud(&mut build)? {
        return Ok(false);
    }
    let mut command = run::cargo();
    command.args(["run", "--quiet", "--release", "--package", "softdpu-bench", "--"]).args(&arguments.rest);
    run::loud(&mut command)
}
