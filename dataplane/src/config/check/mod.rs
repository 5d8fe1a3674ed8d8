//! The second check of a file: what it means. Names, references, limits that depend on each other, conflicts. Makes the
//! typed policy on the way.

mod again;
mod applications;
mod icmp;
mod mirror;
mod ports;
mod rules;
mod tap;
mod tunnels;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use again::{Checked, Edits};
pub use applications::check as applications;

use super::at::At;
use super::places::Name;
use super::policy::{Apply, Control, Cores, Export, Flows, Policy, Timeouts, Workers};
use super::problem::{Code, Problem, Source};
use super::schema::{self, File};
use super::suggest::{listed, nearest};
use super::values::Span;
use crate::offload::Setting;

/// Names as they stand in the file, also of parts that were too broken to read: a reference to such a part is not an error
/// of its own.
#[derive(Debug, Default)]
pub struct Named {
    ports: Vec<String>,
    tunnels: Vec<String>,
    applications: Vec<String>,
    /// The key `rule` is there, with or without any.
    pub rule: bool,
}

impl Named {
    pub fn collect(table: &DeTable<'_>) -> Self {
        let names = |key: &str| {
            let list = table.get(key).and_then(|v| v.get_ref().as_array());
            let tables = list.into_iter().flatten().filter_map(|v| v.get_ref().as_table());
            tables.filter_map(|t| t.get("name")?.get_ref().as_str().map(str::to_owned)).collect()
        };
        Self {
            ports: names("port"),
            tunnels: names("tunnel"),
            applications: names("application"),
            rule: table.contains_key("rule"),
        }
    }
}

/// Where checks put what they find, and what they need to know of the whole file.
struct Check<'a> {
    named: &'a Named,
    base: &'a Path,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn error(&mut self, code: Code, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::error(code, span, message, help));
    }

    /// Whether a value of this key, or one within it, was taken out for not fitting: that it is missing is then no news.
    fn misfit(&self, key: &str) -> bool {
        let within = |of: &str| of.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.problems.iter().any(|p| within(&p.key))
    }

    /// Relative paths start at the folder of the policy file.
    fn path(&self, path: &Path) -> PathBuf {
        // `join` of an absolute path is that path.
        self.base.join(path).components().collect()
    }

    /// Reports every name that was given before.
    fn unique<'n>(&mut self, what: &str, names: impl Iterator<Item = &'n At<Name>>) {
        let mut first: HashMap<&str, Range<usize>> = HashMap::new();
        for name in names {
            if let Some(earlier) = first.get(name.as_str()) {
                self.problems.push(
                    Problem::error(
                        Code::DuplicateName,
                        name.span(),
                        format!("two {what}s are called `{}`", **name),
                        format!("give each {what} a name of its own"),
                    )
                    .label("again")
                    .other(earlier.clone(), "first here"),
                );
            } else {
                first.insert(name.as_str(), name.span());
            }
        }
    }

    /// Index of `name` among `known`; reports it when nothing in the file is called so.
    fn resolve(&mut self, what: &str, name: &At<Name>, known: &[&str], in_file: &[String]) -> Option<usize> {
        let found = known.iter().position(|k| *k == name.as_str());
        if found.is_none() && !in_file.iter().any(|n| n == name.as_str()) {
            let help = match nearest(name.as_str(), known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if known.is_empty() => format!("there is no [[{what}]]: add one, or leave this out"),
                None => format!("there is {}", listed(known.iter().copied())),
            };
            self.error(Code::UnknownName, name.span(), format!("no {what} is called `{}`", **name), help);
        }
        found
    }

    fn power_of_two(&mut self, key: &str, value: &At<u32>) {
        if !value.is_power_of_two() {
            let down = 1 << value.checked_ilog2().unwrap_or(0);
            self.error(
                Code::ImpossibleValue,
                value.span(),
                format!("`{key}` cannot be {}: it is not a power of two", **value),
                format!("write {down} or {}", down * 2),
            );
        }
    }
}

/// What a flow of an intent matches, by the same terms as a rule.
pub fn flow_terms(flow: &super::intent::Flow, problems: &mut Vec<Problem>) -> (super::policy::Match, Vec<String>) {
    let named = Named::default();
    let mut check = Check { named: &named, base: Path::new(""), problems };
    let matches = rules::matching(&flow.from, &flow.to, &flow.protocol, &flow.source_ports, &flow.ports, &mut check);
    (matches, flow.class.iter().filter_map(|name| rules::class(name, &mut check)).collect())
}

