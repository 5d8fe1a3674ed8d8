//! Bash asks the program what could come next, and puts together what it is told.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{At, World};

/// What bash offers for the last of these words, as it would have split the line, where `current` is what stands there already.
fn offered(line: &[&str], current: &str) -> Vec<String> {
    let softdpu = Path::new(env!("CARGO_BIN_EXE_softdpu"));
    let script = r#"
        source <(COMPLETE=bash softdpu) || exit 1
        current="$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_softdpu softdpu "$current" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let path = format!("{}:{}", softdpu.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let said =
        Command::new("bash").args(["-c", script, "bash", current]).args(line).env("PATH", path).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn what_needs_no_instance_is_offered() {
    assert!(offered(&["softdpu", "expl"], "expl").contains(&"explain".to_owned()));
    assert_eq!(offered(&["softdpu", "plan", "--persona", "bluefield-2"], "bluefield-2"), ["bluefield-2"]);
    assert!(offered(&["softdpu", "flows", "--class", "http"], "http").contains(&"http2".to_owned()));
    assert!(offered(&["softdpu", "events", "--kind", "plan"], "plan").contains(&"plan_applied".to_owned()));
    // Nobody is there: nothing is offered, and nothing is said about it.
    assert!(
        offered(&["softdpu", "rekey", "--socket", "/nonexistent/x.sock", ""], "").iter().all(|w| w.starts_with('-'))
    );
}

#[test]
fn what_runs_is_offered() {
    let Some(mut world) = World::running("e2e-completions", |_| {}) else { return };
    let flows: serde_json::Value =
        serde_json::from_str(&world.edge(At::A).verb(&["flows", "--json"]).unwrap()).unwrap();
    let ids: Vec<&str> = flows.as_array().unwrap().iter().map(|flow| flow["id"].as_str().unwrap()).collect();
    let (id, socket) = (ids[0], world.files(At::A).socket.display().to_string());
    let of = |verb: &str, more: &[&str], current: &str| {
        offered(&[&["softdpu", verb, "--socket", &socket], more].concat(), current)
    };
    assert!(of("explain", &[""], "").contains(&id.to_owned()), "{ids:?}");
    let (worker, place) = id.split_once(':').unwrap();
    // As bash splits `0:` and `0:12`.
    assert!(of("explain", &[worker, ":"], "").contains(&place.to_owned()));
    assert_eq!(of("demote", &[worker, ":", place], place).first().map(String::as_str), Some(place));
    assert!(of("rollback", &["1"], "1").contains(&"1".to_owned()));
    let status = world.edge(At::A).status().unwrap();
    for tunnel in status["tunnels"].as_array().unwrap() {
        let name = tunnel["name"].as_str().unwrap();
        assert!(of("rekey", &[""], "").contains(&name.to_owned()), "{name}");
    }
    world.assert_sound();
}
