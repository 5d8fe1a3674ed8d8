//! Long work of the control side, away from the cores that workers are pinned to: what runs there is time that packets wait.

use super::runtime::allowed_cores;
use anyhow::{Context, Result, anyhow};
use std::io::Error;

/// Does something on a thread of its own, on the cores that are none of `workers`'. Where each has a worker: on whichever the
/// scheduler finds. Threads that `task` starts stay on these cores too.
///
/// # Errors
/// Its own, or that there is no thread for it.
pub fn aside<T: Send>(name: &str, workers: &[usize], task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let own: Vec<usize> = allowed_cores().into_iter().filter(|core| !workers.contains(core)).collect();
    on_thread(name, move || {
        if !own.is_empty() {
            stay_on(&own);
        }
        task()
    })
}

/// Does something on a thread of its own, behind whatever else wants its core: there may be a worker after all.
///
/// # Errors
/// As [`aside`].
pub fn behind<T: Send>(name: &str, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    /// Still a tenth of a busy core (sched(7)).
    const NICE: libc::c_int = 10;
    on_thread(name, move || {
        // SAFETY: a system call without pointers; 0 is this thread, which ends with its task.
        if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } < 0 {
            tracing::debug!("{name} runs at full priority: {}", Error::last_os_error());
        }
        task()
    })
}

fn on_thread<T: Send>(name: &str, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, task);
        let thread = thread.with_context(|| format!("no thread for {name}"))?;
        thread.join().map_err(|_| anyhow!("{name} failed: the log says where"))?
    })
}

fn stay_on(cores: &[usize]) {
    // SAFETY: an all-zero cpu_set_t is the empty set; the numbers come from such a set, so they are below its size; the set outlives
    // the call. 0 is this thread.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cores.iter().for_each(|core| libc::CPU_SET(*core, &mut set));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if done < 0 {
        tracing::debug!("a reload may come upon a worker's core: {}", Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn work_keeps_off_the_workers_cores_with_all_its_threads() {
        let all = allowed_cores();
        let seen = aside("test", &all[..1], || behind("inner", || Ok(allowed_cores()))).unwrap();
        match &all[1..] {
            [] => assert_eq!(seen, all, "there is no other"),
            others => assert_eq!(seen, others),
        }
        assert_eq!(aside("test", &all, || Ok(allowed_cores())).unwrap(), all, "each has a worker");
        assert_eq!(allowed_cores(), all, "who asked stays where it was");
    }

    #[test]
    fn errors_and_panics_come_back() {
        assert!(aside::<()>("test", &[], || Err(anyhow!("no"))).unwrap_err().to_string().contains("no"));
        assert!(behind::<()>("test", || panic!("on purpose")).unwrap_err().to_string().contains("test failed"));
    }
}
