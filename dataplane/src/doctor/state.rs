//! The record of what `--fix` changed, so that `--undo` can put it back.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::fix::Change;
use crate::host::netns;

/// Where the record is unless said otherwise.
pub const FILE: &str = "/var/lib/softdpu/doctor.json";
const VERSION: u32 = 1;

/// All that was changed and not yet put back, the oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    pub made: Vec<Made>,
}

/// One change that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    /// With the value it was given.
    pub change: Change,
    /// The value before.
    pub before: String,
    /// Device and inode of the network namespace it was made in: its path may by now be another's.
    pub namespace: (u64, u64),
    /// Seconds since 1970.
    pub at: u64,
}

/// How one change was put back.
#[derive(Debug, PartialEq, Eq)]
pub enum Undone {
    Restored,
    /// Somebody has changed it since; it stays as they left it. The value now.
    Changed(String),
    /// Not possible now; it stays in the record.
    Failed(String),
}

impl Record {
    /// Reads the record; an absent file is an empty one.
    ///
    /// # Errors
    /// It is there and cannot be read, or is no record.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { version: VERSION, made: Vec::new() });
            }
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let record: Self = serde_json::from_str(&text)
            .with_context(|| format!("{}: no record of `softdpu doctor --fix`", path.display()))?;
        ensure!(record.version == VERSION, "{}: a record of version {}", path.display(), record.version);
        Ok(record)
    }

    /// Writes it whole or not at all; an empty one is no file.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        if self.made.is_empty() {
            return match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(e).with_context(|| path.display().to_string())
                }
                _ => Ok(()),
            };
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let make = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        make.with_context(|| format!("making {}", folder.display()))?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .with_context(|| aside.display().to_string())?;
        let written = serde_json::to_vec_pretty(self)
            .map_err(anyhow::Error::new)
            .and_then(|text| Ok(file.write_all(&text).and_then(|()| file.sync_all())?))
            .and_then(|()| Ok(std::fs::rename(&aside, path)?));
        if written.is_err() {
            let _ = std::fs::remove_file(&aside);
        }
        written.with_context(|| path.display().to_string())
    }

    /// Makes a change and notes it in the file at once, so that nothing is changed that could not be put back.
    ///
    /// # Errors
    /// The change was refused, or could not be noted: then it is taken back.
    pub fn apply(&mut self, change: &Change, path: &Path) -> Result<String> {
        let (before, namespace) = change.apply()?;
        if before == change.value {
            return Ok(before);
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.made.push(Made { change: change.clone(), before: before.clone(), namespace, at });
        if let Err(error) = self.save(path) {
            self.made.pop();
            let back = Change { value: before, ..change.clone() };
            back.apply().context("the record could not be written, nor the change taken back")?;
            return Err(error.context("nothing was changed: it could not be noted for --undo"));
        }
        Ok(before)
    }

    /// Puts everything back, the last change first, and tells of each.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn undo(&mut self, path: &Path, mut tell: impl FnMut(&Made, &Undone)) -> Result<()> {
        let mut left = Vec::new();
        while let Some(made) = self.made.pop() {
            let undone = made.undo();
            tell(&made, &undone);
            if matches!(undone, Undone::Failed(_)) {
                left.insert(0, made);
            }
        }
        self.made = left;
        self.save(path)
    }
}

impl Made {
    /// What somebody would type to put it back.
    pub fn command(&self) -> String {
        Change { value: self.before.clone(), ..self.change.clone() }.command()
    }

    fn undo(&self) -> Undone {
        let back = netns::within(self.change.namespace.as_deref(), || {
            ensure!(
                netns::identity()? == self.namespace,
                "it was made in another network namespace: run --undo where --fix was run"
            );
            let now = self.change.setting.read()?;
            if now == self.before {
                return Ok(Undone::Restored);
            }
            if now != self.change.value {
                return Ok(Undone::Changed(now));
            }
            self.change.setting.write(&self.before)?;
            Ok(Undone::Restored)
        });
        back.unwrap_or_else(|error| Undone::Failed(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::fix::Setting;

    #[test]
    fn an_empty_record_is_no_file_and_rubbish_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/doctor.json");
        let mut record = Record::load(&path).unwrap();
        assert!(record.made.is_empty());
        record.save(&path).unwrap();
        assert!(!path.exists());
        let change = Change::file("/proc/sys/kernel/ostype", "Linux");
        record.made.push(Made { change, before: "x".into(), namespace: (0, 0), at: 0 });
        record.save(&path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Record::load(&path).unwrap().made.len(), 1);
        std::fs::write(&path, "{}").unwrap();
        assert!(Record::load(&path).unwrap_err().to_string().contains("no record"));
    }

    #[test]
    fn what_was_made_elsewhere_stays_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doctor.json");
        let change = Change::here(Setting::Mtu { interface: "lo".into() }, 1);
        let made = Made { change, before: "2".into(), namespace: (1, 2), at: 0 };
        let mut record = Record { version: VERSION, made: vec![made] };
        let mut said = Vec::new();
        record.undo(&path, |_, undone| said.push(format!("{undone:?}"))).unwrap();
        assert!(said[0].contains("another network namespace"), "{said:?}");
        assert_eq!(Record::load(&path).unwrap().made.len(), 1);
    }
}
