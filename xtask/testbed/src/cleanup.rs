//! What must not stay behind: a list of the namespaces and folders of this process, emptied on Ctrl-C and SIGTERM, and
//! a sweep for those of runs that were killed outright.
//!
//! Names carry the process id of their maker (`softdpu-<tag>-<pid>-<n>`), so a sweep never touches a living run.

use std::{
    fs, io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicI32, AtomicU32, Ordering},
    },
};

/// First part of the name of every namespace and temporary folder made here.
pub const PREFIX: &str = "softdpu-";
/// Environment variable that ties processes of one run together; inherited by every child.
pub const RUN_VARIABLE: &str = "SOFTDPU_RUN";

#[derive(Default)]
struct Made {
    namespaces: Vec<String>,
    folders: Vec<PathBuf>,
}

static MADE: Mutex<Made> = Mutex::new(Made { namespaces: Vec::new(), folders: Vec::new() });
static NEXT: AtomicU32 = AtomicU32::new(0);
static WAKE: AtomicI32 = AtomicI32::new(-1);
static ONCE: Once = Once::new();

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name no other run and no other call has: `softdpu-<tag>-<pid>-<n>`. `tag` should say who asks; dashes in it
/// become dots, so that the process id can be found again.
pub fn unique(tag: &str) -> String {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{}-{n}", tag.replace('-', "."), std::process::id())
}

/// The process id in a name made by [`unique`] (with or without something appended), `None` for any other name.
pub fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').nth(1)?.parse().ok()
}

pub(crate) fn note_namespace(name: &str) {
    on_signals();
    made().namespaces.push(name.to_owned());
}

/// Kills what runs in the namespace and deletes it, with every link in it.
pub(crate) fn remove_namespace(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
            // A thread of our own may be inside (`NetNs::within`); it ends by itself.
            if pid != std::process::id() as i32 {
                // SAFETY: kill takes numbers only; the worst case is ESRCH.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
    // Output is thrown away: it may be gone already, which is what is wanted.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
    made().namespaces.retain(|other| other != name);
}

/// A temporary folder (mode 0700) that goes when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    keep: bool,
}

impl RunDir {
    /// Makes the folder under the system's temporary folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(tag: &str) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        on_signals();
        let path = std::env::temp_dir().join(unique(tag));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        made().folders.push(path.clone());
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves the folder where it is, for a person to look at.
    pub fn keep(&mut self) {
        self.keep = true;
        made().folders.retain(|other| *other != self.path);
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
            made().folders.retain(|other| *other != self.path);
        }
    }
}

/// Removes everything this process has made and not yet dropped.
pub fn remove_all() {
    let (namespaces, folders) = {
        let mut made = made();
        (std::mem::take(&mut made.namespaces), std::mem::take(&mut made.folders))
    };
    for name in namespaces {
        remove_namespace(&name);
    }
    for path in folders {
        let _ = fs::remove_dir_all(path);
    }
}

extern "C" fn wake(signal: libc::c_int) {
    let byte = [signal as u8];
    // SAFETY: write is async-signal-safe; the pipe lives as long as the process.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

/// From here on SIGINT, SIGTERM and SIGHUP remove everything first and then end the process with 128 + signal. Called by
/// whatever makes something; calling it again does nothing.
pub fn on_signals() {
    ONCE.call_once(|| {
        let mut ends: [RawFd; 2] = [-1, -1];
        // SAFETY: `ends` has room for the two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return;
        }
        WAKE.store(ends[1], Ordering::Relaxed);
        let reader = ends[0];
        let started = std::thread::Builder::new().name("cleanup".into()).spawn(move || {
            let mut byte = [0u8];
            // SAFETY: the buffer holds one byte; the descriptor is never closed.
            while unsafe { libc::read(reader, byte.as_mut_ptr().cast(), 1) } != 1 {}
            remove_all();
            std::process::exit(128 + i32::from(byte[0]));
        });
        if started.is_ok() {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                // SAFETY: `wake` only calls write. The handler address is what sighandler_t holds.
                unsafe { libc::signal(signal, wake as *const () as libc::sighandler_t) };
            }
        }
    });
}

/// Removes namespaces and folders of runs whose process no longer lives. Returns their names.
pub fn sweep() -> Vec<String> {
    let dead = |name: &str| maker(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    let mut gone = Vec::new();
    for name in namespaces().into_iter().filter(|name| dead(name)) {
        remove_namespace(&name);
        gone.push(name);
    }
    for name in list(&std::env::temp_dir()).into_iter().filter(|name| dead(name)) {
        let _ = fs::remove_dir_all(std::env::temp_dir().join(&name));
        gone.push(name);
    }
    gone
}

/// Names of all named namespaces of the machine.
pub fn namespaces() -> Vec<String> {
    list(Path::new("/run/netns"))
}

fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_carry_their_maker_and_never_repeat() {
        let (a, b) = (unique("e2e-ping"), unique("e2e-ping"));
        assert_ne!(a, b);
        assert_eq!(maker(&a), Some(std::process::id()));
        assert_eq!(maker(&format!("{b}-client")), Some(std::process::id()));
        assert_eq!(maker("softdpu-x"), None);
        assert_eq!(maker("other-1-2"), None);
    }

    #[test]
    fn a_folder_goes_with_its_guard_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = RunDir::new("unit").unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn the_sweep_spares_the_living() {
        let folder = RunDir::new("unit").unwrap();
        // Process ids stop at 2^22, so this one never lived.
        let orphan = std::env::temp_dir().join(format!("{PREFIX}unit-{}-{}", 1u32 << 30, std::process::id()));
        fs::create_dir(&orphan).unwrap();
        sweep();
        assert!(folder.path().exists());
        assert!(!orphan.exists());
    }
}
