//! The policies that were in force, so that an operator can see what changed when, and go back.

use crate::control::types::{PlanEntry, PlanOutcome};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Policies kept; the oldest go first.
const KEPT: usize = 64;

/// All that is remembered of one.
#[derive(Clone, Debug)]
struct Kept {
    entry: PlanEntry,
    text: String,
}

/// Newest last.
#[derive(Debug)]
pub struct History {
    kept: VecDeque<Kept>,
    /// Where they are kept beyond the instance's end.
    folder: Option<PathBuf>,
    next: u64,
}

impl History {
    /// With what an earlier instance left in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// The folder cannot be made or read. What is in a file that is none of ours is left alone.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let mut kept = Vec::new();
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).with_context(|| format!("the history folder {}", folder.display()))?;
            let files =
                std::fs::read_dir(folder).with_context(|| format!("the history folder {}", folder.display()))?;
            for path in files.flatten().map(|file| file.path()) {
                kept.extend(read(&path));
            }
        }
        kept.sort_by_key(|kept: &Kept| kept.entry.plan);
        let next = kept.last().map_or(1, |last| last.entry.plan + 1);
        let mut history = Self { kept: kept.into(), folder: folder.map(Path::to_owned), next };
        for kept in &mut history.kept {
            // Its instance has ended, however that was.
            if kept.entry.outcome == PlanOutcome::Running {
                kept.entry.outcome = PlanOutcome::Replaced;
            }
        }
        Ok(history)
    }

    /// A policy comes into force. Answers its number.
    pub fn begin(&mut self, by: &str, changes: usize, text: &str) -> u64 {
        self.end_running(PlanOutcome::Replaced);
        let plan = self.next;
        self.next += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let outcome = PlanOutcome::Running;
        let entry = PlanEntry { plan, since, by: by.to_owned(), changes, outcome, why: None };
        self.kept.push_back(Kept { entry, text: text.to_owned() });
        self.keep(plan);
        while self.kept.len() > KEPT {
            if let (Some(oldest), Some(folder)) = (self.kept.pop_front(), &self.folder) {
                // What cannot be removed is read again next time, and goes then.
                let _ = std::fs::remove_file(file(folder, oldest.entry.plan));
            }
        }
        plan
    }

    /// The newest did not hold: the one before is in force again, as a plan of its own that [`Self::begin`] enters next.
    pub fn rolled_back(&mut self, why: &str) {
        if let Some(running) = self.kept.back_mut() {
            running.entry.why = Some(why.to_owned());
        }
        self.end_running(PlanOutcome::RolledBack);
    }

    fn end_running(&mut self, outcome: PlanOutcome) {
        let Some(last) = self.kept.back_mut().filter(|last| last.entry.outcome == PlanOutcome::Running) else { return };
        last.entry.outcome = outcome;
        let plan = last.entry.plan;
        self.keep(plan);
    }

    /// Newest first.
    pub fn entries(&self) -> Vec<PlanEntry> {
        self.kept.iter().rev().map(|kept| kept.entry.clone()).collect()
    }

    /// The text of a policy.
    pub fn text(&self, plan: u64) -> Option<&str> {
        self.kept.iter().find(|kept| kept.entry.plan == plan).map(|kept| kept.text.as_str())
    }

    /// The number of the policy in force.
    pub fn current(&self) -> u64 {
        self.kept.back().map_or(0, |kept| kept.entry.plan)
    }

    /// A full disk does not keep a policy from coming into force.
    fn keep(&self, plan: u64) {
        let Some(folder) = &self.folder else { return };
        let Some(kept) = self.kept.iter().find(|kept| kept.entry.plan == plan) else { return };
        let write = || -> Result<()> {
            let head = serde_json::to_string(&kept.entry)?;
            let (path, fresh) = (file(folder, plan), folder.join(format!(".{plan}.new")));
            std::fs::write(&fresh, format!("# {head}\n{}", kept.text))?;
            Ok(std::fs::rename(&fresh, &path)?)
        };
        if let Err(error) = write() {
            tracing::warn!("plan {plan} is not kept in {}: {error:#}", folder.display());
        }
    }
}

fn file(folder: &Path, plan: u64) -> PathBuf {
    folder.join(format!("plan-{plan}.toml"))
}

/// The entry is a comment in the first line, so that the file is a policy too.
fn read(path: &Path) -> Option<Kept> {
    let number: u64 = path.file_name()?.to_str()?.strip_prefix("plan-")?.strip_suffix(".toml")?.parse().ok()?;
    let text = std::fs::read_to_string(path).ok()?;
    let (head, text) = text.split_once('\n')?;
    let entry: PlanEntry = serde_json::from_str(head.strip_prefix("# ")?).ok()?;
    (entry.plan == number).then(|| Kept { entry, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_in_force_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        assert_eq!(history.begin("start", 0, "name = \"a\"\n"), 1);
        assert_eq!(history.begin("reload", 2, "name = \"b\"\n"), 2);
        history.rolled_back("the health check failed");
        assert_eq!(history.begin("rollback", 2, "name = \"a\"\n"), 3);
        drop(history);
        std::fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        let outcomes: Vec<_> = history.entries().into_iter().map(|entry| (entry.plan, entry.outcome)).collect();
        let (replaced, back) = (PlanOutcome::Replaced, PlanOutcome::RolledBack);
        assert_eq!(outcomes, [(3, replaced), (2, back), (1, replaced)]);
        assert_eq!(history.entries()[1].why.as_deref(), Some("the health check failed"));
        assert_eq!(history.text(2), Some("name = \"b\"\n"));
        assert_eq!((history.begin("start", 0, ""), history.current()), (4, 4));
        assert_eq!(std::fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "not ours");
    }

    #[test]
    fn only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        for _ in 0..KEPT + 3 {
            history.begin("reload", 1, "");
        }
        assert_eq!((history.entries().len(), history.text(3)), (KEPT, None));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), KEPT);
    }
}
