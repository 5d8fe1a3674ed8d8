//! What two matches have in common, as a match.

use super::policy::{HostPattern, Match, PortRange, Prefix, Rule};
use super::values::Protocol;
use std::sync::Arc;

/// The packets that both match; `None`: there are none.
pub fn meet(a: &Match, b: &Match) -> Option<Match> {
    if !super::overlaps(a, b) {
        return None;
    }
    let protocol = if a.protocol == Protocol::ANY { b.protocol } else { a.protocol };
    Some(Match {
        from: lists(&a.from, &b.from, prefixes)?,
        to: lists(&a.to, &b.to, prefixes)?,
        protocol,
        source_ports: lists(&a.source_ports, &b.source_ports, ports)?,
        ports: lists(&a.ports, &b.ports, ports)?,
    })
}

/// The flows that both rules are about, as `a` would have them.
pub fn meet_rules(a: &Rule, b: &Rule) -> Option<Rule> {
    Some(Rule {
        matches: meet(&a.matches, &b.matches)?,
        classes: lists(&a.classes, &b.classes, |a, b| (a == b).then(|| a.clone()))?,
        hosts: lists(&a.hosts, &b.hosts, hosts)?,
        ..a.clone()
    })
}

/// An empty list means any.
fn lists<T: Clone + PartialEq>(a: &Arc<[T]>, b: &Arc<[T]>, both: impl Fn(&T, &T) -> Option<T>) -> Option<Arc<[T]>> {
    if a.is_empty() || b.is_empty() {
        return Some(if a.is_empty() { b.clone() } else { a.clone() });
    }
    let mut out: Vec<T> = Vec::new();
    for one in a.iter() {
        for found in b.iter().filter_map(|other| both(one, other)) {
            if !out.contains(&found) {
                out.push(found);
            }
        }
    }
    (!out.is_empty()).then(|| out.into())
}

fn prefixes(a: &Prefix, b: &Prefix) -> Option<Prefix> {
    if a.covers(b) { Some(*b) } else { b.covers(a).then_some(*a) }
}

fn ports(a: &PortRange, b: &PortRange) -> Option<PortRange> {
    let both = PortRange { first: a.first.max(b.first), last: a.last.min(b.last) };
    (both.first <= both.last).then_some(both)
}

fn hosts(a: &HostPattern, b: &HostPattern) -> Option<HostPattern> {
    if a.covers(b) { Some(b.clone()) } else { b.covers(a).then(|| a.clone()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_both_have() {
        let m = |from: &str, to: &str, ports: &str| Match {
            from: [from.parse().unwrap()].into(),
            to: [to.parse().unwrap()].into(),
            ports: ports.split_whitespace().map(|p| p.parse().unwrap()).collect(),
            ..Match::default()
        };
        let both =
            meet(&m("10.0.0.0/8", "10.2.3.0/24", "80-90 443"), &m("10.1.0.0/16", "10.2.0.0/16", "85-100")).unwrap();
        assert_eq!(both, m("10.1.0.0/16", "10.2.3.0/24", "85-90"));
        assert_eq!(meet(&m("10.0.0.0/8", "10.2.0.0/16", "80"), &m("10.0.0.0/8", "10.3.0.0/16", "80")), None);
        let any = Match::default();
        assert_eq!(meet(&any, &both).unwrap(), both);
    }
}
