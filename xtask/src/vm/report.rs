//! What became of the tests: shown while they run, summed up at the end, and kept as `target/vm/results.json`.

use std::{fs, io::Write as _, time::Instant};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::{binaries::Job, folder, machine::Machine, protocol::Word, say};

/// How one test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Failed,
    /// It said what it lacks.
    Skipped,
}

#[derive(Debug, Clone, Serialize)]
pub struct Test {
    pub name: String,
    pub outcome: Outcome,
    pub seconds: f64,
    /// Why it was skipped, or how it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Complaints of the kernel during it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<String>,
    #[serde(skip)]
    said: Vec<String>,
}

/// One boot.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub kernel: String,
    /// Seconds from power on to the first test, by the VM's clock.
    pub boot: f64,
    /// Seconds of the whole run, by ours.
    pub seconds: f64,
    /// Modules that this kernel has not.
    pub lacks: Vec<String>,
    pub tests: Vec<Test>,
    /// What tests said of peers, for the table of who works with whom.
    pub interop: Vec<Value>,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Run {
    /// Tests that passed, failed, were skipped.
    pub fn counts(&self) -> [u64; 3] {
        let count = |outcome| self.tests.iter().filter(|test| test.outcome == outcome).count() as u64;
        [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(count)
    }

    /// Whether the run came to its end and no test failed.
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.counts()[1] == 0
    }
}

/// Boots the machine and follows it. A VM that ends early is a failed run with the tests that were left named.
///
/// # Errors
/// When what was said cannot be kept.
pub fn follow(machine: &Machine<'_>, jobs: &[Job], verbose: bool) -> Result<Run> {
    let start = Instant::now();
    let mut run = Run {
        kernel: machine.kernel.release.clone(),
        boot: 0.0,
        seconds: 0.0,
        lacks: Vec::new(),
        tests: Vec::new(),
        interop: Vec::new(),
        error: None,
    };
    let mut current: Option<Test> = None;
    let mut log = Vec::new();
    let ended = machine.run(|word| {
        if let Word::Text(line) = &word {
            log.push(line.clone());
        }
        if let Some(test) = run.take(word, &mut current, verbose) {
            show_test(test);
        }
    });
    if let Err(error) = ended {
        if let Some(mut test) = current.take() {
            (test.outcome, test.why) = (Outcome::Failed, Some("the VM ended during it".into()));
            show_test(&test);
            run.tests.push(test);
        }
        let left: Vec<String> =
            jobs.iter().map(Job::name).filter(|name| run.tests.iter().all(|t| t.name != *name)).collect();
        let left = if left.is_empty() { String::new() } else { format!("\nnot run: {}", left.join(", ")) };
        run.error = Some(format!("{error:#}{left}"));
    }
    run.seconds = start.elapsed().as_secs_f64();
    let rows = softdpu_testbed::interop::folder();
    fs::create_dir_all(&rows)?;
    let lines: String = run.interop.iter().map(|row| format!("{row}\n")).collect();
    // Behind those of earlier runs, which may have been of other tests; the newest of each combination counts.
    let mut file =
        fs::File::options().create(true).append(true).open(rows.join(format!("vm-{}.jsonl", machine.kernel.line)))?;
    file.write_all(lines.as_bytes())?;
    fs::write(folder().join(format!("tests-{}.log", machine.kernel.line)), log.join("\n"))?;
    Ok(run)
}

