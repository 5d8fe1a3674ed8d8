//! What becomes of intents, and that the rules they become do what the contract says.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::{self, check_intent};
use crate::plan::rules::{Known, Side, look_up};
use softdpu_ebpf_common::walk::{Headers, L3};
use std::path::Path;

const POLICY: &str = r#"name = "edge"
owner = "netops"
intents = "intents"
[capacity]
bandwidth = "1 Gbit/s"
crypto = "500 Mbit/s"
connections = 1000
[[limit]]
name = "limited"
bandwidth = "10 Mbit/s"
[[port]]
name = "apps"
interface = "veth0"
[[port]]
name = "uplink"
interface = "veth1"
[[steer]]
name = "out"
port = "apps"
from = ["10.1.0.0/16"]
[[tunnel]]
name = "wg0"
type = "wireguard"
[[tunnel.peer]]
public_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
allowed_ips = ["10.2.0.0/16"]
[[tunnel]]
name = "wg1"
type = "wireguard"
listen_port = 51821
[[tunnel.peer]]
public_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI="
allowed_ips = ["10.3.0.0/16"]
[[rule]]
name = "no-telnet"
from = ["10.1.0.0/16"]
protocol = "tcp"
ports = [23]
action = "drop"
[[rule]]
name = "vault"
from = ["10.1.0.0/16"]
to = ["10.3.9.0/24"]
encrypt = "wg1"
[[rule]]
name = "clear"
from = ["10.1.0.0/16"]
to = ["10.2.5.0/24"]
"#;

fn intent(name: &str, body: &str) -> String {
    format!("name = \"{name}\"\nowner = \"{name} team\"\n{body}")
}

fn compiled(policy: &str, intents: &[(&str, &str)]) -> Policy {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("intents")).unwrap();
    for (name, body) in intents {
        std::fs::write(folder.path().join(format!("intents/{name}.intent.toml")), intent(name, body)).unwrap();
    }
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, policy).unwrap();
    config::load(&path).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

/// The tunnel, or "drop" or "clear", for a packet; and that it may go on as that before its class is known.
fn fate(policy: &Policy, dst: [u8; 4], port: u16) -> String {
    let plan = crate::plan::build(policy, 1).unwrap();
    let mut headers = Headers { l3: L3::V4, proto: 6, sport: 40000, dport: port, ..Headers::default() };
    headers.src[..4].copy_from_slice(&[10, 1, 0, 1]);
    headers.dst[..4].copy_from_slice(&dst);
    let found = look_up(&plan.rules, &headers, &Known::default(), None);
    let Some(rule) = plan.rules.get(usize::from(found.rule)) else { return "clear".into() };
    match rule.tunnel {
        Some(tunnel) if found.side == Side::Out => plan.tunnels[usize::from(tunnel)].name.clone(),
        None if rule.drop => "drop".into(),
        _ => "clear".into(),
    }
}

fn outcome<'p>(policy: &'p Policy, name: &str) -> &'p Outcome {
    policy.contract.intents.iter().find(|intent| intent.name == name).unwrap()
}

fn is(policy: &Policy, name: &str) -> (Verdict, &'static str) {
    let outcome = outcome(policy, name);
    (outcome.verdict, outcome.because.reason.code())
}

#[test]
fn required_goes_into_the_tunnel_that_leads_there() {
    let policy = compiled(
        POLICY,
        &[("pay", "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.5.0/24\"]\nports = [443]")],
    );
    assert_eq!(is(&policy, "pay"), (Verdict::Met, "as_asked"));
    let pay = outcome(&policy, "pay");
    assert_eq!(
        (pay.tunnel.as_deref(), pay.tier.as_deref(), pay.on_loss.as_str()),
        (Some("wg0"), Some("worker"), "drop")
    );
    assert_eq!(pay.nodes, ["parse", "flow", "classify", "policy", "seal", "rewrite", "emit"]);
    assert_eq!(pay.because.by.line, 22, "the tunnel's line");
    assert_eq!(
        (fate(&policy, [10, 2, 5, 1], 443).as_str(), fate(&policy, [10, 2, 5, 1], 80).as_str()),
        ("wg0", "clear")
    );
    let finding = &policy.contract.findings[0];
    assert_eq!((finding.kind.as_str(), finding.other.as_ref().unwrap().line), ("stricter_wins", 46), "{finding:?}");
    assert_eq!(policy.steer[0].on_loss, OnLoss::Drop, "what is steered may be secret now");
}

