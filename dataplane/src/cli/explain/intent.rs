//! `softdpu explain --intent`: why an application's flows are encrypted or not, offloaded or not, and slow or not: what the plan
//! decided and where, and what the counters show of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::show::number;
use crate::control::{DropCount, FlowInfo, RuleStatus, Status, TunnelStatus};
use crate::offload::Reason as TierReason;
use crate::plan::contract::{Because, Contract, Finding, Outcome, Place, Reason, Verdict};
use crate::telemetry::snapshot::{RuleTraffic, Snapshot};

/// What is said of an intent.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub intent: Outcome,
    /// Conflicts and the like that its file has a part in.
    pub findings: Vec<Finding>,
    /// Seconds between the two looks at the counters; 0: one look, no rates.
    pub watched_s: f64,
    pub rules: Vec<Seen>,
    pub flows: Flows,
    /// The one that carries it.
    pub tunnel: Option<TunnelStatus>,
    pub answers: Vec<Answer>,
}

/// What a rule of it counted.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Seen {
    pub rule: String,
    pub what: String,
    /// Since the start.
    pub packets: u64,
    pub bytes: u64,
    pub metered: u64,
    /// Dropped, for whatever reason; encrypted, and decrypted.
    pub dropped: u64,
    pub sealed: u64,
    pub opened: u64,
    /// While it was watched.
    pub packets_per_s: f64,
    pub bits_per_s: f64,
    pub metered_now: u64,
}

/// Its flows in the workers' tables.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Flows {
    pub all: usize,
    /// By "nic", "xdp", "worker", "kernel".
    pub tiers: BTreeMap<String, usize>,
    /// Of those that are not in the driver or above: how many by the code of what keeps them; "" for not tried yet.
    pub kept: BTreeMap<String, usize>,
    pub classes: BTreeMap<String, usize>,
}

/// The answer to one question.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Answer {
    /// "encrypted", "offloaded" or "slow".
    pub question: &'static str,
    /// `None`: nothing can be said.
    pub yes: Option<bool>,
    pub text: String,
    /// What was seen, a line each.
    pub evidence: Vec<String>,
    /// The lines that decide it.
    pub because: Vec<Because>,
}

/// What an explanation is made from.
#[derive(Debug)]
pub struct Given<'a> {
    pub contract: &'a Contract,
    pub before: &'a Status,
    pub after: &'a Status,
    /// All counters, at the end.
    pub counters: &'a Snapshot,
    /// Seconds between the two.
    pub watched_s: f64,
    /// All flows; those of the intent are picked out.
    pub flows: &'a [FlowInfo],
}

/// `None`: there is no such intent.
pub fn explain(name: &str, given: &Given<'_>) -> Option<Explained> {
    let intent = given.contract.intents.iter().find(|intent| intent.name == name)?.clone();
    let about = |place: &Place| place.file == intent.at.file;
    let findings = given.contract.findings.iter();
    let findings = findings.filter(|of| about(&of.here) || of.other.as_ref().is_some_and(about)).cloned().collect();
    let rules = intent.rules.iter().map(|rule| seen(rule, given)).collect();
    let mine = given.flows.iter().filter(|flow| flow.rule.as_ref().is_some_and(|rule| intent.rules.contains(rule)));
    let flows = count(mine);
    let tunnel = given.after.tunnels.iter().find(|tunnel| Some(&tunnel.name) == intent.tunnel.as_ref()).cloned();
    let mut explained =
        Explained { intent, findings, watched_s: given.watched_s, rules, flows, tunnel, answers: Vec::new() };
    explained.answers = vec![encrypted(&explained, given), offloaded(&explained, given), slow(&explained, given)];
    Some(explained)
}

fn seen(rule: &str, given: &Given<'_>) -> Seen {
    let of =
        |status: &Status| -> RuleStatus { status.rules.iter().find(|of| of.name == rule).cloned().unwrap_or_default() };
    let (before, after) = (of(given.before), of(given.after));
    let counted = given.counters.rules.iter().filter(|of| of.name == rule);
    let sum = |get: fn(&RuleTraffic) -> u64| counted.clone().map(get).sum();
    let per_s = |before: u64, after: u64| {
        if given.watched_s > 0.0 { after.saturating_sub(before) as f64 / given.watched_s } else { 0.0 }
    };
    Seen {
        rule: rule.to_owned(),
        packets_per_s: per_s(before.packets, after.packets),
        bits_per_s: 8.0 * per_s(before.bytes, after.bytes),
        metered_now: after.metered.saturating_sub(before.metered),
        what: after.what,
        packets: after.packets,
        bytes: after.bytes,
        metered: after.metered,
        dropped: sum(|of| of.dropped),
        sealed: sum(|of| of.sealed.packets),
        opened: sum(|of| of.opened.packets),
    }
}

