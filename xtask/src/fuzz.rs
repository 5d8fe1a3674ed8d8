//! `cargo xtask fuzz`: builds the fuzz targets and runs them, as many side by side as there are cores.
//!
//! Only crates of this repository are instrumented: this program stands before the compiler (`RUSTC_WORKSPACE_WRAPPER`) and adds
//! what libFuzzer needs, so that everything else is taken from the release build as it is. Without the address sanitizer, which the
//! stable compiler does not have: what is fuzzed is mostly safe code.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{ebpf, run, setup};

/// Set for a compiler that this program stands before.
const VARIABLE: &str = "SOFTDPU_INSTRUMENT";
/// As cargo-fuzz does it (its `src/project.rs`), for libFuzzer's counters, its table of places and what was compared with what.
const FLAGS: [&str; 12] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    // Half of a build was optimisation across code units.
    "-Copt-level=1",
    "-Ccodegen-units=16",
    "-Clto=off",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];

/// Runs fuzz targets (`dataplane/fuzz/fuzz_targets`): all of them, or those that are named. What is found stays in
/// `dataplane/fuzz/artifacts/TARGET/`, new inputs in `dataplane/fuzz/corpus/TARGET/`; neither is committed.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these
    targets: Vec<String>,
    /// For how long each
    #[arg(long, default_value_t = 6, value_name = "SECONDS")]
    time: u32,
    /// Only say which there are
    #[arg(long)]
    list: bool,
}

/// Runs the verb. Whether nothing was found.
///
/// # Errors
/// Something needed is missing, a target's name is none, or they do not build.
pub fn main(arguments: &Arguments) -> Result<bool> {
    let known = targets();
    if arguments.list {
        println!("{}", known.join("\n"));
        return Ok(true);
    }
    if let Some(none) = arguments.targets.iter().find(|name| !known.contains(name)) {
        bail!("no fuzz target is called {none}: `cargo xtask fuzz --list` says which there are");
    }
    setup::ensure(setup::Need::Build)?;
    setup::ensure_program("g++").context("libFuzzer is built from C++")?;
    ebpf::build()?;
    build(&mut run::cargo())?;
    let asked = if arguments.targets.is_empty() { known } else { arguments.targets.clone() };
    let found = run_all(&asked, arguments.time, |_| {})?;
    println!("{} of {} targets found nothing", asked.len() - found.len(), asked.len());
    Ok(found.is_empty())
}

/// Names of all targets, sorted.
pub fn targets() -> Vec<String> {
    let files = folder().join("fuzz_targets").read_dir().into_iter().flatten().flatten();
    let mut names: Vec<String> =
        files.filter_map(|file| file.file_name().into_string().ok()?.strip_suffix(".rs").map(str::to_owned)).collect();
    names.sort();
    names
}

/// Builds all targets.
///
/// # Errors
/// They do not build.
pub fn build(cargo: &mut Command) -> Result<()> {
    // The other two packages are there for the features that they want of what all three use, see `instructions::build`.
    cargo.args([
        "build",
        "--release",
        "--package",
        "softdpu",
        "--package",
        "softdpu-bench",
        "--package",
        "softdpu-fuzz",
    ]);
    for target in targets() {
        cargo.args(["--bin", &target]);
    }
    let this = std::env::current_exe().context("finding this program")?;
    cargo.env("RUSTC_WORKSPACE_WRAPPER", this).env(VARIABLE, "1");
    ensure!(run::loud(cargo)?, "the fuzz targets do not build");
    Ok(())
}

