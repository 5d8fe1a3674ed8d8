//! Policy and intents become one contract, and the rules that make it true.
//!
//! For each intent: which tunnel, what it takes, what the operator's rules say of its flows, what other intents say. Then its
//! rules, in front of the operator's: where an operator's rule holds for some of an intent's flows, a rule for just those
//! flows has the stricter of both. So within an intent's flows the operator's order counts as it would without the intent,
//! and nothing becomes laxer by either file. Among intents those that encrypt come first, then those that drop for want of a
//! tunnel, then those in clear: where two claim the same flows, the stricter one is obeyed. Within these, priority.

mod book;
mod ceiling;
mod emit;
mod steer;
mod tier;
mod tunnel;

use super::contract::{Because, Contract, Finding, Outcome, Place, Reason, Takes, Verdict};
use super::lines::Lines;
use super::site::Site;
use crate::config::intent::{Demand, Intent};
use crate::config::policy::{OnLoss, Policy, Rule, Shared, Steer};
use crate::config::rates::Latency;
use crate::config::{Index, Source};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What an intent's flows meet where nothing stricter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Clear,
    Encrypt(usize),
    Drop,
}

impl Effect {
    /// The order of intents: the stricter, the earlier. What is encrypted is safe with any of them.
    fn rank(self) -> u8 {
        match self {
            Self::Encrypt(_) => 0,
            Self::Drop => 1,
            Self::Clear => 2,
        }
    }
}

/// An intent on its way to a verdict.
struct Draft<'a> {
    intent: &'a Intent,
    own: Effect,
    all: Vec<Because>,
    /// What of it was said about an operator's rule already.
    said: HashSet<(Reason, usize)>,
    takes: Takes,
    notes: Vec<String>,
    rules: Vec<Rule>,
    /// What all of its flows may take together.
    ceiling: Option<Shared>,
    /// Flows for which a rule was made.
    flows: usize,
    /// Of these, those that a rule of the policy drops whole.
    dropped: usize,
    /// Of these, those that a rule of the policy encrypts, with the tunnel.
    encrypted: Option<usize>,
    /// Of these, those that another intent claims whole, and is obeyed.
    claimed: usize,
    /// A steering rule leaves all of its flows to the kernel.
    kernel: bool,
}

/// Each is told once, however often it is found.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    seen: HashSet<Finding>,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        if self.seen.insert(finding.clone()) {
            self.list.push(finding);
        }
    }
}

impl Draft<'_> {
    /// All of its flows are another's, who does not agree and is obeyed.
    fn overruled(&self) -> bool {
        self.flows > 0 && self.claimed >= self.flows
    }
}

/// What is compiled.
#[derive(Debug, Default)]
pub struct Compiled {
    pub contract: Contract,
    /// To stand in front of the operator's.
    pub rules: Vec<Rule>,
    /// Steering rules for flows that none of the operator's takes: each to stand before the operator's of this index.
    pub steer: Vec<(usize, Steer)>,
}

/// What is compiled from, and where its lines are.
struct Given<'a> {
    policy: &'a Policy,
    site: &'a Site,
    policy_name: Arc<str>,
    lines: Lines<'a>,
    /// Per intent file, by its name.
    intent_lines: HashMap<&'a str, (Arc<str>, Lines<'a>)>,
    /// The operator's rules.
    index: Arc<Index>,
}

impl<'a> Given<'a> {
    /// A place in the policy.
    fn in_policy(&self, span: Option<&Range<usize>>) -> Place {
        let (line, column) = self.lines.position(span.map_or(0, |span| span.start));
        Place {
            file: self.policy_name.clone(),
            line,
            column,
            owner: self.policy.terms.owner.clone(),
            // Without a line of its own it is about the policy as a whole.
            quote: span.map_or_else(Arc::default, |_| self.lines.quote(line).into()),
        }
    }

    fn in_intent(&self, intent: &Intent, span: &Range<usize>) -> Place {
        let Some((file, lines)) = self.intent_lines.get(intent.source.name.as_str()) else {
            return Place {
                file: intent.source.name.as_str().into(),
                owner: intent.owner.clone(),
                line: 1,
                column: 1,
                ..Place::default()
            };
        };
        let (line, column) = lines.position(span.start);
        Place { file: file.clone(), line, column, owner: intent.owner.clone(), quote: lines.quote(line).into() }
    }