fn count<'a>(flows: impl Iterator<Item = &'a FlowInfo>) -> Flows {
    let mut out = Flows::default();
    for flow in flows {
        out.all += 1;
        *out.tiers.entry(flow.tier.clone()).or_default() += 1;
        *out.classes.entry(flow.class.clone()).or_default() += 1;
        if !matches!(flow.tier.as_str(), "xdp" | "nic") {
            *out.kept.entry(flow.offload_reason.clone().unwrap_or_default()).or_default() += 1;
        }
    }
    out
}

impl Explained {
    /// What the contract says that is about one question.
    fn because(&self, about: impl Fn(Reason) -> bool) -> Vec<Because> {
        self.intent.all.iter().filter(|because| about(because.reason)).cloned().collect()
    }

    pub fn bits_per_s(&self) -> f64 {
        self.rules.iter().map(|rule| rule.bits_per_s).sum()
    }

    pub fn packets_per_s(&self) -> f64 {
        self.rules.iter().map(|rule| rule.packets_per_s).sum()
    }
}

/// What decides over encryption.
fn of_encryption(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::NoTunnel
            | R::UnknownPeer
            | R::PeerUnreachable
            | R::Maintenance
            | R::PersonaCipher
            | R::PeerNotAllowed
            | R::PolicyDrops
            | R::PolicyPart
            | R::DroppedByIntent
            | R::ClaimedByIntent
            | R::NameUnresolved
            | R::InClear
            | R::PolicyEncrypts
            | R::StricterIntent
            | R::EarlierIntent
            | R::PolicyTunnel
            | R::PolicyPasses
            | R::OverbookedCrypto
    )
}

fn encrypted(of: &Explained, given: &Given<'_>) -> Answer {
    let intent = &of.intent;
    let mut because = of.because(of_encryption);
    if because.is_empty() && intent.because.reason == Reason::AsAsked {
        because.push(intent.because.clone());
    }
    let refused = intent.verdict == Verdict::Refused;
    let claimed = because.iter().any(|because| because.reason == Reason::ClaimedByIntent);
    let (yes, text) = match (&intent.tunnel, refused) {
        _ if refused && claimed => (None, "as the intent says that is obeyed in its place".to_owned()),
        (_, true) => (Some(false), "its flows are dropped, and never sent in clear".to_owned()),
        (Some(tunnel), _) => (Some(true), format!("by tunnel `{tunnel}`")),
        (None, _) if intent.encrypt == "never" => (Some(false), "it asks to go in clear".to_owned()),
        (None, _) => (Some(false), "it goes in clear".to_owned()),
    };
    let mut evidence = Vec::new();
    if yes == Some(false) && refused {
        let dropped: u64 = of.rules.iter().map(|rule| rule.dropped).sum();
        evidence.push(format!("{dropped} of its packets were dropped since the start"));
    }
    if of.tunnel.is_some() {
        let sum = |get: fn(&Seen) -> u64| of.rules.iter().map(get).sum::<u64>();
        let (sealed, opened) = (sum(|rule| rule.sealed), sum(|rule| rule.opened));
        evidence
            .push(format!("of its own {} packets {sealed} were sealed and {opened} opened", sum(|rule| rule.packets)));
    }
    if let Some(tunnel) = &of.tunnel {
        evidence.push(format!(
            "tunnel {} ({} {}): {} packets sealed, {} opened, {} forged, {} replayed; of all that it carries",
            tunnel.name,
            tunnel.kind,
            tunnel.cipher,
            tunnel.sealed.packets,
            tunnel.opened.packets,
            tunnel.forged,
            tunnel.replayed
        ));
        for peer in &tunnel.peers {
            evidence.push(match peer.last_handshake_s {
                Some(ago) => format!("peer {}: last handshake {ago:.0} s ago", peer.name),
                None => format!("peer {}: no handshake yet, its packets wait or are dropped as no_session", peer.name),
            });
        }
        if let (true, Some(ratio)) = (intent.compress, tunnel.ratio()) {
            evidence.push(format!(
                "compressed: {} bytes became {}, ratio {ratio:.2}; {} packets left as they were",
                tunnel.compress_in_bytes, tunnel.compress_out_bytes, tunnel.left_alone
            ));
        }
        evidence.extend(tunnel.notes.iter().map(|note| format!("tunnel {}: {note}", tunnel.name)));
    }
    if yes != Some(false) || refused {
        evidence.push(format!("{} bytes escaped in clear from this instance", given.after.escaped_bytes));
    }
    Answer { question: "encrypted", yes, text, evidence, because }
}

