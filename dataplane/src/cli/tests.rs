//! The command line: what parses, what it prints.
#![allow(clippy::unwrap_used)]

use clap::{CommandFactory, Parser};

use super::show::{bytes, clean, count, duration, number};
use super::*;
use crate::control::{DropCount, FlowInfo, PortStatus, Status, TunnelStatus};
use crate::telemetry::snapshot::Traffic;

fn run_line(line: &str) -> (anyhow::Result<bool>, String) {
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let mut out = Vec::new();
    let result = dispatch(&cli, &mut out);
    (result, String::from_utf8(out).unwrap())
}

#[test]
fn the_definition_is_sound_and_every_verb_has_examples() {
    Cli::command().debug_assert();
    for verb in Cli::command().get_subcommands().filter(|v| v.get_name() != "help") {
        let help = verb.clone().render_long_help().to_string();
        assert!(help.contains("EXAMPLES:"), "{} has no example", verb.get_name());
        assert!(help.contains(&format!("softdpu {}", verb.get_name())), "{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for line in [
        "softdpu",
        "softdpu run",
        "softdpu check",
        "softdpu replay -c x --in apps",
        "softdpu check a -c b",
        "softdpu classify",
        "softdpu doctor --fix --undo",
        "softdpu doctor --host x --fix",
        "softdpu tune",
        "softdpu tune -c x --rounds 1",
        "softdpu capture tcp",
        "softdpu capture -w x --at middle",
        "softdpu capture -w x -W 3",
        "softdpu trace -c x",
        "softdpu trace --in a=b",
    ] {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    assert_eq!(Cli::try_parse_from(["softdpu", "--help"]).unwrap_err().exit_code(), 0);
}

#[test]
fn the_schema_is_json() {
    let (result, out) = run_line("softdpu schema");
    assert!(result.unwrap());
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(schema["properties"]["port"]["items"]["required"], serde_json::json!(["name"]));
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let (result, out) = run_line(&format!("softdpu completions {shell}"));
        assert!(result.unwrap());
        for verb in ["classify", "doctor", "inventory", "tune"] {
            assert!(out.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn check_answers_in_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.toml");
    std::fs::write(&path, "[[port]]\nname = \"a\"\ninterfce = \"eth0\"\n").unwrap();
    let (result, out) = run_line(&format!("softdpu check {}", path.display()));
    assert!(!result.unwrap());
    assert!(out.contains("p.toml:3:1]") && out.contains("did you mean `interface`?"), "{out}");
    assert!(out.contains("not valid, 2 errors"), "{out}");
    assert!(!out.contains('\x1b'), "no colour into a pipe");
    let (_, out) = run_line(&format!("softdpu check --json -c {}", path.display()));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["valid"], false);
    assert_eq!(report["errors"][1]["line"], 3);
    assert_eq!(report["errors"][1]["code"], "unknown-key");
    std::fs::write(&path, "[[port]]\nname = \"a\"\ninterface = \"eth0\"\n").unwrap();
    let (result, out) = run_line(&format!("softdpu check {}", path.display()));
    assert!(result.unwrap());
    assert!(out.contains("valid (softdpu: 1 port, 0 steering rules, 0 tunnels, 0 rules)"), "{out}");
}

#[test]
fn replay_names_the_ports_there_are() {
    let policy = crate::config::parse("[[port]]\nname = \"apps\"\nkind = \"pcap\"\n", "x").unwrap();
    let at = |name: &str| vec![(name.to_owned(), "f".into())];
    assert_eq!(replay::resolve(&policy, &at("apps"), "--in").unwrap()[0].0, 0);
    let error = replay::resolve(&policy, &at("aps"), "--in").unwrap_err().to_string();
    assert_eq!(error, "--in: the policy has no port `aps`: did you mean `apps`?");
    let twice = [at("apps"), at("apps")].concat();
    assert!(replay::resolve(&policy, &twice, "--out").unwrap_err().to_string().contains("twice"));
}

#[test]
fn status_without_an_instance_says_what_to_do() {
    let (result, _) = run_line("softdpu status --socket /nonexistent/x.sock");
    assert!(result.unwrap_err().to_string().contains("softdpu run"));
}

#[test]
fn the_status_page_shows_rates_and_what_is_amiss() {
    let port = |packets: u64| PortStatus {
        name: "apps".into(),
        kind: "xdp".into(),
        mode: Some("native".into()),
        copy: Some("copy".into()),
        queues: 2,
        rx: Traffic { packets, bytes: 0 },
        ..PortStatus::default()
    };
    let status = |uptime_s: f64, packets: u64| Status {
        name: "edge-a".into(),
        uptime_s,
        ports: vec![port(packets)],
        tunnels: vec![TunnelStatus { compress_in_bytes: 300, compress_out_bytes: 100, ..TunnelStatus::default() }],
        drops: vec![
            DropCount { reason: "ttl".into(), count: 3, ..DropCount::default() },
            DropCount { reason: "never".into(), count: 0, ..DropCount::default() },
        ],
        escaped_bytes: 64,
        ..Status::default()
    };
    let page = status::view(&status(10.0, 1000), &status(10.5, 2500));
    for part in ["edge-a:", "native, copy", "2500  3.00 k", "3.00", "ttl", "ESCAPED: 64 B"] {
        let squeezed = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains(&part.replace("  ", " ")), "no {part:?} in\n{page}");
    }
    assert!(!page.contains("never"), "reasons that counted nothing are not shown");
}

#[test]
fn host_names_from_packets_cannot_steer_the_terminal() {
    let flow = FlowInfo { host: Some("\x1b[2Jevil\n".into()), ..FlowInfo::default() };
    let text = flows::biggest_first(vec![flow]).to_string();
    assert!(!text.contains('\x1b') && text.contains("evil"), "{text:?}");
    assert_eq!(text.lines().count(), 2);
    assert_eq!(clean("ü.example"), "ü.example");
}

#[test]
fn figures_are_readable() {
    assert_eq!((number(0.0), number(999.0), number(999.6)), ("0".into(), "999".into(), "1.00 k".into()));
    assert_eq!(
        (number(1234.0), number(12_345.0), number(999_500.0)),
        ("1.23 k".into(), "12.3 k".into(), "1.00 M".into())
    );
    assert_eq!((bytes(0), bytes(1500), bytes(u64::MAX)), ("0 B".into(), "1.50 kB".into(), "18447 PB".into()));
    assert_eq!((count(99_999), count(100_000)), ("99999".into(), "100 k".into()));
    assert_eq!((duration(0.25), duration(61.0), duration(90_000.0)), ("250ms".into(), "1m 1s".into(), "1d 1h".into()));
}

#[test]
fn help_is_as_whole_as_a_manual_page() {
    for verb in Cli::command().get_subcommands().filter(|verb| verb.get_name() != "help") {
        let help = verb.clone().render_long_help().to_string();
        for part in ["EXAMPLES:", "EXIT CODES:", "FILES:", "Usage:"] {
            assert!(help.contains(part), "{}: no {part}", verb.get_name());
        }
        assert!(verb.get_long_about().is_some(), "{}", verb.get_name());
    }
}

#[test]
fn check_says_no_to_every_broken_policy() {
    for broken in crate::config::broken_tests::all() {
        let cli = Cli::try_parse_from(["softdpu".as_ref(), "check".as_ref(), broken.policy.as_os_str()]).unwrap();
        let mut out = Vec::new();
        assert!(!dispatch(&cli, &mut out).unwrap(), "{}", broken.name);
        assert!(!out.is_empty(), "{}", broken.name);
    }
}

/// Whichever of the shells is here takes its script.
#[test]
fn shells_take_the_completions() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, arguments) in [("bash", &["-n"][..]), ("zsh", &["-n"][..]), ("fish", &["--no-execute"][..])] {
        let (result, script) = run_line(&format!("softdpu completions {shell}"));
        assert!(result.unwrap() && script.contains("inventory"));
        let file = folder.path().join(shell);
        std::fs::write(&file, script).unwrap();
        let Ok(said) = std::process::Command::new(shell).args(arguments).arg(&file).output() else {
            println!("skipped: no {shell}");
            continue;
        };
        assert!(said.status.success() && said.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn a_config_test_without_cases_is_exit_code_2() {
    let (result, _) = run_line("softdpu test /nonexistent");
    assert!(result.unwrap_err().is::<Unusable>());
    let (result, out) =
        run_line(concat!("softdpu test ", env!("CARGO_MANIFEST_DIR"), "/../configs/tests --filter video"));
    assert!(result.unwrap(), "{out}");
    assert!(out.contains("2 cases, 2 ok, 0 failed"), "{out}");
}

#[test]
fn files_about_other_hosts_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "[[port]]\nname = \"apps\"\ninterface = \"veth0\"\n").unwrap();
    for (option, name, text, says) in [
        ("--persona", "a.toml", "name = \n", "a.toml:1:"),
        ("--persona", "b.toml", "nam = \"x\"\n", "b.toml:1:1"),
        ("--persona", "c.toml", "", "c.toml:1:1"),
        ("--persona", "absent.toml", "", "absent.toml"),
        ("--host", "d.json", "{", "line 1"),
        ("--host", "e.json", "[]", "e.json"),
        ("--host", "absent.json", "", "absent.json"),
    ] {
        let file = folder.path().join(name);
        if !name.starts_with("absent") {
            std::fs::write(&file, text).unwrap();
        }
        let (result, out) = run_line(&format!("softdpu plan -c {} {option} {}", policy.display(), file.display()));
        let said = format!("{:#}", result.expect_err(&out));
        assert!(said.contains(name) && said.contains(says), "{name}: {said}");
    }
}