    /// What the intent says of encryption; where it leaves that to the policy, its name.
    fn demand_place(&self, intent: &Intent) -> Place {
        self.in_intent(intent, intent.encrypt_span.as_ref().unwrap_or(&intent.name_span))
    }

    fn rule_place(&self, rule: usize) -> Place {
        self.in_policy(self.policy.terms.places.rules.get(rule))
    }

    fn tunnel_place(&self, tunnel: usize) -> Place {
        self.in_policy(self.policy.terms.places.tunnels.get(tunnel))
    }
}

/// Compiles. `policy` has the operator's own rules only; `source` is its text.
pub fn compile(policy: &Policy, source: &Source, intents: &[Intent], site: &Site) -> Compiled {
    let started = Instant::now();
    let index = policy.index.clone().filter(|index| index.len() == policy.rules.len()).unwrap_or_else(|| {
        let mut index = Index::default();
        policy.rules.iter().for_each(|rule| index.add(&rule.matches, &rule.hosts));
        index.into()
    });
    let given = Given {
        policy,
        site,
        policy_name: source.name.as_str().into(),
        lines: Lines::new(&source.text),
        intent_lines: intents
            .iter()
            .map(|i| (i.source.name.as_str(), (i.source.name.as_str().into(), Lines::new(&i.source.text))))
            .collect(),
        index,
    };
    let mut findings = Findings::default();
    let mut drafts: Vec<Draft<'_>> = intents.iter().map(|intent| begin(&given, intent)).collect();
    let budgets = book::book(&given, &mut drafts, &mut findings);
    // Stable: intents of one rank and priority stay in the order of their files.
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|at| (drafts[*at].own.rank(), std::cmp::Reverse(drafts[*at].intent.priority)));
    let mut steer = steer::Steering::new(&given);
    let mut claims = emit::Claims::default();
    for at in &order {
        emit::emit(&given, &mut drafts[*at], &mut claims, &mut findings);
        if !drafts[*at].overruled() {
            steer.reach(&given, &mut drafts[*at], &mut findings);
        }
    }
    let guarded = drafts.iter().any(|draft| tier::guarded(&draft.rules)) || tier::guarded(&policy.rules);
    let mut own: Vec<Vec<Rule>> = Vec::new();
    let mut outcomes = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let (outcome, rules) = finish(&given, draft, guarded);
        outcomes.push(outcome);
        own.push(rules);
    }
    let rules = order.iter().flat_map(|at| std::mem::take(&mut own[*at])).collect();
    let mut contract = Contract {
        name: policy.name.clone(),
        policy: given.policy_name.clone(),
        owner: policy.terms.owner.clone(),
        planned_for: site.label.clone(),
        intents: outcomes,
        findings: findings.list,
        budgets,
        notes: site.notes.clone(),
        compile_us: 0,
    };
    contract.compile_us = started.elapsed().as_micros() as u64;
    Compiled { contract, rules, steer: steer.finish() }
}

/// The tunnel and what speaks against the intent by itself.
fn begin<'a>(given: &Given<'_>, intent: &'a Intent) -> Draft<'a> {
    let mut all = Vec::new();
    let own = match intent.encrypt {
        Demand::Never => Effect::Clear,
        demand => match tunnel::choose(given, intent) {
            Ok(tunnel) => Effect::Encrypt(tunnel),
            Err(because) if demand == Demand::Required => {
                all.push(because);
                Effect::Drop
            }
            Err(because) => {
                all.push(Because { reason: Reason::InClear, ..because });
                Effect::Clear
            }
        },
    };
    let mut draft = Draft {
        intent,
        own,
        all,
        said: HashSet::new(),
        takes: Takes::default(),
        notes: Vec::new(),
        rules: Vec::new(),
        ceiling: None,
        flows: 0,
        dropped: 0,
        encrypted: None,
        claimed: 0,
        kernel: false,
    };
    ceiling::set(given, &mut draft);
    wishes(given, &mut draft);
    draft
}

