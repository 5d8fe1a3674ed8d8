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
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use kernel::Line;
use report::Run;

use crate::{ebpf, run, setup};

/// Boots a stock Debian kernel under QEMU and runs the tests of `dataplane/tests/vm_*.rs` in it: ESP and WireGuard against the
/// kernel's own, real strongSwan, AF_XDP without a copy. Downloads the kernel once (about 36 MB), needs no KVM and no root.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// The kernel to boot; several may be named. Default: both
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Line>,
    /// Only tests whose `file::name` contains this; several may be named
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

/// What the steps of `cargo xtask test` run: one test of each kind, since emulation is slow. `cargo xtask vm` runs all.
pub fn arguments_of_test() -> Arguments {
    let only = ["vm_zero_copy", "vm_xfrm", "vm_ike::twenty", "vm_esp::aes_256_gcm", "vm_wireguard::both"];
    Arguments { only: only.map(str::to_owned).to_vec(), test_time: 200, time: 720, ..Arguments::default() }
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
    let built = binaries::build(&arguments.file)?;
    let mut jobs = built.jobs;
    jobs.retain(|job| !job.slow || arguments.slow || !arguments.only.is_empty());
    if !arguments.only.is_empty() {
        jobs.retain(|job| arguments.only.iter().any(|part| job.name().contains(part.as_str())));
        ensure!(!jobs.is_empty(), "no test's name contains {}", arguments.only.join(" or "));
    }
    ensure!(arguments.shell || !jobs.is_empty(), "there is no test for the VM (dataplane/tests/vm_*.rs)");
    say(&format!("{} tests, built in {:.0} s", jobs.len(), start.elapsed().as_secs_f64()));

    let limit = Duration::from_secs(arguments.time);
    let mut kernels = Vec::new();
    for line in lines {
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
        kernels.push((kernel, image));
    }
    let machine = |(kernel, image): &'_ (kernel::Kernel, PathBuf)| machine::Machine {
        kernel: kernel.clone(),
        image: image.clone(),
        limit,
    };
    if arguments.shell {
        machine(&kernels[0]).shell()?;
        return Ok(Vec::new());
    }
    // Each has one processor, so they share the cores of this machine.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs = Vec::new();
    for together in kernels.chunks(cores) {
        let (jobs, verbose) = (&jobs, arguments.verbose);
        let done: Vec<Result<Run>> = std::thread::scope(|scope| {
            let threads: Vec<_> = together
                .iter()
                .map(|kernel| {
                    let machine = machine(kernel);
                    scope.spawn(move || report::follow(&machine, jobs, verbose))
                })
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
        for (_, image) in &kernels {
            std::fs::remove_file(image)?;
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
