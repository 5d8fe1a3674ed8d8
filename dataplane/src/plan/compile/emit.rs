//! The rules of an intent: for the flows that an operator's rule is about too, the stricter of both; for the rest its own.

use super::super::contract::{Because, Finding, Reason};
use super::{Draft, Effect, Findings, Given};
use crate::config::intent::{Demand, Intent, IntentFlow};
use crate::config::policy::{Compress, Match, Rule, RuleAction, RuleOffload, SequenceMode, Tunnel, TunnelKind};
use crate::config::{Index, covers, meet_rules};

/// Flows that intents have claimed so far.
#[derive(Default)]
pub(super) struct Claims {
    index: Index,
    list: Vec<Claim>,
}

struct Claim {
    rule: Rule,
    own: Effect,
    name: String,
    at: super::Place,
    priority: u32,
}

/// What holds for some flows of an intent.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    effect: Effect,
    compress: bool,
    keep: bool,
}

/// Makes the rules of one intent; `claims` has those of the intents before it.
pub(super) fn emit(given: &Given<'_>, draft: &mut Draft<'_>, claims: &mut Claims, findings: &mut Findings) {
    let intent = draft.intent;
    let several = intent.flows.len() > 1;
    let mut bases = Vec::new();
    for (at, flow) in intent.flows.iter().enumerate().filter(|(_, flow)| !flow.nowhere()) {
        let name =
            if several { format!("intent:{}.{}", intent.name, at + 1) } else { format!("intent:{}", intent.name) };
        let base = Rule { ceiling: draft.ceiling.clone(), ..base(intent, flow, name) };
        draft.flows += 1;
        draft.claimed += usize::from(others(given, draft, &base, claims, findings));
        one(given, draft, &base, findings);
        bases.push(base);
    }
    if draft.overruled() {
        // Without effect: no rule, and no claim that others would have to hear of.
        draft.rules.clear();
        let not_obeyed =
            |because: &&mut Because| matches!(because.reason, Reason::StricterIntent | Reason::EarlierIntent);
        for because in draft.all.iter_mut().filter(not_obeyed) {
            because.reason = Reason::ClaimedByIntent;
        }
        return;
    }
    for base in bases {
        claims.index.add(&base.matches, &base.hosts);
        claims.list.push(Claim {
            rule: base,
            own: draft.own,
            name: intent.name.clone(),
            at: given.demand_place(intent),
            priority: intent.priority,
        });
    }
    if draft.flows > 0 && draft.dropped == draft.flows {
        for because in draft.all.iter_mut().filter(|because| because.reason == Reason::PolicyPart) {
            because.reason = Reason::PolicyDrops;
        }
    }
}

fn base(intent: &Intent, flow: &IntentFlow, name: String) -> Rule {
    Rule {
        name: name.into(),
        matches: flow.matches.clone(),
        classes: flow.classes.clone(),
        hosts: flow.hosts.clone(),
        applications: Vec::new(),
        meter: None,
        ceiling: None,
        dscp: None,
        sample: 0,
        mirror: None,
        encrypt: None,
        compress: Compress::Never,
        action: RuleAction::Forward,
        offload: if intent.encrypt == Demand::Never { RuleOffload::Auto } else { RuleOffload::default() },
    }
}

fn as_rule(rule: Rule, held: Held) -> Rule {
    Rule {
        encrypt: match held.effect {
            Effect::Encrypt(tunnel) => Some(tunnel),
            _ => None,
        },
        ceiling: rule.ceiling.filter(|_| held.effect != Effect::Drop),
        // A copy is in clear: of what an intent has encrypted there is none.
        mirror: rule.mirror.filter(|_| held.effect == Effect::Clear),
        action: if held.effect == Effect::Drop { RuleAction::Drop } else { RuleAction::Forward },
        compress: if held.compress { Compress::Lz4 } else { Compress::Never },
        offload: if held.keep { RuleOffload::Never } else { RuleOffload::Auto },
        ..rule
    }
}

/// Whether the far end of the tunnel undoes compression.
fn compresses(tunnel: &Tunnel) -> bool {
    matches!(&tunnel.kind, TunnelKind::Esp(esp) if esp.sequence == SequenceMode::Iv)
}