/// Checks what `file` means. `None` when it does not make a policy; `problems` says why. `known`: what was found of its rules the
/// last time, which is looked for again only as far as they differ.
pub fn policy(
    file: &File,
    named: &Named,
    base: &Path,
    known: Option<&mut Checked>,
    problems: &mut Vec<Problem>,
) -> Option<Policy> {
    let mut check = Check { named, base, problems };
    let name = file.name.as_ref().map_or_else(|| "softdpu".to_owned(), |n| n.as_str().to_owned());
    let control = control(&file.control, &name, &mut check);
    let apply = apply(&file.apply, &mut check);
    let workers = workers(&file.workers, &mut check);
    let flows = Flows {
        capacity: file.flows.capacity.as_ref().map_or(65_536, |c| **c as usize),
        unproven_percent: file.flows.unproven_percent.as_ref().map_or(50, |p| **p as u8),
        timeouts: timeouts(&file.flows.timeouts),
    };
    let plain = Setting::default();
    let offload = Setting {
        enabled: file.offload.enabled.as_ref().map_or(plain.enabled, |on| **on),
        capacity: file.offload.capacity.as_ref().map_or(plain.capacity, |c| **c),
        min_packets: file.offload.min_packets.as_ref().map_or(plain.min_packets, |n| u64::from(**n)),
        wait_for_class: file.offload.wait_for_class.as_ref().map_or(plain.wait_for_class, |on| **on),
        nic: file.offload.nic.as_ref().map_or(plain.nic, |mode| **mode),
    };
    let export = export(&file.export, &mut check);
    let mut ports = ports::ports(&file.port, &workers, &mut check);
    let tunnels = tunnels::tunnels(&file.tunnel, &mut check);
    let applications = applications::read(&file.application, &mut check);
    let (rules, index) = rules::rules(file, known, &mut check);
    let steer = rules::steer(&file.steer, &file.port, &file.tunnel, &rules, &mut check);
    tap::agree(file, &mut ports, &rules, &mut check);
    rules::limits(file, &steer, &mut check);
    if check.problems.iter().all(|p| p.warning) {
        rules::reach(file, &steer, &rules, &mut check);
    }
    let in_file = check.named.tunnels.clone();
    let base = check.base;
    let terms =
        super::terms::check(file, &tunnels, &in_file, |path| base.join(path).components().collect(), check.problems);
    let offload = Setting { enabled: offload.enabled && terms.allows(super::terms::Tier::Xdp), ..offload };
    let source = Source::default();
    Some(Policy {
        terms,
        intents: Vec::new(),
        contract: Default::default(),
        index: Some(index),
        name,
        control,
        apply,
        workers,
        flows,
        offload,
        export,
        ports,
        steer,
        tunnels,
        applications,
        rules,
        warnings: Vec::new(),
        source,
    })
}

fn control(raw: &schema::Control, name: &str, check: &mut Check<'_>) -> Control {
    // sun_path of sockaddr_un has 107 bytes and a zero; the socket is made under a name that is 4 longer.
    const MAX_SOCKET: usize = 103;
    let socket = match &raw.socket {
        Some(path) => {
            let full = check.path(&path.0);
            if full.as_os_str().len() > MAX_SOCKET {
                check.error(
                    Code::ImpossibleValue,
                    path.span(),
                    "the path of the control socket is too long",
                    format!("at most {MAX_SOCKET} bytes: choose one under /run/softdpu"),
                );
            }
            full
        }
        None => PathBuf::from(format!("/run/softdpu/{name}.sock")),
    };
    let mode = raw.socket_mode.as_ref().map_or(0o660, |m| m.0);
    if let Some(group) = raw.socket_group.as_ref().filter(|_| mode & 0o060 != 0o060) {
        check.error(
            Code::ImpossibleValue,
            group.span(),
            format!("group `{}` is to use the control socket, and mode `{mode:04o}` shuts it out", group.0),
            "write socket_mode = \"0660\": connecting to a socket takes the right to write",
        );
    }
    Control {
        socket,
        socket_mode: mode,
        socket_group: raw.socket_group.as_ref().map(|group| group.0.clone()),
        metrics: raw.metrics.as_ref().map(|m| m.0),
    }
}

