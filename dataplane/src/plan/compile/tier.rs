//! Which tier serves an intent, and which nodes its packets walk.

use super::super::contract::Verdict;
use super::{Draft, Effect, Given};
use crate::config::policy::{Compress, PortKind, Protocol, Rule, RuleAction, RuleOffload, TunnelKind};
use crate::config::terms::Tier;

/// Some rule encrypts or drops by class or host: then nothing goes down into the driver (`by_class` of the offload reasons).
pub(super) fn guarded(rules: &[Rule]) -> bool {
    let by_class = |rule: &Rule| {
        (!rule.classes.is_empty() || !rule.hosts.is_empty() || !rule.applications.is_empty())
            && (rule.encrypt.is_some() || rule.action == RuleAction::Drop)
    };
    rules.iter().any(by_class)
}

/// Tier and nodes, in the words of the flow table and of the graph.
pub(super) fn walk(
    given: &Given<'_>,
    draft: &Draft<'_>,
    verdict: Verdict,
    guarded: bool,
) -> (Option<String>, Vec<String>) {
    if verdict == Verdict::Refused || draft.rules.is_empty() {
        return (None, Vec::new());
    }
    if draft.kernel {
        return (Some(Tier::Kernel.as_str().into()), Vec::new());
    }
    let tunnel = match draft.own {
        Effect::Encrypt(tunnel) => Some(tunnel),
        _ => draft.encrypted,
    };
    let tier = match tunnel {
        Some(tunnel) if given.site.nic && matches!(given.policy.tunnels[tunnel].kind, TunnelKind::Esp(_)) => Tier::Nic,
        Some(_) => Tier::Worker,
        None if given.site.nic => Tier::Nic,
        None if lower(given, draft) && !guarded => Tier::Xdp,
        None => Tier::Worker,
    };
    let tier = if given.policy.terms.allows(tier) { tier } else { Tier::Worker };
    let mut nodes = vec!["parse", "flow", "classify", "policy"];
    if draft.rules.iter().any(|rule| rule.compress == Compress::Lz4) {
        nodes.push("compress");
    }
    if tunnel.is_some() {
        nodes.push("seal");
    }
    nodes.extend(["rewrite", "emit"]);
    (Some(tier.as_str().into()), nodes.into_iter().map(str::to_owned).collect())
}

/// Whether flows in clear go down into the driver once they are settled.
fn lower(given: &Given<'_>, draft: &Draft<'_>) -> bool {
    let policy = given.policy;
    // Bandwidth is counted where all of an application's flows are.
    let metered = |rule: &Rule| rule.ceiling.as_ref().is_some_and(|ceiling| ceiling.meter.is_some());
    let kept = draft.rules.iter().any(|rule| rule.offload == RuleOffload::Never || metered(rule));
    let protocols =
        draft.rules.iter().any(|rule| matches!(rule.matches.protocol, Protocol::TCP | Protocol::UDP | Protocol::ANY));
    // Both directions must be seen by the program.
    let programs = policy.ports.iter().filter(|port| matches!(port.kind, PortKind::Xdp(_))).count() >= 2;
    policy.offload.enabled && !kept && protocols && programs && given.site.native_xdp != Some(false)
}
