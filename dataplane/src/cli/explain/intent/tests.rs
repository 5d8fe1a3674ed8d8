#![allow(clippy::unwrap_used)]
use super::*;
use crate::control::{SteerStatus, WorkerStatus};
use crate::telemetry::snapshot::Traffic;

fn at(file: &str, line: usize, owner: &str, quote: &str) -> Place {
    Place { file: file.into(), line, column: 1, owner: owner.into(), quote: quote.into() }
}

fn contract() -> Contract {
    let outcome = |name: &str, encrypt: &str, tier: Option<&str>, tunnel: Option<&str>| Outcome {
        name: name.into(),
        owner: format!("{name} team").into(),
        at: at(&format!("{name}.intent.toml"), 1, &format!("{name} team"), ""),
        encrypt: encrypt.into(),
        tier: tier.map(Into::into),
        tunnel: tunnel.map(Into::into),
        rules: vec![format!("intent:{name}")],
        ..Outcome::default()
    };
    let mut refused = outcome("greedy", "never", None, None);
    refused.verdict = Verdict::Refused;
    refused.all = vec![Because {
        reason: Reason::ClaimedByIntent,
        text: "intent `payments` claims all of these flows and is obeyed".into(),
        by: at("payments.intent.toml", 4, "payments team", "encrypt = \"required\""),
    }];
    refused.because = refused.all[0].clone();
    let mut limited = outcome("backups", "preferred", Some("worker"), Some("to-b"));
    limited.verdict = Verdict::Degraded;
    limited.compress = true;
    limited.all = vec![Because {
        reason: Reason::AppLimit,
        text: "it asks for 500 Mbit/s, its limit is 200 Mbit/s".into(),
        by: at("edge.toml", 9, "netops", "bandwidth = \"200 Mbit/s\""),
    }];
    Contract {
        owner: "netops".into(),
        policy: "edge.toml".into(),
        intents: vec![
            outcome("payments", "required", Some("worker"), Some("to-b")),
            limited,
            outcome("video", "never", Some("xdp"), None),
            refused,
        ],
        ..Contract::default()
    }
}

fn status(packets: u64, metered: u64, lost: u64) -> Status {
    let rule = |name: &str| RuleStatus {
        name: format!("intent:{name}"),
        packets,
        bytes: 100 * packets,
        metered,
        ..RuleStatus::default()
    };
    Status {
        rules: ["payments", "backups", "video"].map(rule).into(),
        tunnels: vec![TunnelStatus {
            name: "to-b".into(),
            kind: "esp".into(),
            sealed: Traffic { packets, bytes: 100 * packets },
            compress_in_bytes: 300,
            compress_out_bytes: 100,
            ..TunnelStatus::default()
        }],
        workers: vec![WorkerStatus { state: "running".into(), ..WorkerStatus::default() }],
        steer: vec![SteerStatus { name: "intent:video".into(), packets: 3, ..SteerStatus::default() }],
        drops: vec![
            DropCount { reason: "tx_full".into(), node: "emit".into(), count: lost, help: "slower".into() },
            DropCount { reason: "policy_drop".into(), count: 10 * lost, ..DropCount::default() },
        ],
        ..Status::default()
    }
}

fn counters() -> Snapshot {
    let sealed = Traffic { packets: 40, bytes: 4000 };
    let rule = RuleTraffic { name: "intent:payments".into(), dropped: 2, sealed, ..RuleTraffic::default() };
    Snapshot { rules: vec![rule], ..Snapshot::default() }
}

fn flow(rule: &str, tier: &str, reason: Option<&str>) -> FlowInfo {
    FlowInfo {
        rule: Some(format!("intent:{rule}")),
        tier: tier.into(),
        class: "tls".into(),
        offload_reason: reason.map(Into::into),
        ..FlowInfo::default()
    }
}