fn apply(raw: &schema::Apply, check: &mut Check<'_>) -> Apply {
    const LONGEST: Duration = Duration::from_secs(45);
    const RESOLVE: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(86_400);
    let plain = Apply::default();
    if let Some(health) = &raw.health
        && health.first().is_none_or(|program| program.is_empty())
    {
        check.error(
            Code::ImpossibleValue,
            health.span(),
            "`health` names no program",
            "write the program and its arguments, as in [\"curl\", \"-fsS\", \"http://10.0.0.1/health\"]",
        );
    }
    if let Some(within) = &raw.within {
        if within.0 > LONGEST || within.0.is_zero() {
            let message = format!("`within` cannot be {}", **within);
            check.error(Code::ImpossibleValue, within.span(), message, "from \"1ms\" to \"45s\"");
        } else if raw.health.is_none() {
            check.problems.push(Problem::warning(
                Code::NoEffect,
                within.span(),
                "`within` without `health` has no effect",
                "name a health check, or leave `within` out",
            ));
        }
    }
    if let Some(resolve) = &raw.resolve
        && !resolve.0.is_zero()
        && !RESOLVE.contains(&resolve.0)
    {
        let message = format!("`resolve` cannot be {}", **resolve);
        check.error(Code::ImpossibleValue, resolve.span(), message, "from \"5s\" to \"1d\", or \"0s\" for never");
    }
    Apply {
        health: raw.health.iter().flat_map(|words| words.iter().map(|word| word.to_string())).collect(),
        within: raw.within.as_ref().map_or(plain.within, |within| within.0),
        history: raw.history.as_ref().map(|path| check.path(&path.0)),
        resolve: raw.resolve.as_ref().map_or(plain.resolve, |resolve| resolve.0),
    }
}

fn export(raw: &schema::Export, check: &mut Check<'_>) -> Option<Export> {
    let or_minute = |at: &Option<At<Span>>| at.as_ref().map_or(Duration::from_secs(60), |span| span.0);
    let export = Export {
        ipfix: raw.ipfix.as_ref().map(|collector| collector.0),
        observation_domain: raw.observation_domain.as_ref().map_or(1, |domain| **domain),
        template_interval: or_minute(&raw.template_interval),
        active_timeout: or_minute(&raw.active_timeout),
        log: raw.log.as_ref().map(|path| check.path(&path.0)),
    };
    if export.ipfix.is_some() || export.log.is_some() {
        return Some(export);
    }
    let spans = [&raw.template_interval, &raw.active_timeout].into_iter().flatten().map(At::span);
    if let Some(span) = spans.chain(raw.observation_domain.as_ref().map(At::span)).next()
        && !check.misfit("export")
    {
        check.error(
            Code::MissingKey,
            span,
            "[export] does not say where to",
            "add ipfix = \"ADDRESS:PORT\" of a collector, or log = \"FILE\"",
        );
    }
    None
}

fn workers(raw: &schema::Workers, check: &mut Check<'_>) -> Workers {
    if let (Some(cores), Some(count)) = (&raw.cores, &raw.count) {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                count.span(),
                "`count` and `cores` both say how many workers there are",
                "keep `cores` to choose the cores, or `count` to leave the choice to softdpu",
            )
            .other(cores.span(), "and here"),
        );
    }
    let cores = match &raw.cores {
        Some(cores) => {
            if cores.is_empty() {
                check.error(
                    Code::ImpossibleValue,
                    cores.span(),
                    "`cores` names no core",
                    "write for example cores = [0]",
                );
            }
            for (i, core) in cores.iter().enumerate() {
                if cores[..i].iter().any(|c| **c == **core) {
                    check.error(
                        Code::Conflict,
                        core.span(),
                        format!("core {} is named twice", **core),
                        "one worker runs on a core: name each core once",
                    );
                }
            }
            Cores::List(cores.iter().map(|c| **c as usize).collect())
        }
        None => Cores::Count(raw.count.as_ref().map_or(1, |c| **c as usize)),
    };
    Workers {
        cores,
        idle: raw.idle.as_ref().map_or_else(Default::default, |i| **i),
        frames: raw.frames.as_ref().map_or(8192, |f| **f),
        batch: raw.batch.as_ref().map_or(64, |b| **b as usize),
    }
}

fn timeouts(raw: &schema::Timeouts) -> Timeouts {
    let or = |at: &Option<At<Span>>, default| at.as_ref().map_or(default, |s| s.0);
    let d = Timeouts::default();
    Timeouts {
        tcp_established: or(&raw.tcp_established, d.tcp_established),
        tcp_opening: or(&raw.tcp_opening, d.tcp_opening),
        tcp_closing: or(&raw.tcp_closing, d.tcp_closing),
        udp: or(&raw.udp, d.udp),
        other: or(&raw.other, d.other),
    }
}
