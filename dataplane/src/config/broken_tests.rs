//! The table of broken configurations: each file of `tests/broken` differs from a sound one in one thing, and beside it stands
//! what is said about it. None of them comes into force.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tempfile::TempDir;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");

/// A policy with a tunnel, for intents.
const POLICY: &str = "name = \"edge\"\nintents = \".\"\n[[port]]\nname = \"apps\"\ninterface = \"veth0\"\n[[steer]]\nname = \"out\"\nfrom = [\"10.1.0.0/24\"]\n\
                      [[tunnel]]\nname = \"wg0\"\ntype = \"wireguard\"\n";

/// A broken policy in a folder of its own.
pub(crate) struct Broken {
    /// Of the file that is broken.
    pub name: String,
    pub policy: PathBuf,
    folder: TempDir,
}

/// Each file of the folder, and what no file in a repository can be.
pub(crate) fn all() -> Vec<Broken> {
    let mut files: Vec<PathBuf> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort();
    files.iter().map(|path| of_file(path)).chain(MADE.iter().map(|(name, make)| made(name, *make))).collect()
}

/// `# out.key: 0644` in the first lines makes a key file of that mode, `absent` none, `directory` and `fifo` something else.
/// `# file NAME: TEXT` makes another file, `\n` in it ends a line.
fn of_file(path: &Path) -> Broken {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let bytes = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let folder = tempfile::tempdir().unwrap();
    for (key, byte) in [("out.key", 1), ("in.key", 2)] {
        let asked = text.lines().take(3).find_map(|line| line.strip_prefix(&format!("# {key}: ")));
        let file = folder.path().join(key);
        match asked {
            Some("absent") => {}
            Some("directory") => fs::create_dir(file).unwrap(),
            Some("fifo") => {
                assert!(std::process::Command::new("mkfifo").arg(file).status().unwrap().success());
            }
            mode => {
                fs::write(&file, [byte; 36]).unwrap();
                let mode = u32::from_str_radix(mode.unwrap_or("0600"), 8).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
    for line in text.lines().take(3).filter_map(|line| line.strip_prefix("# file ")) {
        let (file, text) = line.split_once(": ").unwrap();
        fs::write(folder.path().join(file), text.replace("\\n", "\n")).unwrap();
    }
    fs::write(folder.path().join(&name), &bytes).unwrap();
    let policy = if name.ends_with(".intent.toml") {
        fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
        folder.path().join("policy.toml")
    } else {
        folder.path().join(&name)
    };
    Broken { name, policy, folder }
}

type Make = fn(&Path);

const INTENT: &str =
    "name = \"payments\"\nowner = \"payments team\"\n[[flow]]\nfrom = [\"10.1.0.0/24\"]\nports = [443]\n";

const MADE: &[(&str, Make)] = &[
    ("made-absent", |_| {}),
    ("made-directory", |path| fs::create_dir(path).unwrap()),
    ("made-link-to-itself", |path| symlink(path, path).unwrap()),
    ("made-huge", |path| fs::write(path, "# nothing\n".repeat(1 << 19)).unwrap()),
    ("made-endless", |path| symlink("/dev/zero", path).unwrap()),
    ("made-deep", |path| fs::write(path, format!("name = {}1{}", "[".repeat(100_000), "]".repeat(100_000))).unwrap()),
    ("made-binary", |path| fs::write(path, b"\x7fELF\x02\x01\x01\0\0\0").unwrap()),
    ("made-intent-directory", |path| {
        fs::write(path, POLICY).unwrap();
        fs::create_dir(path.with_file_name("made-intent-directory.intent.toml")).unwrap();
    }),
    ("made-intent-huge", |path| {
        fs::write(path, POLICY).unwrap();
        fs::write(path.with_file_name("made-intent-huge.intent.toml"), "# nothing\n".repeat(1 << 18)).unwrap();
    }),
    ("made-intents-same-name", |path| {
        fs::write(path, POLICY).unwrap();
        fs::write(path.with_file_name("a.intent.toml"), INTENT).unwrap();
        fs::write(path.with_file_name("made-intents-same-name.intent.toml"), INTENT).unwrap();
    }),
];

fn made(name: &str, make: Make) -> Broken {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join(format!("{name}.toml"));
    make(&policy);
    Broken { name: format!("{name}.toml"), policy, folder }
}

/// What is said about it, without the folder it is in.
fn said(broken: &Broken) -> Result<String, String> {
    let name = &broken.name;
    let Err(errors) = super::load(&broken.policy) else { return Err(format!("{name}: taken as it is")) };
    let both = std::iter::once((&errors.source, &errors.problems)).chain(errors.intents.iter().map(|(s, p)| (s, p)));
    for (source, problems) in both {
        for problem in problems.iter().filter(|problem| !problem.warning) {
            assert!(!problem.help.is_empty() && !problem.message.is_empty(), "{name}: {problem:?}");
            assert!(problem.span.end <= source.text.len(), "{name}: {problem:?}");
        }
    }
    let folder = broken.folder.path().display().to_string();
    Ok(unwrapped(&errors.render(false).replace(&format!("{folder}/"), "")))
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
    let all = all();
    assert!(all.len() >= 200, "{}", all.len());
    let write = std::env::var_os("SOFTDPU_WRITE_DOCS").is_some();
    let mut wrong = Vec::new();
    for broken in &all {
        let stem = broken.name.trim_end_matches(".toml");
        let said = match said(broken) {
            Ok(said) => said,
            Err(why) => {
                wrong.push(why);
                continue;
            }
        };
        // File, and line and column where there is a text; the remedy.
        let place = said.contains(&format!("{stem}.toml:")) || said.contains(&format!("{stem}.intent.toml:"));
        let whole =
            said.contains(&format!("{stem}.toml is longer")) || said.contains(&format!("{stem}.intent.toml is longer"));
        if !(place || whole) || !said.contains("help:") {
            wrong.push(format!("{}: no place, or no remedy:\n{said}", broken.name));
        }
        let expected = Path::new(FOLDER).join(format!("{stem}.expected"));
        if write {
            fs::write(&expected, &said).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", broken.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A running instance that is told to reload any of them says what is wrong, and goes on with what it has.
#[test]
fn none_comes_into_force() {
    use crate::control::PlanSource;
    use crate::telemetry::journal::Journal;
    use crate::tunnel::steering::Steering;
    use crate::worker::history::{History, Texts};
    use crate::worker::reload::Switch;

    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.toml");
    fs::write(&sound, POLICY).unwrap();
    let policy = super::load(&sound).unwrap();
    let plan = crate::plan::build(&policy, 7).unwrap();
    let mut history = History::open(None).unwrap();
    history.begin("start", 0, Texts::new(&policy));
    let mut switch = Switch {
        policy: Arc::new(ArcSwap::from_pointee(policy.clone())),
        path: sound.clone(),
        plan: Arc::new(ArcSwap::from_pointee(plan)),
        steering: Arc::new(Steering::new(policy, vec![Some(1)], None)),
        gate: None,
        workers: Vec::new(),
        history: std::sync::Mutex::new(history),
        journal: Journal::new(),
        turn: Arc::default(),
    };
    let (policy, plan) = (switch.policy.load_full(), switch.plan.load_full());
    for broken in all() {
        switch.path = broken.policy.clone();
        let refused = switch.apply(&PlanSource::File("reload"), false);
        let Err(error) = refused else { panic!("{} came into force", broken.name) };
        assert!(error.to_string().contains("help:"), "{}: {error}", broken.name);
        assert!(Arc::ptr_eq(&policy, &switch.policy.load_full()), "{}", broken.name);
        assert!(Arc::ptr_eq(&plan, &switch.plan.load_full()), "{}", broken.name);
        assert_eq!(switch.entries().len(), 1, "{}", broken.name);
    }
    // The switch itself works: what is sound is taken.
    fs::write(&sound, format!("{POLICY}[[rule]]\nname = \"new\"\nencrypt = \"wg0\"\n")).unwrap();
    switch.path = sound;
    assert!(switch.apply(&PlanSource::File("reload"), false).unwrap().applied);
    assert_eq!(switch.plan.load().generation, 8);
}