/// Runs each of `targets` for so many seconds, and prints what each says once it has ended. Names of those that found something.
///
/// # Errors
/// A target cannot be started.
pub fn run_all(targets: &[String], seconds: u32, mark: impl Fn(&mut Command) + Sync) -> Result<Vec<String>> {
    let waiting = Mutex::new(targets.iter().cloned().collect::<VecDeque<_>>());
    let found = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    let take_turns = || -> Result<()> {
        loop {
            let next = waiting.lock().expect("no thread panics with it").pop_front();
            let Some(target) = next else { return Ok(()) };
            let mut command = command(&target, seconds)?;
            mark(&mut command);
            let output = command.output().with_context(|| format!("starting {target}: was it built?"))?;
            println!("{}", told(&target, &output));
            if !output.status.success() {
                found.lock().expect("no thread panics with it").push(target);
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(take_turns)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    Ok(found.into_inner().expect("no thread panics with it"))
}

fn folder() -> PathBuf {
    run::root().join("dataplane/fuzz")
}

fn command(target: &str, seconds: u32) -> Result<Command> {
    let folder = folder();
    let release = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| run::root().join("target"), PathBuf::from);
    let mut command = Command::new(release.join("release").join(target));
    command.current_dir(&folder).stdin(Stdio::null());
    // New inputs go into the first folder; those that earlier runs found worth keeping are in the second.
    let (corpus, seeds) = (folder.join("corpus").join(target), folder.join("seeds").join(target));
    let artifacts = folder.join("artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    command.arg(corpus).arg(format!("-artifact_prefix={}/", artifacts.display()));
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let dictionary = folder.join(format!("dictionaries/{target}.dict"));
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    command.args(["-verbosity=0", "-print_final_stats=1", "-max_len=4096", "-rss_limit_mb=4096"]);
    command.arg(format!("-max_total_time={seconds}"));
    Ok(command)
}

/// In one line what a run did that found nothing; all that it said where it found something.
fn told(target: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return format!("fuzz {target}: FOUND something ({})\n{said}", output.status);
    }
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'));
        line.map_or("?", str::trim)
    };
    let (runs, rate) = (stat("number_of_executed_units"), stat("average_exec_per_sec"));
    format!("fuzz {target}: nothing found in {runs} inputs ({rate} a second, {} MiB at most)", stat("peak_rss_mb"))
}

/// Where this program was started in the place of a compiler: becomes that compiler, with the flags of what is fuzzed.
pub fn be_compiler() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let mut arguments = std::env::args_os().skip(1);
    let Some(compiler) = arguments.next().filter(|path| is_compiler(path.as_ref())) else { return };
    let rest: Vec<OsString> = arguments.collect();
    let mut command = Command::new(compiler);
    command.args(&rest);
    if instrumented(&rest) {
        command.args(FLAGS);
    }
    let error = command.exec();
    eprintln!("error: start the compiler: {error}");
    std::process::exit(2);
}

fn is_compiler(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name == "rustc")
}

/// Not what runs while others are built: nothing there counts.
fn instrumented(arguments: &[OsString]) -> bool {
    let name = arguments.iter().skip_while(|argument| *argument != "--crate-name").nth(1);
    name.is_some_and(|name| !name.to_string_lossy().starts_with("build_script_"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_crate_is_instrumented_a_build_script_and_a_question_are_not() {
        let of = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(instrumented(&of("--crate-name softdpu --edition=2024 src/lib.rs")));
        assert!(!instrumented(&of("--crate-name build_script_build --edition=2024 build.rs")));
        assert!(!instrumented(&of("-vV")));
    }

    #[test]
    fn a_run_is_told_in_one_line_unless_it_found_something() {
        let output = |status: i32, said: &str| Output {
            status: std::process::ExitStatus::from_raw(status),
            stdout: Vec::new(),
            stderr: said.as_bytes().to_vec(),
        };
        let said =
            "Done\nstat::number_of_executed_units: 814\nstat::average_exec_per_sec:     74\nstat::peak_rss_mb: 84\n";
        let line = "fuzz l7_dns: nothing found in 814 inputs (74 a second, 84 MiB at most)";
        assert_eq!(told("l7_dns", &output(0, said)), line);
        assert!(told("l7_dns", &output(77 << 8, "panicked at here")).ends_with("panicked at here"));
    }
}
