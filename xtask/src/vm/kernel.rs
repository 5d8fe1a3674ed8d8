//! A stock Debian kernel: downloaded with apt from a suite's list of its own, so that the machine's sources stay as they are, and
//! unpacked, not installed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::{folder, say};
use crate::run;

/// A line of kernels, of which the newest is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    V6_12,
    V7_2,
}

impl Line {
    /// From the oldest.
    pub const ALL: [Self; 2] = [Self::V6_12, Self::V7_2];

    fn version(self) -> &'static str {
        match self {
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
        }
    }

    /// The suite of Debian that has it.
    pub fn suite(self) -> &'static str {
        match self {
            Self::V6_12 => "trixie",
            Self::V7_2 => "forky",
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version())
    }
}

impl std::str::FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::version).join(", ");
        Self::ALL.into_iter().find(|line| line.version() == text).ok_or_else(|| format!("known kernels: {}", known()))
    }
}

/// A kernel on disk.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub line: Line,
    /// As `uname -r` will say.
    pub release: String,
    /// The compressed kernel.
    pub image: PathBuf,
    /// Folder to be `/usr/lib/modules/RELEASE`, with `modules.dep`; modules are not compressed.
    pub modules: PathBuf,
}

/// What of the modules goes along: networking and cryptography.
const MODULES: [&str; 6] = ["net", "crypto", "arch/x86/crypto", "lib", "drivers/net", "drivers/virtio"];

/// The kernel of a line, downloaded unless it is there.
///
/// # Errors
/// When it cannot be downloaded or unpacked.
pub fn get(line: Line) -> Result<Kernel> {
    let home = folder().join(line.version());
    if let Ok(kernel) = unpacked(line, &home) {
        return Ok(kernel);
    }
    let _ = fs::remove_dir_all(&home);
    let fresh = folder().join(format!("{line}.new"));
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    let apt = Apt::new(line.suite(), &fresh)?;
    let packages = apt.choose(line)?;
    say(&format!("downloading {}", packages.join(" ")));
    apt.download(&packages)?;
    for file in fs::read_dir(&fresh)?.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|ending| ending == "deb") {
            quiet(Command::new("dpkg").arg("-x").arg(&file).arg(fresh.join("root")))?;
            fs::remove_file(&file)?;
        }
    }
    prepare(&fresh)?;
    // Only a whole one gets the name that the next run looks for.
    fs::rename(&fresh, &home)?;
    unpacked(line, &home)
}

/// Leaves `modules/RELEASE` and `vmlinuz` of what the packages hold.
fn prepare(folder: &Path) -> Result<()> {
    let root = folder.join("root");
    let parents = [root.join("usr/lib/modules"), root.join("lib/modules")];
    let tree = parents.iter().find_map(|parent| only(parent).ok()).context("the packages hold no modules")?;
    let release = tree.file_name().context("a release")?.to_string_lossy().into_owned();
    let images = [tree.join("vmlinuz"), root.join(format!("boot/vmlinuz-{release}"))];
    let image = images.iter().find(|image| image.is_file()).context("the packages hold no kernel")?;
    fs::copy(image, folder.join("vmlinuz"))?;

    // depmod wants a base folder in which /lib/modules/RELEASE is.
    let new = folder.join("lib/modules").join(&release);
    for part in MODULES {
        let from = tree.join("kernel").join(part);
        if from.is_dir() {
            let to = new.join("kernel").join(part);
            fs::create_dir_all(to.parent().context("a parent")?)?;
            fs::rename(&from, &to)?;
        }
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let _ = fs::copy(tree.join(list), new.join(list));
    }
    let packed = files(&new).into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "xz"));
    let packed: Vec<PathBuf> = packed.collect();
    if !packed.is_empty() {
        quiet(Command::new("xz").args(["-d", "-T2"]).args(&packed))?;
    }
    let depmod = run::which("depmod").context("depmod is missing (Debian: kmod)")?;
    quiet(Command::new(depmod).arg("-b").arg(folder).arg(&release))?;
    fs::remove_dir_all(&root)?;
    for done in ["apt", "sources.sources"] {
        let done = folder.join(done);
        let _ = if done.is_dir() { fs::remove_dir_all(done) } else { fs::remove_file(done) };
    }
    Ok(())
}

fn unpacked(line: Line, home: &Path) -> Result<Kernel> {
    let modules = only(&home.join("lib/modules"))?;
    let release = modules.file_name().context("a release")?.to_string_lossy().into_owned();
    let image = home.join("vmlinuz");
    ensure!(image.is_file() && modules.join("modules.dep").is_file(), "{} is not whole", home.display());
    Ok(Kernel { line, release, image, modules })
}

/// The one entry of a folder.
fn only(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let first = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    Ok(first.path())
}

/// All files below a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.is_symlink() { folders.push(path) } else { all.push(path) }
        }
    }
    all.sort();
    all
}

