//! `cargo xtask vm`: the end-to-end tests that need a kernel which the machine does not have, in a virtual machine with a stock
//! Debian kernel.
//!
//! ```text
//!   kernel     downloads and unpacks a kernel package          target/vm/KERNEL/
//!   netdevsim  builds that module for it, where a test wants it
//!   binaries   builds softdpu and dataplane/tests/vm_*.rs
//!   image      puts both, modules and programs into an initramfs
//!   machine    runs QEMU, follows the second serial line        init.sh is what runs inside
//!   protocol   what that line says
//!   report     what the user sees, and target/vm/results.json
//! ```

mod binaries;
mod cpio;
mod image;
mod kernel;
mod machine;
mod netdevsim;
mod protocol;
mod report;

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use binaries::Job;
use kernel::Line;
use machine::Machine;
use report::Run;

use crate::{ebpf, run, setup};

/// Boots a stock Debian kernel under QEMU and runs the tests of `dataplane/tests/vm_*.rs` in it: ESP and WireGuard against the
/// kernel's own, real strongSwan, AF_XDP without a copy. Downloads the kernel once (about 36 MB), needs no KVM and no root.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// The kernel to boot; several may be named. Default: both
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Line>,
    /// Only tests whose `file::name` contains this, as `7.2/NAME` on that kernel only; several may be named
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Also run this file of `dataplane/tests`, made for the VM or not
    #[arg(long, value_name = "FILE")]
    file: Vec<String>,
    /// Also the tests that take minutes
    #[arg(long)]
    slow: bool,
    /// Boot to a shell in place of the tests; `poweroff -f` ends it
    #[arg(long)]
    shell: bool,
    /// Leave the initramfs in target/vm for a look
    #[arg(long)]
    keep: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Show what the tests say while they run
    #[arg(long)]
    verbose: bool,
    /// Longest for one test, in seconds
    #[arg(long, default_value_t = 200, value_name = "SECONDS")]
    test_time: u64,
    /// Longest for one boot with all its tests, in seconds
    #[arg(long, default_value_t = 780, value_name = "SECONDS")]
    time: u64,
}

impl Arguments {
    fn want(&self, job: &Job, line: Line) -> bool {
        if self.only.is_empty() {
            return !job.slow || self.slow;
        }
        self.only.iter().any(|only| {
            let (kernel, part) = only.split_once('/').unwrap_or(("", only));
            (kernel.is_empty() || kernel == line.to_string()) && job.name().contains(part)
        })
    }
}

/// Where everything of this verb is.
fn folder() -> PathBuf {
    run::root().join("target/vm")
}

/// Whether a VM can be had on this machine; the error says what is missing.
///
/// # Errors
/// When QEMU or what makes the image is missing and cannot be installed.
pub fn possible() -> Result<()> {
    setup::ensure(setup::Need::Vm).context("no virtual machine can be had here")
}

/// What the steps of `cargo xtask test` run: one test of each kind, and those that take minutes on one kernel each, since emulation
/// is slow. `cargo xtask vm` runs all.
pub fn arguments_of_test() -> Arguments {
    let only =
        ["7.2/vm_zero_copy", "vm_xfrm", "7.2/vm_ike::twenty", "6.12/vm_esp::aes_256_gcm", "6.12/vm_wireguard::both"];
    Arguments { only: only.map(str::to_owned).to_vec(), test_time: 200, time: 720, ..Arguments::default() }
}

/// Downloads and builds what [`arguments_of_test`] need, with that cargo.
///
/// # Errors
/// As [`main`], but for booting.
pub fn prepare(cargo: &mut Command) -> Result<()> {
    possible()?;
    std::fs::create_dir_all(folder())?;
    Line::ALL.into_iter().try_for_each(|line| kernel::get(line).map(drop))?;
    binaries::build(cargo, &[]).map(drop)
}

/// Runs the verb. Whether no test failed.
///
/// # Errors
/// When the VM cannot be had, built or booted.
pub fn main(arguments: &Arguments) -> Result<bool> {
    let runs = all(arguments)?;
    Ok(runs.iter().all(Run::passed))
}

