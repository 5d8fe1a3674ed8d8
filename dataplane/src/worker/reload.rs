//! A changed policy comes into force while packets flow.
//!
//! Everything is compiled before anything is touched. Then, in this order: flows come back from the driver, workers go on to
//! the new plan (each between two turns, so that no packet meets half of one), and when all have, the XDP program's rules are
//! exchanged, in one step for the packets. In between a packet may be steered by the old rules and meet the new plan, which
//! is whole in itself: what it protects is protected from then on.

use super::aside::{aside, behind};
use super::build;
use super::history::{History, Texts};
use super::instance::{WorkerHandle, WorkerState};
use crate::config::{self, Memo, Policy};
use crate::control::PlanSource;
use crate::control::types::{PlanEntry, PlanOutcome, ReloadReport};
use crate::offload::Gate;
use crate::plan::connections::Limit;
use crate::plan::contract::Contract;
use crate::plan::shares::Share;
use crate::plan::{self, Plan};
use crate::telemetry::journal::{Journal, Kind, Note};
use crate::tunnel::control::lock;
use crate::tunnel::steering::Steering;
use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A worker that has not gone on to the new plan by then is stuck. One turn takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two runs of a health check.
const BETWEEN_CHECKS: Duration = Duration::from_millis(200);

/// Intents whose change is told one by one.
const MOST_INTENTS: usize = 100;

/// As `softdpu history` names who asked.
fn asked_by(from: &PlanSource) -> String {
    match from {
        PlanSource::File(by) => (*by).to_owned(),
        PlanSource::History(plan) => format!("rollback to {plan}"),
        PlanSource::Names(what) => format!("names: {what}"),
    }
}

/// What a change of policy works with.
pub struct Switch {
    pub policy: Arc<ArcSwap<Policy>>,
    pub path: PathBuf,
    pub plan: Arc<ArcSwap<Plan>>,
    pub steering: Arc<Steering>,
    pub gate: Option<Arc<Gate>>,
    pub workers: Vec<WorkerHandle>,
    pub history: Mutex<History>,
    pub journal: Arc<Journal>,
    /// One change at a time, with what is remembered for the next.
    pub turn: Arc<Mutex<Memo>>,
}

/// With fewer rules and intents the first reload is quick enough.
const MANY: usize = 256;

/// Reads the policy in force once more, on a thread of its own, so that the first reload finds as much remembered as any other.
pub fn remember(switch: &Switch) {
    let policy = switch.policy.load_full();
    if policy.rules.len() + policy.intents.len() < MANY {
        return;
    }
    // Nothing else of the switch, which ends with the instance.
    let (memo, path) = (switch.turn.clone(), switch.path.clone());
    let cores = switch.cores();
    let work = move || {
        let mut memo = lock(&memo);
        let memo = &mut *memo;
        let texts = Texts::new(&policy);
        let read = || Ok(config::load_text(&texts.policy, "in force", &path, texts.intents, memo).is_ok());
        let read = aside("remember", &cores, || behind("remember", read));
        tracing::debug!("the policy in force is remembered: {read:?}");
    };
    if let Err(error) = std::thread::Builder::new().name("remember".into()).spawn(work) {
        tracing::debug!("the first reload will read all: {error}");
    }
}

/// Compiled, and found to be one that this instance can go on to.
struct Candidate {
    policy: Policy,
    plan: Plan,
    changes: Vec<config::Change>,
}

impl Switch {
    /// Goes on to another policy; blocks until it is in force and healthy, or the old one is again. `dry`: only says what would
    /// change.
    ///
    /// # Errors
    /// The policy is not valid, or parts of it have changed that only a start reads: nothing was touched. Or a worker hangs.
    pub fn apply(&self, from: &PlanSource, dry: bool) -> Result<ReloadReport> {
        let mut turn = lock(&self.turn);
        let memo = &mut *turn;
        let cores = self.cores();
        // All of it, to the last free of what it replaces.
        aside("reload", &cores, || {
            let before = self.policy.load_full();
            let done = self.change(&before, from, dry, memo);
            if !dry {
                self.tell(&asked_by(from), &before.contract, &done);
            }
            // Behind all others: tens of thousands of small pieces of memory.
            behind("tidy", || {
                drop(before);
                // Else they would gather until somebody reads them.
                self.workers.iter().for_each(|worker| worker.counters.rules.fold());
                Ok(())
            })?;
            done
        })
    }

    /// That workers are pinned to.
    fn cores(&self) -> Vec<usize> {
        self.workers.iter().filter_map(|worker| worker.core).collect()
    }

