//! The initramfs: softdpu, the tests, the programs they use with every library those name, modules, and `init.sh`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use super::{binaries, binaries::Job, cpio, folder, kernel, kernel::Kernel};
use crate::run;

/// Programs that tests call by name. Busybox has the rest.
const PROGRAMS: [&str; 17] = [
    "ip", "bridge", "tc", "ss", "ethtool", "ping", "iperf3", "tcpdump", "nft", "wg", "bpftool", "swanctl", "openssl",
    "kmod", "busybox", "unshare", "mount",
];
/// Folders that go along as they are, where they exist: strongSwan loads plugins by path and reads a snippet for each.
const FOLDERS: [&str; 4] = ["/usr/lib/ipsec", "/etc/strongswan.d", "/etc/swanctl", "/usr/share/strongswan"];
/// Files that go along, where they exist. glibc loads the first when a thread is cancelled, naming it nowhere.
const FILES: [&str; 3] = ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/etc/strongswan.conf", "/etc/ssl/openssl.cnf"];

const INIT: &str = include_str!("init.sh");

/// One thing in the image, at a path below `/usr` where the host has a link for it.
#[derive(Debug)]
enum Entry {
    Folder,
    Copy(PathBuf),
    Text { mode: u32, text: String },
    Link(String),
}

/// Makes the image for a kernel; where it is.
///
/// # Errors
/// When a file cannot be read, or the image not be written.
pub fn make(kernel: &Kernel, softdpu: &Path, jobs: &[Job], limit: Duration) -> Result<PathBuf> {
    let mut tree = Tree::default();
    for program in PROGRAMS {
        if let Some(path) = run::which(program) {
            tree.program(&path, &format!("/usr/bin/{program}"))?;
        }
    }
    for from in FOLDERS.iter().flat_map(|folder| kernel::files(Path::new(folder))) {
        tree.program(&from, &from.to_string_lossy())?;
    }
    for from in FILES.map(Path::new).into_iter().filter(|path| path.exists()) {
        tree.program(from, &from.to_string_lossy())?;
    }
    // The tests know softdpu by the path that cargo gave it.
    let own: BTreeSet<&Path> = jobs.iter().map(|job| job.binary.as_path()).chain([softdpu]).collect();
    for binary in own {
        let slim = binaries::stripped(binary, &folder().join("stripped"))?;
        tree.program(&slim, &binary.to_string_lossy())?;
    }
    let modules = format!("/usr/lib/modules/{}", kernel.release);
    for file in kernel::files(&kernel.modules) {
        let inside = file.strip_prefix(&kernel.modules)?.to_string_lossy().into_owned();
        tree.add(&format!("{modules}/{inside}"), Entry::Copy(file));
    }
    tree.system(jobs, limit);
    let image = folder().join(format!("initramfs-{}.cpio", kernel.line));
    tree.write(&image).with_context(|| image.display().to_string())?;
    Ok(image)
}

#[derive(Debug, Default)]
struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// What every system has.
    fn system(&mut self, jobs: &[Job], limit: Duration) {
        for name in ["bin", "sbin", "lib", "lib64"] {
            self.add(&format!("/{name}"), Entry::Link(format!("usr/{name}")));
        }
        for name in ["dev", "proc", "sys", "run", "tmp", "root", "var/log", "usr/sbin", "usr/lib64", "etc/ipsec.d"] {
            self.add(&format!("/{name}"), Entry::Folder);
        }
        self.add("/var/run", Entry::Link("/run".into()));
        self.add("/usr/bin/sh", Entry::Link("busybox".into()));
        // The kernel calls it by this name when it wants a module.
        self.add("/usr/sbin/modprobe", Entry::Link("/usr/bin/kmod".into()));
        let mut text = |path: &str, mode: u32, text: String| self.add(path, Entry::Text { mode, text });
        text("/init", 0o755, INIT.to_owned());
        text("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n".into());
        text("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n".into());
        text("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n".into());
        let list = jobs.iter().map(|job| format!("{} {} {}\n", job.file, job.test, job.binary.display()));
        text("/etc/vm/jobs", 0o644, list.collect());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        text("/etc/vm/now", 0o644, format!("{now}\n"));
        text("/etc/vm/limit", 0o644, format!("{}\n", limit.as_secs()));
    }

    /// Adds something at a path; what is there already stays.
    fn add(&mut self, path: &str, entry: Entry) {
        let mut path = path.to_owned();
        for short in ["/lib/", "/lib64/", "/bin/", "/sbin/"] {
            if path.starts_with(short) {
                path.insert_str(0, "/usr");
            }
        }
        self.entries.entry(path).or_insert(entry);
    }

    /// A file with the libraries it names, if it is such a file.
    fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.add(to, Entry::Copy(from.to_owned()));
        let is_elf = || -> std::io::Result<bool> {
            use std::io::Read;
            let mut magic = [0; 4];
            File::open(from)?.read_exact(&mut magic)?;
            Ok(&magic == b"\x7fELF")
        };
        if !is_elf().unwrap_or(false) {
            return Ok(());
        }
        let said = Command::new("ldd").arg(from).output().context("start ldd")?;
        for library in libraries(&String::from_utf8_lossy(&said.stdout)) {
            self.add(&library, Entry::Copy(library.clone().into()));
        }
        Ok(())
    }

    fn write(&self, to: &Path) -> Result<()> {
        let mut writer = cpio::Writer::new(BufWriter::with_capacity(1 << 20, File::create(to)?));
        let mut folders = BTreeSet::new();
        for (path, entry) in &self.entries {
            let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for parent in parents.into_iter().rev().filter(|parent| parent.parent().is_some()) {
                if folders.insert(parent.to_owned()) {
                    writer.folder(&parent.to_string_lossy())?;
                }
            }
            match entry {
                Entry::Folder => {
                    if folders.insert(PathBuf::from(path)) {
                        writer.folder(path)?;
                    }
                }
                Entry::Copy(from) => {
                    let bytes = fs::read(from).with_context(|| from.display().to_string())?;
                    writer.file(path, fs::metadata(from)?.permissions().mode() & 0o777, &bytes)?;
                }
                Entry::Text { mode, text } => writer.file(path, *mode, text.as_bytes())?,
                Entry::Link(target) => writer.link(path, target)?,
            }
        }
        Ok(writer.finish()?)
    }
}

/// Paths in what `ldd` printed: `name => /path (0x…)`, or the loader by its path alone.
fn libraries(text: &str) -> Vec<String> {
    let path = |line: &str| {
        let right = line.split_once("=>").map_or(line, |(_, right)| right).trim();
        let path = right.split_whitespace().next()?;
        path.starts_with('/').then(|| path.to_owned())
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007fa9)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fa9)\n\tlibgone.so => not found\n";
        assert_eq!(libraries(text), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn what_is_below_a_link_goes_where_the_link_leads() {
        let mut tree = Tree::default();
        tree.add("/lib64/ld.so", Entry::Folder);
        tree.add("/usr/lib64/ld.so", Entry::Link("second".into()));
        tree.add("/library", Entry::Folder);
        assert!(matches!(tree.entries["/usr/lib64/ld.so"], Entry::Folder));
        assert!(tree.entries.contains_key("/library"));
    }
}