#[test]
fn required_without_a_tunnel_is_dropped() {
    for (peers, reason) in
        [("", "no_tunnel"), ("peers = [\"wg9\"]\n", "unknown_peer"), ("peers = [\"wg0\"]\n", "peer_unreachable")]
    {
        let body = format!("encrypt = \"required\"\n{peers}[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.7.0.0/24\"]");
        let policy = compiled(POLICY, &[("pay", &body)]);
        assert_eq!(is(&policy, "pay"), (Verdict::Refused, reason));
        assert_eq!(outcome(&policy, "pay").tier, None);
        assert_eq!(fate(&policy, [10, 7, 0, 1], 443), "drop", "never in clear");
        assert_eq!(policy.steer[0].on_loss, OnLoss::Drop);
    }
    let away = POLICY.replace(
        "[[rule]]\nname = \"no-telnet\"",
        "[maintenance]\ntunnels = [\"wg0\"]\nnote = \"until Friday\"\n[[rule]]\nname = \"no-telnet\"",
    );
    let policy = compiled(
        &away,
        &[("pay", "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]")],
    );
    assert_eq!(is(&policy, "pay"), (Verdict::Refused, "maintenance"));
    assert!(outcome(&policy, "pay").because.text.contains("until Friday"));
}

#[test]
fn preferred_and_never_go_in_clear_where_nobody_is_stricter() {
    let policy = compiled(
        POLICY,
        &[
            ("bulk", "encrypt = \"preferred\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.7.0.0/24\"]"),
            ("video", "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.8.0.0/24\"]"),
            ("secret", "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.3.9.0/28\"]"),
        ],
    );
    assert_eq!(is(&policy, "bulk"), (Verdict::Degraded, "in_clear"));
    assert_eq!(is(&policy, "video"), (Verdict::Degraded, "policy_part"), "all but telnet");
    assert_eq!(outcome(&policy, "video").tier.as_deref(), Some("xdp"));
    assert_eq!(is(&policy, "secret"), (Verdict::Degraded, "policy_encrypts"));
    assert_eq!(outcome(&policy, "secret").tunnel.as_deref(), Some("wg1"));
    assert_eq!(
        outcome(&policy, "secret").because.by,
        Place {
            file: policy.source.name.as_str().into(),
            line: 41,
            column: 8,
            owner: "netops".into(),
            quote: "name = \"vault\"".into()
        }
    );
    assert_eq!(fate(&policy, [10, 3, 9, 1], 443), "wg1");
    assert_eq!(fate(&policy, [10, 8, 0, 1], 23), "drop", "the policy's own rule holds within the intent");
    assert_eq!(fate(&policy, [10, 8, 0, 1], 24), "clear");
}

#[test]
fn the_operator_drops_and_forbids() {
    let policy = compiled(
        POLICY,
        &[
            (
                "telnet",
                "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]\nprotocol = \"tcp\"\nports = [23]",
            ),
            (
                "part",
                "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.8.0/24\"]\nprotocol = \"tcp\"",
            ),
            (
                "other",
                "encrypt = \"required\"\npeers = [\"wg0\"]\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.3.0/24\", \"10.3.9.0/24\"]",
            ),
        ],
    );
    assert_eq!(is(&policy, "telnet"), (Verdict::Refused, "policy_drops"));
    assert_eq!(is(&policy, "part"), (Verdict::Degraded, "policy_part"));
    assert_eq!(is(&policy, "other"), (Verdict::Degraded, "peer_not_allowed"), "only some of its flows");
    assert_eq!(fate(&policy, [10, 2, 8, 1], 23), "drop");
    assert_eq!(fate(&policy, [10, 2, 8, 1], 22), "wg0");
    assert_eq!(fate(&policy, [10, 3, 9, 1], 22), "drop", "neither in clear nor to a peer that is not allowed");
}