fn offloaded(of: &Explained, given: &Given<'_>) -> Answer {
    let intent = &of.intent;
    let below = ["xdp", "nic"];
    let down: usize = below.iter().filter_map(|tier| of.flows.tiers.get(*tier)).sum();
    let planned = intent.tier.as_deref();
    let (yes, text) = match (of.flows.all, down) {
        (0, _) => match planned {
            Some(tier) => (None, format!("it has no flows now; planned is tier {tier}")),
            None => (None, "no tier is planned: the plan refuses it".to_owned()),
        },
        (all, down) => {
            let planned =
                planned.map_or_else(|| "the plan refuses it".into(), |tier| format!("planned is tier {tier}"));
            let text = format!("{down} of {} in the driver or the device; {planned}", flows(all));
            (Some(down == all), text)
        }
    };
    let mut evidence: Vec<String> = of
        .flows
        .kept
        .iter()
        .map(|(code, count)| match TierReason::from_code(code) {
            Some(reason) => format!("{}: {code}. {}", flows(*count), reason.help()),
            None => format!("{}: nothing was tried yet", flows(*count)),
        })
        .collect();
    if of.flows.all == 0 {
        let counted: u64 = of.rules.iter().map(|rule| rule.packets).sum();
        evidence.push(match counted {
            0 => "its rules have counted no packet so far: do its packets match `[[flow]]`, and do they come by a port of the policy?".into(),
            n => format!("its rules have counted {n} packets since the start"),
        });
        let came: Vec<String> = given
            .after
            .steer
            .iter()
            .filter(|steer| steer.name.starts_with(&format!("intent:{}", intent.name)) && steer.packets > 0)
            .map(|steer| format!("steering rule {}: {} packets", steer.name, steer.packets))
            .collect();
        evidence.extend(came);
    }
    if intent.tunnel.is_some() {
        evidence.push("what a tunnel carries stays with a worker, which seals and opens it".into());
    }
    let because = of.because(|reason| reason == Reason::PolicyPasses);
    Answer { question: "offloaded", yes, text, evidence, because }
}

/// Drops of packets that a faster host would not have, or that nobody asked for: not verdicts of rules.
fn is_loss(drop: &DropCount) -> bool {
    const MEANT: [&str; 12] = [
        "policy_drop",
        "rule_drop",
        "flow_drop",
        "nic_drop",
        "metered",
        "flow_meter",
        "connection_limit",
        "handshake",
        "keepalive",
        "dummy",
        "multicast",
        "ttl_expired",
    ];
    !MEANT.contains(&drop.reason.as_str())
}

fn slow(of: &Explained, given: &Given<'_>) -> Answer {
    let mut evidence = Vec::new();
    for rule in of.rules.iter().filter(|rule| rule.metered > 0) {
        evidence.push(format!(
            "rule {}: {} packets over its meter were dropped, {} of them while watching",
            rule.rule, rule.metered, rule.metered_now
        ));
    }
    for limit in given.after.limits.iter().filter(|limit| limit.application == of.intent.name && limit.refused > 0) {
        let before = given.before.limits.iter().find(|before| before.application == limit.application);
        evidence.push(format!(
            "it has {} connections of the {} that its limit lets it have: {} packets of further ones were dropped, {} of them while watching",
            limit.connections,
            limit.most,
            limit.refused,
            limit.refused.saturating_sub(before.map_or(0, |before| before.refused))
        ));
    }
    for worker in given.after.workers.iter().filter(|worker| worker.state != "running") {
        evidence.push(format!("worker {}: {}", worker.worker, worker.state));
    }
    for drop in given.after.drops.iter().filter(|drop| is_loss(drop)) {
        let before = given.before.drops.iter().find(|of| of.reason == drop.reason && of.node == drop.node);
        let now = drop.count.saturating_sub(before.map_or(0, |of| of.count));
        if now > 0 {
            evidence
                .push(format!("{now} packets of this instance dropped while watching: {}. {}", drop.reason, drop.help));
        }
    }
    let causes = evidence.len();
    let because = of.because(|reason| {
        use Reason as R;
        matches!(
            reason,
            R::NoMeter
                | R::AppLimit
                | R::OverbookedBandwidth
                | R::OverbookedCrypto
                | R::OverbookedConnections
                | R::IdleLatency
        )
    });
    if given.watched_s > 0.0 {
        evidence.push(format!(
            "{}, {} packets/s in {:.1} s; {} to it",
            bits(of.bits_per_s()),
            number(of.packets_per_s()),
            given.watched_s,
            match of.intent.takes.bandwidth {
                0 => "no bandwidth is promised".into(),
                promised => format!("{} are promised", bits(promised as f64)),
            },
        ));
    }
    evidence.extend(of.intent.notes.iter().cloned());
    evidence.push(
        "how long single packets take is not measured by a running instance; `softdpu tune` measures a host".into(),
    );
    let (yes, text) = match (causes, because.is_empty()) {
        _ if of.intent.verdict == Verdict::Refused => (None, "the plan refuses it".to_owned()),
        (0, true) => (None, "nothing was found that slows it".to_owned()),
        (0, false) => (None, "it is promised less than it asks for".to_owned()),
        _ => (Some(true), "packets of it, or beside it, are held back or lost".to_owned()),
    };
    Answer { question: "slow", yes, text, evidence, because }
}

/// Bits per second, as they are written: 1.2 Mbit/s.
pub fn bits(rate: f64) -> String {
    let text = number(rate);
    if text.contains(' ') { format!("{text}bit/s") } else { format!("{text} bit/s") }
}

fn flows(count: usize) -> String {
    format!("{count} flow{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
