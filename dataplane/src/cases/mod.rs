//! Config tests: cases of packets in and what is expected of them, run against a candidate policy and its intents. The worker is
//! the real one over ports in memory, the driver's decision is made from the tables that the XDP program would get; no NIC, no
//! privileges, no keys but such as are made for the run.
//!
//! `file` is what is written, `read` holds it against the policy, `device` runs it, `expect` compares, `report` says.

mod device;
#[cfg(test)]
mod docs;
mod expect;
mod file;
pub mod frame;
mod keys;
mod peer;
mod read;
pub mod report;
pub mod talk;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

pub use expect::Failure;
use expect::failures;
use file::File;
use read::{Case, Loaded};

use crate::config::{self, Code, ConfigErrors, Policy, Problem, Source};

/// Longest case file that is read, in bytes.
const MAX_FILE: usize = 4 << 20;
/// How a case file's name ends.
pub const ENDING: &str = ".case.toml";

/// The JSON Schema of a case file.
pub fn json_schema() -> serde_json::Value {
    config::json_schema_of::<File>()
}

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub name: String,
    pub ok: bool,
    pub failures: Vec<Failure>,
    /// What became of its last packet, in a line.
    pub seen: String,
    pub seconds: f64,
}

/// What keeps cases from being run.
#[derive(Debug)]
pub enum Unusable {
    /// No case file there.
    Nothing(PathBuf, std::io::Error),
    Case(Source, Vec<Problem>),
    Policy(Box<ConfigErrors>),
}

/// All cases of some folders and files.
#[derive(Default)]
pub struct Suite {
    files: Vec<(Loaded, Arc<Policy>)>,
}

impl Suite {
    /// Reads every case file below `paths`. `policy`: in place of those that the files name.
    ///
    /// # Errors
    /// Everything that is wrong with the case files and their policies. Then nothing is to be run.
    pub fn read(paths: &[PathBuf], policy: Option<&Path>) -> Result<Self, Vec<Unusable>> {
        let mut wrong = Vec::new();
        let mut files = Vec::new();
        for path in paths {
            let before = files.len();
            match find(path, &mut files) {
                Ok(()) if files.len() > before => {}
                Ok(()) => {
                    let error = std::io::Error::other(format!("no file ends in {ENDING}"));
                    wrong.push(Unusable::Nothing(path.clone(), error));
                }
                Err(error) => wrong.push(Unusable::Nothing(path.clone(), error)),
            }
        }
        let mut policies: HashMap<PathBuf, Option<Arc<Policy>>> = HashMap::new();
        let mut suite = Self::default();
        for path in files {
            match read_file(&path, policy, &mut policies, &mut wrong) {
                Ok(Some(loaded)) => suite.files.push(loaded),
                Ok(None) => {}
                Err((source, problems)) => wrong.push(Unusable::Case(source, problems)),
            }
        }
        if wrong.is_empty() { Ok(suite) } else { Err(wrong) }
    }

    /// How many cases `wanted` takes, by file and name.
    pub fn count(&self, wanted: impl Fn(&str, &str) -> bool) -> usize {
        let of = |(loaded, _): &(Loaded, _)| {
            loaded.cases.iter().filter(|case| wanted(&loaded.source.name, &case.name)).count()
        };
        self.files.iter().map(of).sum()
    }

    /// Runs the cases that `wanted` takes, in the order of the files; `done` is told of each.
    ///
    /// # Errors
    /// A policy that cannot be run.
    pub fn run(&self, wanted: impl Fn(&str, &str) -> bool, mut done: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
        let mut out = Vec::new();
        for (loaded, policy) in &self.files {
            let keys = keys::ThrowAway::new(policy)?;
            for case in loaded.cases.iter().filter(|case| wanted(&loaded.source.name, &case.name)) {
                let outcome = run(loaded, case, policy, &keys)?;
                done(&outcome);
                out.push(outcome);
            }
        }
        Ok(out)
    }
}

/// Case files at or below a path, in the order of their names.
fn find(path: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        out.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        // A link to a folder could lead round in a circle.
        if entry.is_dir() && !entry.is_symlink() {
            find(&entry, out)?;
        } else if entry.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(ENDING)) {
            out.push(entry);
        }
    }
    Ok(())
}

type Read = Result<Option<(Loaded, Arc<Policy>)>, (Source, Vec<Problem>)>;

