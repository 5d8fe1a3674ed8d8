//! `softdpu tune`: what settings are worth on this host, measured.
//!
//! ```text
//!  policy ──► Values ──► candidates: one setting changed each
//!                │            │   rounds: all of them in turn, again and again
//!                ▼            ▼
//!            a Stage (generated traffic over veths, or the policy's own ports) ──► Turn: rate, cost
//!                                                  │
//!                        ratios within each round ─┴─► Verdict ──► fragment of a policy, with the figures
//! ```
//!
//! A machine is never quiet, so what is compared is measured in one run, alternating, and compared round by round. A choice is
//! made only where nearly all rounds agree and the gain is larger than the spread of the ratios.

mod fragment;
mod stage;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use self::fragment::fragment;
use self::stage::Stage;
pub use self::verdict::{Verdict, judge};
use crate::config::Policy;
use crate::config::policy::{Cores, Idle, PortKind, XdpPort, ZeroCopy};
use crate::host::inventory::Inventory;
use crate::rig::net::cores;
use crate::rig::{progress, stop};

/// A setting that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Ring,
    Batch,
    Idle,
    Copy,
    BusyPoll,
}

impl Setting {
    pub const ALL: [Self; 5] = [Self::Ring, Self::Batch, Self::Idle, Self::Copy, Self::BusyPoll];

    /// As typed after `--only`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Batch => "batch",
            Self::Idle => "idle",
            Self::Copy => "copy",
            Self::BusyPoll => "busy-poll",
        }
    }

    /// Its key in the policy.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Batch => "batch",
            Self::Idle => "idle",
            Self::Copy => "zero_copy",
            Self::BusyPoll => "busy_poll",
        }
    }

    /// Whether the key is in `[workers]`, and not in a `[[port]]`.
    pub const fn of_workers(self) -> bool {
        matches!(self, Self::Batch | Self::Idle)
    }
}

/// The values of all settings in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    pub ring: u32,
    pub batch: usize,
    pub idle: Idle,
    pub zero_copy: ZeroCopy,
    pub busy_poll: bool,
}

impl Values {
    fn of(policy: &Policy, port: &XdpPort) -> Self {
        Self {
            ring: port.ring,
            batch: policy.workers.batch,
            idle: policy.workers.idle,
            zero_copy: port.zero_copy,
            busy_poll: port.busy_poll,
        }
    }

    /// The value of a setting.
    pub fn get(&self, setting: Setting) -> toml::Value {
        match setting {
            Setting::Ring => i64::from(self.ring).into(),
            Setting::Batch => (self.batch as i64).into(),
            Setting::Idle => match self.idle {
                Idle::Adaptive => "adaptive",
                Idle::Busy => "busy",
                Idle::Interrupt => "interrupt",
            }
            .into(),
            Setting::Copy => match self.zero_copy {
                ZeroCopy::Auto => "auto",
                ZeroCopy::Never => "never",
                ZeroCopy::Require => "require",
            }
            .into(),
            Setting::BusyPoll => self.busy_poll.into(),
        }
    }

    /// All that a setting may be instead.
    fn others(self, setting: Setting, zero_copy: bool) -> Vec<Self> {
        let all: Vec<Self> = match setting {
            Setting::Ring => [512, 1024, 2048, 4096].map(|ring| Self { ring, ..self }).into(),
            Setting::Batch => [16, 32, 64, 128, 256].map(|batch| Self { batch, ..self }).into(),
            Setting::Idle => [Idle::Adaptive, Idle::Interrupt, Idle::Busy].map(|idle| Self { idle, ..self }).into(),
            // Where the driver has one way only there is nothing to choose.
            Setting::Copy if !zero_copy => Vec::new(),
            Setting::Copy => [ZeroCopy::Never, ZeroCopy::Require].map(|zero_copy| Self { zero_copy, ..self }).into(),
            Setting::BusyPoll => [false, true].map(|busy_poll| Self { busy_poll, ..self }).into(),
        };
        all.into_iter().filter(|v| *v != self).collect()
    }
}

/// What one turn showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Turn {
    /// Packets forwarded per second.
    pub rate: f64,
    /// CPU time of the instance per second before there was traffic, in % of a core.
    pub idle_cpu: f64,
    /// CPU time of the instance per second under traffic, in % of a core.
    pub cpu: f64,
}

/// One set of values and its turns. `setting` is `None` for the policy as it is.
#[derive(Debug)]
pub struct Candidate {
    pub setting: Option<Setting>,
    pub values: Values,
    pub turns: Vec<Turn>,
    /// Why it could not be measured.
    pub refused: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub turn: Duration,
    /// Empty: all.
    pub only: Vec<Setting>,
    /// Bytes of each generated frame, without FCS.
    pub size: usize,
    /// Generated flows, a power of two.
    pub flows: u32,
    /// On the policy's own ports.
    pub real: bool,
    /// The `softdpu` to run.
    pub binary: PathBuf,
    pub policy_path: PathBuf,
}

