//! netdevsim for the VM's kernel: the kernel's own model of a device that takes XDP programs and maps. Debian does not build it,
//! so it is built here, from the kernel's source package, with the compiler that Debian built the kernel with.
//!
//! The compiler and the kernel's tools need a newer C library than the machine may have. They are unpacked into a folder of
//! their own and run there, as root of it and of nothing else (`unshare`, `chroot`).

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::kernel::{Apt, Kernel, quiet};
use super::{folder, say};
use crate::run;

/// What `make` of the kernel calls, besides what the headers depend on.
const TOOLS: [&str; 7] = ["make", "dash", "coreutils", "sed", "grep", "mawk", "findutils"];
const FILE: &str = "netdevsim.ko";

/// The module, built unless it is there. It goes into the kernel's modules, so that `modprobe netdevsim` finds it.
///
/// # Errors
/// When a package cannot be downloaded any more, as after a newer kernel came, or it does not build.
pub fn get(kernel: &Kernel) -> Result<()> {
    let module = kernel.modules.join("kernel/drivers/net/netdevsim").join(FILE);
    if module.is_file() {
        return Ok(());
    }
    let fresh = folder().join(format!("{}.netdevsim.new", kernel.line));
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    let built = build(kernel, &fresh);
    let installed = built.and_then(|built| install(kernel, &built, &module));
    // Half a gigabyte of tools and sources.
    fs::remove_dir_all(&fresh)?;
    installed
}

fn build(kernel: &Kernel, fresh: &Path) -> Result<PathBuf> {
    let apt = Apt::new(kernel.line.suite(), fresh)?;
    let headers = format!("linux-headers-{}", kernel.release);
    let (source, version) = source(&apt, &headers)?;
    say(&format!(
        "downloading {headers} with its compiler, and {source} {version}, for netdevsim (about 270 MB, once)"
    ));
    let mut install = apt.command("apt-get");
    install.args(["-q", "-y", "--download-only", "--no-install-recommends", "install", &headers]).args(TOOLS);
    quiet(&mut install)?;
    apt.download(&[format!("{source}={version}")])?;

    let root = fresh.join("root");
    for part in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(part))?;
        symlink(format!("usr/{part}"), root.join(part))?;
    }
    let debs = super::kernel::files(&fresh.join("apt/cache/archives"));
    // The headers may want a kernel beside them.
    let wanted = |path: &&PathBuf| path.extension().is_some_and(|end| end == "deb") && !named(path, "linux-image-");
    for deb in debs.iter().filter(wanted) {
        quiet(Command::new("dpkg").arg("-x").arg(deb).arg(&root))?;
    }
    symlink("dash", root.join("usr/bin/sh")).or_else(there_already)?;
    symlink("mawk", root.join("usr/bin/awk")).or_else(there_already)?;
    for part in ["proc", "dev", "tmp", "build"] {
        fs::create_dir_all(root.join(part))?;
    }
    let packed = fs::read_dir(fresh)?.flatten().map(|entry| entry.path()).find(|path| named(path, &source));
    quiet(Command::new("dpkg").arg("-x").arg(packed.context("apt left no source package")?).arg(fresh.join("source")))?;
    let tarball = fresh.join("source/usr/src").join(format!("{source}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(root.join("build")).args(["--strip-components=4", "-xJf"]).arg(tarball);
    quiet(tar.arg(format!("{source}/drivers/net/netdevsim")))?;

    say(&format!("building netdevsim for Linux {}", kernel.release));
    let mut make = Command::new("unshare");
    // Not root: a user namespace in which we are. objtool wants /proc.
    if !softdpu_testbed::is_root() {
        make.arg("--map-root-user");
    }
    make.args(["--mount", "--pid", "--fork"]).arg(format!("--mount-proc={}", root.join("proc").display()));
    make.arg("chroot").arg(&root).args(["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "make", "-j2", "-C"]);
    make.arg(format!("/usr/src/{headers}")).args(["M=/build", "CONFIG_NETDEVSIM=m", "modules"]);
    quiet(&mut make)?;
    Ok(root.join("build").join(FILE))
}

/// The source package of the kernel that these headers are of, and its version.
fn source(apt: &Apt, headers: &str) -> Result<(String, String)> {
    let said = quiet(apt.command("apt-cache").args(["show", "--no-all-versions", headers]))?;
    let version = said.lines().find_map(|line| line.strip_prefix("Version: "));
    let version = version.with_context(|| format!("{headers} has no version"))?.trim().to_owned();
    let name = source_of(&version).with_context(|| format!("{headers} has the version {version}"))?;
    Ok((name, version))
}

/// `linux-source-7.2` of `7.2.12-1`.
fn source_of(version: &str) -> Option<String> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(major) && number(minor)).then(|| format!("linux-source-{major}.{minor}"))
}

/// Puts the module where modprobe looks, without what only debuggers read.
fn install(kernel: &Kernel, built: &Path, module: &Path) -> Result<()> {
    ensure!(built.is_file(), "make left no {FILE}");
    let parent = module.parent().context("a module is in a folder")?;
    fs::create_dir_all(parent)?;
    let slim = parent.join(format!("{FILE}.new"));
    quiet(Command::new("strip").arg("-g").arg("-o").arg(&slim).arg(built))?;
    fs::rename(&slim, module)?;
    let depmod = run::which("depmod").context("depmod is missing (Debian: kmod)")?;
    let base = kernel.modules.ancestors().nth(3).context("modules are below lib/modules")?;
    quiet(Command::new(depmod).arg("-b").arg(base).arg(&kernel.release)).map(|_| ())
}

fn named(path: &Path, beginning: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
}

fn there_already(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_of_the_kernels_line() {
        assert_eq!(source_of("7.2.12-1").as_deref(), Some("linux-source-7.2"));
        assert_eq!(source_of("6.12.107-1~bpo12+1").as_deref(), Some("linux-source-6.12"));
        assert_eq!(source_of("next"), None);
    }
}
