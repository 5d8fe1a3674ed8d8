//! `softdpu test`: config tests, without a NIC.

use std::io::{IsTerminal, Write};

use indicatif::ProgressBar;

use super::Unusable;
use super::args::TestArgs;
use crate::cases::{Suite, report};
use crate::config::use_colour;

/// From so many cases on there is a bar.
const MANY: usize = 200;

pub fn run(args: &TestArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let suite = match Suite::read(&args.paths, args.config.as_deref()) {
        Ok(suite) => suite,
        Err(wrong) => {
            eprint!("{}", report::unusable(&wrong, use_colour(&std::io::stderr())));
            return Err(Unusable("nothing was tested".to_owned()).into());
        }
    };
    let wanted = |file: &str, name: &str| {
        args.filter.is_empty() || args.filter.iter().any(|part| file.contains(part) || name.contains(part))
    };
    let count = suite.count(wanted);
    if count == 0 {
        return Err(Unusable(format!("--filter leaves none of {} cases", suite.count(|_, _| true))).into());
    }
    let bar = (count >= MANY && std::io::stderr().is_terminal()).then(|| ProgressBar::new(count as u64));
    let outcomes = suite.run(wanted, |_| {
        if let Some(bar) = &bar {
            bar.inc(1);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if let Some(file) = &args.junit {
        std::fs::write(file, report::junit(&outcomes))
            .map_err(|error| Unusable(format!("cannot write {}: {error}", file.display())))?;
    }
    if args.json {
        report::json(&outcomes, out)?;
    } else {
        let colour = use_colour(&std::io::stdout());
        for outcome in outcomes.iter().filter(|outcome| !args.quiet || !outcome.ok) {
            report::case(outcome, args.verbose, colour, out)?;
        }
        report::sum(&outcomes, out)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.ok))
}