/// All that was measured. The first candidate is the policy as it is.
#[derive(Debug)]
pub struct Report {
    pub candidates: Vec<Candidate>,
    /// Ports of kind xdp: name and interface.
    pub ports: Vec<(String, String)>,
    /// Where and with what.
    pub about: Vec<String>,
    /// Settings that there was nothing to choose for, and why.
    pub skipped: Vec<(Setting, String)>,
    pub interrupted: bool,
}

/// Measures. Shows its progress on a terminal.
///
/// # Errors
/// The policy has no port of kind xdp; there are not two cores; the policy as it is cannot be measured.
pub fn run(policy: &Policy, host: &Inventory, options: &Options) -> Result<Report> {
    let ports: Vec<(&str, &XdpPort)> = policy
        .ports
        .iter()
        .filter_map(|p| if let PortKind::Xdp(xdp) = &p.kind { Some((p.name.as_str(), xdp)) } else { None })
        .collect();
    let (_, first) = ports.first().context("the policy has no port of kind xdp: there is nothing to measure")?;
    let base = Values::of(policy, first);
    let (worker, generator) = places(policy)?;
    let zero_copy = options.real
        && ports
            .iter()
            .all(|(_, p)| host.interface(&p.interface).is_some_and(|n| n.xdp.has("xsk-zerocopy") == Some(true)));
    let wanted = |s: &Setting| options.only.is_empty() || options.only.contains(s);
    let mut candidates = vec![Candidate { setting: None, values: base, turns: Vec::new(), refused: None }];
    let mut skipped = Vec::new();
    for setting in Setting::ALL.into_iter().filter(wanted) {
        let others = base.others(setting, zero_copy);
        if others.is_empty() {
            let why = if options.real {
                "not every port's driver has zero-copy"
            } else {
                "a veth only copies: measure it with --real"
            };
            skipped.push((setting, why.to_owned()));
        }
        candidates.extend(others.into_iter().map(|values| Candidate {
            setting: Some(setting),
            values,
            turns: Vec::new(),
            refused: None,
        }));
    }
    stop::install();
    let stage = Stage::new(policy, options, worker, generator)?;
    let about = stage.about(options, host);
    rounds(&stage, &mut candidates, options)?;
    Ok(Report {
        candidates,
        ports: ports.iter().map(|(name, xdp)| ((*name).to_owned(), xdp.interface.clone())).collect(),
        about,
        skipped,
        interrupted: stop::asked(),
    })
}

fn rounds(stage: &Stage<'_>, candidates: &mut [Candidate], options: &Options) -> Result<()> {
    let bar = progress::bar((options.rounds * candidates.len()) as u64);
    for round in 0..options.rounds {
        for (at, candidate) in candidates.iter_mut().enumerate() {
            if stop::asked() {
                break;
            }
            let what = candidate
                .setting
                .map_or("the policy as it is".to_owned(), |s| format!("{} = {}", s.key(), candidate.values.get(s)));
            bar.set_message(format!("round {} of {}: {what}", round + 1, options.rounds));
            if candidate.refused.is_none() {
                match stage.turn(&candidate.values, options) {
                    Ok(turn) => candidate.turns.push(turn),
                    // Whatever is compared with it would be nothing.
                    Err(e) if at == 0 => return Err(e.context("the policy as it is cannot be measured")),
                    Err(e) => candidate.refused = Some(format!("{e:#}")),
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if stop::asked() {
        // A round that was broken off has turns that nothing can be compared with.
        let whole = candidates.iter().filter(|c| c.refused.is_none()).map(|c| c.turns.len()).min().unwrap_or(0);
        candidates.iter_mut().for_each(|c| c.turns.truncate(whole));
        ensure!(whole > 0, "broken off before the first round was over");
    }
    Ok(())
}

/// The worker's core and the generator's.
fn places(policy: &Policy) -> Result<(usize, usize)> {
    let allowed = cores::allowed().context("asking for cores")?;
    let wanted = match &policy.workers.cores {
        Cores::List(list) => list.iter().find(|c| allowed.contains(c)).copied(),
        Cores::Count(_) => None,
    };
    let Some(worker) = wanted.or(allowed.last().copied()) else { bail!("no core to run on") };
    let generator = allowed.iter().find(|c| **c != worker);
    let generator = generator.context("two cores are needed: one for the worker, one for what feeds it")?;
    Ok((worker, *generator))
}
