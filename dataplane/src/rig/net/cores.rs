//! Which core does what. A figure per core means something only where the work of the thing under test cannot leak onto
//! the generator's core.

use std::fs;
use std::io;

/// Pins the calling thread (`tid` 0) or another one to `core`.
///
/// # Errors
/// The kernel's refusal.
pub fn pin(tid: i32, core: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE on any machine with fewer than 1024 cores; the macro checks the bound.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set outlives the call and its size is given.
    let done = unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &set) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a thread (or with its process id a process' first thread) in front of whatever else wants its core, as far as fair
/// scheduling goes. All that is compared gets the same. Best effort: on a quiet machine it changes nothing.
pub fn prefer(tid: i32) {
    // SAFETY: no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as libc::id_t, -20) };
}

/// Cores this process may run on, in order.
///
/// # Errors
/// The kernel's refusal.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the index stays below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&c| unsafe { libc::CPU_ISSET(c, &set) }).collect())
}

/// The kernel threads that poll `interface` in threaded NAPI mode.
pub fn napi_threads(interface: &str) -> Vec<i32> {
    let prefix = format!("napi/{interface}-");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.starts_with(&prefix)))
        .collect()
}

/// CPU time of all cores so far, in ticks of 10 ms: (busy, idle, stolen by the hypervisor).
///
/// # Errors
/// Where /proc is not there.
pub fn cpu_ticks() -> io::Result<(u64, u64, u64)> {
    line_ticks("cpu ")
}

/// CPU time of one core so far, in ticks of 10 ms: (busy, all).
///
/// # Errors
/// Where /proc is not there.
pub fn core_ticks(core: usize) -> io::Result<(u64, u64)> {
    line_ticks(&format!("cpu{core} ")).map(|(busy, idle, stolen)| (busy, busy + idle + stolen))
}

fn line_ticks(prefix: &str) -> io::Result<(u64, u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|l| l.strip_prefix(prefix)).unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let at = |i: usize| fields.get(i).copied().unwrap_or(0);
    Ok((at(0) + at(1) + at(2) + at(5) + at(6), at(3) + at(4), at(7)))
}

/// CPU time (user and system) of a process with all its threads, in seconds.
///
/// # Errors
/// Where the process is gone.
pub fn process_cpu(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces; what follows it does not.
    let rest = stat.rsplit_once(')').map_or("", |(_, r)| r);
    let fields: Vec<u64> = rest.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0)).collect();
    // utime and stime are fields 14 and 15 of the file; the name was 2, the state 3.
    let ticks = fields.get(10).copied().unwrap_or(0) + fields.get(11).copied().unwrap_or(0);
    // SAFETY: no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    Ok(ticks as f64 / per_second as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn own_cpu_time_grows_with_work() {
        let pid = std::process::id();
        let before = process_cpu(pid).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 60 {
            std::hint::black_box(0u64);
        }
        assert!(process_cpu(pid).unwrap() > before);
    }

    #[test]
    fn a_pinned_thread_is_allowed_one_core() {
        std::thread::spawn(|| {
            let core = allowed().unwrap()[0];
            pin(0, core).unwrap();
            assert_eq!(allowed().unwrap(), [core]);
        })
        .join()
        .unwrap();
    }
}
