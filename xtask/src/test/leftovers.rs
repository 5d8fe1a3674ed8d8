//! What a test run may have left behind: namespaces, folders, links, XDP programs, processes. Runs of others on the same
//! machine are left out.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use softdpu_testbed::{
    bpf,
    cleanup::{self, RUN_VARIABLE},
    process,
};

/// What was there before.
#[derive(Debug, Default)]
pub struct Machine {
    links: BTreeSet<String>,
    programs: BTreeSet<u64>,
}

impl Machine {
    /// Looks at the machine now.
    pub fn look() -> Self {
        Self { links: links(), programs: programs().into_iter().map(|program| program.id).collect() }
    }
}

/// What is left behind by `run` since `before`. Namespaces and programs die a little after their last user, so it looks
/// again until nothing is left or `patience` is over.
pub fn find(before: &Machine, run: &str, patience: Duration) -> Vec<String> {
    let mut left = Vec::new();
    process::eventually(patience, || {
        left = look(before, run);
        left.is_empty().then_some(())
    });
    left
}

fn look(before: &Machine, run: &str) -> Vec<String> {
    let folders = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let folders = folders.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| orphaned(name));
    let mut left: Vec<String> = folders.map(|name| format!("folder {name}")).collect();
    left.extend(
        cleanup::namespaces().into_iter().filter(|name| orphaned(name)).map(|name| format!("namespace {name}")),
    );
    left.extend(links().difference(&before.links).map(|name| format!("link {name}")));
    let new = programs().into_iter().filter(|program| !before.programs.contains(&program.id));
    let ours = new.filter(|program| program.name.starts_with("softdpu") && !others(&bpf::holders(program.id), run));
    left.extend(ours.map(|program| format!("XDP program {} ({})", program.name, program.id)));
    left.extend(processes(run));
    left
}

/// Whether a name is one of ours and its maker is dead.
fn orphaned(name: &str) -> bool {
    cleanup::maker(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Whether a process of another run holds it.
fn others(holders: &[u32], run: &str) -> bool {
    holders.iter().any(|pid| run_of(&pid.to_string()).is_none_or(|other| other != run))
}

fn run_of(pid: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(format!("{RUN_VARIABLE}=").as_bytes()))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn processes(run: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    ids.filter(|pid| run_of(pid).is_some_and(|of| of == run))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {} ({pid})", name.trim())
        })
        .collect()
}

fn links() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Without bpftool there is nothing to compare; setup has it.
fn programs() -> Vec<bpf::Program> {
    bpf::programs().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_of_the_run_is_found_and_others_are_not() {
        let run = format!("unit-{}", std::process::id());
        let mut child = Command::new("sleep").arg("60").env(RUN_VARIABLE, &run).spawn().unwrap();
        // The environment is the parent's until exec.
        let found = process::eventually(Duration::from_secs(5), || processes(&run).into_iter().next());
        assert_eq!(found, Some(format!("process sleep ({})", child.id())));
        assert!(processes("unit-none").is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(find(&Machine::look(), &run, Duration::from_secs(5)).iter().all(|thing| !thing.contains("sleep")));
    }

    #[test]
    fn what_a_dead_process_made_is_orphaned() {
        assert!(!orphaned(&cleanup::unique("unit")));
        // Process ids stop at 2^22.
        assert!(orphaned(&format!("{}unit-{}-0-client", cleanup::PREFIX, 1u32 << 30)));
        assert!(!orphaned("somebody-elses"));
    }
}
