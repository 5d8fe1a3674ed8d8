//! Programs that only Python's registry has. They go to `target/python`, an environment of their own: nothing of the host's is
//! touched, and a cache of `target` keeps them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Item, Need, apt, say};
use crate::run;

/// Program, package and version, why.
const PROGRAMS: [(&str, &str, &str); 1] =
    [("schemathesis", "schemathesis==4.32.5", "tries the control API against its document")];

/// Looks for each.
pub fn look() -> Vec<Item> {
    let find = |program: &str| {
        let built = run::root().join("target/python/bin").join(program);
        Some(built).filter(|path| path.is_file()).or_else(|| run::which(program))
    };
    PROGRAMS
        .iter()
        .map(|(program, package, why)| Item {
            what: (*program).to_owned(),
            why,
            need: Need::Python,
            found: find(program).map(|path| path.display().to_string()),
            how: format!("python3 -m venv target/python && target/python/bin/pip install {package}"),
        })
        .collect()
}

/// Installs what is missing, where that can be done: a test that does without says so by its name.
///
/// # Errors
/// When a command cannot be run at all.
pub fn install() -> Result<()> {
    if look().iter().all(|item| item.found.is_some()) {
        return Ok(());
    }
    let folder = run::root().join("target/python");
    if !environment(&folder)? && apt::usable() {
        // Debian has that part of Python by itself.
        apt::update();
        apt::install(&["python3-venv"], "environments for Python's packages")?;
        if !environment(&folder)? {
            say("no environment for Python's packages can be made; going on without");
        }
    }
    let pip = folder.join("bin/pip");
    if !pip.is_file() {
        return Ok(());
    }
    for (_, package, why) in PROGRAMS {
        say(&format!("pip install {package} ({why})"));
        let mut command = Command::new(&pip);
        command.args(["--quiet", "--disable-pip-version-check", "install", package]);
        if !run::loud(&mut command)? {
            say(&format!("{package} cannot be had; going on without"));
        }
    }
    Ok(())
}

/// Makes the environment. Whether it is there.
fn environment(folder: &Path) -> Result<bool> {
    for python in ["python3", "/usr/bin/python3"] {
        if folder.join("bin/pip").is_file() {
            return Ok(true);
        }
        let Some(python) =
            run::which(python).or_else(|| Some(python.into()).filter(|path: &std::path::PathBuf| path.is_file()))
        else {
            continue;
        };
        let mut command = Command::new(python);
        command.args(["-m", "venv", "--clear"]).arg(folder);
        run::loud(&mut command)?;
    }
    Ok(folder.join("bin/pip").is_file())
}
