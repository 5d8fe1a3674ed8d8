//! Instructions per operation of every case, beside those that are kept in `bench/instructions.json`. bench/README.md says what is
//! counted and how a change is accepted.

pub mod callgrind;
pub mod kept;
mod run;
mod seeds;
mod show;
mod xdp;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::cases;
use kept::{Kept, Xdp};

/// More than this, in %, is a failure.
pub const MOST: f64 = 3.0;
/// Instructions per operation that say nothing: a node that hardly does anything gains or loses two when the compiler turns a loop
/// of its round, and a packet takes more than a thousand of them in all.
pub const SLACK: f64 = 2.5;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Writes what is counted now into the list, in place of what is kept there.
    #[arg(long)]
    pub accept: bool,
    /// Only cases whose name contains one of these.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// The list; default: bench/instructions.json in the working directory.
    #[arg(long, value_name = "FILE", default_value = "bench/instructions.json")]
    pub list: PathBuf,
    /// Is counted, as the part of so many: what runs under callgrind.
    #[arg(long, hide = true, num_args = 2, value_names = ["PART", "PARTS"])]
    pub part: Option<Vec<usize>>,
}

/// Counts and compares. Whether nothing takes more than it may.
///
/// # Errors
/// Without valgrind; where a case cannot be made; where the list cannot be read or written.
pub fn main(options: &Options) -> Result<bool> {
    if let Some(part) = &options.part {
        run::be_counted(&options.only, part[0], part[1])?;
        return Ok(true);
    }
    ensure!(!cfg!(debug_assertions), "this is a debug build, whose instructions nobody wants: use a release build");
    ensure!(cfg!(target_arch = "x86_64"), "valgrind is spoken to on x86-64 only");
    let entries = cases::selected(&options.only);
    let with_xdp = options.only.is_empty()
        || options.only.iter().any(|part| "xdp/".contains(part.as_str()) || part.starts_with("xdp"));
    ensure!(!entries.is_empty() || with_xdp, "no case has {} in its name", options.only.join(" or "));
    let kept = Kept::read(&options.list)?;
    let here = run::here()?;
    let named: Vec<(String, usize)> = entries.into_iter().map(|entry| (entry.name, entry.count)).collect();
    if !options.accept
        && let Some(kept) = &kept
        && let Some(difference) = kept.with.difference(&here)
    {
        println!("SKIPPED: {difference}: instructions are not compared.");
        println!("`cargo xtask instructions --accept` keeps those of this machine's instead.");
        println!("test result: ok. 0 passed; 0 failed; {} ignored", named.len());
        return Ok(true);
    }
    let counts = run::all(&options.only, &named)?;
    let programs = if with_xdp { xdp::look() } else { Ok(Xdp::default()) };
    if options.accept {
        let whole = options.only.is_empty();
        let mut new = match kept {
            Some(kept) if !whole => {
                if let Some(difference) = kept.with.difference(&here) {
                    bail!("{difference}: accept all of them, without --only");
                }
                kept
            }
            _ => Kept { with: here, ..Kept::default() },
        };
        new.instructions.extend(counts);
        if with_xdp {
            new.xdp = programs.context("the XDP program's figures; as root?")?;
        }
        new.write(&options.list)?;
        println!("{} cases are kept in {}.", new.instructions.len(), options.list.display());
        return Ok(true);
    }
    let kept = kept.with_context(|| {
        format!("{}: nothing is kept there; `cargo xtask instructions --accept` writes it", options.list.display())
    })?;
    let mut compared = kept.compare(&counts, options.only.is_empty());
    match programs {
        Ok(programs) if with_xdp => match kept.xdp.difference(&programs) {
            Some(difference) => println!("SKIPPED: {difference}: the XDP program's figures are not compared."),
            None => compared.extend(kept.xdp.compare(&programs)),
        },
        Ok(_) => {}
        Err(error) => println!("SKIPPED: the XDP program: {error:#}"),
    }
    Ok(show::show(&compared, &options.list))
}
