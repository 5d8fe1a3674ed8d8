//! The control socket in the file system: one instance per path, no trace of dead ones, never open wider than asked.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A path with `suffix` behind it.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The path of the lock that belongs to a socket.
pub fn lock_path(socket: &Path) -> PathBuf {
    with_suffix(socket, ".lock")
}

/// The right to a socket path. The kernel gives it back when the process dies, however it dies.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// # Errors
    /// "already running as pid N" when another process has it, or what the file system says.
    pub fn take(socket: &Path) -> Result<Self> {
        let path = lock_path(socket);
        // A dying owner removes the file: whoever locked the removed one begins again.
        for _ in 0..100 {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    // Just the number: the file may be anybody's.
                    let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
                    let who = match pid.trim().parse::<u32>() {
                        Ok(pid) => format!("as pid {pid}"),
                        Err(_) => "(its pid is not known yet)".to_owned(),
                    };
                    bail!("an instance on {} is already running {who}", socket.display());
                }
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            let same = fs::metadata(&path).is_ok_and(|on_disk| {
                file.metadata().is_ok_and(|mine| (mine.dev(), mine.ino()) == (on_disk.dev(), on_disk.ino()))
            });
            if same {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Self { path, file });
            }
        }
        bail!("{} keeps changing", path.display())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked, so that nobody can have locked it in between.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// A bound control socket. Dropping it removes it and its lock.
#[derive(Debug)]
pub struct Bound {
    // Before the lock, so that the next owner never meets our socket being removed.
    socket: RemoveOnDrop,
    _lock: Lock,
}

#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Bound {
    pub fn path(&self) -> &Path {
        &self.socket.0
    }
}

/// The number of a group of this host.
///
/// # Errors
/// There is none of that name.
fn group_id(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let c_name = CString::new(name).context("a group's name has no zero byte")?;
    // Large groups have long entries: all their members are in it.
    let mut buffer = vec![0 as libc::c_char; 64 << 10];
    // SAFETY: an all-zero `group` is valid: null pointers and a number.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live memory, the length is the buffer's; the entry's pointers are not used.
    let error =
        unsafe { libc::getgrnam_r(c_name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if found.is_null() {
        let why = if error == 0 { String::new() } else { format!(" ({})", std::io::Error::from_raw_os_error(error)) };
        bail!("control.socket_group: this host has no group `{name}`{why}; make it with `groupadd --system {name}`");
    }
    Ok(entry.gr_gid)
}

/// Binds `path` with permission bits `mode` and, where it is named, for `group`. The folder is made (0755) where it is missing; what a dead instance left is
/// removed.
///
/// # Errors
/// Another instance has it, something that is not a socket is in the way, or what the file system says.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<(UnixListener, Bound)> {
    let group = group.map(group_id).transpose()?;
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .with_context(|| format!("cannot make {} for the control socket", folder.display()))?;
    }
    let lock = Lock::take(path)?;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {}", path.display()))?;
        }
        Ok(_) => {
            bail!("{} is in the way: it is not a socket. Remove it, or choose another control.socket", path.display())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot look at {}", path.display())),
    }
    // Permissions first, name afterwards: at no time is the socket open to more than asked.
    let fresh = with_suffix(path, ".new");
    let _ = fs::remove_file(&fresh);
    let listener =
        UnixListener::bind(&fresh).with_context(|| format!("cannot bind the control socket {}", path.display()))?;
    let guard = RemoveOnDrop(fresh.clone());
    if let Some(group) = group {
        chown(&fresh, None, Some(group)).with_context(|| {
            format!("cannot give the control socket to group {group}: that takes CAP_CHOWN, or being in the group")
        })?;
    }
    fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
    fs::rename(&fresh, path)?;
    drop(guard);
    Ok((listener, Bound { socket: RemoveOnDrop(path.to_owned()), _lock: lock }))
}
