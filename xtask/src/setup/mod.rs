//! `cargo xtask setup`: finds or installs what building, running and testing need. Installing twice does nothing the second
//! time; `--check` only looks.

mod apt;
mod peers;
mod programs;
mod python;
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

/// What something is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Building softdpu with its XDP program.
    Build,
    /// The demo: namespaces, real applications.
    Run,
    /// Other makes of IPsec and WireGuard, which the tests talk to.
    Peers,
    /// The tests: strangers that check our packets, the fuzzer.
    Test,
    /// The tests that run in a virtual machine: QEMU, and what goes into it.
    Vm,
    /// The tests that Python's registry has the strangers of.
    Python,
}

impl Need {
    /// Whether who needs this needs `other` too. The tests do without a virtual machine, and without what only Python's registry
    /// has, where they cannot be had.
    pub fn includes(self, other: Self) -> bool {
        match other {
            Self::Build => true,
            Self::Run => self != Self::Build,
            Self::Peers => !matches!(self, Self::Build | Self::Run),
            Self::Test | Self::Vm | Self::Python => self == other,
        }
    }
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
    items.extend(python::look());
    items.retain(|item| need.includes(item.need));
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
        install(Need::Vm)?;
        python::install()?;
    }
    let mut items = look(Need::Test);
    for more in [Need::Vm, Need::Python] {
        items.extend(look(more).into_iter().filter(|item| item.need == more));
    }
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

/// Installs what the tests can do without, where it can be had.
///
/// # Errors
/// When a command cannot be run at all.
pub fn try_python() -> Result<()> {
    python::install()
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

/// Makes sure that one program is there.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_program(program: &str) -> Result<()> {
    programs::ensure(program)
}

fn install(need: Need) -> Result<()> {
    if missing(need).is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    programs::install(need)?;
    toolchain::install()?;
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
    fn each_need_has_what_it_is_built_on() {
        let (build, run, test) = (look(Need::Build), look(Need::Run), look(Need::Test));
        assert!(build.len() < run.len() && run.len() < test.len());
        let vm = look(Need::Vm);
        assert!(vm.len() > run.len() && vm.iter().all(|item| item.need != Need::Test));
        assert!(test.iter().all(|item| item.need != Need::Vm));
        assert!(test.iter().all(|item| !item.why.is_empty() && !item.how.is_empty()));
    }
}