impl Run {
    /// Takes one line; the test that ended with it, if one did.
    fn take(&mut self, word: Word, current: &mut Option<Test>, verbose: bool) -> Option<&Test> {
        match word {
            Word::Lack(module) => self.lacks.push(module),
            Word::Boot(release, took) => {
                self.boot = took.as_secs_f64();
                say(&format!("Linux {release} is up after {:.1} s", self.boot));
            }
            Word::Begin(file, test) => {
                let (name, outcome) = (format!("{file}::{test}"), Outcome::Failed);
                *current = Some(Test { name, outcome, seconds: 0.0, why: None, kernel: Vec::new(), said: Vec::new() });
            }
            Word::Text(line) => {
                if verbose {
                    eprintln!("    {line}");
                }
                if let Some(test) = current {
                    test.said.push(line);
                }
            }
            Word::Row(row) => self.interop.extend(serde_json::from_str::<Value>(&row)),
            Word::Kernel(line) => current.iter_mut().for_each(|test| test.kernel.push(line.clone())),
            Word::Left(what) => current.iter_mut().for_each(|test| test.why = Some(format!("left {what} behind"))),
            Word::End(code, took) => {
                let mut test = current.take()?;
                test.seconds = took.as_secs_f64();
                let skipped =
                    test.said.iter().find_map(|line| line.split_once("SKIPPED: ").map(|(_, why)| why.to_owned()));
                (test.outcome, test.why) = match (code, skipped, test.why.take()) {
                    (0, Some(why), _) => (Outcome::Skipped, Some(why)),
                    (0, None, None) => (Outcome::Passed, None),
                    (0, None, Some(left)) => (Outcome::Failed, Some(left)),
                    (137, ..) => (Outcome::Failed, Some("killed: it took too long".into())),
                    (code, ..) => (Outcome::Failed, Some(format!("ended with {code}"))),
                };
                self.tests.push(test);
                return self.tests.last();
            }
            Word::Done => {}
        }
        None
    }
}

fn show_test(test: &Test) {
    let word = match test.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
    };
    let why = test.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    eprintln!("  {word:<8} {:>6.1} s  {}{why}", test.seconds, test.name);
    for line in &test.kernel {
        eprintln!("           the kernel said: {line}");
    }
    if test.outcome == Outcome::Failed {
        for line in &test.said {
            eprintln!("           | {line}");
        }
    }
}

/// Keeps all runs so far.
///
/// # Errors
/// When the file cannot be written.
pub fn write(runs: &[Run]) -> Result<()> {
    fs::write(folder().join("results.json"), serde_json::to_string_pretty(runs)?)?;
    Ok(())
}

/// Sums the runs up.
///
/// # Errors
/// When they are no JSON, which cannot be.
pub fn show(runs: &[Run], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(runs)?);
        return Ok(());
    }
    for run in runs {
        let [passed, failed, skipped] = run.counts();
        println!(
            "Linux {}: {passed} passed, {failed} failed, {skipped} skipped; up after {:.1} s, done after {:.0} s",
            run.kernel, run.boot, run.seconds
        );
        if !run.lacks.is_empty() {
            println!("  this kernel has no {}", run.lacks.join(", "));
        }
        if let Some(error) = &run.error {
            println!("  {error}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(lines: &str) -> Run {
        let (kernel, error) = (String::new(), None);
        let (lacks, tests, interop) = (Vec::new(), Vec::new(), Vec::new());
        let mut run = Run { kernel, boot: 0.0, seconds: 0.0, lacks, tests, interop, error };
        let mut current = None;
        for line in lines.lines() {
            run.take(Word::read(line), &mut current, false);
        }
        run
    }

    #[test]
    fn passed_skipped_failed_and_interop() {
        let run = run_of(
            "@@vm lack veth\n@@vm boot 7.2 9.0\n\
             @@vm begin f a\ntest result: ok\n@@vm row {\"peer\":\"Linux XFRM\",\"pass\":true}\n@@vm end 0 1.0 2.5\n\
             @@vm begin f b\nSKIPPED: no zero-copy here\n@@vm end 0 2.5 2.6\n\
             @@vm begin f c\npanicked\n@@vm kernel BUG: x\n@@vm end 101 2.6 2.7\n\
             @@vm begin f d\n@@vm left ns\n@@vm end 0 3.0 3.1\n\
             @@vm begin f e\n@@vm end 137 3.1 9.1\n@@vm done",
        );
        let outcomes: Vec<Outcome> = run.tests.iter().map(|test| test.outcome).collect();
        use Outcome::{Failed, Passed, Skipped};
        assert_eq!(outcomes, [Passed, Skipped, Failed, Failed, Failed]);
        assert_eq!(run.tests[1].why.as_deref(), Some("no zero-copy here"));
        assert_eq!(run.tests[2].kernel, ["BUG: x"]);
        assert_eq!(run.tests[3].why.as_deref(), Some("left ns behind"));
        assert!((run.tests[0].seconds - 1.5).abs() < 1e-9);
        assert_eq!((run.interop.len(), run.lacks.len()), (1, 1));
        assert!(!run.passed());
    }
}
