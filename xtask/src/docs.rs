//! Everything that is generated: the pages of `docs/` that tests hold against the program, the expected errors of broken
//! configurations, manual pages and completions.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::run;

/// The tests that write what they would compare, by parts of their names.
const WRITERS: &[&str] = &["docs", "reference", "reason", "config::broken"];
const SHELLS: &[(&str, &str)] = &[("bash", "softdpu"), ("zsh", "_softdpu"), ("fish", "softdpu.fish")];

/// Writes docs/ and dataplane/tests/broken in place: read the difference before it is kept. Manual pages and completions, which
/// packages install, go into a folder of their own.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder for manual pages and completions
    #[arg(long, value_name = "FOLDER", default_value = "target/docs")]
    out: PathBuf,
}

pub fn main(arguments: &Arguments) -> Result<bool> {
    let mut tests = run::cargo();
    tests.args(["test", "--quiet", "--package", "softdpu", "--lib", "--"]).args(WRITERS).env("SOFTDPU_WRITE_DOCS", "1");
    if !run::loud(&mut tests)? {
        return Ok(false);
    }
    let out = run::root().join(&arguments.out);
    let softdpu = |arguments: &[&str]| {
        let mut command = run::cargo();
        command.args(["run", "--quiet", "--package", "softdpu", "--"]).args(arguments);
        command
    };
    let man = out.join("man");
    if !run::loud(&mut softdpu(&["man", "--out", &man.to_string_lossy()]))? {
        return Ok(false);
    }
    let folder = out.join("completions");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (shell, file) in SHELLS {
        let script = softdpu(&["completions", shell]).output().context("start cargo")?;
        if !script.status.success() {
            return Ok(false);
        }
        std::fs::write(folder.join(file), script.stdout)?;
    }
    println!("manual pages and completions are in {}", out.display());
    Ok(true)
}
