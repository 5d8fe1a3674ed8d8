//! WireGuard implementations that only their crates' registry has. They go to `target/peers`, where the testbed looks for them
//! and a cache of `target` keeps them.

use std::process::Command;

use anyhow::{Result, ensure};
use softdpu_testbed::peers;

use super::{Item, Need, say};
use crate::run;

/// Program, crate and version, how long it takes on two idle cores, why.
const CRATES: [(&str, &str, &str, &str); 2] = [
    ("boringtun-cli", "boringtun-cli@0.7.1", "about a minute", "WireGuard peer of another make (Cloudflare's)"),
    ("gotatun", "gotatun-cli@0.10.2", "about three minutes", "WireGuard peer of another make (Mullvad's)"),
];

/// Looks for each.
pub fn look() -> Vec<Item> {
    CRATES
        .iter()
        .map(|(program, what, _, why)| Item {
            what: (*program).to_owned(),
            why,
            need: Need::Test,
            found: peers::find(program).map(|path| path.canonicalize().unwrap_or(path).display().to_string()),
            how: format!("cargo install --locked --root target/peers {what}"),
        })
        .collect()
}

/// Builds what is missing.
///
/// # Errors
/// When one does not build.
pub fn install(need: Need) -> Result<()> {
    for (program, what, time, why) in CRATES {
        if !need.includes(Need::Test) || peers::find(program).is_some() {
            continue;
        }
        say(&format!("cargo install {what} ({why}; takes {time})"));
        let mut command: Command = run::cargo();
        // At the top of another folder than the workspace, whose settings are not theirs.
        command.args(["install", "--quiet", "--locked", what, "--root"]).arg(run::root().join("target/peers"));
        command.current_dir(std::env::temp_dir());
        ensure!(run::loud(&mut command)?, "{what} does not build");
    }
    Ok(())
}
