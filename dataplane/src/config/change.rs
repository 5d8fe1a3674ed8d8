//! What differs between two policies: what a running instance can take up, by name, and what only a start can.

use super::policy::{Application, Policy, Rule, Steer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// As in the file: "rule", "steer", "flows"; "intent": what becomes of one.
    pub kind: String,
    pub name: String,
    pub what: What,
    /// Keys whose values differ; of an intent what differs, as in "verdict: met -> refused".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Added,
    Removed,
    Changed,
    /// Tried before others that it was tried after, or the reverse.
    Moved,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.what {
            What::Added => '+',
            What::Removed => '-',
            What::Changed | What::Moved => '~',
        };
        write!(f, "{sign} {} {}", self.kind, self.name)?;
        match self.what {
            What::Changed => write!(f, ": {}", self.keys.join(", ")),
            What::Moved => write!(f, ": another place in the order"),
            What::Added | What::Removed => Ok(()),
        }
    }
}

/// All differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What a running instance takes up.
    pub live: Vec<Change>,
    /// Parts that are read at the start only, as they are called in the file.
    pub restart: Vec<&'static str>,
}

/// From one policy to the next.
pub fn changes(before: &Policy, after: &Policy) -> Changes {
    let mut live = Vec::new();
    if before.flows.timeouts != after.flows.timeouts {
        live.push(Change {
            kind: "flows".into(),
            name: "timeouts".into(),
            what: What::Changed,
            keys: vec!["timeouts".into()],
        });
    }
    // What becomes of applications, also where no rule of theirs is another one.
    live.extend(before.contract.difference(&after.contract).into_iter().map(|difference| Change {
        kind: "intent".into(),
        name: difference.intent,
        what: match difference.kind.as_str() {
            "new" => What::Added,
            "gone" => What::Removed,
            _ => What::Changed,
        },
        keys: difference.what,
    }));
    named("steer", &before.steer, &after.steer, |steer| &steer.name, steer_keys, &mut live);
    named("rule", &before.rules, &after.rules, |rule| &rule.name, rule_keys, &mut live);
    let (was, is) = (&before.applications, &after.applications);
    named("application", was, is, |app| &app.name, application_keys, &mut live);
    // Counters are laid out by their names at the start.
    let names = |policy: &Policy| policy.applications.iter().map(|app| app.name.clone()).collect::<Vec<_>>();
    let fixed_flows = |policy: &Policy| (policy.flows.capacity, policy.flows.unproven_percent);
    let restart = [
        ("name", before.name != after.name),
        ("[control]", before.control != after.control),
        ("[workers]", before.workers != after.workers),
        ("[flows] capacity or unproven_percent", fixed_flows(before) != fixed_flows(after)),
        ("[offload]", before.offload != after.offload),
        ("[export]", before.export != after.export),
        ("[[port]]", before.ports != after.ports),
        ("[[tunnel]]", before.tunnels != after.tunnels),
        ("names or order of [[application]]", names(before) != names(after)),
    ];
    Changes { live, restart: restart.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect() }
}

