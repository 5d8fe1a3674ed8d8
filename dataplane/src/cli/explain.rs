//! `softdpu explain` and `softdpu demote`: which tier a flow is on, why, and back to the worker; and why an application's flows
//! are treated as they are.

mod intent;
mod page;

use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{DemoteArgs, ExplainArgs};
use super::ask::ask;
use crate::control::types::MAX_FLOWS;
use crate::control::{FlowInfo, client};
use crate::offload::{FlowName, Reason};

/// A tier, and why the flow is not on it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Tried {
    tier: &'static str,
    /// `None`: it is there, or nothing was tried yet.
    reason: Option<String>,
    help: Option<&'static str>,
}

/// What is said of a flow.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    flow: &'a FlowInfo,
    /// Higher tiers than its own, the highest first.
    refused: Vec<Tried>,
}

fn explain(flow: &FlowInfo) -> Explained<'_> {
    let because = |tier, reason: Option<Reason>| Tried {
        tier,
        reason: reason.map(|reason| reason.code().to_owned()),
        help: reason.map(Reason::help),
    };
    let mut refused = Vec::new();
    if flow.tier != "nic" {
        refused.push(because("nic", flow.nic_reason.as_deref().and_then(Reason::from_code)));
    }
    if !matches!(flow.tier.as_str(), "nic" | "xdp") {
        refused.push(because("xdp", flow.offload_reason.as_deref().and_then(Reason::from_code)));
    }
    Explained { flow, refused }
}

pub fn run(args: &ExplainArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let text = args.flow.join(" ");
    if let Some(name) = &args.intent {
        return of_intent(name, args, out);
    }
    // What cannot be a flow's name may be an application's.
    if let ([word], Err(_)) = (args.flow.as_slice(), text.parse::<FlowName>()) {
        return of_intent(word, args, out);
    }
    let socket = args.instance.path()?;
    let flows = ask(client::flows(&socket, &[("flow", Some(&text))], 100))?;
    if flows.is_empty() {
        writeln!(out, "there is no such flow; `softdpu flows` lists them")?;
        return Ok(false);
    }
    if args.json {
        let all: Vec<Explained<'_>> = flows.iter().map(explain).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(true);
    }
    for flow in &flows {
        write(&explain(flow), out)?;
    }
    Ok(true)
}

/// Explains an application's intent, from the plan and from two looks at the counters.
fn of_intent(name: &str, args: &ExplainArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let watch = Duration::try_from_secs_f64(args.watch).unwrap_or_default();
    let (contract, before, after, counters, flows, watched) = ask(async {
        let contract = client::plan(&socket).await?;
        let before = client::status(&socket).await?;
        let start = Instant::now();
        tokio::time::sleep(watch).await;
        let after = if watch.is_zero() { before.clone() } else { client::status(&socket).await? };
        let watched = if watch.is_zero() { 0.0 } else { start.elapsed().as_secs_f64() };
        let counters = client::counters(&socket).await?;
        let flows = client::flows(&socket, &[], MAX_FLOWS).await?;
        Ok((contract, before, after, counters, flows, watched))
    })?;
    let given = intent::Given {
        contract: &contract,
        before: &before,
        after: &after,
        counters: &counters,
        watched_s: watched,
        flows: &flows,
    };
    let Some(explained) = intent::explain(name, &given) else {
        let names: Vec<&str> = contract.intents.iter().map(|intent| intent.name.as_str()).collect();
        let have = if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
        anyhow::bail!("`{name}` is neither a flow (its id, or its ends) nor an intent of the running plan: {have}");
    };
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&explained)?)?;
    } else {
        write!(out, "{}", page::page(&explained, &contract))?;
    }
    Ok(true)
}

fn write(explained: &Explained<'_>, out: &mut impl Write) -> std::io::Result<()> {
    let flow = explained.flow;
    writeln!(out, "flow {}: {} {} -> {}, {}, {}", flow.id, flow.l4, flow.a, flow.b, flow.state, flow.class)?;
    if let Some(application) = &flow.application {
        writeln!(out, "  application {application}")?;
    }
    if let Some(within) = &flow.within {
        writeln!(out, "  within {within}: counted and classified; where its packets go is the outer flow's matter")?;
    }
    match (&flow.rule, &flow.tunnel) {
        (Some(rule), Some(tunnel)) => writeln!(out, "  rule {rule}, in tunnel {tunnel}")?,
        (Some(rule), None) if flow.drops => writeln!(out, "  rule {rule}, dropped")?,
        (Some(rule), None) => writeln!(out, "  rule {rule}, in clear")?,
        (None, _) => writeln!(out, "  no rule settled: forwarded as it is")?,
    }
    match flow.tier.as_str() {
        "xdp" => {
            let which = if flow.drops { ", which drops it" } else { "" };
            writeln!(out, "  tier xdp: settled by worker {}, then put into the driver's table{which}", flow.worker)?
        }
        "nic" => {
            writeln!(out, "  tier nic: settled by worker {}, then put into the device, which drops it", flow.worker)?
        }
        tier => writeln!(out, "  tier {tier}: worker {} handles every packet", flow.worker)?,
    }
    for tried in &explained.refused {
        match (&tried.reason, tried.help) {
            (Some(code), Some(help)) => writeln!(out, "  not {}: {code}. {help}", tried.tier)?,
            _ => writeln!(out, "  not {}: nothing was tried yet", tried.tier)?,
        }
    }
    Ok(())
}

pub fn demote(args: &DemoteArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let socket = args.instance.path()?;
    let name = args.flow.join(" ");
    let demoted = ask(client::demote(&socket, (!args.all).then_some(name.as_str())))?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&demoted)?)?;
    } else {
        let flows = if demoted.flows == 1 { "flow" } else { "flows" };
        writeln!(out, "{} {flows} taken back to the workers", demoted.flows)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(tier: &str, reason: Option<&str>) -> String {
        let flow = FlowInfo {
            id: "0:7".into(),
            tier: tier.into(),
            offload_reason: reason.map(str::to_owned),
            nic_reason: Some("no_device_offload".into()),
            ..FlowInfo::default()
        };
        let mut out = Vec::new();
        write(&explain(&flow), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_higher_tier_has_its_reason() {
        let worker = said("worker", Some("checksums"));
        assert!(worker.contains("not nic: no_device_offload") && worker.contains("not xdp: checksums. "), "{worker}");
        let xdp = said("xdp", None);
        assert!(xdp.contains("not nic") && !xdp.contains("not xdp"), "{xdp}");
        assert!(said("worker", None).contains("not xdp: nothing was tried yet"));
    }

    #[test]
    fn an_overlay_is_named_where_there_is_one() {
        let flow = FlowInfo { within: Some("vxlan 42".into()), ..FlowInfo::default() };
        let mut out = Vec::new();
        write(&explain(&flow), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\n  within vxlan 42: "));
        assert!(!said("worker", None).contains("within"));
    }
}