#[test]
fn between_intents_the_stricter_is_obeyed_and_both_are_named() {
    let policy = compiled(
        POLICY,
        &[
            ("lax", "encrypt = \"never\"\npriority = 1000\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]"),
            (
                "strict",
                "encrypt = \"required\"\npriority = 1\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.7.0/24\"]\nports = [80]",
            ),
            ("lost", "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.9.0.0/16\"]"),
            ("under", "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.9.1.0/24\"]"),
        ],
    );
    assert_eq!(is(&policy, "lax"), (Verdict::Degraded, "stricter_intent"));
    assert_eq!(is(&policy, "strict"), (Verdict::Met, "as_asked"));
    assert_eq!(is(&policy, "under"), (Verdict::Refused, "dropped_by_intent"));
    assert_eq!(fate(&policy, [10, 2, 7, 1], 80), "wg0");
    assert_eq!(fate(&policy, [10, 2, 1, 1], 80), "clear");
    let conflict = policy.contract.findings.iter().find(|f| f.kind == "conflict").unwrap();
    let files: Vec<&str> =
        [&conflict.here, conflict.other.as_ref().unwrap()].map(|p| p.file.rsplit('/').next().unwrap()).to_vec();
    assert_eq!(files, ["lax.intent.toml", "strict.intent.toml"]);
}

#[test]
fn an_intent_whose_flows_are_all_anothers_is_refused_with_both_lines() {
    let flows = "[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.5.0/24\"]\nprotocol = \"tcp\"\nports = [443]\n";
    let more = "[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.6.0.0/24\"]\n";
    let policy = compiled(
        POLICY,
        &[
            ("pay", &format!("encrypt = \"required\"\n{flows}")),
            ("spy", &format!("encrypt = \"never\"\npriority = 1000\n{flows}")),
            ("both", &format!("encrypt = \"never\"\n{flows}{more}")),
        ],
    );
    assert_eq!(is(&policy, "pay"), (Verdict::Met, "as_asked"));
    assert_eq!(is(&policy, "spy"), (Verdict::Refused, "claimed_by_intent"));
    assert_eq!(is(&policy, "both"), (Verdict::Degraded, "stricter_intent"), "it has flows of its own");
    assert_eq!(fate(&policy, [10, 2, 5, 1], 443), "wg0");
    let conflict = policy.contract.findings.iter().find(|f| f.here.file.ends_with("spy.intent.toml")).unwrap();
    let other = conflict.other.as_ref().unwrap();
    assert_eq!((&*conflict.here.quote, &*other.quote), ("encrypt = \"never\"", "encrypt = \"required\""));
    assert_eq!((conflict.here.line, &*other.owner), (3, "pay team"));
}

#[test]
fn capacity_goes_by_priority() {
    let body = |floor: &str, priority: u32, demand: &str| {
        format!(
            "encrypt = \"{demand}\"\npriority = {priority}\nconnections = 600\n[bandwidth]\nfloor = \"{floor}\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.{priority}.0/24\"]\nports = [80]",
            priority = priority
        )
    };
    let (a, b, c) =
        (body("400 Mbit/s", 9, "required"), body("200 Mbit/s", 8, "preferred"), body("50 Mbit/s", 7, "never"));
    let policy = compiled(POLICY, &[("a", &a), ("b", &b), ("limited", &c)]);
    assert_eq!(is(&policy, "a"), (Verdict::Met, "as_asked"));
    assert_eq!(is(&policy, "b"), (Verdict::Degraded, "overbooked_crypto"));
    assert_eq!(fate(&policy, [10, 2, 8, 1], 80), "clear", "it only prefers encryption");
    assert_eq!(is(&policy, "limited"), (Verdict::Degraded, "app_limit"));
    assert_eq!(outcome(&policy, "limited").takes.bandwidth, 10_000_000);
    assert_eq!(outcome(&policy, "a").takes, Takes { bandwidth: 400_000_000, crypto: 400_000_000, connections: 600 });
    let overbooked: Vec<&str> = policy
        .contract
        .findings
        .iter()
        .filter(|f| f.kind == "overbooked")
        .map(|f| f.text.split(':').next().unwrap())
        .collect();
    assert_eq!(overbooked, ["crypto", "connections"]);
    assert_eq!(policy.contract.budgets[0].booked, 610_000_000);
}