/// The rules of one flow.
fn one(given: &Given<'_>, draft: &mut Draft<'_>, base: &Rule, findings: &mut Findings) {
    let own = Held {
        effect: draft.own,
        compress: draft.intent.may_compress()
            && matches!(draft.own, Effect::Encrypt(tunnel) if compresses(&given.policy.tunnels[tunnel])),
        keep: false,
    };
    let back = Rule { matches: base.matches.reversed(), ..base.clone() };
    let mut near = given.index.near(&base.matches, &base.hosts);
    near.extend(given.index.near(&back.matches, &back.hosts));
    near.sort_unstable();
    near.dedup();
    let mut list: Vec<(Rule, Held)> = Vec::new();
    let mut rest = Some((base.clone(), own));
    for at in near {
        let rule = &given.policy.rules[at];
        // A rule holds for both directions of its flows. Its own `from` stays this host's side.
        let (target, both) = match (meet_rules(rule, base), meet_rules(rule, &back)) {
            (Some(both), _) => (base, both),
            (None, Some(both)) => (&back, both),
            (None, None) => continue,
        };
        let held = stricter(given, draft, at, own, findings);
        let both = Rule { name: format!("{}+{}", base.name, rule.name).into(), ceiling: base.ceiling.clone(), ..both };
        if holds_all(rule, target) {
            draft.dropped += usize::from(held.effect == Effect::Drop && draft.own != Effect::Drop);
            if let (Effect::Encrypt(tunnel), Effect::Clear) = (held.effect, draft.own) {
                draft.encrypted = Some(tunnel);
            }
            // Of the rest nothing is left: the last is the whole flow, under its own name.
            rest = Some((Rule { name: base.name.clone(), ..both }, held));
            break;
        }
        list.push((both, held));
    }
    if let Some((rule, held)) = rest {
        // What is no different from what comes after it anyway.
        while list.last().is_some_and(|(last, its)| *its == held && same_treatment(last, &rule)) {
            list.pop();
        }
        list.push((rule, held));
    }
    draft.rules.extend(list.into_iter().map(|(rule, held)| as_rule(rule, held)));
}

/// Whether the operator has the packets of both metered, marked, sampled and copied alike.
fn same_treatment(a: &Rule, b: &Rule) -> bool {
    (a.meter, a.dscp, a.sample, a.mirror) == (b.meter, b.dscp, b.sample, b.mirror)
}

fn holds_all(rule: &Rule, flow: &Rule) -> bool {
    let classes =
        rule.classes.is_empty() || (!flow.classes.is_empty() && flow.classes.iter().all(|c| rule.classes.contains(c)));
    let hosts = rule.hosts.is_empty()
        || (!flow.hosts.is_empty() && flow.hosts.iter().all(|h| rule.hosts.iter().any(|mine| mine.covers(h))));
    let applications = rule.applications.is_empty() || rule.applications == flow.applications;
    classes && hosts && applications && covers(&rule.matches, &flow.matches)
}

