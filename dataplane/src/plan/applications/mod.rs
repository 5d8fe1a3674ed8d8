//! Which of the operator's applications a flow is of. Compiled from the policy, asked once per flow.
//!
//! Terms of one kind are alternatives, terms of several kinds must hold together. Of the applications that fit, the most specific
//! wins: the one with the longest host pattern ([`HostGlob::rank`](crate::config::host_glob::HostGlob::rank)); then the one with the
//! longest prefix; then the one that asks for more kinds of terms; then the one that stands first.
//!
//! An application's address and port are those of its server. Which end that is cannot be told of a flow that was met in mid-life,
//! so either end will do, and the answer is the same whoever spoke first; `prefix` and `port` must hold for one and the same end.

mod hosts;
mod marks;
mod prefixes;
mod rest;
mod terms;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

pub use hosts::{MAX_GLOBS_PER_ENDING, MAX_SHARED};
pub use marks::ROOM as MAX_APPLICATIONS;

use crate::config::policy::Application;
use crate::l7::Alpn;
use hosts::Hosts;
use prefixes::{Around, Entry, Prefixes};
use rest::Rest;
use terms::Terms;

/// Most host patterns, and most prefixes, of all applications together.
pub const MAX_PATTERNS: usize = 1_000_000;

/// Number of an application: its place in the policy. Not 0, which in a flow means that it is of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(std::num::NonZeroU16);

impl AppId {
    /// `place`: from 0.
    fn at(place: u16) -> Self {
        Self(std::num::NonZeroU16::MIN.saturating_add(place))
    }

    fn from_number(number: u16) -> Option<Self> {
        std::num::NonZeroU16::new(number).map(Self)
    }

    /// From 1.
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// From 0: the place in lists of applications.
    pub fn place(self) -> usize {
        usize::from(self.0.get() - 1)
    }
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Address and port of both, in any order. Ports count for TCP, UDP and SCTP only.
    pub ends: [(IpAddr, u16); 2],
    pub protocol: u8,
    /// Class number.
    pub class: u16,
    pub alpn: Alpn,
    /// Lower case. No name that only a DNS answer gave: whoever owns some name can point it at any address.
    pub host: Option<&'a str>,
    pub ja4: Option<&'a str>,
}

/// What keeps applications from being compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// Place of the application.
    pub application: usize,
    pub message: String,
    pub help: String,
}

impl std::fmt::Display for TooMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.help)
    }
}

impl std::error::Error for TooMany {}

/// All applications, compiled. Immutable. About 70 bytes a host pattern besides its own length, 80 a prefix.
#[derive(Clone, Debug, Default)]
pub struct Applications {
    names: Box<[String]>,
    terms: Box<[Terms]>,
    hosts: Hosts,
    prefixes: Prefixes,
    rest: Rest,
    /// By JA4: the applications that ask for it, ascending.
    ja4: HashMap<Box<str>, Box<[u16]>>,
    /// Says in flows' marks which plan's numbers they are.
    epoch: u16,
}

/// How well an application fits: the greatest wins.
type Fit = (u16, u8, u8, Reverse<u16>);

/// A flow's facts with what was looked up of them once.
struct Probe<'a> {
    facts: &'a Facts<'a>,
    around: [Around<'a>; 2],
    ja4: &'a [u16],
    has_ports: bool,
}

impl Applications {
    /// # Errors
    /// More of something than there can be.
    pub fn compile(list: &[Application]) -> Result<Self, TooMany> {
        let excess =
            |application: usize, message: String, help: &str| TooMany { application, message, help: help.into() };
        if let Some(one_too_many) = list.get(MAX_APPLICATIONS) {
            let message =
                format!("`{}` is one too many: there can be {MAX_APPLICATIONS} applications", one_too_many.name);
            return Err(excess(MAX_APPLICATIONS, message, "join applications that are told apart nowhere"));
        }
        let most = |what: &str, count: fn(&Application) -> usize| {
            let mut sum = 0;
            let last = list.iter().position(|app| {
                sum += count(app);
                sum > MAX_PATTERNS
            });
            let message = |at: usize| format!("with `{}` there are more than {MAX_PATTERNS} {what}", list[at].name);
            last.map_or(Ok(sum), |at| {
                Err(excess(at, message(at), "patterns like \"*.example.com\" and shorter prefixes hold many"))
            })
        };
        let count = most("host patterns", |app| app.hosts.len())?;
        most("prefixes", |app| app.prefixes.len())?;

        let terms: Box<[Terms]> = list.iter().map(Terms::of).collect();
        let numbered = || list.iter().enumerate().map(|(at, app)| (at as u16, app));
        let patterns = numbered().flat_map(|(at, app)| app.hosts.iter().map(move |pattern| (pattern, at)));
        let hosts = Hosts::build(count, patterns).map_err(|(pattern, at)| {
            let message = format!("`{pattern}` is one pattern too many of its kind");
            let help = format!(
                "one pattern can be in {MAX_SHARED} applications, and {MAX_GLOBS_PER_ENDING} patterns with `*` within a label \
                 can have one ending"
            );
            excess(usize::from(at), message, &help)
        })?;
        let entries = numbered().flat_map(|(at, app)| {
            let with_host = app.asks_host();
            app.prefixes.iter().map(move |prefix| Entry { prefix: *prefix, application: at, with_host })
        });
        let order = |at: u16| (Reverse(terms[usize::from(at)].kinds), at);
        let prefixes = Prefixes::build(entries.collect(), order);
        let alone = numbered().filter(|(_, app)| !app.asks_host() && app.prefixes.is_empty());
        let mut alone: Vec<u16> = alone.map(|(at, _)| at).collect();
        alone.sort_by_key(|at| order(*at));
        let rest = Rest::build(&alone, &terms);
        let mut by_ja4: HashMap<Box<str>, Vec<u16>> = HashMap::new();
        for (at, app) in numbered() {
            for ja4 in &app.ja4 {
                by_ja4.entry(ja4.as_str().into()).or_default().push(at);
            }
        }
        let ja4 = by_ja4.into_iter().map(|(ja4, mut list)| {
            list.dedup();
            (ja4, list.into())
        });
        let names = list.iter().map(|app| app.name.clone()).collect();
        Ok(Self { names, hosts, prefixes, rest, ja4: ja4.collect(), epoch: marks::epoch(1), terms })
    }

