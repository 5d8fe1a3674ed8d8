//! Filters in tcpdump's syntax: compiled by tcpdump itself, run by the instance.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, bail};

use crate::watch::filter::{Insn, Program};
use crate::watch::request::FilterRequest;

/// Matches nothing: for filters over the link header, where packets have none.
const NOTHING: Insn = Insn(6, 0, 0, 0);

/// Compiles the words of a filter. None: every packet.
pub fn compile(words: &[String]) -> anyhow::Result<Option<FilterRequest>> {
    let expression = words.join(" ");
    if expression.trim().is_empty() {
        return Ok(None);
    }
    let ethernet = tcpdump("EN10MB", &expression)?;
    // It may be about what packets within a tunnel do not have.
    let raw = tcpdump("RAW", &expression).unwrap_or_else(|_| vec![NOTHING]);
    Ok(Some(FilterRequest { expression, ethernet, raw }))
}

fn tcpdump(link: &str, expression: &str) -> anyhow::Result<Vec<Insn>> {
    let output =
        Command::new("tcpdump").args(["-ddd", "-y", link, "--", expression]).output().map_err(|e| match e.kind() {
            ErrorKind::NotFound => anyhow::anyhow!(
                "filters are compiled by tcpdump, which is not installed: `apt install tcpdump`, `dnf install tcpdump`"
            ),
            _ => anyhow::anyhow!("cannot run tcpdump, which compiles the filter: {e}"),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| line.starts_with("tcpdump:")).unwrap_or("tcpdump: no reason given");
        bail!("the filter `{expression}`: {}", said.trim_start_matches("tcpdump:").trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let program = Program::from_tcpdump(&text).context("what tcpdump made of the filter")?;
    Ok(program.insns().to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn tcpdump_compiles_for_both_kinds_of_packets() {
        assert_eq!(compile(&[]).unwrap(), None);
        let Ok(Some(both)) = compile(&words("tcp port 80")) else {
            return eprintln!("SKIPPED: no tcpdump");
        };
        assert!(both.ethernet.len() > 5 && both.raw.len() > 5 && both.ethernet != both.raw, "{both:?}");
        let link = compile(&words("ether host 02:00:00:00:00:01")).unwrap().unwrap();
        assert_eq!(link.raw, [NOTHING], "there is no such thing within a tunnel");
        let wrong = compile(&words("tcp prt 80")).unwrap_err().to_string();
        assert!(wrong.contains("`tcp prt 80`"), "{wrong}");
    }
}
