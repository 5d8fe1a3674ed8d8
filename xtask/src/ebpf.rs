//! `cargo xtask ebpf`: builds the steer program, and the one for SmartNICs, from source, with the toolchain this machine offers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler, for which `libstd-rust-web-dev-bpf` is a ready-made `core`.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build `core` for BPF, or has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// This compiler, with a `core` for BPF in its sysroot.
    System(PathBuf),
    /// This rustup toolchain, with `rust-src`.
    Rustup(String),
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Toolchain::System(rustc) => write!(f, "{} with its ready-made core for {TARGET}", rustc.display()),
            Toolchain::Rustup(name) => write!(f, "rustup's {name} with rust-src (build-std)"),
        }
    }
}

/// Builds `ebpf/steer` and puts its two objects where the dataplane's build looks for them. Gives the steer program's.
///
/// # Errors
/// No usable toolchain, no `bpf-linker`, or the build failed: the message says what to install.
pub fn build() -> Result<PathBuf> {
    let root = workspace();
    let toolchain = toolchain()?;
    let linker = linker()?;
    eprintln!("ebpf: {toolchain}; linker {}", linker.display());

    let crate_dir = root.join("ebpf/steer");
    let target_dir = root.join("target/ebpf/build");
    let mut cargo = match &toolchain {
        Toolchain::System(rustc) => {
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
            cargo
        }
        Toolchain::Rustup(name) => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", name, "cargo"]).env_remove("RUSTC").env_remove("CARGO");
            cargo
        }
    };
    cargo.args(["build", "--release", "--locked", "--target", TARGET]).arg("--target-dir").arg(&target_dir);
    if matches!(toolchain, Toolchain::Rustup(_)) {
        cargo.args(["-Z", "build-std=core"]);
    }
    // What cargo and rustup set for this process is about another compiler.
    for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC"] {
        cargo.env_remove(name);
    }
    let status = cargo
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker).join("\x1f"))
        .current_dir(&crate_dir)
        .status()
        .with_context(|| format!("cannot run {cargo:?}"))?;
    if !status.success() {
        bail!("the XDP programs did not build ({status}, {toolchain})");
    }

    let [steer, nic] = ["softdpu-steer", "softdpu-nic"].map(|name| {
        let object = root.join(format!("target/ebpf/{name}.o"));
        install(&target_dir.join(TARGET).join("release").join(name), &object)?;
        eprintln!("ebpf: {} ({} KiB)", object.display(), fs::metadata(&object)?.len() / 1024);
        Ok(object)
    });
    nic.and(steer)
}

/// The compiler [`build`] uses here.
///
/// # Errors
/// There is none; the message says how to get one.
pub fn toolchain() -> Result<Toolchain> {
    let system = PathBuf::from(SYSTEM_RUSTC);
    if has_bpf_core(&system) {
        return Ok(Toolchain::System(system));
    }
    if let Some(name) = nightly_with_source() {
        return Ok(Toolchain::Rustup(name));
    }
    bail!(
        "no compiler for {TARGET}. Debian: apt-get install rustc-web libstd-rust-web-dev-bpf. Elsewhere: rustup toolchain \
         install nightly --component rust-src. Or run `cargo xtask setup`"
    )
}

/// `bpf-linker`, on PATH or where cargo installs.
///
/// # Errors
/// It is in neither; the message says how to get it.
pub fn linker() -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    folders.extend(cargo_home.or_else(|| env::home_dir().map(|h| h.join(".cargo"))).map(|h| h.join("bin")));
    folders.into_iter().map(|f| f.join("bpf-linker")).find(|p| p.is_file()).context(
        "bpf-linker is not installed: cargo install bpf-linker (with an LLVM of its compiler's version), or `cargo xtask setup`",
    )
}

/// Cargo needs no configuration file for this: everything that differs from a host build is here.
fn rustflags(linker: &Path) -> Vec<String> {
    vec![
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".into(),   // BTF is made from it
        "-Ctarget-cpu=v3".into(), // 32-bit ALU and jumps: kernel 5.1
        "-Clink-arg=--btf".into(),
    ]
}

fn has_bpf_core(rustc: &Path) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output() else {
        return false;
    };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    output.status.success()
        && fs::read_dir(folder).is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
        })
}

fn nightly_with_source() -> Option<String> {
    let list = Command::new("rustup").args(["toolchain", "list"]).output().ok()?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    list.lines().filter_map(|line| line.split_whitespace().next()).find_map(|name| {
        let sysroot = Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"]).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
        let source = sysroot.join("lib/rustlib/src/rust/library/core");
        (name.starts_with("nightly") && source.is_dir()).then(|| name.to_owned())
    })
}

/// Copies only what changed, so that the dataplane is not built again for nothing, and in one step, so that a build at the
/// same time sees the old object or the new one.
fn install(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let folder = to.parent().context("the object has a folder")?;
    fs::create_dir_all(folder)?;
    let fresh = to.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&fresh, new)?;
    fs::rename(&fresh, to).with_context(|| format!("cannot put {} in place", to.display()))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
