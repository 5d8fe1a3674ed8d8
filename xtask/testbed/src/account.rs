//! Processor time: of the machine and of one process.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Processor time of the whole machine that was not idle since boot, in the kernel's ticks.
///
/// # Errors
/// When /proc/stat is not as documented in proc(5).
pub fn machine_busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    busy_of(line).context("/proc/stat: no cpu line")
}

/// user + nice + system + irq + softirq: all but idle, iowait, steal and the guest times that user already has.
fn busy_of(line: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        line.strip_prefix("cpu ")?.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let ticks: u64 = [0, 1, 2, 5, 6].iter().map(|at| fields.get(*at).copied()).sum::<Option<u64>>()?;
    // SAFETY: sysconf takes a number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Processor time of all threads of a process since each began, in nanoseconds' precision.
///
/// # Errors
/// When the process is gone.
pub fn process_busy(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0u64;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look: what it used is lost, which errs by less than a tick.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn idle_and_guest_times_are_not_busy() {
        // SAFETY: sysconf takes a number.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let busy = busy_of("cpu  100 20 30 5000 600 7 8 900 1000 1100").unwrap();
        assert!((busy.as_secs_f64() * per_second - 165.0).abs() < 1e-6);
        assert!(busy_of("cpu0 1 2 3").is_none());
    }

    #[test]
    fn work_shows_up() {
        let (mine, machine) = (process_busy(std::process::id()).unwrap(), machine_busy().unwrap());
        let start = std::time::Instant::now();
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(150) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_busy(std::process::id()).unwrap() > mine);
        assert!(machine_busy().unwrap() > machine);
    }
}