    /// The same for the plan of this generation: flows that were named by another plan's are named anew.
    #[must_use]
    pub fn for_generation(self, generation: u32) -> Self {
        Self { epoch: marks::epoch(generation), ..self }
    }

    /// The same as what follows `before` in running workers. Where nothing changed flows keep their names; else they are named
    /// anew with their next packets.
    #[must_use]
    pub fn after(self, before: &Self, unchanged: bool) -> Self {
        Self { epoch: if unchanged { before.epoch } else { marks::epoch(before.epoch.into()) }, ..self }
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// Names, in the order of the policy.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn name(&self, application: AppId) -> &str {
        self.names.get(application.place()).map_or("", String::as_str)
    }

    /// The application of this name.
    pub fn by_name(&self, name: &str) -> Option<AppId> {
        self.names.iter().position(|n| n == name).map(|at| AppId::at(at as u16))
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        let ja4 = self.ja4.iter().map(|(ja4, list)| ja4.len() + 2 * list.len() + 40).sum::<usize>();
        let terms = self.terms.iter().map(|t| size_of::<Terms>() + size_of_val(&*t.ports)).sum::<usize>();
        self.hosts.memory() + self.prefixes.memory() + self.rest.memory() + ja4 + terms
    }

    /// The application of a flow. Takes no memory. The time depends on the length of the host name and on how many applications
    /// have the same pattern, prefix or port, not on how many patterns there are.
    pub fn find(&self, facts: &Facts<'_>) -> Option<AppId> {
        if self.is_empty() {
            return None;
        }
        let probe = Probe {
            facts,
            around: facts.ends.map(|(address, _)| self.prefixes.around(address)),
            ja4: facts.ja4.and_then(|ja4| self.ja4.get(ja4)).map_or(&[], |list| list),
            has_ports: matches!(facts.protocol, 6 | 17 | 132),
        };
        let found = self.by_host(&probe).or_else(|| self.by_prefix(&probe)).or_else(|| self.rest.find(self, &probe));
        found.map(AppId::at)
    }

    fn by_host(&self, probe: &Probe<'_>) -> Option<u16> {
        let mut best: Option<Fit> = None;
        self.hosts.each(probe.facts.host?, |rank, applications| {
            if best.is_some_and(|(best, ..)| best > rank) {
                return;
            }
            for at in applications {
                let Some(terms) = self.terms.get(usize::from(*at)) else { continue };
                if let Some(prefix) = self.fits(*at, terms, probe) {
                    best = best.max(Some((rank, prefix, terms.kinds, Reverse(*at))));
                }
            }
        });
        best.map(|(.., Reverse(at))| at)
    }

    /// Of the applications without hosts.
    fn by_prefix(&self, probe: &Probe<'_>) -> Option<u16> {
        let mut best: Option<Fit> = None;
        for (around, (_, port)) in probe.around.into_iter().zip(probe.facts.ends) {
            for node in around {
                let len = node.len + 1;
                if best.is_some_and(|(_, best, ..)| best > len) {
                    break;
                }
                let fits = |at: &&u16| {
                    let terms = self.terms.get(usize::from(**at));
                    terms.is_some_and(|t| t.hold(**at, probe) && t.port_holds(port, probe.has_ports))
                };
                // They stand in the order in which they win.
                if let Some(at) = node.alone.iter().find(fits) {
                    let kinds = self.terms[usize::from(*at)].kinds;
                    best = best.max(Some((0, len, kinds, Reverse(*at))));
                    break;
                }
            }
        }
        best.map(|(.., Reverse(at))| at)
    }

    /// Whether everything holds that is asked besides the host. If so the length of the longest prefix, plus one; 0 where none is
    /// asked for.
    fn fits(&self, at: u16, terms: &Terms, probe: &Probe<'_>) -> Option<u8> {
        if !terms.hold(at, probe) {
            return None;
        }
        let mut best = None;
        for (mut around, (_, port)) in probe.around.into_iter().zip(probe.facts.ends) {
            if !terms.port_holds(port, probe.has_ports) {
                continue;
            }
            let len = if terms.has_prefix {
                around.find(|node| node.with_host.binary_search(&at).is_ok()).map(|node| node.len + 1)
            } else {
                Some(0)
            };
            best = best.max(len);
        }
        best
    }
}
