//! `cargo xtask interop`: makes `docs/interop.md` of what the last test runs found.

use anyhow::{Context, Result, ensure};
use softdpu_testbed::interop;

use crate::run;

/// Makes docs/interop.md, the table of peers, of what `cargo xtask test` and `cargo xtask vm` found (target/interop). Ends with
/// 1 when a combination failed.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the table, write nothing
    #[arg(long)]
    print: bool,
}

/// Runs the verb. Whether all combinations passed.
///
/// # Errors
/// When no test has left anything, or the page cannot be written.
pub fn main(arguments: &Arguments) -> Result<bool> {
    let rows = interop::read(&interop::folder()).context("nothing was tried yet: cargo xtask test interop")?;
    ensure!(!rows.is_empty(), "nothing was tried yet: cargo xtask test interop");
    let page = interop::page(&rows);
    if arguments.print {
        print!("{page}");
    } else {
        let path = run::root().join("docs/interop.md");
        std::fs::write(&path, page).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(rows.iter().all(|row| row.pass))
}
