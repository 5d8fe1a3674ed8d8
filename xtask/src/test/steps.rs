//! The steps of `cargo xtask test`.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use softdpu_testbed::cleanup::RUN_VARIABLE;

use super::{Arguments, beside, counts::Counts};
use crate::{ebpf, fuzz, instructions, run, vm};

/// A named job that counts.
pub struct Step {
    pub name: String,
    pub job: Box<dyn FnOnce() -> Result<Counts>>,
}

impl Step {
    fn new(name: impl Into<String>, job: impl FnOnce() -> Result<Counts> + 'static) -> Self {
        Self { name: name.into(), job: Box::new(job) }
    }

    /// A cargo command that is one check: it ends with 0 or not.
    fn check(name: &str, run: &str, arguments: &[&str]) -> Self {
        let mut command = cargo(run);
        command.args(arguments);
        Self::new(name, move || Ok(Counts::one(run::loud(&mut command)?)))
    }

    /// A cargo command that runs tests and says how many.
    fn tests(name: &str, mut command: Command) -> Self {
        Self::new(name, move || counted(&mut command, |_| {}))
    }
}

fn cargo(run: &str) -> Command {
    let mut command = run::cargo();
    command.env(RUN_VARIABLE, run);
    command
}

/// Arguments of cargo.
pub const LINTS: &[&str] = &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];

/// The steps to take, in order. `run` marks every process of theirs.
pub fn all(arguments: &Arguments, run: &str) -> Vec<Step> {
    let mut steps = vec![Step::new("ebpf", || ebpf::build().map(|_| Counts::one(true)))];
    if arguments.filter.is_none() {
        steps.push(Step::check("format", run, &["fmt", "--all", "--check"]));
        // A workspace of its own.
        let steer = ["fmt", "--manifest-path", "ebpf/steer/Cargo.toml", "--check"];
        steps.push(Step::check("format of the XDP program", run, &steer));
    }
    let (tests, name) = (tests(arguments, run), "unit, property, end to end");
    if arguments.quick || arguments.filter.is_some() {
        if arguments.filter.is_none() {
            steps.push(Step::check("lints", run, LINTS));
        }
        steps.push(Step::tests(name, tests));
        return steps;
    }
    let mark = run.to_owned();
    let beside = move || beside::tests(tests, |filter| nextest(&mark, &["-E", filter]), &mark);
    steps.push(Step::new(name, beside));
    steps.push(Step::check("lints", run, LINTS));
    steps.extend(optional_ciphers(run));
    let mut doc = cargo(run);
    doc.args(["test", "--quiet", "--workspace", "--doc"]);
    steps.push(Step::tests("documentation", doc));
    steps.extend(loom(run));
    steps.push(Step::new("virtual machine", in_vm));
    let mut build = cargo(run);
    let mark = run.to_owned();
    steps.push(Step::new("instructions", move || {
        counted(instructions::command(&mut build)?.env(RUN_VARIABLE, mark), |_| {})
    }));
    steps.extend(fuzz(run, arguments.fuzz_time));
    steps
}

/// Where what it needs is installed: the optional cipher library whose shim is ours, and which nothing else builds. (The other one is
/// a library in C that takes minutes to compile.) The library alone, as the rest is the same.
fn optional_ciphers(run: &str) -> Option<Step> {
    if !std::path::Path::new("/usr/include/intel-ipsec-mb.h").exists() {
        println!("the optional ciphers are not checked: that takes libipsec-mb-dev");
        return None;
    }
    let lints = ["clippy", "--quiet", "-p", "softdpu", "--lib", "--features", "ipsec-mb", "--", "-D", "warnings"];
    Some(Step::check("lints of an optional cipher", run, &lints))
}

/// All tests of the workspace; by nextest where it is installed, which runs each in a process of its own.
fn tests(arguments: &Arguments, run: &str) -> Command {
    if run::which("cargo-nextest").is_some() {
        return nextest(run, arguments.filter.as_slice());
    }
    let mut command = cargo(run);
    command.args(["test", "--workspace", "--no-fail-fast", "--all-targets"]).args(&arguments.filter);
    command
}

fn nextest(run: &str, which: &[impl AsRef<OsStr>]) -> Command {
    let mut command = cargo(run);
    command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=warn"]).args(which);
    command
}

/// The rings under every interleaving: a build of its own, because `--cfg loom` changes every dependency.
fn loom(run: &str) -> Option<Step> {
    let folder = run::root().join("dataplane/loom");
    if !folder.join("Cargo.toml").is_file() {
        return None;
    }
    let mut command = cargo(run);
    command.env("RUSTFLAGS", "--cfg loom").args(["test", "--release", "--package", "softdpu-loom"]);
    command.arg("--target-dir").arg(run::root().join("target/loom"));
    Some(Step::tests("rings and replay windows under loom", command))
}

/// The tests of the VM, where one can be had.
fn in_vm() -> Result<Counts> {
    if let Err(error) = vm::possible() {
        eprintln!("SKIPPED: {error:#}");
        return Ok(Counts { skipped: 1, ..Counts::default() });
    }
    let mut counts = Counts::default();
    for run in vm::all(&vm::arguments_of_test())? {
        let [passed, failed, skipped] = run.counts();
        // A VM that ended early failed, whatever its tests did.
        let failed = failed + u64::from(failed == 0 && !run.passed());
        counts.add(&Counts { passed, failed, skipped });
    }
    Ok(counts)
}

/// A short run of each fuzz target. What it finds stays under `dataplane/fuzz/artifacts`.
fn fuzz(run: &str, seconds: u32) -> [Step; 2] {
    let (mut build, mark) = (cargo(run), run.to_owned());
    let build = Step::new("fuzz: build", move || fuzz::build(&mut build).map(|()| Counts::one(true)));
    let job = move || {
        let targets = fuzz::targets();
        let found = fuzz::run_all(&targets, seconds, |command| {
            command.env(RUN_VARIABLE, &mark);
        })?
        .len() as u64;
        Ok(Counts { passed: targets.len() as u64 - found, failed: found, skipped: 0 })
    };
    [build, Step::new("fuzz", job)]
}

/// Runs a command, passes on what it says, to `look` too, and adds up the summaries in it. A command that fails without a failed
/// test is one failure itself.
pub fn counted(command: &mut Command, mut look: impl FnMut(&str)) -> Result<Counts> {
    let what = softdpu_testbed::process::describe(command);
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("start {what}"))?;
    // The command holds the pipe's other end too; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut counts = Counts::default();
    let mut out = io::stdout().lock();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        writeln!(out, "{text}")?;
        look(&text);
        if let Some(more) = Counts::of_line(&text) {
            counts.add(&more);
        }
    }
    if !child.wait()?.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}
