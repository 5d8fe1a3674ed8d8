//! An explained intent for people.

use std::fmt::Write as _;

use super::super::plan::{place, why};
use super::super::show::{Rows, bytes, clean, count, number};
use super::intent::{Answer, Explained, bits};
use crate::plan::contract::{Contract, Verdict};

pub fn page(explained: &Explained, contract: &Contract) -> String {
    let intent = &explained.intent;
    let mut page = format!(
        "{}: {}, encrypt = {} ({})\n",
        clean(&intent.name),
        intent.verdict.as_str(),
        intent.encrypt,
        clean(&intent.owner)
    );
    let _ = writeln!(
        page,
        "  planned: {}",
        match &intent.tier {
            None => "nothing; the plan refuses it".to_owned(),
            Some(tier) => format!(
                "tier {tier}, {}{}",
                intent.tunnel.as_ref().map_or_else(|| "in clear".into(), |tunnel| format!("tunnel {tunnel}")),
                if intent.nodes.is_empty() { String::new() } else { format!(", {}", intent.nodes.join(" > ")) }
            ),
        }
    );
    let _ = writeln!(page, "  now:     {}", now(explained));
    if !explained.rules.is_empty() {
        let mut rows = Rows::new(&["rule", "what", ">packets", ">bytes", ">now", ">metered"]);
        for rule in &explained.rules {
            rows.add([
                rule.rule.clone(),
                rule.what.clone(),
                count(rule.packets),
                bytes(rule.bytes),
                bits(rule.bits_per_s),
                count(rule.metered),
            ]);
        }
        let _ = write!(page, "\n{rows}");
    }
    for answer in &explained.answers {
        page.push_str(&said(answer));
    }
    for finding in &explained.findings {
        let _ = writeln!(page, "\n{}: {}", finding.kind.replace('_', " "), clean(&finding.text));
        for at in std::iter::once(&finding.here).chain(&finding.other) {
            let _ = writeln!(page, "    {}", place(at));
        }
    }
    let _ = writeln!(page, "\nwho can change it: {}", who(explained, contract).join("; "));
    page
}

fn now(explained: &Explained) -> String {
    let flows = &explained.flows;
    if flows.all == 0 {
        return "no flows".into();
    }
    let list = |map: &std::collections::BTreeMap<String, usize>| {
        map.iter().map(|(what, n)| format!("{n} {}", clean(what))).collect::<Vec<_>>().join(", ")
    };
    let rate = if explained.watched_s > 0.0 {
        format!("; {}, {} packets/s", bits(explained.bits_per_s()), number(explained.packets_per_s()))
    } else {
        String::new()
    };
    format!(
        "{} flow{} (tier: {}; class: {}){rate}",
        flows.all,
        if flows.all == 1 { "" } else { "s" },
        list(&flows.tiers),
        list(&flows.classes)
    )
}

fn said(answer: &Answer) -> String {
    let word = match answer.yes {
        Some(true) => "yes, ",
        Some(false) => "no, ",
        None => "",
    };
    let mut out = format!("\n{}? {word}{}\n", answer.question, clean(&answer.text));
    for because in &answer.because {
        out.push_str(&why(because));
    }
    for line in &answer.evidence {
        let _ = writeln!(out, "  - {}", clean(line));
    }
    out
}

/// Owners of the lines that decide, and of the intent itself.
fn who(explained: &Explained, contract: &Contract) -> Vec<String> {
    let intent = &explained.intent;
    let mut who = vec![format!("{} ({})", clean(&intent.owner), clean(&intent.at.file))];
    let lines = explained.answers.iter().flat_map(|answer| &answer.because).map(|because| &because.by);
    for by in lines {
        let one = format!("{} ({})", clean(&by.owner), clean(&by.file));
        if !by.owner.is_empty() && !who.contains(&one) {
            who.push(one);
        }
    }
    let operator = format!("{} ({})", clean(&contract.owner), clean(&contract.policy));
    if intent.verdict != Verdict::Met && !contract.owner.is_empty() && !who.contains(&operator) {
        who.push(operator);
    }
    who
}