#[test]
fn steering_follows_the_intents() {
    let policy = POLICY.replace("from = [\"10.1.0.0/16\"]\n[[tunnel]]", "from = [\"10.9.0.0/16\"]\n[[steer]]\nname = \"mine\"\naction = \"pass\"\nto = [\"10.2.0.0/16\"]\n[[steer]]\nname = \"never\"\naction = \"drop\"\nto = [\"10.2.6.0/24\"]\n[[tunnel]]");
    assert_ne!(policy, POLICY);
    let policy = compiled(
        &policy,
        &[
            (
                "pay",
                "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]\nprotocol = \"tcp\"",
            ),
            (
                "video",
                "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]\nprotocol = \"udp\"",
            ),
            ("new", "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.5.0.0/16\"]\nto = [\"10.6.0.0/16\"]"),
        ],
    );
    let names: Vec<&str> = policy.steer.iter().map(|steer| steer.name.as_str()).collect();
    assert_eq!(
        names,
        ["out", "intent:pay+never", "intent:pay:icmp", "intent:pay", "mine", "never", "intent:new:back", "intent:new"]
    );
    assert_eq!(is(&policy, "video"), (Verdict::Degraded, "policy_passes"));
    assert_eq!(outcome(&policy, "video").tier.as_deref(), Some("kernel"));
    assert_eq!(policy.steer[3].on_loss, OnLoss::Drop);
    assert!(policy.contract.findings.iter().any(|f| f.text.contains("steering rule `mine`")));
}

#[test]
fn mixed_data_is_not_compressed() {
    let policy = compiled(
        POLICY,
        &[(
            "web",
            "compress = \"allow\"\ndata = [\"secrets\", \"attacker-input\"]\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]",
        )],
    );
    assert_eq!(is(&policy, "web"), (Verdict::Degraded, "mixed_data"));
    assert!(!outcome(&policy, "web").compress);
}

