//! Steering for intents: flows that no steering rule of the operator's takes to a worker get one of their own, since a rule
//! that no packet comes to promises nothing.

use super::super::contract::{Because, Finding, Reason};
use super::emit::by_ports;
use super::{Draft, Effect, Findings, Given};
use crate::config::intent::{Demand, Intent};
use crate::config::policy::{
    Match, OnLoss, Policy, PortKind, Prefix, Protocol, Rule, RuleAction, Steer, SteerAction, TunnelKind,
};
use crate::config::{Index, covers, meet, overlaps};
use std::sync::Arc;

pub(super) struct Steering {
    /// Of the operator's.
    index: Index,
    /// Ports of kind xdp are there: others need no steering.
    needed: bool,
    /// Each to stand before the operator's of this index.
    added: Vec<(usize, Steer)>,
}

impl Steering {
    pub fn new(given: &Given<'_>) -> Self {
        let mut index = Index::default();
        given.policy.steer.iter().for_each(|steer| index.add(&steer.matches, &[]));
        let needed = given.policy.ports.iter().any(|port| matches!(port.kind, PortKind::Xdp(_)));
        Self { index, needed, added: Vec::new() }
    }

    /// Sees to it that the flows of a draft come to a worker.
    pub fn reach(&mut self, given: &Given<'_>, draft: &mut Draft<'_>, findings: &mut Findings) {
        if !self.needed {
            return;
        }
        let intent = draft.intent;
        let (mut whole, mut flows) = (0, 0);
        for (at, flow) in intent.flows.iter().enumerate().filter(|(_, flow)| !flow.nowhere()) {
            flows += 1;
            let name = format!("intent:{}{}", intent.name, if at > 0 { format!(".{}", at + 1) } else { String::new() });
            whole += usize::from(self.one(given, draft, &flow.matches, name, findings));
        }
        draft.kernel = flows > 0 && whole == flows;
    }

    /// One flow. True: it is left to the kernel, all of it.
    fn one(
        &mut self,
        given: &Given<'_>,
        draft: &mut Draft<'_>,
        flow: &Match,
        name: String,
        findings: &mut Findings,
    ) -> bool {
        let intent = draft.intent;
        let near = self.index.near(flow, &[]);
        let steer = |at: &usize| &given.policy.steer[*at];
        // The first that says what becomes of all of it, and the first that leaves some of it to the kernel.
        let whole = near.iter().copied().find(|at| steer(at).port.is_none() && covers(&steer(at).matches, flow));
        let whole = whole.or_else(|| {
            near.iter().copied().find(|at| steer(at).action == SteerAction::Worker && covers(&steer(at).matches, flow))
        });
        let pass = near
            .iter()
            .copied()
            .find(|at| steer(at).action == SteerAction::Pass && overlaps(&steer(at).matches, flow))
            .filter(|pass| whole.is_none_or(|whole| *pass <= whole));
        let must = intent.encrypt == Demand::Required;
        if let Some(pass) = pass {
            let place = given.in_policy(given.policy.terms.places.steer.get(pass));
            let by = steer(&pass).name.clone();
            if !must {
                let text = format!("steering rule `{by}` leaves it to the kernel");
                draft.all.push(Because { reason: Reason::PolicyPasses, text, by: place });
                return whole == Some(pass);
            }
            findings.add(Finding {
                kind: "stricter_wins".into(),
                text: format!(
                    "steering rule `{by}` leaves flows of `{}` to the kernel, its intent requires encryption: workers have them",
                    intent.name
                ),
                here: given.in_intent(intent, intent.encrypt_span.as_ref().unwrap_or(&intent.name_span)),
                other: Some(place),
            });
        } else if whole.is_some() {
            self.errors(given, draft, flow, &name, given.policy.steer.len());
            return false;
        }
        let at = pass.unwrap_or(given.policy.steer.len());
        // What the operator drops further down stays dropped.
        for drop in near.iter().filter(|of| **of > at && steer(of).action == SteerAction::Drop) {
            if let Some(both) = meet(&steer(drop).matches, flow) {
                let name = format!("{name}+{}", steer(drop).name);
                self.add(at, Steer { name, matches: both, ..steer(drop).clone() });
            }
        }
        let secret = draft.own != Effect::Clear;
        let on_loss = if secret { OnLoss::Drop } else { intent.on_loss };
        self.errors(given, draft, flow, &name, at);
        let mut add = |name: String, matches: Match| {
            self.add(at, Steer { name, port: None, matches, action: SteerAction::Worker, on_loss });
        };
        // Both directions of what goes in clear; what is sealed comes back sealed, and tunnels are steered by themselves.
        if draft.own == Effect::Clear && flow.reversed() != *flow {
            add(format!("{name}:back"), flow.reversed());
        }
        add(name, flow.clone());
        false
    }

