//! ICMP errors about flows that are steered by protocol or port. An error quotes packets of the flow, so where the flow is
//! encrypted the error must come to a worker too (RFC 4301 §6.2); the kernel would forward the quote in clear.

use std::sync::Arc;

use super::Check;
use super::rules::secret;
use crate::config::cover::covers;
use crate::config::policy::{Match, OnLoss, Rule, Steer};
use crate::config::problem::{Code, Problem};
use crate::config::schema::{self, SteerAction};
use crate::config::values::{Prefix, Protocol};

/// Adds a steering rule of ICMP behind the operator's own for each that takes encrypted flows by port: to the same
/// destinations, from anywhere, as any router on the way may send an error. Where that would take what is meant for this
/// host, there is a warning in its place.
pub fn companions(
    raw: &[schema::Steer],
    tunnels: &[schema::Tunnel],
    rules: &[Rule],
    steer: &mut Vec<Steer>,
    check: &mut Check<'_>,
) {
    let locals: Vec<Prefix> =
        tunnels.iter().filter_map(|tunnel| Some(Prefix::host(tunnel.local.as_ref()?.0))).collect();
    for (at, written) in raw.iter().enumerate() {
        let Steer { name, port, matches, action, .. } = steer[at].clone();
        // A port that does not exist was reported.
        if action != SteerAction::Worker || !has_ports_only(&matches) || written.port.is_some() != port.is_some() {
            continue;
        }
        let Some(rule) = secret(rules, &matches) else { continue };
        let to = &matches.to;
        if to.is_empty() || to.iter().any(|to| locals.iter().any(|local| to.covers(local))) {
            let message = format!(
                "ICMP errors about flows of rule `{}` stay with the kernel, which forwards what they quote in clear",
                rule.name
            );
            let help = format!("give steering rule `{name}` the prefixes of these flows' destinations as `to`");
            check.problems.push(Problem::warning(Code::NoEffect, written.name.span(), message, help));
            continue;
        }
        for (protocol, end, v4) in [(1, "icmp", true), (58, "icmpv6", false)] {
            let to: Arc<[Prefix]> = to.iter().filter(|to| to.addr().is_ipv4() == v4).copied().collect();
            let matches = Match { to, protocol: Protocol(Some(protocol)), ..Match::default() };
            let taken = |earlier: &Steer| {
                (earlier.port.is_none() || earlier.port == port) && covers(&earlier.matches, &matches)
            };
            if matches.to.is_empty() {
                continue;
            }
            if let Some(earlier) = steer.iter().find(|earlier| taken(earlier)) {
                if earlier.action == SteerAction::Pass {
                    let message = format!(
                        "steering rule `{}` passes ICMP errors about flows of rule `{}` to the kernel, which forwards what \
                         they quote in clear",
                        earlier.name, rule.name
                    );
                    let help = "let workers have ICMP to these prefixes";
                    check.problems.push(Problem::warning(Code::NoEffect, written.name.span(), message, help));
                }
                continue;
            }
            let name = format!("{name}:{end}");
            steer.push(Steer { name, port, matches, action: SteerAction::Worker, on_loss: OnLoss::Drop });
        }
    }
}

/// Whether it takes TCP, UDP or both, and so leaves ICMP out.
fn has_ports_only(matches: &Match) -> bool {
    let ports = !matches.ports.is_empty() || !matches.source_ports.is_empty();
    matches.protocol == Protocol::TCP || matches.protocol == Protocol::UDP || matches.protocol == Protocol::ANY && ports
}