#[test]
fn a_ceiling_is_shared_by_all_rules_of_an_intent() {
    let limits = "[[limit]]\nname = \"less\"\nbandwidth = \"2 Mbit/s\"\n[[limit]]\nname = \"held\"\nbandwidth = \"8 Mbit/s\"\n\
        [[rule]]\nname = \"slow\"\nto = [\"10.8.1.0/24\"]\nmeter_rate = 125_000\ndscp = 10\n";
    let flows = "[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.8.0.0/16\"]\n[[flow]]\nto = [\"10.9.0.0/24\"]";
    let capped = |ceiling: &str| format!("encrypt = \"never\"\n{ceiling}{flows}");
    let ceiling = "[bandwidth]\nceiling = \"4 Mbit/s\"\n";
    let intents = [("cap", capped(ceiling)), ("held", capped("")), ("less", capped(ceiling)), ("none", capped(""))];
    let intents: Vec<(&str, &str)> = intents.iter().map(|(name, body)| (*name, body.as_str())).collect();
    let policy = compiled(&format!("{POLICY}{limits}"), &intents);
    let plan = crate::plan::build(&policy, 1).unwrap();
    let of = |app: &str| {
        let own = format!("intent:{app}");
        let of_app = |rule: &&crate::plan::rules::Rule| rule.name.starts_with(&own) && !rule.drop;
        let shares: Vec<_> = plan.rules.iter().filter(of_app).map(|rule| rule.share).collect();
        assert!(shares.len() >= 2 && shares.iter().all(|share| *share == shares[0]), "{app}: {shares:?}");
        shares[0].map(|share| plan.shares[usize::from(share)].meter.meter.rate * 8)
    };
    assert_eq!([of("cap"), of("held"), of("less")].map(Option::unwrap), [4_000_000, 8_000_000, 2_000_000]);
    assert_eq!(of("none"), None);
    assert_eq!(plan.shares.len(), 3);
    assert!(outcome(&policy, "cap").notes.iter().any(|note| note.starts_with("ceiling of 4 Mbit/s")));
    assert!(outcome(&policy, "less").notes.iter().any(|note| note.starts_with("limit of the policy of 2 Mbit/s")));
    assert_eq!(outcome(&policy, "cap").tier.as_deref(), Some("worker"));
    // Of connections too, which do not keep flows from the driver.
    let limits = "[[limit]]\nname = \"few\"\nconnections = 3\n";
    let policy = compiled(&format!("{POLICY}{limits}"), &[("few", capped("").as_str())]);
    let few = crate::plan::build(&policy, 1).unwrap();
    assert_eq!((few.limits.len(), few.limits[0].most, &*few.limits[0].name), (1, 3, "few"));
    assert!(
        few.rules
            .iter()
            .filter(|rule| rule.name.starts_with("intent:few") && !rule.drop)
            .all(|rule| { rule.limit == Some(0) && rule.share.is_none() })
    );
    assert!(outcome(&policy, "few").notes.iter().any(|note| note.starts_with("limit of the policy of 3 connections")));
    // What the operator's rule does to its flows it does to those of the intent too.
    let slow = plan.rules.iter().find(|rule| &*rule.name == "intent:cap.1+slow").unwrap();
    assert!(slow.meter.is_some() && slow.dscp == Some(10) && slow.share.is_some());
}

#[test]
fn names_are_resolved_or_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, POLICY.replace("\"intents\"", "\".\"")).unwrap();
    let write = |demand: &str, name: &str| {
        let text = intent("db", &format!("encrypt = \"{demand}\"\n[[flow]]\nname = [\"{name}\"]"));
        std::fs::write(folder.path().join("db.intent.toml"), text).unwrap();
    };
    write("never", "localhost");
    let policy = config::load(&path).unwrap();
    assert!(policy.rules[0].matches.to.iter().any(|to| to.to_string() == "127.0.0.1/32"), "{:?}", policy.rules[0]);
    write("never", "nowhere.invalid");
    let policy = config::load(&path).unwrap();
    assert_eq!(is(&policy, "db"), (Verdict::Refused, "name_unresolved"));
    assert_eq!(&*policy.rules[0].name, "no-telnet", "no rule that would mean any destination");
    write("required", "nowhere.invalid");
    let errors = config::load(&path).unwrap_err();
    assert!(errors.render(false).contains("db.intent.toml:5:9"), "{}", errors.render(false));
}

#[test]
fn a_persona_limits_and_says_what_it_does_not_know() {
    let site = crate::plan::persona::Persona::load("bluefield-2").unwrap().site();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, POLICY.replace("\"intents\"", "\".\"")).unwrap();
    let text = intent("pay", "encrypt = \"required\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.2.0.0/16\"]");
    std::fs::write(folder.path().join("pay.intent.toml"), text).unwrap();
    let policy = config::load_for(&path, |_| site).unwrap();
    assert_eq!(is(&policy, "pay"), (Verdict::Refused, "persona_cipher"), "WireGuard's cipher is not in its list");
    assert!(policy.contract.notes.iter().any(|note| note.contains("`crypto` is not known")));
}

