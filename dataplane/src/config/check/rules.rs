//! Steering rules and rules: what they match, whether they can ever match, and that steering never undoes encryption.

use std::sync::Arc;

use super::again::Checked;
use super::{Check, icmp, mirror};
use crate::config::at::At;
use crate::config::cover::{covers, overlaps};
use crate::config::cover_index::Index;
use crate::config::known_classes;
use crate::config::policy::{Match, Rule, Steer};
use crate::config::problem::{Code, Problem};
use crate::config::schema::{self, Compress, File, OnLoss, RuleAction, SequenceMode, SteerAction, TunnelType};
use crate::config::suggest::{listed, nearest};
use crate::config::values::{PortRange, Prefix, Protocol};
use crate::io::steer::Meter;
use crate::plan::rules::MAX_RULES;

pub fn steer(
    raw: &[schema::Steer],
    ports: &[schema::Port],
    tunnels: &[schema::Tunnel],
    rules: &[Rule],
    check: &mut Check<'_>,
) -> Vec<Steer> {
    check.unique("steering rule", raw.iter().map(|s| &s.name));
    let known: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
    let in_file = check.named.ports.clone();
    let mut out: Vec<Steer> = Vec::with_capacity(raw.len());
    for s in raw {
        let matches = matching(&s.from, &s.to, &s.protocol, &s.source_ports, &s.ports, check);
        let port = s.port.as_ref().and_then(|name| check.resolve("port", name, &known, &in_file));
        let action = s.action.as_ref().map_or_else(Default::default, |a| **a);
        let on_loss = on_loss(s, &matches, action, rules, check);
        let steer = Steer { name: s.name.as_str().to_owned(), port, matches, action, on_loss };
        let hides = |e: &Steer| (e.port.is_none() || e.port == steer.port) && covers(&e.matches, &steer.matches);
        // A port that does not exist was reported, and must not pass for "any".
        let sound = s.port.is_none() == port.is_none();
        if let Some(earlier) = out.iter().position(hides).filter(|_| sound) {
            shadowed("steering rule", &s.name, &raw[earlier].name, check);
        }
        out.push(steer);
    }
    icmp::companions(raw, tunnels, rules, &mut out, check);
    out
}

/// What becomes of packets without a worker: drop wherever a rule encrypts such flows, whatever was written.
fn on_loss(s: &schema::Steer, matches: &Match, action: SteerAction, rules: &[Rule], check: &mut Check<'_>) -> OnLoss {
    if action != SteerAction::Worker {
        if let Some(written) = &s.on_loss {
            check.problems.push(Problem::warning(
                Code::NoEffect,
                written.span(),
                format!("`on_loss` says nothing for steering rule `{}`", *s.name),
                "it is for action = \"worker\": leave it out",
            ));
        }
        return OnLoss::Drop;
    }
    // A rule speaks of whole flows: the answers to what it matches are as secret.
    let secret = secret(rules, matches);
    match (&s.on_loss, secret) {
        (Some(written), Some(rule)) if **written == OnLoss::Pass => {
            check.problems.push(Problem::warning(
                Code::StricterWins,
                written.span(),
                format!(
                    "rule `{}` encrypts flows of steering rule `{}`: on_loss = \"drop\" applies",
                    rule.name, *s.name
                ),
                "write on_loss = \"drop\", or steer the flows that may go in clear by a rule of their own",
            ));
            OnLoss::Drop
        }
        (Some(written), _) => **written,
        (None, Some(_)) => OnLoss::Drop,
        (None, None) => OnLoss::Pass,
    }
}

/// A rule that encrypts flows which `matches` takes, in either direction.
pub(super) fn secret<'r>(rules: &'r [Rule], matches: &Match) -> Option<&'r Rule> {
    let touches = |r: &Rule| overlaps(&r.matches, matches) || overlaps(&r.matches.reversed(), matches);
    rules.iter().find(|r| r.encrypt.is_some() && touches(r))
}

