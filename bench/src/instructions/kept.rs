//! The kept list: what each case took when somebody last accepted it, and what it was counted with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{MOST, SLACK};

/// What makes counts differ that no change of ours made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct With {
    /// The compiler, as it writes itself into what it makes.
    pub rustc: String,
    pub target: String,
    pub valgrind: String,
    /// Its `memcpy` and the like are counted too.
    pub libc: String,
    /// Features that valgrind shows to programs, of those that code is chosen by.
    pub cpu: String,
}

impl With {
    /// Of what was kept to what is here: in words, the first thing that differs.
    pub fn difference(&self, here: &Self) -> Option<String> {
        let parts = [
            ("rustc", &self.rustc, &here.rustc),
            ("target", &self.target, &here.target),
            ("valgrind", &self.valgrind, &here.valgrind),
            ("C library", &self.libc, &here.libc),
            ("CPU features", &self.cpu, &here.cpu),
        ];
        let (what, kept, now) = parts.into_iter().find(|(_, kept, now)| kept != now)?;
        Some(format!("kept with {what} {kept}, this is {now}"))
    }
}

/// Figures of the XDP program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    pub kernel: String,
    /// What compiled it.
    pub rustc: String,
    pub counts: BTreeMap<String, u64>,
}

impl Xdp {
    pub fn difference(&self, here: &Self) -> Option<String> {
        if self.kernel != here.kernel {
            Some(format!("kept on Linux {}, this is {}", self.kernel, here.kernel))
        } else if self.rustc != here.rustc {
            Some(format!("kept with rustc {}, this is {}", self.rustc, here.rustc))
        } else {
            None
        }
    }

    pub fn compare(&self, now: &Self) -> Vec<Compared> {
        let of = |counts: &BTreeMap<String, u64>| counts.iter().map(|(name, n)| (name.clone(), *n as f64)).collect();
        compare(&of(&self.counts), &of(&now.counts), true)
    }
}

/// The list's file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub with: With,
    /// Per operation, by name.
    pub instructions: BTreeMap<String, f64>,
    #[serde(default)]
    pub xdp: Xdp,
}

/// How a case stands to what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// By more than [`MOST`]: worth keeping.
    Fewer,
    /// By more than [`MOST`]: a failure.
    More,
    /// Not in the list.
    New,
    /// In the list only.
    Gone,
}

impl Verdict {
    pub fn fails(self) -> bool {
        matches!(self, Self::More | Self::New | Self::Gone)
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    pub name: String,
    pub kept: Option<f64>,
    pub now: Option<f64>,
    pub verdict: Verdict,
}

impl Compared {
    fn new(name: &str, kept: Option<f64>, now: Option<f64>) -> Self {
        let verdict = match (kept, now) {
            (Some(kept), Some(now)) if now > kept * (1.0 + MOST / 100.0) && now > kept + SLACK => Verdict::More,
            (Some(kept), Some(now)) if now < kept * (1.0 - MOST / 100.0) && now < kept - SLACK => Verdict::Fewer,
            (Some(_), Some(_)) => Verdict::Same,
            (None, _) => Verdict::New,
            (_, None) => Verdict::Gone,
        };
        Self { name: name.to_owned(), kept, now, verdict }
    }

    /// In %.
    pub fn change(&self) -> Option<f64> {
        let (kept, now) = self.kept.zip(self.now)?;
        Some(if kept > 0.0 { (now / kept - 1.0) * 100.0 } else { 0.0 })
    }
}

impl Kept {
    /// `None` where there is no such file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// `whole`: cases that are in the list only are told too.
    pub fn compare(&self, now: &BTreeMap<String, f64>, whole: bool) -> Vec<Compared> {
        compare(&self.instructions, now, whole)
    }
}

fn compare(kept: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>, whole: bool) -> Vec<Compared> {
    let mut names: Vec<&String> = now.keys().collect();
    if whole {
        names.extend(kept.keys().filter(|name| !now.contains_key(*name)));
        names.sort();
    }
    names.into_iter().map(|name| Compared::new(name, kept.get(name).copied(), now.get(name).copied())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counts(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
        of.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn only_more_than_three_percent_more_fails() {
        let kept = Kept {
            instructions: counts(&[("a", 100.0), ("b", 100.0), ("c", 100.0), ("d", 1.0), ("gone", 5.0)]),
            ..Kept::default()
        };
        let now = counts(&[("a", 102.9), ("b", 103.1), ("c", 90.0), ("d", 1.2), ("new", 7.0)]);
        let verdicts: Vec<_> = kept.compare(&now, true).into_iter().map(|c| (c.name, c.verdict)).collect();
        let wanted = [
            ("a", Verdict::Same),
            ("b", Verdict::More),
            ("c", Verdict::Fewer),
            ("d", Verdict::Same),
            ("gone", Verdict::Gone),
            ("new", Verdict::New),
        ];
        assert_eq!(verdicts, wanted.map(|(name, verdict)| (name.to_owned(), verdict)));
        assert!(kept.compare(&now, false).iter().all(|c| c.verdict != Verdict::Gone));
        assert_eq!(verdicts.iter().filter(|(_, verdict)| verdict.fails()).count(), 3);
    }

    #[test]
    fn other_compilers_are_told() {
        let here = With { rustc: "1.95".into(), cpu: "aes".into(), ..With::default() };
        assert_eq!(here.difference(&here), None);
        let kept = With { rustc: "1.94".into(), ..here.clone() };
        assert_eq!(kept.difference(&here).unwrap(), "kept with rustc 1.94, this is 1.95");
        let xdp = Xdp { kernel: "6.1".into(), ..Xdp::default() };
        assert!(xdp.difference(&Xdp::default()).unwrap().contains("6.1"));
    }

    #[test]
    fn the_list_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.json");
        assert_eq!(Kept::read(&path).unwrap(), None);
        let kept = Kept { instructions: counts(&[("a", 1.25)]), ..Kept::default() };
        kept.write(&path).unwrap();
        assert_eq!(Kept::read(&path).unwrap(), Some(kept));
        std::fs::write(&path, "{").unwrap();
        assert!(Kept::read(&path).is_err());
    }
}
