//! The worked example of `docs/example.md`, as `cargo xtask example` shows it and a test checks it: three applications' intents
//! and one policy become a plan, and real traffic proves each of its lines. Then somebody asks for what another forbids,
//! somebody mistypes, and the operator changes limits.
//!
//! The files are those of `configs/`: what is run is what is read.

mod apps;
mod host;
mod story;
mod wire;

use std::path::PathBuf;

use anyhow::Result;

use crate::cleanup::RunDir;

/// How it is told.
#[derive(Debug)]
pub struct Options {
    pub binary: PathBuf,
    /// The repository's `configs`.
    pub configs: PathBuf,
    /// Part of every name, to tell runs apart.
    pub tag: String,
    /// Less traffic.
    pub quick: bool,
    /// Leaves the folder with policies, intents, captures and logs behind.
    pub keep: bool,
    /// Shows what softdpu says, and each claim as it is proved.
    pub aloud: bool,
}

/// One claim, and what was seen.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Claim {
    pub claim: String,
    pub ok: bool,
    pub seen: String,
}

/// Tells the whole story. An error is the rig's; what softdpu does wrong is a claim that does not hold.
///
/// # Errors
/// When namespaces or programs cannot be had, or an edge does not come up.
pub fn run(options: &Options) -> Result<Vec<Claim>> {
    let mut folder = RunDir::new(&options.tag)?;
    if options.keep {
        folder.keep();
        eprintln!("everything is kept in {}", folder.path().display());
    }
    let mut teller = Teller { aloud: options.aloud, claims: Vec::new() };
    story::tell(options, &folder, &mut teller)?;
    Ok(teller.claims)
}

/// Says what happens, and remembers what was claimed.
#[derive(Debug)]
struct Teller {
    aloud: bool,
    claims: Vec<Claim>,
}

impl Teller {
    /// A chapter begins.
    fn chapter(&self, title: &str) {
        if self.aloud {
            println!("\n== {title}");
        }
    }

    /// What somebody typed, and what was answered.
    fn typed(&self, command: &str, answer: &str) {
        if self.aloud {
            println!("\n$ {command}\n{}", answer.trim_end());
        }
    }

    fn claim(&mut self, claim: impl Into<String>, ok: bool, seen: impl Into<String>) {
        let claim = Claim { claim: claim.into(), ok, seen: seen.into() };
        if self.aloud {
            println!("{} {}: {}", if ok { "✔" } else { "✘" }, claim.claim, claim.seen);
        }
        self.claims.push(claim);
    }
}