/// `known`: of the last time, for rules of which some are the same.
pub fn rules(file: &File, mut known: Option<&mut Checked>, check: &mut Check<'_>) -> (Vec<Rule>, Arc<Index>) {
    let (raw, tunnels, applications) = (&file.rule[..], &file.tunnel[..], &file.application[..]);
    let mut follows = known.as_deref_mut().filter(|known| known.knows(raw.len()));
    let few = follows.is_some();
    if !follows.as_mut().is_some_and(|known| known.names_differ(raw)) {
        check.unique("rule", raw.iter().map(|r| &r.name));
    }
    let ports: Vec<&str> = file.port.iter().map(|p| p.name.as_str()).collect();
    let ports_in_file = check.named.ports.clone();
    let tunnel_names: Vec<&str> = tunnels.iter().map(|t| t.name.as_str()).collect();
    let in_file = check.named.tunnels.clone();
    let names: Vec<&str> = applications.iter().map(|a| a.name.as_str()).collect();
    let named = check.named.applications.clone();
    let mut out: Vec<Rule> = Vec::with_capacity(raw.len());
    let mut index = Index::default();
    let mut shadows = Vec::with_capacity(if few { 0 } else { raw.len() });
    for (at, r) in raw.iter().enumerate() {
        let known = follows.as_ref().and_then(|known| known.rule(at)).cloned();
        let rule = Rule {
            applications: {
                let places = r.application.iter();
                places.filter_map(|name| check.resolve("application", name, &names, &named)).collect()
            },
            encrypt: r.encrypt.as_ref().and_then(|name| check.resolve("tunnel", name, &tunnel_names, &in_file)),
            mirror: r.mirror.as_ref().and_then(|name| check.resolve("port", name, &ports, &ports_in_file)),
            ..known.unwrap_or_else(|| written(r, check))
        };
        mirror::agrees(r, &rule, check);
        services_agree(r, &rule, check);
        treatment_agrees(r, &rule, check);
        compress_with_softdpu(r, &rule, tunnels, check);
        if !few {
            let near = index.near(&rule.matches, &rule.hosts);
            let first = near.into_iter().find(|e| rule_covers(&out[*e], &rule));
            shadows.push(first.map(|earlier| earlier as u32));
            index.add(&rule.matches, &rule.hosts);
        }
        out.push(rule);
    }
    let (shadows, index) = match known {
        Some(known) if few => known.follow(&out, rule_covers),
        Some(known) => {
            let index = known.keep(index, &out, &shadows);
            (shadows, index)
        }
        None => (shadows, Arc::new(index)),
    };
    for (at, earlier) in shadows.iter().enumerate() {
        let (Some(earlier), r, rule) = (earlier, &raw[at], &out[at]) else { continue };
        // Classes or applications that were all wrong were reported, and must not pass for "any".
        let sound =
            r.class.is_empty() == rule.classes.is_empty() && r.application.is_empty() == rule.applications.is_empty();
        if sound {
            shadowed("rule", &r.name, &raw[*earlier as usize].name, check);
        }
    }
    (out, index)
}

/// What a rule says by itself, without the names in it.
fn written(r: &schema::Rule, check: &mut Check<'_>) -> Rule {
    Rule {
        name: r.name.as_str().into(),
        matches: matching(&r.from, &r.to, &r.protocol, &r.source_ports, &r.ports, check),
        classes: match &r.class[..] {
            [] => Arc::default(),
            classes => classes.iter().filter_map(|c| class(c, check)).collect(),
        },
        hosts: list(&r.host),
        applications: Vec::new(),
        encrypt: None,
        compress: r.compress.as_ref().map_or_else(Default::default, |c| **c),
        action: r.action.as_ref().map_or_else(Default::default, |a| **a),
        offload: r.offload.as_ref().map_or_else(Default::default, |o| **o),
        meter: r.meter_rate.as_ref().map(|rate| Meter {
            rate: **rate,
            burst: r.meter_burst.as_ref().map_or((**rate / 20).max(65_536), |burst| **burst),
        }),
        ceiling: None,
        dscp: r.dscp.as_ref().map(|dscp| **dscp),
        sample: r.sample.as_ref().map_or(0, |every| **every),
        mirror: None,
    }
}

fn rule_covers(a: &Rule, b: &Rule) -> bool {
    let classes = a.classes.is_empty() || (!b.classes.is_empty() && b.classes.iter().all(|c| a.classes.contains(c)));
    let hosts = a.hosts.is_empty()
        || (!b.hosts.is_empty() && b.hosts.iter().all(|h| a.hosts.iter().any(|mine| mine.covers(h))));
    let applications = a.applications.is_empty()
        || (!b.applications.is_empty() && b.applications.iter().all(|app| a.applications.contains(app)));
    classes && hosts && applications && covers(&a.matches, &b.matches)
}

