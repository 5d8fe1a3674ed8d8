//! Applications: what they ask for, and whether others always win over them.

use std::collections::{HashMap, HashSet};

use super::{Check, rules};
use crate::config::at::At;
use crate::config::policy::{Application, HostGlob, PortRange};
use crate::config::problem::{Code, Problem};
use crate::config::schema;
use crate::config::suggest::{listed, nearest};
use crate::l7::Alpn;
use crate::plan::applications::Applications;

pub fn read(raw: &[schema::Application], check: &mut Check<'_>) -> Vec<Application> {
    check.unique("application", raw.iter().map(|app| &app.name));
    raw.iter().map(|app| one(app, check)).collect()
}

fn one(raw: &schema::Application, check: &mut Check<'_>) -> Application {
    let matches = rules::matching(&[], &raw.prefix, &raw.protocol, &[], &raw.port, check);
    let before = check.problems.len();
    let app = Application {
        name: raw.name.as_str().to_owned(),
        hosts: raw.host.iter().map(|pattern| (**pattern).clone()).collect(),
        hosts_file: raw.hosts_file.as_ref().map(|path| check.path(&path.0)),
        prefixes: matches.to.to_vec(),
        ports: matches.ports.to_vec(),
        protocol: matches.protocol,
        classes: raw.class.iter().filter_map(|name| rules::class(name, check)).collect(),
        alpn: raw.alpn.iter().filter_map(|name| alpn(name, check)).collect(),
        ja4: raw.ja4.iter().filter_map(|text| ja4(text, check)).collect(),
        span: raw.name.span(),
        hosts_file_span: raw.hosts_file.as_ref().map_or(0..0, At::span),
    };
    let nothing = kinds(&app) == [false; KINDS] && !app.asks_host();
    // What was wrong was told of.
    let told = check.problems.len() > before || check.misfit("application");
    if nothing && !told {
        check.error(
            Code::MissingKey,
            raw.name.span(),
            format!("application `{}` does not say which flows it is", app.name),
            "add host, hosts_file, prefix, port, protocol, class, alpn or ja4",
        );
    }
    app
}

fn alpn(name: &At<String>, check: &mut Check<'_>) -> Option<String> {
    if Alpn::names().any(|known| known == name.as_str()) {
        return Some((**name).clone());
    }
    let help = match nearest(name, Alpn::names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("those told apart are {}", listed(Alpn::names())),
    };
    check.error(Code::UnknownWord, name.span(), format!("ALPN `{}` is not told apart from others", **name), help);
    None
}

/// `t13d1516h2_8daaf6152771_e5627efa2ab1`: ten characters, and twice twelve hexadecimal digits.
fn ja4(text: &At<String>, check: &mut Check<'_>) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('_').collect();
    let hex = |part: &str| part.len() == 12 && part.bytes().all(|b| b.is_ascii_hexdigit());
    match parts.as_slice() {
        [a, b, c] if a.len() == 10 && a.bytes().all(|b| b.is_ascii_alphanumeric()) && hex(b) && hex(c) => Some(lower),
        _ => {
            check.error(
                Code::ImpossibleValue,
                text.span(),
                format!("`{}` is not a JA4 fingerprint", **text),
                "write it as `softdpu classify --json` shows it: \"t13d1516h2_8daaf6152771_e5627efa2ab1\"",
            );
            None
        }
    }
}

/// Everything that is wrong with all applications together, once their lists are read.
pub fn check(applications: &[Application]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Err(error) = Applications::compile(applications) {
        let span = applications.get(error.application).map_or(0..0, |app| app.span.clone());
        problems.push(Problem::error(Code::ImpossibleValue, span, error.message, error.help));
    }
    problems.extend(shadowed(applications));
    problems
}

const KINDS: usize = 6;

/// Which kinds of terms there are, besides hosts.
fn kinds(app: &Application) -> [bool; KINDS] {
    [
        !app.prefixes.is_empty(),
        !app.ports.is_empty(),
        app.protocol.0.is_some(),
        !app.classes.is_empty(),
        !app.alpn.is_empty(),
        !app.ja4.is_empty(),
    ]
}

/// A warning for each application of which some host, or all of it, always goes to one before it. One that asks for more kinds of
/// terms, or longer prefixes, wins by that; so it takes one of the same kinds, with all that this one names.
fn shadowed(applications: &[Application]) -> Vec<Problem> {
    let mut owners: HashMap<Option<&HostGlob>, Vec<usize>> = HashMap::new();
    let mut problems = Vec::new();
    for (at, app) in applications.iter().enumerate() {
        let mut patterns: Vec<Option<&HostGlob>> = app.hosts.iter().map(Some).collect();
        if !app.asks_host() {
            patterns.push(None);
        }
        let (mut taken, mut first) = (0, None);
        for pattern in &patterns {
            let before = owners.get(pattern).map_or(&[][..], Vec::as_slice);
            if let Some(by) = before.iter().find(|by| **by != at && takes_all(&applications[**by], app)) {
                taken += 1;
                first = first.or(Some((*pattern, *by)));
            }
        }
        for pattern in &patterns {
            let list = owners.entry(*pattern).or_default();
            // Of more than can share a pattern `compile` tells.
            if list.last() != Some(&at) && (list.len() < 64 || pattern.is_none()) {
                list.push(at);
            }
        }
        let Some((pattern, by)) = first else { continue };
        let earlier = &applications[by];
        let message = if taken == patterns.len() {
            format!("application `{}` has no flows: `{}` before it takes everything it would", app.name, earlier.name)
        } else {
            let host = pattern.map_or("", HostGlob::as_str);
            let hosts = if taken == 1 { "host" } else { "hosts" };
            format!(
                "{taken} {hosts} of application `{}` are others' already: `{host}` is of `{}`",
                app.name, earlier.name
            )
        };
        let help = "the first that names a host has it: take it out of one of them, or tell them apart by another term";
        problems.push(
            Problem::warning(Code::Shadowed, app.span.clone(), message, help)
                .label("later")
                .other(earlier.span.clone(), "has it"),
        );
    }
    problems
}

/// Whether `a`, which stands first and has the same host, has whatever `b` would.
fn takes_all(a: &Application, b: &Application) -> bool {
    kinds(a) == kinds(b)
        && (b.protocol == a.protocol)
        && holds(&a.prefixes, &b.prefixes)
        && holds(&a.classes, &b.classes)
        && holds(&a.alpn, &b.alpn)
        && holds(&a.ja4, &b.ja4)
        && b.ports.iter().all(|port| a.ports.iter().any(|mine| within(mine, port)))
}

fn within(outer: &PortRange, inner: &PortRange) -> bool {
    outer.first <= inner.first && inner.last <= outer.last
}

fn holds<T: Eq + std::hash::Hash>(all: &[T], some: &[T]) -> bool {
    // Nearly always there are few.
    if all.len() * some.len() < 256 {
        return some.iter().all(|one| all.contains(one));
    }
    let all: HashSet<&T> = all.iter().collect();
    some.iter().all(|one| all.contains(one))
}