fn explained(name: &str, after: &Status, flows: &[FlowInfo]) -> Explained {
    let (contract, before) = (contract(), status(100, 0, 0));
    explain(name, &Given { contract: &contract, before: &before, after, counters: &counters(), watched_s: 2.0, flows })
        .unwrap()
}

fn answers(of: &Explained) -> [Option<bool>; 3] {
    ["encrypted", "offloaded", "slow"].map(|what| of.answers.iter().find(|a| a.question == what).unwrap().yes)
}

#[test]
fn what_a_tunnel_carries_is_encrypted_and_stays_with_its_worker() {
    let flows = [flow("payments", "worker", Some("protected")), flow("video", "xdp", None)];
    let of = explained("payments", &status(300, 0, 0), &flows);
    assert_eq!(answers(&of), [Some(true), Some(false), None]);
    assert_eq!((of.flows.all, of.rules[0].packets_per_s, of.rules[0].bits_per_s), (1, 100.0, 80_000.0));
    let said = super::super::page::page(&of, &contract());
    for part in [
        "encrypted? yes, by tunnel `to-b`",
        "300 packets sealed",
        "40 were sealed and 0 opened",
        "1 flow: protected. ",
        "80.0 kbit/s",
        "nothing was found",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn what_is_in_the_driver_says_so_and_without_flows_the_plan_and_the_driver_speak() {
    let flows = [flow("video", "xdp", None), flow("video", "xdp", None)];
    let of = explained("video", &status(100, 0, 0), &flows);
    assert_eq!(answers(&of), [Some(false), Some(true), None]);
    let none = explained("video", &status(0, 0, 0), &[]);
    let said = super::super::page::page(&none, &contract());
    assert_eq!(answers(&none)[1], None);
    assert!(said.contains("planned is tier xdp") && said.contains("steering rule intent:video: 3 packets"), "{said}");
    let some = explained(
        "video",
        &status(0, 0, 0),
        &[flow("video", "xdp", None), flow("video", "worker", Some("few_packets"))],
    );
    assert_eq!(answers(&some)[1], Some(false));
    assert!(some.answers[1].text.starts_with("1 of 2 flows"), "{:?}", some.answers[1]);
}

#[test]
fn meters_limits_and_losses_are_why_it_is_slow() {
    let of = explained("backups", &status(300, 7, 5), &[]);
    let slow = &of.answers[2];
    assert_eq!(slow.yes, Some(true));
    let all = slow.evidence.join("\n");
    assert!(all.contains("7 packets over its meter") && all.contains("5 packets of this instance"), "{all}");
    assert!(!all.contains("policy_drop"), "a rule that drops is no loss: {all}");
    assert_eq!(slow.because[0].reason, Reason::AppLimit);
    let said = super::super::page::page(&of, &contract());
    assert!(said.contains("edge.toml:9:1 (netops)\n      9 | bandwidth = \"200 Mbit/s\""), "{said}");
    assert!(said.contains("ratio 3.00") && said.contains("netops (edge.toml)"), "{said}");
    let promised = explained("backups", &status(100, 0, 0), &[]);
    assert!(promised.answers[2].yes.is_none() && promised.answers[2].text.contains("promised less"));
}

#[test]
fn an_intent_without_effect_names_the_one_that_has_it() {
    let of = explained("greedy", &status(0, 0, 0), &[]);
    let said = super::super::page::page(&of, &contract());
    assert_eq!(answers(&of)[0], None);
    assert!(said.contains("payments.intent.toml:4:1 (payments team)\n      4 | encrypt = \"required\""), "{said}");
    assert!(said.contains("who can change it: greedy team (greedy.intent.toml); payments team"), "{said}");
    let (contract, nothing) = (contract(), status(0, 0, 0));
    let given = Given {
        contract: &contract,
        before: &nothing,
        after: &nothing,
        counters: &counters(),
        watched_s: 0.0,
        flows: &[],
    };
    assert!(explain("nobody", &given).is_none());
}