pub(super) fn class(name: &At<String>, check: &mut Check<'_>) -> Option<String> {
    if known_classes().any(|c| c == name.as_str()) {
        return Some((**name).clone());
    }
    let all = listed(known_classes());
    let help = match nearest(name, known_classes()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("the classes are {all}"),
    };
    check.error(Code::UnknownWord, name.span(), format!("no class of flows is called `{}`", **name), help);
    None
}

fn services_agree(raw: &schema::Rule, rule: &Rule, check: &mut Check<'_>) {
    if let (Some(encrypt), Some(action), RuleAction::Drop) = (&raw.encrypt, &raw.action, rule.action) {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                encrypt.span(),
                format!("rule `{}` drops its flows and encrypts them", rule.name),
                "keep `encrypt` or action = \"drop\"",
            )
            .other(action.span(), "drops"),
        );
    }
    if let (Some(compress), Compress::Lz4, None) = (&raw.compress, rule.compress, &raw.encrypt)
        && !check.misfit("rule.encrypt")
    {
        check.error(
            Code::Conflict,
            compress.span(),
            format!("rule `{}` compresses without a tunnel", rule.name),
            "compressed packets travel inside a tunnel, whose other end undoes it: add `encrypt`, or leave `compress` out",
        );
    }
}

/// What is dropped is not metered, marked, sampled or copied; a burst is of a rate.
fn treatment_agrees(raw: &schema::Rule, rule: &Rule, check: &mut Check<'_>) {
    if let (Some(burst), None) = (&raw.meter_burst, &raw.meter_rate) {
        check.error(
            Code::Conflict,
            burst.span(),
            format!("rule `{}` has a burst without a rate", rule.name),
            "add `meter_rate`, or leave `meter_burst` out",
        );
    }
    let keys = [
        ("meter_rate", raw.meter_rate.as_ref().map(At::span)),
        ("dscp", raw.dscp.as_ref().map(At::span)),
        ("sample", raw.sample.as_ref().map(At::span)),
        ("mirror", raw.mirror.as_ref().map(At::span)),
    ];
    for (key, span) in keys {
        if let (Some(span), RuleAction::Drop) = (span, rule.action) {
            check.problems.push(Problem::warning(
                Code::NoEffect,
                span,
                format!("`{key}` says nothing for rule `{}`, which drops its flows", rule.name),
                "leave it out, or leave action = \"drop\" out",
            ));
        }
    }
}

/// Compression in ESP was not agreed on with anybody else (RFC 3173 section 4).
fn compress_with_softdpu(raw: &schema::Rule, rule: &Rule, tunnels: &[schema::Tunnel], check: &mut Check<'_>) {
    let (Some(compress), Some(tunnel), Compress::Lz4) = (&raw.compress, rule.encrypt, rule.compress) else { return };
    let tunnel = &tunnels[tunnel];
    let esp = tunnel.kind.as_ref().is_none_or(|kind| **kind == TunnelType::Esp);
    let both_softdpu = tunnel.sequence.as_ref().is_none_or(|sequence| **sequence == SequenceMode::Iv);
    if !esp || !both_softdpu {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                compress.span(),
                format!(
                    "rule `{}` compresses inside tunnel `{}`, whose peer may be no softdpu",
                    rule.name, *tunnel.name
                ),
                "only a softdpu undoes it: leave `compress` out, or use a tunnel of type esp with sequence = \"iv\"",
            )
            .other(tunnel.name.span(), "this tunnel"),
        );
    }
}

/// Without their places. An empty list takes no memory.
fn list<T: Clone>(written: &[At<T>]) -> Arc<[T]> {
    if written.is_empty() { Arc::default() } else { written.iter().map(|item| (**item).clone()).collect() }
}

