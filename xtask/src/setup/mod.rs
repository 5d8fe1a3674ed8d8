//! `cargo xtask setup`: finds or installs what building, running and testing need. Installing twice does nothing the second
//! time; `--check` only looks.

mod apt;
mod peers;
mod programs;
mod toolchain;

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

/// Finds or installs all that is needed: the eBPF toolchain, bpf-linker, the programs that the demo and the tests talk to.
/// What is there already is left as it is. Debian packages are installed where apt is and we are root; elsewhere it prints
/// what to install.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only report; ends with 1 when something is missing
    #[arg(long)]
    check: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// What something is needed for. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Building softdpu with its XDP program.
    Build,
    /// The demo: namespaces, real applications.
    Run,
    /// The tests: strangers that check our packets, the fuzzer.
    Test,
}

/// One thing that must be there.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    pub what: String,
    /// In one line, why.
    pub why: &'static str,
    pub need: Need,
    /// Where or which version; `None` when missing.
    pub found: Option<String>,
    /// The command that gets it.
    pub how: String,
}

/// Looks for everything up to `need`.
fn look(need: Need) -> Vec<Item> {
    let mut items = toolchain::look();
    items.extend(programs::look());
    items.extend(peers::look());
    items.push(toolchain::look_fuzz());
    items.retain(|item| item.need <= need);
    items
}

fn missing(need: Need) -> Vec<Item> {
    look(need).into_iter().filter(|item| item.found.is_none()).collect()
}

/// Runs the verb. Whether everything is there at the end.
///
/// # Errors
/// When an installation fails.
pub fn main(arguments: &Arguments) -> Result<bool> {
    if !arguments.check {
        install(Need::Test)?;
    }
    let items = look(Need::Test);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&items)?);
    } else {
        for item in &items {
            match &item.found {
                Some(found) => println!("ok       {:<20} {} ({found})", item.what, item.why),
                None => println!("MISSING  {:<20} {}; get it by: {}", item.what, item.why, item.how),
            }
        }
    }
    Ok(items.iter().all(|item| item.found.is_some()))
}

/// Makes sure that everything up to `need` is there; silent when it is.
///
/// # Errors
/// When something is missing and cannot be installed; the message says what to do.
pub fn ensure(need: Need) -> Result<()> {
    if missing(need).is_empty() {
        return Ok(());
    }
    install(need)?;
    let left: Vec<String> =
        missing(need).iter().map(|item| format!("  {} ({}): {}", item.what, item.why, item.how)).collect();
    if !left.is_empty() {
        bail!("missing, and not to be installed from here:\n{}", left.join("\n"));
    }
    Ok(())
}

fn install(need: Need) -> Result<()> {
    if missing(need).is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    programs::install(need)?;
    toolchain::install(need)?;
    peers::install(need)?;
    eprintln!("setup took {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Says what is done now and why.
fn say(what: &str) {
    eprintln!("setup: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_includes_the_one_before() {
        let (build, run, test) = (look(Need::Build), look(Need::Run), look(Need::Test));
        assert!(build.len() < run.len() && run.len() < test.len());
        assert!(test.iter().all(|item| !item.why.is_empty() && !item.how.is_empty()));
    }
}
