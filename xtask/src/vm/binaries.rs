//! Builds what runs in the VM: softdpu and the tests for it, optimised, as an emulated processor is slow enough.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One test to run in the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Name of the file in `dataplane/tests`.
    pub file: String,
    /// Name of the test in it.
    pub test: String,
    pub binary: PathBuf,
    /// Marked `#[ignore]`: takes minutes.
    pub slow: bool,
}

impl Job {
    pub fn name(&self) -> String {
        format!("{}::{}", self.file, self.test)
    }
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    pub softdpu: PathBuf,
    pub jobs: Vec<Job>,
}

/// Builds `dataplane/tests/vm_*.rs` and `extra` files with that cargo, and asks each which tests it has.
///
/// # Errors
/// When something does not build.
pub fn build(command: &mut Command, extra: &[String]) -> Result<Built> {
    // The bench has none of these tests: it is there for the features that it wants, see `instructions::build`.
    command.args(["test", "--release", "--package", "softdpu", "--package", "softdpu-bench"]);
    command.args(["--no-run", "--message-format=json-render-diagnostics"]);
    command.args(["--test", "vm_*"]);
    for file in extra {
        command.args(["--test", file]);
    }
    let what = softdpu_testbed::process::describe(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {what}"))?;
    ensure!(output.status.success(), "{what} failed");
    let (softdpu, tests) = executables(&String::from_utf8_lossy(&output.stdout));
    let mut jobs = Vec::new();
    for (file, binary) in tests {
        let slow = list(&binary, &["--ignored"])?;
        for test in list(&binary, &[])? {
            let slow = slow.contains(&test);
            jobs.push(Job { file: file.clone(), test, binary: binary.clone(), slow });
        }
    }
    jobs.sort_by_key(Job::name);
    Ok(Built { softdpu: softdpu.context("cargo built no softdpu")?, jobs })
}

/// Names of the tests in a binary.
fn list(binary: &Path, which: &[&str]) -> Result<Vec<String>> {
    let listed = Command::new(binary).args(["--list", "--format", "terse"]).args(which).output()?;
    ensure!(listed.status.success(), "{} does not list its tests", binary.display());
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// The binary, and file name and path of each test, in cargo's messages.
fn executables(messages: &str) -> (Option<PathBuf>, Vec<(String, PathBuf)>) {
    let (mut softdpu, mut tests) = (None, Vec::new());
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
        let name = message.pointer("/target/name").and_then(Value::as_str).unwrap_or_default();
        let is = |kind: &str| message.pointer("/target/kind/0").and_then(Value::as_str) == Some(kind);
        let for_tests = message.pointer("/profile/test").and_then(Value::as_bool).unwrap_or(false);
        if is("bin") && name == "softdpu" && !for_tests {
            softdpu = Some(path);
        } else if is("test") {
            tests.push((name.to_owned(), path));
        }
    }
    (softdpu, tests)
}

/// A copy of `binary` without what only debuggers read, made unless there is one of the same age; the binary itself where
/// there is no `strip`.
pub fn stripped(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let name = binary.file_name().context("a binary has a name")?;
    let copy = folder.join(name);
    let age = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    if age(&copy).is_some_and(|made| age(binary).is_some_and(|built| made > built)) {
        return Ok(copy);
    }
    std::fs::create_dir_all(folder)?;
    let done = Command::new("strip").arg("-o").arg(&copy).arg(binary).stderr(Stdio::null()).status();
    Ok(if done.is_ok_and(|status| status.success()) { copy } else { binary.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_and_the_tests_are_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"softdpu"},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"softdpu"},"profile":{"test":true},"executable":"/t/x"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"softdpu"},"profile":{"test":false},"executable":"/t/softdpu"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"vm_a"},"profile":{"test":true},"executable":"/t/vm_a-1"}"#,
            "\nnoise\n",
        );
        let (softdpu, tests) = executables(messages);
        assert_eq!(softdpu, Some("/t/softdpu".into()));
        assert_eq!(tests, [("vm_a".to_owned(), PathBuf::from("/t/vm_a-1"))]);
    }
}