/// Boots each kernel asked for, and says how it went.
///
/// # Errors
/// As [`main`].
pub fn all(arguments: &Arguments) -> Result<Vec<Run>> {
    softdpu_testbed::cleanup::on_signals();
    possible()?;
    let lines = if arguments.kernel.is_empty() { Line::ALL.to_vec() } else { arguments.kernel.clone() };
    ensure!(!arguments.shell || lines.len() == 1, "--shell needs one --kernel");
    std::fs::create_dir_all(folder())?;
    ebpf::build()?;
    let start = Instant::now();
    let built = binaries::build(&mut run::cargo(), &arguments.file)?;
    let jobs: Vec<Vec<Job>> = lines
        .iter()
        .map(|line| built.jobs.iter().filter(|job| arguments.want(job, *line)).cloned().collect())
        .collect();
    let tests: usize = jobs.iter().map(Vec::len).sum();
    if !arguments.only.is_empty() {
        ensure!(tests > 0, "no test's name contains {}", arguments.only.join(" or "));
    }
    ensure!(arguments.shell || tests > 0, "there is no test for the VM (dataplane/tests/vm_*.rs)");
    say(&format!("{tests} runs of tests, built in {:.0} s", start.elapsed().as_secs_f64()));

    let limit = Duration::from_secs(arguments.time);
    let mut kernels = Vec::new();
    for (line, jobs) in lines.into_iter().zip(jobs).filter(|(_, jobs)| arguments.shell || !jobs.is_empty()) {
        let start = Instant::now();
        let kernel = kernel::get(line)?;
        if jobs.iter().any(|job| job.file == "vm_nic") {
            netdevsim(&kernel);
        }
        let image = image::make(&kernel, &built.softdpu, &jobs, Duration::from_secs(arguments.test_time))?;
        let size = std::fs::metadata(&image)?.len() >> 20;
        say(&format!(
            "Linux {}, initramfs of {size} MiB, made in {:.0} s",
            kernel.release,
            start.elapsed().as_secs_f64()
        ));
        kernels.push((Machine { kernel, image, limit }, jobs));
    }
    if arguments.shell {
        kernels[0].0.shell()?;
        return Ok(Vec::new());
    }
    // Each has one processor, so they share the cores of this machine.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs = Vec::new();
    for together in kernels.chunks(cores) {
        let verbose = arguments.verbose;
        let done: Vec<Result<Run>> = std::thread::scope(|scope| {
            let threads: Vec<_> = together
                .iter()
                .map(|(machine, jobs)| scope.spawn(move || report::follow(machine, jobs, verbose)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
                .collect()
        });
        for run in done {
            runs.push(run?);
        }
    }
    report::write(&runs)?;
    if !arguments.keep {
        for (machine, _) in &kernels {
            std::fs::remove_file(&machine.image)?;
        }
    }
    report::show(&runs, arguments.json)?;
    Ok(runs)
}

/// The tests of `vm_nic` skip themselves without it, and say so: it takes a download of another size.
fn netdevsim(kernel: &kernel::Kernel) {
    if let Err(error) = netdevsim::get(kernel) {
        say(&format!("Linux {} goes without netdevsim: {error:#}", kernel.release));
    }
}

/// Says what is done now.
fn say(what: &str) {
    eprintln!("vm: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_chosen_by_name_and_by_kernel() {
        let job = |file: &str, slow| Job { file: file.into(), test: "all".into(), binary: PathBuf::new(), slow };
        let wanted = |only: &[&str]| {
            let arguments = Arguments { only: only.iter().map(|s| (*s).to_owned()).collect(), ..Arguments::default() };
            let jobs = [job("vm_esp", false), job("vm_ike", true)];
            Line::ALL.map(|line| jobs.iter().filter(|job| arguments.want(job, line)).map(Job::name).collect::<Vec<_>>())
        };
        assert_eq!(wanted(&[]), [["vm_esp::all"], ["vm_esp::all"]]);
        assert_eq!(wanted(&["vm_ike"]), [["vm_ike::all"], ["vm_ike::all"]]);
        let both = vec!["vm_esp::all".to_owned(), "vm_ike::all".to_owned()];
        assert_eq!(wanted(&["7.2/ike", "esp"]), [vec!["vm_esp::all".to_owned()], both]);
    }
}