pub(super) fn matching(
    from: &[At<Prefix>],
    to: &[At<Prefix>],
    protocol: &Option<At<Protocol>>,
    source_ports: &[At<PortRange>],
    ports: &[At<PortRange>],
    check: &mut Check<'_>,
) -> Match {
    let protocol_value = protocol.as_ref().map_or(Protocol::ANY, |p| **p);
    if let (Some(written), Some(port)) = (protocol, ports.iter().chain(source_ports).next())
        && !protocol_value.has_ports()
    {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                port.span(),
                format!("packets of protocol {protocol_value} have no ports"),
                "leave the ports out, or write protocol = \"tcp\" or \"udp\"",
            )
            .other(written.span(), "no ports in this protocol"),
        );
    }
    let v4 = |list: &[At<Prefix>], want: bool| list.is_empty() || list.iter().any(|p| p.addr().is_ipv4() == want);
    let can = |want: bool| v4(from, want) && v4(to, want);
    if let (Some(first), Some(second)) = (from.first(), to.first())
        && !can(true)
        && !can(false)
    {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                second.span(),
                "`from` and `to` are of different address families: no packet matches",
                "both IPv4, or both IPv6",
            )
            .other(first.span(), "of the other family"),
        );
    }
    Match {
        from: list(from),
        to: list(to),
        protocol: protocol_value,
        source_ports: list(source_ports),
        ports: list(ports),
    }
}

fn shadowed(
    what: &str,
    name: &At<crate::config::places::Name>,
    earlier: &At<crate::config::places::Name>,
    check: &mut Check<'_>,
) {
    check.problems.push(
        Problem::warning(
            Code::Shadowed,
            name.span(),
            format!("{what} `{}` never matches: `{}` before it takes everything it would", **name, **earlier),
            "move it up, narrow the earlier one, or remove it",
        )
        .label("never reached")
        .other(earlier.span(), "matches first"),
    );
}

/// More rules than the XDP program's bitmaps or a flow's memory of its rule have room for. A tunnel takes a steering rule,
/// and so do the companions in `steer` (see [`icmp`]).
pub fn limits(file: &File, steer: &[Steer], check: &mut Check<'_>) {
    let own = file.tunnel.len() + steer.len().saturating_sub(file.steer.len());
    let steering = softdpu_ebpf_common::maps::MAX_RULES.saturating_sub(own);
    let beyond_steering = file.steer.get(steering).map(|rule| (&rule.name, "steering rules", steering));
    let beyond_rules = file.rule.get(MAX_RULES).map(|rule| (&rule.name, "rules", MAX_RULES));
    for (name, what, most) in beyond_steering.into_iter().chain(beyond_rules) {
        check.error(
            Code::ImpossibleValue,
            name.span(),
            format!("`{}` is one too many: there can be {most} {what}", **name),
            "join rules that differ in a prefix or a port only: `from`, `to` and `ports` take lists",
        );
    }
}

/// Rules that no packet can come to, because nothing steers it to a worker. For a policy that is otherwise sound. Tunnels
/// need none: what arrives through them is steered by itself (`plan::steering`).
pub fn reach(file: &File, steer: &[Steer], rules: &[Rule], check: &mut Check<'_>) {
    // Ports that are not interfaces have no XDP program: all their packets come to the worker.
    let unsteered = file.port.iter().any(|p| p.kind.as_ref().is_some_and(|k| **k != schema::Kind::Xdp));
    if unsteered {
        return;
    }
    let taken = |m: &Match| steer.iter().any(|s| s.action == SteerAction::Worker && overlaps(&s.matches, m));
    // An application's flow is of one of these: that ESP between the same hosts is steered does not help it.
    let usual = [Protocol::TCP, Protocol::UDP, Protocol(Some(1)), Protocol(Some(58))];
    let flows_taken = |m: &Match| match m.protocol {
        Protocol::ANY => usual.iter().any(|p| taken(&Match { protocol: *p, ..m.clone() })),
        _ => taken(m),
    };
    for (rule, raw) in rules.iter().zip(&file.rule) {
        if !flows_taken(&rule.matches) && !flows_taken(&rule.matches.reversed()) {
            let risk = if rule.encrypt.is_some() { ", in clear" } else { "" };
            check.problems.push(Problem::warning(
                Code::NoEffect,
                raw.name.span(),
                format!("no steering rule takes flows of rule `{}`: they stay with the kernel{risk}", rule.name),
                "add a [[steer]] with the same prefixes",
            ));
        }
    }
}