    /// Tells who follows the instance what came of a change.
    fn tell(&self, by: &str, before: &Contract, done: &Result<ReloadReport>) {
        let report = match done {
            Ok(report) => report,
            Err(error) => {
                let all = format!("{error:#}");
                // Of a policy's errors: the first, which stands behind its code.
                let mut lines = all.lines().map(str::trim);
                let first = lines.clone().find_map(|line| line.strip_prefix("× "));
                let first = first.or_else(|| lines.find(|line| !line.is_empty())).unwrap_or_default();
                let text = format!("the policy in force stays: {first}");
                return self.journal.tell(Note::new(Kind::PlanRefused, by, text).with("error", all));
            }
        };
        if let Some(why) = &report.rolled_back {
            let text = format!("taken back, plan {} is in force: {why}", report.plan);
            let note = Note::new(Kind::PlanRolledBack, by, text).with("plan", report.plan);
            return self.journal.tell(note.with("why", why.as_str()));
        }
        if !report.applied {
            return;
        }
        let count = report.changes.len();
        let text = format!("plan {} is in force, {count} change{}", report.plan, if count == 1 { "" } else { "s" });
        let note =
            Note::new(Kind::PlanApplied, by, text).with("plan", report.plan).with("changes", report.changes.len());
        self.journal.tell(note.with("compile_ms", report.compile_ms).with("switch_ms", report.switch_ms));
        let after = self.policy.load().contract.clone();
        let differences = before.difference(&after);
        for difference in differences.iter().take(MOST_INTENTS) {
            let text = format!("{}: {}", difference.kind, difference.what.join(", "));
            let mut note = Note::new(Kind::IntentChanged, &difference.intent, text);
            note = note.with("change", difference.kind.as_str()).with("what", difference.what.clone());
            if let Some(intent) = after.intents.iter().find(|intent| intent.name == difference.intent) {
                note = note.with("verdict", intent.verdict.as_str()).with("reason", intent.because.reason.code());
            }
            self.journal.tell(note);
        }
        let more = differences.len().saturating_sub(MOST_INTENTS);
        if more > 0 {
            let note = Note::new(Kind::LeftOut, Kind::IntentChanged.code(), format!("{more} more intents changed"));
            self.journal.tell(note.with("count", more));
        }
    }

    fn change(&self, before: &Arc<Policy>, from: &PlanSource, dry: bool, memo: &mut Memo) -> Result<ReloadReport> {
        let started = Instant::now();
        let candidate = behind("plan", || self.compile(before, from, memo))?;
        let mut report = ReloadReport {
            compile_ms: started.elapsed().as_secs_f64() * 1e3,
            changes: candidate.changes.clone(),
            plan: lock(&self.history).current(),
            warnings: candidate.policy.warnings.iter().map(|warning| warning.message.clone()).collect(),
            ..ReloadReport::default()
        };
        if dry || candidate.changes.is_empty() {
            // Where comments changed, or how a failed health check is told, it is still the newest text.
            if !dry {
                self.policy.store(Arc::new(candidate.policy));
            }
            return Ok(report);
        }
        let (texts, count) = (Texts::new(&candidate.policy), candidate.changes.len());
        report.switch_ms = self.go_on(candidate)?;
        report.plan = lock(&self.history).begin(&asked_by(from), count, texts);
        report.applied = true;
        let after = self.policy.load_full();
        if let Err(why) = healthy(&after) {
            let why = format!("{why:#}");
            tracing::error!("plan {} is taken back: {why}", report.plan);
            lock(&self.history).rolled_back(&why);
            report.applied = false;
            report.rolled_back = Some(why);
            self.go_on(Candidate {
                plan: self.build(before, false)?,
                policy: Policy::clone(before),
                changes: Vec::new(),
            })?;
            report.plan = lock(&self.history).begin("health check", count, Texts::new(before));
        }
        Ok(report)
    }

    /// All plans that were in force, newest first.
    pub fn entries(&self) -> Vec<PlanEntry> {
        lock(&self.history).entries()
    }