/// apt with folders and one source of its own.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Fetches the list of a suite, from the mirror that the machine itself uses.
    pub fn new(suite: &str, folder: &Path) -> Result<Self> {
        let this = Self { folder: folder.to_owned() };
        for part in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("apt/status"), "")?;
        let mut source = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", mirror()?);
        let keys = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
        if keys.exists() {
            source.push_str(&format!("Signed-By: {}\n", keys.display()));
        }
        fs::write(folder.join("sources.sources"), source)?;
        say(&format!("fetching the package list of {suite}"));
        quiet(this.command("apt-get").args(["-q", "update"]))?;
        Ok(this)
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut set = |key: &str, value: &str| {
            command.arg("-o").arg(format!("{key}={value}"));
        };
        let at = |part: &str| self.folder.join(part).display().to_string();
        set("Dir::Etc::SourceList", &at("sources.sources"));
        set("Dir::Etc::SourceParts", "/dev/null");
        set("Dir::State", &at("apt"));
        set("Dir::State::Lists", &at("apt/lists"));
        set("Dir::State::status", &at("apt/status"));
        set("Dir::Cache", &at("apt/cache"));
        set("Acquire::Languages", "none");
        set("APT::Architecture", "amd64");
        // The user _apt cannot write here, and what comes is checked against signatures anyway.
        set("APT::Sandbox::User", "root");
        command.current_dir(&self.folder);
        command
    }

    /// The packages of the newest kernel of a line; of the newest the suite has, said aloud, when it moved on.
    fn choose(&self, line: Line) -> Result<Vec<String>> {
        let names = quiet(self.command("apt-cache").arg("pkgnames").arg("linux-"))?;
        let names: Vec<&str> = names.lines().collect();
        let best = newest(&names, Some(line.version())).or_else(|| newest(&names, None));
        let Some(packages) = best else { bail!("{} has no kernel image for amd64", line.suite()) };
        if !packages[0].contains(&format!("-{line}.")) {
            say(&format!("{} has no {line} any more; its newest is taken", line.suite()));
        }
        Ok(packages)
    }

    pub fn download(&self, packages: &[String]) -> Result<()> {
        quiet(self.command("apt-get").args(["-q", "download"]).args(packages)).map(|_| ())
    }
}

/// Packages of the newest kernel among `names`, of a version if one is given. Kernels for clouds: they have all virtio, a
/// third of the size. Older suites have one package with everything, newer ones one of the kernel and one of modules.
fn newest(names: &[&str], version: Option<&str>) -> Option<Vec<String>> {
    let mut found: Vec<(Vec<u64>, Vec<String>)> = Vec::new();
    for name in names {
        let split = name.strip_prefix("linux-binary-").and_then(|rest| rest.strip_suffix("-cloud-amd64"));
        let whole = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-cloud-amd64-unsigned"));
        let Some(release) = split.or(whole) else { continue };
        if version.is_some_and(|version| !release.starts_with(&format!("{version}."))) {
            continue;
        }
        let numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        let modules = format!("linux-modules-{release}-cloud-amd64");
        match split {
            Some(_) if !names.contains(&modules.as_str()) => {}
            Some(_) => found.push((numbers, vec![(*name).to_owned(), modules])),
            None => found.push((numbers, vec![(*name).to_owned()])),
        }
    }
    found.into_iter().max().map(|(_, packages)| packages)
}

/// The mirror of Debian that the machine is set up with.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"]);
    let text = quiet(&mut command)?;
    let mut mirrors = text.lines().filter_map(|line| line.strip_suffix("|Debian|Debian"));
    mirrors.next().map(str::to_owned).context(
        "apt knows no mirror of Debian: a stock Debian kernel is downloaded from one (after a fresh start, `apt-get update` \
         first; on another system run this in a Debian container)",
    )
}

/// Runs a command and gives what it printed; its words are shown only when it fails.
pub fn quiet(command: &mut Command) -> Result<String> {
    let what = softdpu_testbed::process::describe(command);
    let what: String = what.chars().take(200).collect();
    let output = command.output().with_context(|| format!("start {what}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_of_a_line_is_taken_by_number() {
        let names = [
            "linux-image-6.12.94+deb13-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb13-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb13-amd64-unsigned",
            "linux-image-6.12.200+deb13-cloud-amd64-dbg",
            "linux-binary-7.2.9+deb14-cloud-amd64",
            "linux-binary-7.2.12+deb14-cloud-amd64",
            "linux-binary-7.3.1+deb14-cloud-amd64",
            "linux-modules-7.2.12+deb14-cloud-amd64",
            "linux-modules-7.2.9+deb14-cloud-amd64",
        ];
        assert_eq!(newest(&names, Some("6.12")).unwrap(), ["linux-image-6.12.107+deb13-cloud-amd64-unsigned"]);
        let split = ["linux-binary-7.2.12+deb14-cloud-amd64", "linux-modules-7.2.12+deb14-cloud-amd64"];
        assert_eq!(newest(&names, Some("7.2")).unwrap(), split);
        // The suite moved on, and that kernel's modules are not there yet.
        assert_eq!(newest(&names, None).unwrap(), split);
        assert_eq!(newest(&names, Some("7.1")), None);
    }

    #[test]
    fn lines_are_named_as_users_name_them() {
        for line in Line::ALL {
            assert_eq!(line.to_string().parse::<Line>().unwrap(), line);
        }
        assert!("6.13".parse::<Line>().unwrap_err().contains("6.12, 7.2"));
    }
}
