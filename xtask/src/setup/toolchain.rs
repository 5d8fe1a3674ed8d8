//! What builds the XDP program: a `core` for the BPF target, and bpf-linker. There are two ways, and setup takes the one the
//! machine offers:
//!
//! - *distribution*: Debian's `libstd-rust-web-dev-bpf` is a ready-made `core`, for `/usr/bin/rustc` of the same package;
//! - *nightly*: rustup's nightly with `rust-src`, from which cargo builds `core`.

use std::process::Command;

use anyhow::{Result, ensure};

use super::{Item, Need, apt, say};
use crate::{
    ebpf::{self, Toolchain},
    run,
};

const LINKER: &str = "bpf-linker@0.13.0";

/// Major version of the LLVM in Debian's rustc; the linker must be built on the same.
fn llvm() -> Option<u32> {
    let said = Command::new("/usr/bin/rustc").arg("-vV").output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// Looks for both parts.
pub fn look() -> Vec<Item> {
    let toolchain = ebpf::toolchain().ok();
    let core = Item {
        what: "core for BPF".into(),
        why: "builds the XDP program",
        need: Need::Build,
        found: toolchain.as_ref().map(Toolchain::to_string),
        how: "apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf, or: rustup toolchain install \
              nightly --component rust-src"
            .into(),
    };
    let linker = Item {
        what: "bpf-linker".into(),
        why: "links the XDP program",
        need: Need::Build,
        found: ebpf::linker().ok().map(|path| path.display().to_string()),
        how: linker_command(toolchain.as_ref()).0,
    };
    vec![core, linker]
}

/// The command that builds the linker, in words and as it is run.
fn linker_command(toolchain: Option<&Toolchain>) -> (String, Command) {
    let mut command = run::cargo();
    command.args(["install", LINKER]);
    let mut words = format!("cargo install {LINKER}");
    if let (Some(Toolchain::System(_)), Some(llvm)) = (toolchain, llvm()) {
        let (prefix, feature) = (format!("/usr/lib/llvm-{llvm}"), format!("llvm-{llvm}"));
        words = format!("LLVM_PREFIX={prefix} {words} --no-default-features --features {feature}");
        command.env("LLVM_PREFIX", prefix).args(["--no-default-features", "--features", &feature]);
    }
    (words, command)
}

/// Installs what is missing, where that can be done.
///
/// # Errors
/// When an installation fails.
pub fn install() -> Result<()> {
    if ebpf::toolchain().is_err() {
        install_core()?;
    }
    if let (Err(_), Ok(toolchain)) = (ebpf::linker(), ebpf::toolchain()) {
        if let (Toolchain::System(_), Some(llvm), true) = (&toolchain, llvm(), apt::usable()) {
            apt::update();
            // The last two are what LLVM itself links.
            apt::install(&[&format!("llvm-{llvm}-dev"), "libzstd-dev", "zlib1g-dev"], "bpf-linker is built on LLVM")?;
        }
        let (words, mut command) = linker_command(Some(&toolchain));
        say(&format!("{words} (links the XDP program; takes about two minutes)"));
        ensure!(run::loud(&mut command)?, "bpf-linker does not build");
    }
    Ok(())
}

fn install_core() -> Result<()> {
    if apt::usable() {
        apt::update();
        if apt::offers("libstd-rust-web-dev-bpf") {
            return apt::install(&["rustc-web", "libstd-rust-web-dev-bpf"], "a ready-made core for the BPF target");
        }
    }
    if run::which("rustup").is_some() {
        say("rustup toolchain install nightly --component rust-src (cargo builds core for the BPF target from it)");
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        // Where it cannot be fetched, the report says what is missing.
        run::loud(&mut command)?;
    }
    Ok(())
}