    fn compile(&self, before: &Policy, from: &PlanSource, memo: &mut Memo) -> Result<Candidate> {
        let policy = match from {
            PlanSource::File(_) => {
                config::load_again(&self.path, memo).map_err(|errors| anyhow!("{}", errors.render(false)))?
            }
            PlanSource::History(plan) => {
                let texts = lock(&self.history).texts(*plan).cloned();
                let texts = texts.with_context(|| format!("there is no plan {plan}: `softdpu history` lists them"))?;
                self.of_texts(texts, &format!("plan {plan}"), memo)?
            }
            // As it was read: what is in the files now nobody has asked for.
            PlanSource::Names(_) => self.of_texts(Texts::new(before), "in force", memo)?,
        };
        let found = config::changes(before, &policy);
        if !found.restart.is_empty() {
            bail!("only a restart takes up what changed in {}", found.restart.join(", "));
        }
        self.steering.try_policy(&policy)?;
        let same = before.applications == policy.applications;
        Ok(Candidate { plan: self.build(&policy, same)?, policy, changes: found.live })
    }

    /// A policy as it was once. `what` says which in messages.
    fn of_texts(&self, texts: Texts, what: &str, memo: &mut Memo) -> Result<Policy> {
        let name = format!("{} ({what})", self.path.display());
        config::load_text(&texts.policy, &name, &self.path, texts.intents, memo)
            .map_err(|errors| anyhow!("{}", errors.render(false)))
    }

    /// The next plan. Ports are the same, and with them what was found out about them.
    fn build(&self, policy: &Policy, same_applications: bool) -> Result<Plan> {
        let current = self.plan.load();
        let mut plan = plan::build(policy, current.generation.wrapping_add(1))?;
        plan.ports.clone_from(&current.ports);
        Share::follow(&mut plan.shares, &current.shares);
        Limit::follow(&mut plan.limits, &current.limits);
        plan.applications = plan.applications.after(&current.applications, same_applications);
        Ok(plan)
    }

    /// Puts it in force. Answers how long that took, in milliseconds.
    fn go_on(&self, candidate: Candidate) -> Result<f64> {
        // Kept until all workers are past it: none of them should have to free it.
        let old = self.plan.load_full();
        let started = Instant::now();
        let opened = self.gate.as_ref().map(|gate| {
            gate.close();
            Opened(gate)
        });
        let (generation, policy) = (candidate.plan.generation, Arc::new(candidate.policy));
        let timeouts = policy.flows.timeouts;
        let new_timeouts = self.policy.load().flows.timeouts != timeouts;
        // What a worker would have to ask memory for when it goes on is there already.
        for worker in &self.workers {
            worker.counters.rules.prepare(&candidate.plan.rule_names);
        }
        self.plan.store(Arc::new(candidate.plan));
        for worker in &self.workers {
            if new_timeouts {
                let _ =
                    worker.ask.try_send(Box::new(move |worker| worker.flows.set_timeouts(build::timeouts(&timeouts))));
            }
            worker.waker.wake();
        }
        let gone_on = self.wait_for(generation).and_then(|()| self.steering.set_policy(policy.clone()));
        if let Err(error) = gone_on {
            // Flows must not meet rules of one policy in the driver and of another in the worker for good.
            let mut back = self.build(&self.policy.load(), false)?;
            back.generation = generation.wrapping_add(1);
            self.plan.store(Arc::new(back));
            return Err(error);
        }
        self.policy.store(policy);
        drop(opened);
        let took = started.elapsed().as_secs_f64() * 1e3;
        behind("tidy", || {
            drop(old);
            Ok(())
        })?;
        Ok(took)
    }

    fn wait_for(&self, generation: u32) -> Result<()> {
        let runs = |worker: &&WorkerHandle| lock(&worker.state).eq(&WorkerState::Running);
        let started = Instant::now();
        for worker in self.workers.iter().filter(runs) {
            while worker.counters.plan.get() != u64::from(generation) && runs(&worker) {
                if started.elapsed() > PATIENCE {
                    bail!("a worker does not take up the new plan: `softdpu status` shows which stands still");
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(())
    }
}

/// The gate is open again, however a change ends.
struct Opened<'a>(&'a Gate);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Runs the policy's health check until it says yes, or its time is over.
fn healthy(policy: &Policy) -> Result<()> {
    let Some((program, arguments)) = policy.apply.health.split_first() else { return Ok(()) };
    let until = Instant::now() + policy.apply.within;
    loop {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("the health check `{program}` cannot be run"))?;
        let code = loop {
            match child.try_wait()? {
                Some(code) => break Some(code),
                None if Instant::now() >= until => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        match code {
            Some(code) if code.success() => return Ok(()),
            Some(code) if Instant::now() + BETWEEN_CHECKS >= until => {
                bail!("the health check `{program}` failed: {code}")
            }
            Some(_) => std::thread::sleep(BETWEEN_CHECKS),
            None => bail!("the health check `{program}` did not end in time"),
        }
    }
}

impl PlanOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled back",
        }
    }
}