/// What holds where the operator's rule `at` and the intent are about the same flows, and what is to be said about it.
fn stricter(given: &Given<'_>, draft: &mut Draft<'_>, at: usize, own: Held, findings: &mut Findings) -> Held {
    let rule = &given.policy.rules[at];
    let intent = draft.intent;
    let keep = rule.offload == RuleOffload::Never;
    let mut say = |reason, text: String| {
        // Once per rule is enough, however many flows it touches.
        if draft.said.insert((reason, at)) {
            draft.all.push(Because { reason, text, by: given.rule_place(at) });
        }
    };
    let allowed = |tunnel: usize| {
        intent.peers.is_empty() || intent.peers.iter().any(|peer| peer.value == given.policy.tunnels[tunnel].name)
    };
    if rule.action == RuleAction::Drop {
        say(Reason::PolicyPart, format!("rule `{}` drops", rule.name));
        return Held { effect: Effect::Drop, compress: false, keep };
    }
    let mut said = |text: String| {
        let here = given.in_intent(intent, intent.encrypt_span.as_ref().unwrap_or(&intent.name_span));
        findings.add(Finding { kind: "stricter_wins".into(), text, here, other: Some(given.rule_place(at)) });
    };
    let Some(tunnel) = rule.encrypt else {
        match own.effect {
            Effect::Encrypt(_) if intent.encrypt == Demand::Required => said(format!(
                "rule `{}` lets flows of `{}` go in clear, its intent requires encryption: the intent wins",
                rule.name, intent.name
            )),
            Effect::Drop => said(format!(
                "rule `{}` lets flows of `{}` go in clear, its intent requires encryption and has no tunnel: they are dropped",
                rule.name, intent.name
            )),
            _ => {}
        }
        return Held { keep, ..own };
    };
    let name = &given.policy.tunnels[tunnel].name;
    let effect = match own.effect {
        Effect::Drop => Effect::Drop,
        _ if !allowed(tunnel) => {
            say(
                Reason::PeerNotAllowed,
                format!("rule `{}` sends it into tunnel `{name}`, which `peers` leaves out", rule.name),
            );
            Effect::Drop
        }
        Effect::Clear => {
            if intent.encrypt == Demand::Never {
                say(Reason::PolicyEncrypts, format!("rule `{}` encrypts by tunnel `{name}`", rule.name));
            }
            Effect::Encrypt(tunnel)
        }
        Effect::Encrypt(own) => {
            if own != tunnel {
                say(Reason::PolicyTunnel, format!("rule `{}` sends it into tunnel `{name}`", rule.name));
            }
            Effect::Encrypt(tunnel)
        }
    };
    let compress = rule.compress == Compress::Lz4 && intent.may_compress() && effect != Effect::Drop;
    if rule.compress == Compress::Lz4 && !intent.may_compress() && effect != Effect::Drop {
        said(format!(
            "rule `{}` compresses flows of `{}`, its intent forbids it: they are not compressed",
            rule.name, intent.name
        ));
    }
    Held { effect, compress, keep }
}

/// What intents before this one claim of the same flows. Whether one that does not agree claims all of them.
fn others(given: &Given<'_>, draft: &mut Draft<'_>, base: &Rule, claims: &Claims, findings: &mut Findings) -> bool {
    let intent = draft.intent;
    let mut claimed = false;
    for at in claims.index.near(&base.matches, &base.hosts) {
        let claim = &claims.list[at];
        if claim.name == intent.name || meet_rules(&claim.rule, base).is_none() {
            continue;
        }
        let whole = holds_all(&claim.rule, base);
        let here = given.demand_place(intent);
        let which = if whole { "all" } else { "some" };
        let mut finding = |kind: &str, text: String| {
            findings.add(Finding { kind: kind.into(), text, here: here.clone(), other: Some(claim.at.clone()) });
        };
        let reason = match (claim.own, draft.own) {
            (Effect::Drop, Effect::Clear) if whole => Some(Reason::DroppedByIntent),
            (Effect::Encrypt(_) | Effect::Drop, Effect::Clear) => Some(Reason::StricterIntent),
            (Effect::Encrypt(a), Effect::Encrypt(b)) if a != b => Some(Reason::EarlierIntent),
            _ => None,
        };
        match reason {
            Some(reason) => {
                // Who only prefers encryption and had no tunnel of its own gets more than it has, not less.
                claimed |= whole && (intent.encrypt != Demand::Preferred || draft.own != Effect::Clear);
                let text = format!("intent `{}` claims {which} of these flows and is obeyed", claim.name);
                draft.all.push(Because { reason, text, by: claim.at.clone() });
                finding(
                    "conflict",
                    format!(
                        "`{}` (priority {}) and `{}` (priority {}) claim {which} flows of the latter, and do not agree",
                        claim.name, claim.priority, intent.name, intent.priority
                    ),
                );
            }
            None if whole => {
                finding(
                    "shadowed",
                    format!("flows of `{}` are all claimed by `{}`, which asks for the same", intent.name, claim.name),
                );
            }
            None => {}
        }
    }
    claimed
}

/// Whether a match is about nothing but ports of TCP or UDP.
pub(super) fn by_ports(matches: &Match) -> bool {
    use crate::config::policy::Protocol;
    let ports = !matches.ports.is_empty() || !matches.source_ports.is_empty();
    matches.protocol == Protocol::TCP || matches.protocol == Protocol::UDP || matches.protocol == Protocol::ANY && ports
}
