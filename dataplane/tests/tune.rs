//! `softdpu tune` with generated traffic: what it measured is in a fragment that is a policy.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use softdpu_testbed::cleanup::RunDir;
use softdpu_testbed::process;

#[test]
fn a_policy_is_tuned_with_generated_traffic() {
    if !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("SKIPPED: needs two cores");
        return;
    }
    let folder = RunDir::new("tune").unwrap();
    let (policy, fragment) = (folder.file("policy.toml"), folder.file("tuned.toml"));
    // The interfaces need not be there: traffic goes over others.
    let text = "[[port]]\nname = \"a\"\ninterface = \"nowhere0\"\n\n[[port]]\nname = \"b\"\ninterface = \"nowhere1\"\n";
    std::fs::write(&policy, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_softdpu"));
    command.args(["tune", "--rounds", "3", "--turn", "0.2", "--only", "busy-poll,copy", "-c"]).arg(&policy);
    process::run(command.arg("-o").arg(&fragment), Duration::from_secs(180)).unwrap().ok().unwrap();
    let text = std::fs::read_to_string(&fragment).unwrap();
    let tuned = softdpu::config::parse(&text, "fragment").unwrap();
    assert_eq!(tuned.ports.len(), 2);
    for part in ["# The policy as it is: ", "3 rounds", "zero_copy: not measured", "busy_poll = ", "# true: "] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let base = text.lines().find_map(|l| l.strip_prefix("# The policy as it is: ")).unwrap();
    let rate: f64 = base.split(' ').next().unwrap().parse().unwrap();
    assert!(rate > 0.0, "packets were forwarded:\n{text}");
}