/// What is wished for and cannot be had, whatever the others want.
fn wishes(given: &Given<'_>, draft: &mut Draft<'_>) {
    let intent = draft.intent;
    if intent.compress == crate::config::intent::IntentCompress::Allow && intent.mixes() {
        draft.all.push(Because {
            reason: Reason::MixedData,
            text: "secrets and attacker-input together are never compressed".into(),
            by: given.in_intent(intent, &intent.data_span),
        });
    }
    if let Some(wish) = &intent.latency_p99 {
        let idle = given.policy.workers.idle == crate::config::policy::Idle::Interrupt;
        if idle && wish.value < 1_000 && draft.own != Effect::Drop {
            draft.all.push(Because {
                reason: Reason::IdleLatency,
                text: format!("p99 of {} is wished for and workers sleep at once when idle", Latency(wish.value)),
                by: given.in_policy(given.policy.terms.places.idle.as_ref()),
            });
        } else {
            draft.notes.push(format!("p99 of {} is a wish: what it is shows under traffic only", Latency(wish.value)));
        }
    }
    for flow in &intent.flows {
        for name in &flow.unresolved {
            draft.all.push(Because {
                reason: Reason::NameUnresolved,
                text: format!("`{}` has no address", name.value),
                by: given.in_intent(intent, &name.span),
            });
        }
    }
}

/// What became of an intent, and its rules.
fn finish(given: &Given<'_>, mut draft: Draft<'_>, guarded: bool) -> (Outcome, Vec<Rule>) {
    ceiling::say(given, &mut draft);
    let intent = draft.intent;
    // A name without address spoils the flows that have no other destination; the others are served.
    let nowhere = draft.flows == 0 && draft.rules.is_empty();
    let some_left = draft.dropped < draft.flows;
    let verdict_of = |because: &Because| match because.reason {
        Reason::NameUnresolved if !nowhere => Verdict::Degraded,
        Reason::PeerNotAllowed if some_left => Verdict::Degraded,
        reason => reason.verdict(),
    };
    // Of equally grave ones the first found; that some flows are dropped says least of the rest.
    let aside = |because: &Because| because.reason == Reason::PolicyPart;
    draft.all.sort_by_key(|because| (std::cmp::Reverse(verdict_of(because)), aside(because)));
    let because = draft.all.first().cloned().unwrap_or_else(|| Because {
        reason: Reason::AsAsked,
        text: match draft.own {
            Effect::Encrypt(tunnel) => format!("encrypted by tunnel `{}`", given.policy.tunnels[tunnel].name),
            _ => "in clear, as asked".into(),
        },
        by: match draft.own {
            Effect::Encrypt(tunnel) => given.tunnel_place(tunnel),
            _ => given.in_intent(intent, &intent.name_span),
        },
    });
    let verdict = draft.all.first().map_or(Verdict::Met, verdict_of);
    let (tier, nodes) = tier::walk(given, &draft, verdict, guarded);
    let tunnel = match draft.own {
        _ if verdict == Verdict::Refused => None,
        Effect::Encrypt(tunnel) => Some(tunnel),
        _ => draft.encrypted,
    };
    let outcome = Outcome {
        name: intent.name.clone(),
        owner: intent.owner.clone(),
        at: given.in_intent(intent, &intent.name_span),
        priority: intent.priority,
        encrypt: intent.encrypt.as_str().to_owned(),
        verdict,
        because,
        tier,
        nodes,
        tunnel: tunnel.map(|at| given.policy.tunnels[at].name.clone()),
        compress: verdict != Verdict::Refused
            && draft.rules.iter().any(|rule| rule.compress == crate::config::policy::Compress::Lz4),
        on_loss: if intent.on_loss == OnLoss::Drop || matches!(draft.own, Effect::Encrypt(_) | Effect::Drop) {
            "drop".into()
        } else {
            "pass".into()
        },
        takes: if verdict == Verdict::Refused { Takes::default() } else { draft.takes },
        latency_p99_us: intent.latency_p99.as_ref().map(|wish| wish.value),
        rules: draft.rules.iter().map(|rule| rule.name.as_ref().to_owned()).collect(),
        notes: draft.notes,
        all: draft.all,
    };
    (outcome, draft.rules)
}

/// Compiles the intents of a folder that was read, and puts their rules where they belong.
pub fn join(policy: &mut Policy, source: &Source, intents: Vec<Intent>, site: &Site) {
    let compiled = compile(policy, source, &intents, site);
    policy.index = None;
    policy.rules.splice(0..0, compiled.rules);
    // From the back, so that the indices in front stay true.
    for (at, steer) in compiled.steer.into_iter().rev() {
        policy.steer.insert(at, steer);
    }
    steer::agree(policy, &intents);
    policy.intents = intents;
    policy.contract = Arc::new(compiled.contract);
}

#[cfg(test)]
mod tests;