    /// ICMP errors about flows that are steered by port and not to be seen: they quote what they are about (RFC 4301 §6.2).
    fn errors(&mut self, given: &Given<'_>, draft: &Draft<'_>, flow: &Match, name: &str, at: usize) {
        if draft.own == Effect::Clear || !by_ports(flow) || flow.to.is_empty() {
            return;
        }
        for (protocol, end, v4) in [(1, "icmp", true), (58, "icmpv6", false)] {
            let meant = |to: &&Prefix| to.addr().is_ipv4() == v4 && !ours(given.policy, to);
            let to: Arc<[Prefix]> = flow.to.iter().filter(meant).copied().collect();
            let matches = Match { to, protocol: Protocol(Some(protocol)), ..Match::default() };
            let steer = |at: &usize| &given.policy.steer[*at];
            let taken = |of: &usize| steer(of).action == SteerAction::Worker && covers(&steer(of).matches, &matches);
            if matches.to.is_empty() || self.index.near(&matches, &[]).iter().any(taken) {
                continue;
            }
            let (action, on_loss) = (SteerAction::Worker, OnLoss::Drop);
            self.add(at, Steer { name: format!("{name}:{end}"), port: None, matches, action, on_loss });
        }
    }

    fn add(&mut self, at: usize, steer: Steer) {
        self.added.push((at, steer));
    }

    /// In the order of their places.
    pub fn finish(mut self) -> Vec<(usize, Steer)> {
        self.added.sort_by_key(|(at, _)| *at);
        self.added
    }
}

/// Whether a prefix holds an outer address of this host: ICMP to it is about the tunnel itself.
fn ours(policy: &Policy, to: &Prefix) -> bool {
    policy.tunnels.iter().any(|tunnel| match &tunnel.kind {
        TunnelKind::Esp(esp) => to.contains(esp.local),
        TunnelKind::WireGuard(wireguard) => wireguard.local.is_some_and(|local| to.contains(local)),
        TunnelKind::Xfrm(_) => false,
    })
}

/// What becomes of packets without a worker, wherever intents are stricter than what was written: in steering rules and taps.
pub(super) fn agree(policy: &mut Policy, intents: &[Intent]) {
    let mut index = Index::default();
    let mut strict: Vec<Match> = Vec::new();
    let secret = |rule: &&Rule| rule.encrypt.is_some() || rule.action == RuleAction::Drop;
    let of_rules =
        policy.rules.iter().filter(|rule| rule.name.starts_with("intent:")).filter(secret).map(|rule| &rule.matches);
    let careful = intents.iter().filter(|intent| intent.on_loss == OnLoss::Drop);
    let of_intents = careful.flat_map(|intent| &intent.flows).filter(|flow| !flow.nowhere()).map(|flow| &flow.matches);
    for matches in of_rules.chain(of_intents) {
        for matches in [matches.clone(), matches.reversed()] {
            index.add(&matches, &[]);
            strict.push(matches);
        }
    }
    let touched = |matches: &Match| index.near(matches, &[]).into_iter().any(|at| overlaps(&strict[at], matches));
    for steer in
        policy.steer.iter_mut().filter(|steer| steer.action == SteerAction::Worker && steer.on_loss == OnLoss::Pass)
    {
        if touched(&steer.matches) {
            steer.on_loss = OnLoss::Drop;
        }
    }
    for port in &mut policy.ports {
        if let PortKind::Tap(tap) = &mut port.kind
            && !tap.routes.is_empty()
            && touched(&Match { to: tap.routes.as_slice().into(), ..Match::default() })
        {
            tap.on_loss = OnLoss::Drop;
        }
    }
}
