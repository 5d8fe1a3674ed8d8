//! Network namespaces: entering one, and a view of /sys that belongs to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use anyhow::{Context, Result};

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Enters the namespace behind `net`. For a thread or child that will not come back.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn enter(net: RawFd) -> io::Result<()> {
    // SAFETY: numbers only; the kernel checks the descriptor.
    check(unsafe { libc::setns(net, libc::CLONE_NEWNET) })
}

/// Gives the calling thread a /sys that belongs to its network namespace, and to this thread alone. For a thread or child that
/// will not come back. Makes system calls only, so it may run between fork and exec.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn own_sys() -> io::Result<()> {
    // SAFETY: plain system calls on constant strings. `unshare` of the file system view makes the mounts below this thread's
    // own business.
    unsafe {
        check(libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS))?;
        let root = c"/".as_ptr();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(c"none".as_ptr(), root, std::ptr::null(), private, std::ptr::null()))?;
        let sysfs = c"sysfs".as_ptr();
        match check(libc::mount(sysfs, c"/sys".as_ptr(), sysfs, 0, std::ptr::null())) {
            // The one that is there is of this namespace already.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            other => other?,
        }
        // Best effort: the bpffs that the fresh /sys hides.
        let bpf = c"bpf".as_ptr();
        libc::mount(bpf, c"/sys/fs/bpf".as_ptr(), bpf, 0, std::ptr::null());
    }
    Ok(())
}

/// What tells the calling thread's network namespace from others, while it lives: device and inode of its file.
///
/// # Errors
/// Where /proc is not there.
pub fn identity() -> io::Result<(u64, u64)> {
    let file = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok((file.dev(), file.ino()))
}

/// Runs `work` in a thread of its own in the namespace at `path` (`None`: the caller's), where /sys is the namespace's.
///
/// # Errors
/// The namespace cannot be entered; what `work` says.
pub fn within<T: Send>(path: Option<&str>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = path.map(|p| File::open(p).with_context(|| format!("namespace {p}"))).transpose()?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            if let Some(file) = file {
                enter(file.as_raw_fd()).context("entering the namespace (needs CAP_SYS_ADMIN)")?;
                own_sys().context("giving the thread a /sys of its own")?;
            } else if !sys_is_ours() {
                // Best effort: without it what /sys alone tells is missing.
                own_sys().ok();
            }
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread in another namespace panicked"))?
    })
}

/// Whether /sys shows the calling thread's network namespace: every interface is there with its index.
pub fn sys_is_ours() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/thread-self/net/dev") else { return false };
    let names: Vec<&str> = text.lines().skip(2).filter_map(|l| Some(l.split_once(':')?.0.trim())).collect();
    let shown = std::fs::read_dir("/sys/class/net").map_or(0, |all| {
        // Not links to devices: the masters file of bonding.
        all.flatten().filter(|e| e.path().join("ifindex").exists()).count()
    });
    shown == names.len()
        && names.iter().all(|name| {
            let index = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
            index.ok().and_then(|i| i.trim().parse::<u32>().ok()) == Some(index_of(name)).filter(|i| *i != 0)
        })
}

/// Index of an interface in the calling thread's namespace, 0 if there is none.
pub fn index_of(interface: &str) -> u32 {
    let Ok(name) = std::ffi::CString::new(interface) else { return 0 };
    // SAFETY: a terminated string that outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}
