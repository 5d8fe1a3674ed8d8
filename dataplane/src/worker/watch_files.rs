//! The files that a policy is made from, so that a change of one is noticed: its own, its intents', and lists of hosts.

use crate::config::{self, Policy};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file as it was: its path, inode, length, and when it was written. `None`: it was not there.
pub type Seen = (PathBuf, Option<(u64, u64, i64, i64)>);

fn seen(path: &Path) -> Seen {
    let file = std::fs::metadata(path).ok();
    (path.to_owned(), file.map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec())))
}

/// The policy's own file first. Intents that come and go change the list.
pub fn stamp(path: &Path, policy: &Policy) -> Vec<Seen> {
    let mut all = vec![seen(path)];
    if let Some(folder) = &policy.terms.intents {
        // A folder that is gone has none.
        all.extend(config::intent_files(&folder.value).unwrap_or_default().iter().map(|file| seen(file)));
    }
    all.extend(policy.applications.iter().filter_map(|app| app.hosts_file.as_deref()).map(seen));
    all
}

/// Whether the policy's own file is there: where it is being replaced it is worth waiting for.
pub fn is_there(stamp: &[Seen]) -> bool {
    stamp.first().is_some_and(|(_, file)| file.is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.toml");
        let ports = "[[port]]\nname = \"a\"\nkind = \"loopback\"\nloop_to = \"b\"\n\
                     [[port]]\nname = \"b\"\nkind = \"loopback\"\nloop_to = \"a\"\n\
                     [[application]]\nname = \"shop\"\nhosts_file = \"shop.hosts\"\n";
        std::fs::write(&path, format!("intents = \".\"\n{ports}")).unwrap();
        std::fs::write(folder.path().join("shop.hosts"), "shop.example\n").unwrap();
        let policy = config::load(&path).unwrap();
        let mut last = stamp(&path, &policy);
        assert_eq!(stamp(&path, &policy), last, "nothing happened");
        let pay = folder.path().join("pay.intent.toml");
        let mut changed = |what: &str, does: &dyn Fn() -> std::io::Result<()>| {
            does().unwrap();
            let now = stamp(&path, &policy);
            assert_ne!(now, last, "{what}");
            last = now;
        };
        changed("an intent comes", &|| std::fs::write(&pay, "name = \"pay\""));
        changed("it is changed", &|| std::fs::write(&pay, "name = \"paid\""));
        let fresh = folder.path().join(".new");
        changed("it is exchanged for one of the same length", &|| {
            std::fs::write(&fresh, "name = \"pain\"").and_then(|()| std::fs::rename(&fresh, &pay))
        });
        changed("it goes", &|| std::fs::remove_file(&pay));
        changed("a list of hosts", &|| std::fs::write(folder.path().join("shop.hosts"), "a.example\nb.example\n"));
        changed("the policy", &|| std::fs::write(&path, ""));
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        assert_eq!(stamp(&path, &policy), last, "others do not count");
        assert!(is_there(&last));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_there(&stamp(&path, &policy)));
    }
}
