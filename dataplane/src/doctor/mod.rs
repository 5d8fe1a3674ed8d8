//! `softdpu doctor`: what on this host keeps a policy from running well, what that means, and what puts it right.
//!
//! ```text
//!  host::probe ──► Inventory ─┐
//!  config::load ──► Policy ───┼─► Situation ──► checks (a table per family) ──► Findings ──► Change ──► fix, undo
//!  live::probe ──► Live ──────┘
//! ```
//!
//! A check is a function over a [`Situation`], so that tests can plant what a machine cannot be made to have. Only `live`
//! touches the kernel, and only in a throw-away namespace unless asked to.

mod checks;
mod docs;
pub mod fix;
pub mod live;
pub mod state;

pub use checks::CHECKS;
pub use docs::markdown;
use serde::Serialize;

use self::fix::Change;
use self::live::Live;
use crate::config::Policy;
use crate::config::policy::{Checksum, Mode, Port as PolicyPort, PortKind, XdpPort, ZeroCopy};
use crate::host::inventory::{Interface, Inventory};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    NotApplicable,
    Ok,
    /// Works, and not as well as it could.
    Warn,
    /// Will not start, or loses packets.
    Fail,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotApplicable => "n/a",
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// A check, as registered in the table of its family.
pub struct Check {
    /// Stable, for JSON and for people to look up.
    pub id: &'static str,
    /// What is looked at, in a few words.
    pub title: &'static str,
    /// What it means when it is not as it should be.
    pub meaning: &'static str,
    /// What puts it right, in general; a finding has the exact command.
    pub remedy: &'static str,
    pub run: fn(&Situation<'_>, &mut Found),
}

/// Checks about one thing.
pub struct Family {
    pub name: &'static str,
    pub checks: &'static [Check],
}

/// What one check found about one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub state: State,
    /// What it is about, where there are several: an interface, a tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was found.
    pub found: String,
    /// What that means; empty where all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub meaning: &'static str,
    /// What to type, or what to write into which file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// What `--fix` would do. Empty: nothing that is safe to do unasked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// Where a check puts its findings.
#[derive(Default)]
pub struct Found {
    all: Vec<Finding>,
}

/// The finding just made, to say more about it.
pub struct Last<'a>(&'a mut Finding);

impl Found {
    fn add(&mut self, state: State, subject: Option<&str>, found: String) -> Last<'_> {
        self.all.push(Finding {
            check: "",
            state,
            subject: subject.map(str::to_owned),
            found,
            meaning: "",
            commands: Vec::new(),
            changes: Vec::new(),
        });
        Last(self.all.last_mut().expect("one was just pushed"))
    }

    pub fn ok<'a>(&mut self, subject: impl Into<Option<&'a str>>, found: impl Into<String>) {
        self.add(State::Ok, subject.into(), found.into());
    }

    pub fn not_applicable<'a>(&mut self, subject: impl Into<Option<&'a str>>, why: impl Into<String>) {
        self.add(State::NotApplicable, subject.into(), why.into());
    }

    pub fn warn<'a>(&mut self, subject: impl Into<Option<&'a str>>, found: impl Into<String>) -> Last<'_> {
        self.add(State::Warn, subject.into(), found.into())
    }

    pub fn fail<'a>(&mut self, subject: impl Into<Option<&'a str>>, found: impl Into<String>) -> Last<'_> {
        self.add(State::Fail, subject.into(), found.into())
    }
}

impl Last<'_> {
    /// What to type; for what `--fix` does not do.
    pub fn command(self, command: impl Into<String>) -> Self {
        self.0.commands.push(command.into());
        self
    }

    /// What `--fix` does, and its command.
    pub fn change(self, change: Change) -> Self {
        self.0.commands.push(change.command());
        self.0.changes.push(change);
        self
    }
}

/// Everything a check may look at.
pub struct Situation<'a> {
    pub host: &'a Inventory,
    pub policy: Option<&'a Policy>,
    /// Interfaces to look at that no policy names.
    pub interfaces: &'a [String],
    /// `None`: nothing was tried.
    pub live: Option<&'a Live>,
}