#[test]
fn what_changes_is_said() {
    let body = "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.8.0.0/24\"]";
    let before = compiled(POLICY, &[("a", body), ("b", body)]);
    let after = compiled(POLICY, &[("b", &body.replace("never", "required")), ("c", body)]);
    let changes = before.contract.difference(&after.contract);
    let kinds: Vec<(&str, &str)> = changes.iter().map(|c| (c.intent.as_str(), c.kind.as_str())).collect();
    assert_eq!(kinds, [("a", "gone"), ("b", "changed"), ("c", "new")]);
    assert!(
        changes[1].what.iter().any(|what| what == "verdict: met -> refused" || what.starts_with("verdict: degraded")),
        "{changes:?}"
    );
    assert!(before.contract.difference(&before.contract).is_empty());
}

#[test]
fn the_example_intents_are_valid() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/intents"));
    for name in ["payments", "backups", "video"] {
        let path = folder.join(format!("{name}.intent.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(check_intent(&text, name).is_empty(), "{name}");
    }
}

/// Ten thousand rules and a thousand intents. In release: `cargo test --release -p softdpu --lib plan::compile -- --nocapture many`.
#[test]
fn many_rules_and_intents_compile_in_time() {
    let mut policy = POLICY.to_owned();
    for n in 0..10_000 {
        let action = if n % 3 == 0 { "action = \"drop\"" } else { "" };
        policy.push_str(&format!(
            "[[rule]]\nname = \"r{n}\"\nfrom = [\"10.1.{}.0/24\"]\nto = [\"10.{}.{}.0/24\"]\nprotocol = \"tcp\"\nports = [{}]\n{action}\n",
            n % 200, 20 + n / 256, n % 256, 1000 + n
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("intents")).unwrap();
    for n in 0..1000 {
        let demand = ["required", "preferred", "never"][n % 3];
        let text = intent(
            &format!("app{n}"),
            &format!(
                "encrypt = \"{demand}\"\n[bandwidth]\nfloor = \"100 kbit/s\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.{}.{}.0/24\"]\n",
                20 + n / 256,
                n % 256
            ),
        );
        std::fs::write(folder.path().join(format!("intents/app{n}.intent.toml")), text).unwrap();
    }
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, policy).unwrap();
    let started = std::time::Instant::now();
    let policy = config::load(&path).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let took = started.elapsed();
    println!(
        "loaded and compiled in {took:?}, of it the contract {} us, {} rules",
        policy.contract.compile_us,
        policy.rules.len()
    );
    assert_eq!(policy.contract.intents.len(), 1000);
    // A machine under load and a build without optimisation: a bound against going quadratic, not a figure.
    assert!(took.as_secs() < 20, "{took:?}");
}

#[test]
fn what_the_operator_meters_stays_metered() {
    let policy = POLICY.replace(
        "[[rule]]\nname = \"clear\"",
        "[[rule]]\nname = \"slow\"\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.4.7.0/24\"]\nmeter_rate = 250_000\ndscp = 10\n\
         [[rule]]\nname = \"clear\"",
    );
    let policy = compiled(
        &policy,
        &[("video", "encrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/16\"]\nto = [\"10.4.0.0/16\"]")],
    );
    let plan = crate::plan::build(&policy, 1).unwrap();
    let rule = |dst: [u8; 4]| {
        let mut headers = Headers { l3: L3::V4, proto: 17, sport: 40000, dport: 5000, ..Headers::default() };
        headers.src[..4].copy_from_slice(&[10, 1, 0, 1]);
        headers.dst[..4].copy_from_slice(&dst);
        let found = look_up(&plan.rules, &headers, &Known::default(), None);
        &plan.rules[usize::from(found.rule)]
    };
    assert_eq!((&*rule([10, 4, 7, 1]).name, &*rule([10, 4, 8, 1]).name), ("intent:video+slow", "intent:video"));
    assert!(rule([10, 4, 7, 1]).meter.is_some() && rule([10, 4, 7, 1]).dscp == Some(10));
    assert!(rule([10, 4, 8, 1]).meter.is_none());
}
