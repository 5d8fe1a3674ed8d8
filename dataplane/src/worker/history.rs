//! The policies that were in force, with their intents, so that an operator can see what changed when, and go back.

use crate::config::Source;
use crate::control::types::{PlanEntry, PlanOutcome};
use anyhow::{Context, Result};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Policies kept; the oldest go first.
const KEPT: usize = 64;

/// All that is remembered of one.
#[derive(Clone, Debug)]
struct Kept {
    entry: PlanEntry,
    texts: Texts,
}

/// What a plan was made from. What did not change from one plan to the next is in memory once.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    pub policy: Arc<str>,
    /// In the order of their files.
    pub intents: Vec<Arc<Source>>,
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
    pub fn begin(&mut self, by: &str, changes: usize, mut texts: Texts) -> u64 {
        if let Some(last) = self.kept.back() {
            texts.share(&last.texts);
        }
        self.end_running(PlanOutcome::Replaced);
        let plan = self.next;
        self.next += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let outcome = PlanOutcome::Running;
        let entry = PlanEntry { plan, since, by: by.to_owned(), changes, outcome, why: None };
        self.kept.push_back(Kept { entry, texts });
        self.keep(plan);
        while self.kept.len() > KEPT {
            if let (Some(oldest), Some(folder)) = (self.kept.pop_front(), &self.folder) {
                // What cannot be removed is read again next time, and goes then.
                let _ = std::fs::remove_file(file(folder, oldest.entry.plan));
                let _ = std::fs::remove_file(intents_file(folder, oldest.entry.plan));
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

    /// What a plan was made from.
    pub fn texts(&self, plan: u64) -> Option<&Texts> {
        self.kept.iter().find(|kept| kept.entry.plan == plan).map(|kept| &kept.texts)
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
            let (path, intents) = (file(folder, plan), intents_file(folder, plan));
            let put = |path: &Path, text: String| {
                let fresh = folder.join(format!(".{plan}.new"));
                std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, path))
            };
            // Once: when a plan ends only its entry changes.
            if !kept.texts.intents.is_empty() && !intents.exists() {
                let list: Vec<(&str, &str)> =
                    kept.texts.intents.iter().map(|intent| (intent.name.as_str(), intent.text.as_str())).collect();
                put(&intents, serde_json::to_string(&list)?)?;
            }
            Ok(put(&path, format!("# {head}\n{}", kept.texts.policy))?)
        };
        if let Err(error) = write() {
            tracing::warn!("plan {plan} is not kept in {}: {error:#}", folder.display());
        }
    }
}

fn file(folder: &Path, plan: u64) -> PathBuf {
    folder.join(format!("plan-{plan}.toml"))
}

/// Names and texts, where the policy has intents.
fn intents_file(folder: &Path, plan: u64) -> PathBuf {
    folder.join(format!("plan-{plan}.intents.json"))
}

impl Texts {
    pub fn new(policy: &crate::config::Policy) -> Self {
        Self {
            policy: policy.source.text.as_str().into(),
            intents: policy.intents.iter().map(|intent| intent.source.clone()).collect(),
        }
    }

    /// Takes from `before` what is the same.
    fn share(&mut self, before: &Self) {
        if self.policy == before.policy {
            self.policy = before.policy.clone();
        }
        let known: HashMap<&str, &Arc<Source>> = before.intents.iter().map(|old| (old.name.as_str(), old)).collect();
        for intent in &mut self.intents {
            if let Some(old) = known.get(intent.name.as_str()).filter(|old| old.text == intent.text) {
                *intent = Arc::clone(old);
            }
        }
    }
}

/// The entry is a comment in the first line, so that the file is a policy too.
fn read(path: &Path) -> Option<Kept> {
    let number: u64 = path.file_name()?.to_str()?.strip_prefix("plan-")?.strip_suffix(".toml")?.parse().ok()?;
    let text = std::fs::read_to_string(path).ok()?;
    let (head, text) = text.split_once('\n')?;
    let entry: PlanEntry = serde_json::from_str(head.strip_prefix("# ")?).ok()?;
    if entry.plan != number {
        return None;
    }
    // Without it, it is a plan without intents.
    let list = std::fs::read_to_string(intents_file(path.parent()?, number)).ok();
    let list: Vec<(String, String)> = list.and_then(|list| serde_json::from_str(&list).ok()).unwrap_or_default();
    let intents = list.into_iter().map(|(name, text)| Arc::new(Source { name, text })).collect();
    Some(Kept { entry, texts: Texts { policy: text.into(), intents } })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(policy: &str, intents: &[(&str, &str)]) -> Texts {
        let source = |(name, text): &(&str, &str)| Arc::new(Source { name: (*name).into(), text: (*text).into() });
        Texts { policy: policy.into(), intents: intents.iter().map(source).collect() }
    }

    #[test]
    fn intents_are_kept_with_their_plan() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        let (pay, web) = (("pay.intent.toml", "a"), ("web.intent.toml", "b"));
        history.begin("start", 0, texts("p", &[pay, web]));
        history.begin("reload", 1, texts("p", &[("pay.intent.toml", "c"), web]));
        history.begin("reload", 1, texts("p", &[]));
        let (one, two) = (history.texts(1).unwrap(), history.texts(2).unwrap());
        assert!(Arc::ptr_eq(&one.intents[1], &two.intents[1]) && Arc::ptr_eq(&one.policy, &two.policy), "kept once");
        let history = History::open(Some(folder.path())).unwrap();
        let of = |plan| history.texts(plan).unwrap().intents.iter().map(|i| i.text.clone()).collect::<Vec<_>>();
        assert_eq!((of(1), of(2), of(3)), (vec!["a".into(), "b".into()], vec!["c".into(), "b".into()], vec![]));
    }

    #[test]
    fn what_was_in_force_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        assert_eq!(history.begin("start", 0, texts("name = \"a\"\n", &[])), 1);
        assert_eq!(history.begin("reload", 2, texts("name = \"b\"\n", &[])), 2);
        history.rolled_back("the health check failed");
        assert_eq!(history.begin("rollback", 2, texts("name = \"a\"\n", &[])), 3);
        drop(history);
        std::fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        let outcomes: Vec<_> = history.entries().into_iter().map(|entry| (entry.plan, entry.outcome)).collect();
        let (replaced, back) = (PlanOutcome::Replaced, PlanOutcome::RolledBack);
        assert_eq!(outcomes, [(3, replaced), (2, back), (1, replaced)]);
        assert_eq!(history.entries()[1].why.as_deref(), Some("the health check failed"));
        assert_eq!(&*history.texts(2).unwrap().policy, "name = \"b\"\n");
        assert_eq!((history.begin("start", 0, texts("", &[])), history.current()), (4, 4));
        assert_eq!(std::fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "not ours");
    }

    #[test]
    fn only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(Some(folder.path())).unwrap();
        for _ in 0..KEPT + 3 {
            history.begin("reload", 1, texts("", &[("a", "b")]));
        }
        assert!(history.entries().len() == KEPT && history.texts(3).is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2 * KEPT);
    }
}
