//! The table of broken configurations: each file of `tests/broken` differs from a sound one in one thing, and beside it stands
//! what is said about it.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");

/// A policy with a tunnel, for intents.
const POLICY: &str = "name = \"edge\"\nintents = \".\"\n[[port]]\nname = \"apps\"\ninterface = \"veth0\"\n[[steer]]\nname = \"out\"\nfrom = [\"10.1.0.0/24\"]\n\
                      [[tunnel]]\nname = \"wg0\"\ntype = \"wireguard\"\n";

/// What is said about a file, without the folder it was in. `# FILE: MODE` in its first lines makes a key file; `absent` none.
fn said(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for key in ["out.key", "in.key"] {
        let asked = text.lines().take(3).find_map(|line| line.strip_prefix(&format!("# {key}: ")));
        if asked == Some("absent") {
            continue;
        }
        let file = folder.path().join(key);
        std::fs::write(&file, if key == "out.key" { [1; 36] } else { [2; 36] }).unwrap();
        let mode = u32::from_str_radix(asked.unwrap_or("0600"), 8).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::write(folder.path().join(&name), &text).unwrap();
    let policy = if name.ends_with(".intent.toml") {
        std::fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
        folder.path().join("policy.toml")
    } else {
        folder.path().join(&name)
    };
    let errors = super::load(&policy).expect_err(&name);
    for (source, problems) in
        std::iter::once((&errors.source, &errors.problems)).chain(errors.intents.iter().map(|(s, p)| (s, p)))
    {
        for problem in problems.iter().filter(|problem| !problem.warning) {
            assert!(!problem.help.is_empty() && !problem.message.is_empty(), "{name}: {problem:?}");
            assert!(problem.span.end <= source.text.len(), "{name}: {problem:?}");
        }
    }
    unwrapped(&errors.render(false).replace(&format!("{}/", folder.path().display()), ""))
}

/// Where lines are broken depends on how long the folder's name is.
fn unwrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let more = line.strip_prefix("  │ ").or_else(|| line.strip_prefix("        "));
        match (more, lines.last_mut()) {
            (Some(more), Some(last)) if last.starts_with("  × ") || last.starts_with("  help: ") => {
                last.push(' ');
                last.push_str(more.trim_start());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu config::broken` writes what is said anew: read the difference before it is kept.
#[test]
fn every_broken_file_is_answered_as_expected() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort();
    assert!(files.len() >= 100, "{}", files.len());
    let write = std::env::var_os("SOFTDPU_WRITE_DOCS").is_some();
    let mut wrong = Vec::new();
    for path in files {
        let said = said(&path);
        let name = path.file_name().unwrap().to_str().unwrap();
        // File, line and column; the remedy.
        assert!(said.contains(&format!("{name}:")) && said.contains("help:"), "{name}:\n{said}");
        let expected = path.with_extension("expected");
        if write {
            std::fs::write(&expected, &said).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{name}:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
