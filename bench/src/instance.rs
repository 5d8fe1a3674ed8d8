//! What an instance takes besides CPU time: memory, and how often it wakes up.

use std::fs;

/// Memory of a process that is really there (RSS, with what its ports share with the kernel), MiB.
pub fn rss_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(field(&status, "VmRSS:")? as f64 / 1024.0)
}

/// How often its threads went to sleep so far, and so were woken.
pub fn wake_ups(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of =
        |path: std::path::PathBuf| field(&fs::read_to_string(path.join("status")).ok()?, "voluntary_ctxt_switches:");
    Some(tasks.flatten().filter_map(|task| of(task.path())).sum())
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_process_has_memory_and_wakes_up() {
        let pid = std::process::id();
        assert!(rss_mib(pid).unwrap() > 1.0);
        let before = wake_ups(pid).unwrap();
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(wake_ups(pid).unwrap() >= before + 5);
        assert_eq!((rss_mib(u32::MAX), wake_ups(u32::MAX)), (None, None));
        assert_eq!(
            field("nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t9\n", "voluntary_ctxt_switches:"),
            Some(9)
        );
    }
}
