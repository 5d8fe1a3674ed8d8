//! The worked example of docs/example.md, short: what `cargo xtask example` shows stays true.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use softdpu_testbed::{example, process};

#[test]
fn every_claim_of_the_worked_example_holds() {
    if !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: e2e-example needs root for network namespaces");
        return;
    }
    for program in ["curl", "openssl", "rsync", "tcpdump", "ethtool"] {
        let mut which = std::process::Command::new("sh");
        which.args(["-c", &format!("command -v {program}")]);
        if !process::run(&mut which, common::PATIENCE).unwrap().status.success() {
            eprintln!("SKIPPED: e2e-example needs {program}");
            return;
        }
    }
    let options = example::Options {
        binary: common::binary().to_owned(),
        configs: Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs"),
        tag: "e2e-example".into(),
        quick: true,
        keep: false,
        // Shown where the test fails.
        aloud: true,
    };
    let claims = example::run(&options).unwrap();
    assert!(claims.len() > 30, "{claims:#?}");
    let failed: Vec<String> =
        claims.iter().filter(|claim| !claim.ok).map(|claim| format!("{}: {}", claim.claim, claim.seen)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
