//! The plan: the policy made ready for the packet path. Names are indices, what can be computed once is.

pub mod applications;
pub mod compile;
pub mod connections;
pub mod contract;
mod lines;
pub mod persona;
pub mod reason;
pub mod rules;
pub mod shares;
pub mod site;
pub mod steering;

use crate::config::policy::{self, Policy, RuleAction};
use crate::io::pool::MAX_PORTS;
use crate::l7::Class;
use anyhow::{Context, Result, bail};
use applications::Applications;
use connections::Limit;
use rules::{Rule, Rules};
use shares::Share;
use std::collections::HashMap;
use std::sync::Arc;

/// What all workers run. Immutable; a change is a new plan with another generation.
#[derive(Debug, Default)]
pub struct Plan {
    /// Never 0, which in a flow means "not decided yet".
    pub generation: u32,
    pub name: String,
    pub ports: Vec<Port>,
    pub tunnels: Vec<Tunnel>,
    /// Some rule asks for ports, which later fragments do not have.
    pub asks_ports: bool,
    /// Rules name more than one tunnel: what comes out of one may have to go into another.
    pub relays: bool,
    /// Some rule encrypts or drops by class or host.
    pub guards_by_class: bool,
    /// First match wins.
    pub rules: Rules,
    /// Some rule meters or samples its flows.
    pub keeps_slots: bool,
    /// What flows of several rules share.
    pub shares: Box<[Share]>,
    /// The most connections of applications.
    pub limits: Box<[Limit]>,
    /// The operator's names for flows.
    pub applications: Applications,
    /// Their names, for who counts by them.
    pub rule_names: Arc<[Arc<str>]>,
    /// The tunnel of type xfrm, and the rule that stands for all that the kernel's policies say.
    pub xfrm: Option<(u16, u16)>,
}

#[derive(Clone, Debug, Default)]
pub struct Port {
    pub name: String,
    /// L4 checksums may have been left to offload by whoever sends here.
    pub finish_checksums: bool,
}

/// A tunnel. Its keys are in [`Keys`](crate::tunnel::keys::Keys), under the same index.
#[derive(Clone, Debug, Default)]
pub struct Tunnel {
    pub name: String,
    /// As in the policy: "esp", "wireguard", "xfrm".
    pub kind: &'static str,
    /// Largest outer packet, where the policy sets one.
    pub mtu: Option<usize>,
    pub mss_clamp: bool,
    pub fragment_outer: bool,
}

/// Builds the plan of a policy.
///
/// # Errors
/// More rules, tunnels or ports than can be numbered; a class that there is not.
pub fn build(policy: &Policy, generation: u32) -> Result<Plan> {
    for (what, count, most) in [
        ("rules", policy.rules.len() + 1, rules::MAX_RULES),
        ("tunnels", policy.tunnels.len(), usize::from(u16::MAX)),
        ("ports", policy.ports.len(), MAX_PORTS),
    ] {
        if count > most {
            bail!("{count} {what} are more than the {most} there can be");
        }
    }
    let tunnel = |tunnel: &policy::Tunnel| Tunnel {
        name: tunnel.name.clone(),
        kind: tunnel.kind.as_str(),
        mtu: tunnel.mtu.map(|mtu| mtu as usize),
        mss_clamp: tunnel.mss_clamp,
        fragment_outer: tunnel.fragment_outer,
    };
    let mut rules = policy.rules.iter().map(rule).collect::<Result<Vec<_>>>()?;
    let (shares, limits) = ceilings(policy, &mut rules);
    let xfrm = policy.tunnels.iter().position(|tunnel| matches!(tunnel.kind, policy::TunnelKind::Xfrm(_)));
    let xfrm = xfrm.map(|at| {
        let name = format!("xfrm:{}", policy.tunnels[at].name).into();
        rules.push(Rule { name, tunnel: Some(at as u16), mirrored: true, ..Rule::default() });
        (at as u16, rules.len() as u16 - 1)
    });
    let mut named = rules.iter().filter_map(|rule| rule.tunnel);
    let first = named.next();
    let relays = named.any(|tunnel| Some(tunnel) != first);
    Ok(Plan {
        rule_names: rules.iter().map(|rule| rule.name.clone()).collect(),
        xfrm,
        relays,
        guards_by_class: rules.iter().any(Rule::guards_by_class),
        generation: generation.max(1),
        name: policy.name.clone(),
        ports: policy.ports.iter().map(|port| Port { name: port.name.clone(), finish_checksums: false }).collect(),
        tunnels: policy.tunnels.iter().map(tunnel).collect(),
        asks_ports: policy.rules.iter().any(|r| !r.matches.ports.is_empty() || !r.matches.source_ports.is_empty()),
        keeps_slots: rules.iter().any(|rule| rule.meter.is_some() || rule.sample > 0),
        rules: rules.into(),
        shares,
        limits,
        applications: Applications::compile(&policy.applications)?.for_generation(generation.max(1)),
    })
}

/// One share and one limit per name; of rules that drop there is nothing to share.
fn ceilings(policy: &Policy, rules: &mut [Rule]) -> (Box<[Share]>, Box<[Limit]>) {
    let (mut shares, mut limits) = (Vec::new(), Vec::new());
    let (mut shares_of, mut limits_of): (HashMap<&str, u16>, HashMap<&str, u16>) = Default::default();
    for (rule, own) in rules.iter_mut().zip(&policy.rules).filter(|(rule, _)| !rule.drop) {
        let Some(ceiling) = &own.ceiling else { continue };
        rule.share = ceiling.meter.map(|meter| {
            *shares_of.entry(&ceiling.of).or_insert_with(|| {
                shares.push(Share::new(ceiling.of.clone(), rules::RuleMeter::new(meter)));
                shares.len() as u16 - 1
            })
        });
        rule.limit = ceiling.connections.map(|most| {
            *limits_of.entry(&ceiling.of).or_insert_with(|| {
                limits.push(Limit::new(ceiling.of.clone(), most));
                limits.len() as u16 - 1
            })
        });
    }
    (shares.into(), limits.into())
}

fn rule(rule: &policy::Rule) -> Result<Rule> {
    let classes = rule.classes.iter().map(|name| {
        Class::from_name(name)
            .map(Class::number)
            .with_context(|| format!("rule `{}`: unknown class `{name}`", rule.name))
    });
    Ok(Rule {
        name: rule.name.clone(),
        from: rule.matches.from.clone(),
        to: rule.matches.to.clone(),
        protocol: rule.matches.protocol.0,
        source_ports: rule.matches.source_ports.clone(),
        ports: rule.matches.ports.clone(),
        classes: classes.collect::<Result<_>>()?,
        hosts: rule.hosts.clone(),
        applications: rule.applications.iter().map(|place| *place as u16 + 1).collect(),
        tunnel: rule.encrypt.map(|tunnel| tunnel as u16),
        compress: rule.compress == policy::Compress::Lz4,
        drop: rule.action == RuleAction::Drop,
        keep: rule.offload == policy::RuleOffload::Never,
        meter: rule.meter.map(rules::RuleMeter::new),
        dscp: rule.dscp,
        sample: rule.sample,
        mirror: rule.mirror.filter(|_| rule.encrypt.is_none()).map(|port| port as u16),
        mirrored: false,
        share: None,
        limit: None,
    })
}
