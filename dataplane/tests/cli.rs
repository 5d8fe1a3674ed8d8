//! The binary as scripts see it: exit codes, what goes where, colour.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn softdpu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softdpu"));
    command.args(args).env_remove("SOFTDPU_LOG").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = softdpu(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn exit_codes_and_streams() {
    let (code, out, err) = run(&["--version"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, format!("softdpu {}\n", env!("CARGO_PKG_VERSION")));
    let (code, out, err) = run(&["statsu"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("'status'"), "{err}");
    let (code, out, err) = run(&["run", "-c", "/nonexistent/p.toml"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("/nonexistent/p.toml"), "{err}");
    let (code, out, err) = run(&["status", "--socket", "/nonexistent/x.sock"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("error: no socket /nonexistent/x.sock"), "{err}");
    let (code, _, err) = run(&["--log-level", "softdpu=loud", "run", "-c", "x"]);
    assert_eq!(code, 1);
    assert!(err.contains("not a log filter"), "{err}");
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    let mut child = softdpu(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn nothing_starts_from_a_policy_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("p.toml");
    write(&policy, "[control]\nsocket = \"c.sock\"\n[[port]]\nname = \"a\"\nkind = \"pcap\"\nbatch = 1\n", 0o644);
    let (code, out, err) = run(&["run", "-c", policy.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("p.toml:6:1") && err.contains("nothing was started"), "{err}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no socket, no lock");
}

/// An empty capture file: the pcap header, microseconds, Ethernet.
fn empty_pcap() -> Vec<u8> {
    let mut bytes = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    bytes.extend([2, 0, 4, 0]);
    bytes.extend([0; 8]);
    bytes.extend(65_535_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes
}

#[test]
fn replay_reads_the_example_and_writes_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    write(Path::new(&at("p.toml")), include_str!("../../configs/policies/replay.toml"), 0o644);
    for (key, digit) in [("a-to-b.key", "1"), ("b-to-a.key", "2")] {
        write(Path::new(&at(key)), &digit.repeat(72), 0o600);
    }
    std::fs::write(at("in.pcap"), empty_pcap()).unwrap();
    let (input, output) = (format!("apps={}", at("in.pcap")), format!("uplink={}", at("out.pcap")));
    let (code, out, err) = run(&["replay", "-c", &at("p.toml"), "--in", &input, "--out", &output]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("0 packets in, 0 out"), "{out}");
    assert!(std::fs::metadata(at("out.pcap")).unwrap().len() >= 24);
    let (code, out, _) = run(&["replay", "-c", &at("p.toml"), "--in", &input, "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["packets_in"], 0);
    let (code, _, err) =
        run(&["replay", "-c", &at("p.toml"), "--in", &input, "--out", &input.replace("apps", "uplink")]);
    assert_eq!(code, 1);
    assert!(err.contains("is read and written"), "{err}");
    std::fs::set_permissions(at("b-to-a.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = run(&["replay", "-c", &at("p.toml"), "--in", &input]);
    assert_eq!(code, 1);
    assert!(err.contains("chmod 600") && !err.contains("2222"), "{err}");
}