fn read_file(
    path: &Path,
    policy: Option<&Path>,
    policies: &mut HashMap<PathBuf, Option<Arc<Policy>>>,
    wrong: &mut Vec<Unusable>,
) -> Read {
    let name = path.display().to_string();
    let text = config::text::read(path, MAX_FILE, "a case file").map_err(|wrong| {
        let (source, problem) = *wrong;
        (source, vec![problem])
    })?;
    let source = Arc::new(Source { name, text });
    let mut problems = Vec::new();
    let file: Option<File> = config::shaped::read(&source, &mut problems);
    let said = |problems| ((*source).clone(), problems);
    let Some(file) = file else { return Err(said(problems)) };
    let policy_path = match (policy, &file.policy) {
        (Some(policy), _) => policy.to_owned(),
        (None, Some(named)) => path.parent().unwrap_or(Path::new("")).join(&named.0),
        (None, None) => {
            let help = "write policy = \"../policies/edge.toml\", or give `softdpu test -c POLICY`";
            problems.push(Problem::error(Code::MissingKey, 0..0, "nothing says which policy to test", help));
            return Err(said(problems));
        }
    };
    let policy = policies.entry(policy_path).or_insert_with_key(|path| match config::load_without_keys(path) {
        Ok(policy) => Some(Arc::new(policy)),
        Err(errors) => {
            wrong.push(Unusable::Policy(Box::new(errors)));
            None
        }
    });
    let Some(policy) = policy.clone() else {
        return if problems.is_empty() { Ok(None) } else { Err(said(problems)) };
    };
    match read::check(&file, &source, path, &policy) {
        Ok(loaded) if problems.is_empty() => Ok(Some((loaded, policy))),
        Ok(_) => Err(said(problems)),
        Err(more) => {
            // What does not fit was left out: that something is missing would be about another file.
            let misfits = !problems.is_empty();
            problems.extend(more.into_iter().filter(|problem| !misfits || problem.code != Code::MissingKey));
            problems.sort_by_key(|problem| (problem.span.start, problem.code));
            Err(said(problems))
        }
    }
}

fn run(loaded: &Loaded, case: &Case, policy: &Arc<Policy>, keys: &keys::ThrowAway) -> Result<Outcome> {
    let began = Instant::now();
    let source = &loaded.source;
    let mut device = device::Device::new(policy, keys, &loaded.lab)?;
    let mut wrong = Vec::new();
    let fail = |what: &str, span: &std::ops::Range<usize>, expected: String, seen: String| {
        let (line, column) = source.position(span.start);
        Failure { what: what.to_owned(), expected, seen, file: source.name.clone(), line, column }
    };
    let mut all = Vec::new();
    let mut last = None;
    for (at, step) in case.steps.iter().enumerate() {
        match device.step(step, &mut all) {
            Ok(seen) => {
                if let Some(expected) = &step.expect {
                    let flow = device.flow(&seen);
                    let found = failures(expected, &seen, &flow, &seen.out);
                    wrong.extend(found.into_iter().map(|(s, expected, seen)| fail(s.what, &s.span, expected, seen)));
                }
                if step.port.is_some() || last.is_none() {
                    last = Some(seen);
                }
            }
            Err(why) => {
                wrong.push(fail("packet", &case.span, format!("packet {} goes in", at + 1), why));
                break;
            }
        }
    }
    let mut line = String::new();
    if let Some(seen) = &last {
        let flow = device.flow(seen);
        line = report::seen(seen, &flow);
        if let Some(expected) = &case.expect {
            let found = failures(expected, seen, &flow, &all);
            wrong.extend(found.into_iter().map(|(s, expected, seen)| fail(s.what, &s.span, expected, seen)));
        }
    }
    for counter in &case.counters {
        let value = device.counter(&counter.name);
        let seen = value.map_or_else(|| "no such counter".to_owned(), |value| value.to_string());
        if let Some(is) = counter.is.filter(|is| value != Some(*is)) {
            wrong.push(fail(&counter.name, &counter.span, is.to_string(), seen.clone()));
        }
        if let Some(least) = counter.least.filter(|least| value.is_none_or(|value| value < *least)) {
            wrong.push(fail(&counter.name, &counter.span, format!("at least {least}"), seen));
        }
    }
    if let Err(why) = device.finish() {
        wrong.push(fail("softdpu", &case.span, "nothing escapes, and no frame is lost".to_owned(), why));
    }
    Ok(Outcome {
        file: source.name.clone(),
        line: source.position(case.span.start).0,
        name: case.name.clone(),
        ok: wrong.is_empty(),
        failures: wrong,
        seen: line,
        seconds: began.elapsed().as_secs_f64(),
    })
}