/// A port of kind xdp, or an interface that was named instead.
pub struct Port<'a> {
    pub interface: &'a str,
    /// `None`: there is no such interface.
    pub nic: Option<&'a Interface>,
    /// `None` where no policy names it: defaults hold.
    wants: Option<(&'a PolicyPort, &'a XdpPort)>,
}

impl Port<'_> {
    pub fn mode(&self) -> Mode {
        self.wants.map_or(Mode::Auto, |(_, x)| x.mode)
    }

    pub fn zero_copy(&self) -> ZeroCopy {
        self.wants.map_or(ZeroCopy::Auto, |(_, x)| x.zero_copy)
    }

    pub fn busy_poll(&self) -> bool {
        self.wants.is_some_and(|(_, x)| x.busy_poll)
    }

    pub fn checksum(&self) -> Checksum {
        self.wants.map_or(Checksum::Auto, |(p, _)| p.checksum)
    }

    /// Slots of each socket's rings.
    pub fn ring(&self) -> u32 {
        self.wants.map_or(2048, |(_, x)| x.ring)
    }

    /// Queues that the policy takes.
    pub fn queues_wanted(&self) -> Option<u32> {
        self.wants.and_then(|(_, x)| x.queues)
    }

    /// Whether packets come to the program before the driver: in generic mode, or where native is not to be had.
    pub fn generic(&self) -> bool {
        let refused = self.nic.is_some_and(|n| n.xdp.has("basic") == Some(false));
        match self.mode() {
            Mode::Generic => true,
            Mode::Auto => refused,
            Mode::Native => false,
        }
    }
}

impl<'a> Situation<'a> {
    /// The ports to look at: those of the policy, and the interfaces that were named.
    pub fn ports(&self) -> Vec<Port<'a>> {
        let mut ports = Vec::new();
        for port in self.policy.map_or(&[][..], |p| &p.ports) {
            if let PortKind::Xdp(xdp) = &port.kind {
                let nic = self.host.interface(&xdp.interface);
                ports.push(Port { interface: &xdp.interface, nic, wants: Some((port, xdp)) });
            }
        }
        for name in self.interfaces {
            ports.push(Port { interface: name, nic: self.host.interface(name), wants: None });
        }
        ports
    }

    /// Why there is no port to look at.
    pub fn no_port(&self) -> &'static str {
        match self.policy {
            Some(_) => "the policy has no port of kind xdp",
            None => "no port to look at: name a policy (--policy) or an interface (--interface)",
        }
    }

    /// Runs `look` for each port whose interface is there; says so where there is none to look at.
    pub fn each_port(&self, found: &mut Found, mut look: impl FnMut(&Port<'a>, &'a Interface, &mut Found)) {
        let ports = self.ports();
        if ports.is_empty() {
            found.not_applicable(None, self.no_port());
        }
        for port in &ports {
            match port.nic {
                Some(nic) => look(port, nic, found),
                None => found.not_applicable(port.interface, "there is no such interface"),
            }
        }
    }

    /// Cores the workers run on, as far as the policy says: with a count, the first allowed ones.
    pub fn worker_cores(&self) -> Vec<usize> {
        use crate::config::policy::Cores;
        match self.policy.map(|p| &p.workers.cores) {
            Some(Cores::List(cores)) => cores.clone(),
            Some(Cores::Count(n)) => self.host.cpu.allowed.iter().copied().take(*n).collect(),
            None => Vec::new(),
        }
    }
}

/// Runs all checks, in the order of their table.
pub fn examine(situation: &Situation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for check in CHECKS.iter().flat_map(|family| family.checks) {
        let mut found = Found::default();
        (check.run)(situation, &mut found);
        for finding in &mut found.all {
            finding.check = check.id;
            if finding.state >= State::Warn {
                finding.meaning = check.meaning;
            }
        }
        findings.append(&mut found.all);
    }
    findings
}

/// The check with this id.
pub fn check(id: &str) -> Option<&'static Check> {
    CHECKS.iter().flat_map(|family| family.checks).find(|check| check.id == id)
}