fn application_keys(a: &Application, b: &Application) -> Vec<&'static str> {
    let keys = [
        ("host", a.hosts != b.hosts),
        ("hosts_file", a.hosts_file != b.hosts_file),
        ("prefix", a.prefixes != b.prefixes),
        ("port", a.ports != b.ports),
        ("protocol", a.protocol != b.protocol),
        ("class", a.classes != b.classes),
        ("alpn", a.alpn != b.alpn),
        ("ja4", a.ja4 != b.ja4),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// Compares two lists whose members have names of their own and whose order matters.
fn named<T: PartialEq>(
    kind: &str,
    before: &[T],
    after: &[T],
    name: fn(&T) -> &str,
    keys: impl Fn(&T, &T) -> Vec<&'static str>,
    out: &mut Vec<Change>,
) {
    let change = |name: &str, what, keys: Vec<&str>| Change {
        kind: kind.to_owned(),
        name: name.to_owned(),
        what,
        keys: keys.into_iter().map(str::to_owned).collect(),
    };
    // Mostly little has changed: what has the same names before and behind that stays where it is.
    let same = |(before, after): &(&T, &T)| name(before) == name(after);
    let head = before.iter().zip(after).take_while(same).count();
    let (rest_before, rest_after) = (&before[head..], &after[head..]);
    let tail = rest_before.iter().rev().zip(rest_after.iter().rev()).take_while(same).count();
    let (was, is) = (&rest_before[..rest_before.len() - tail], &rest_after[..rest_after.len() - tail]);
    let compare =
        |before: &T, after: &T| (before != after).then(|| change(name(after), What::Changed, keys(before, after)));
    let (known, kept) = (places(was, name), places(is, name));
    let gone = was.iter().map(name).filter(|name| !kept.contains_key(*name));
    out.extend(gone.map(|name| change(name, What::Removed, vec![])));
    out.extend(before[..head].iter().zip(after).filter_map(|(before, after)| compare(before, after)));
    let order: Vec<usize> = is.iter().filter_map(|member| known.get(name(member)).copied()).collect();
    let mut stays = in_order(&order).into_iter();
    for member in is {
        let Some(at) = known.get(name(member)) else {
            out.push(change(name(member), What::Added, vec![]));
            continue;
        };
        let stayed = stays.next().unwrap_or(true);
        match compare(&was[*at], member) {
            Some(changed) => out.push(changed),
            None if !stayed => out.push(change(name(member), What::Moved, vec![])),
            None => {}
        }
    }
    let behind = rest_before[was.len()..].iter().zip(&rest_after[is.len()..]);
    out.extend(behind.filter_map(|(before, after)| compare(before, after)));
}

/// Where each is, by its name.
fn places<T>(list: &[T], name: fn(&T) -> &str) -> HashMap<&str, usize> {
    list.iter().enumerate().map(|(at, member)| (name(member), at)).collect()
}

/// For each of these numbers, all different, whether it is of a longest rising subsequence: the fewest others are moved then.
pub(crate) fn in_order(numbers: &[usize]) -> Vec<bool> {
    // Patience sorting: per length the place of the smallest last number, and for each number the one before it.
    let mut last: Vec<usize> = Vec::new();
    let mut before = vec![None; numbers.len()];
    for (at, number) in numbers.iter().enumerate() {
        let length = last.partition_point(|place| numbers[*place] < *number);
        before[at] = length.checked_sub(1).map(|shorter| last[shorter]);
        match last.get_mut(length) {
            Some(place) => *place = at,
            None => last.push(at),
        }
    }
    let mut stays = vec![false; numbers.len()];
    let mut at = last.last().copied();
    while let Some(place) = at {
        stays[place] = true;
        at = before[place];
    }
    stays
}

fn differing(keys: impl IntoIterator<Item = (&'static str, bool)>) -> Vec<&'static str> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn match_keys(a: &super::policy::Match, b: &super::policy::Match) -> [(&'static str, bool); 5] {
    [
        ("from", a.from != b.from),
        ("to", a.to != b.to),
        ("protocol", a.protocol != b.protocol),
        ("source_ports", a.source_ports != b.source_ports),
        ("ports", a.ports != b.ports),
    ]
}

fn steer_keys(a: &Steer, b: &Steer) -> Vec<&'static str> {
    let own = [("port", a.port != b.port), ("action", a.action != b.action), ("on_loss", a.on_loss != b.on_loss)];
    differing(match_keys(&a.matches, &b.matches).into_iter().chain(own))
}

fn rule_keys(a: &Rule, b: &Rule) -> Vec<&'static str> {
    let own = [
        ("class", a.classes != b.classes),
        ("application", a.applications != b.applications),
        ("host", a.hosts != b.hosts),
        ("encrypt", a.encrypt != b.encrypt),
        ("compress", a.compress != b.compress),
        ("action", a.action != b.action),
        ("offload", a.offload != b.offload),
        ("meter_rate or meter_burst", a.meter != b.meter),
        ("ceiling or limit", a.ceiling != b.ceiling),
        ("dscp", a.dscp != b.dscp),
        ("sample", a.sample != b.sample),
        ("mirror", a.mirror != b.mirror),
    ];
    differing(match_keys(&a.matches, &b.matches).into_iter().chain(own))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PORTS: &str = "[[port]]\nname = \"a\"\nkind = \"loopback\"\nloop_to = \"b\"\n\
                         [[port]]\nname = \"b\"\nkind = \"loopback\"\nloop_to = \"a\"\n";

    fn policy(rest: &str) -> Policy {
        crate::config::parse(&format!("{PORTS}{rest}"), "p.toml").unwrap()
    }

    fn rules(names: &[(&str, u16)]) -> Policy {
        let rule = |(name, port): &(&str, u16)| {
            format!("[[rule]]\nname = \"{name}\"\nprotocol = \"tcp\"\nports = [{port}]\naction = \"drop\"\n")
        };
        policy(&names.iter().map(rule).collect::<String>())
    }

    fn said(before: &Policy, after: &Policy) -> Vec<String> {
        changes(before, after).live.iter().map(Change::to_string).collect()
    }

    #[test]
    fn rules_are_told_apart_by_name_and_place() {
        let before = rules(&[("web", 80), ("mail", 25), ("dns", 53), ("old", 7)]);
        let after = rules(&[("new", 9), ("web", 80), ("mail", 587), ("dns", 53)]);
        assert_eq!(said(&before, &after), ["- rule old", "+ rule new", "~ rule mail: ports"]);
        let moved = rules(&[("dns", 53), ("web", 80), ("mail", 25), ("old", 7)]);
        assert_eq!(said(&before, &moved), ["~ rule dns: another place in the order"]);
        assert!(changes(&before, &before.clone()) == Changes::default());
    }

    #[test]
    fn what_only_a_start_reads_is_named() {
        let before = policy("");
        let after = policy("[workers]\ncount = 2\n[flows]\ncapacity = 128\n[flows.timeouts]\nudp = \"5s\"\n");
        let found = changes(&before, &after);
        assert_eq!(found.restart, ["[workers]", "[flows] capacity or unproven_percent"]);
        assert_eq!(found.live.len(), 1, "{:?}", found.live);
    }

    #[test]
    fn comments_and_blank_lines_are_no_change() {
        let after = crate::config::parse(&format!("# new\n\n{PORTS}"), "p.toml").unwrap();
        assert!(changes(&policy(""), &after) == Changes::default());
    }

    #[test]
    fn the_fewest_are_moved() {
        assert_eq!(in_order(&[1, 2, 0, 3]), [true, true, false, true]);
        assert_eq!(in_order(&[]), Vec::<bool>::new());
        assert_eq!(in_order(&[3, 2, 1]).iter().filter(|stays| **stays).count(), 1);
    }
}
