//! `docs/drops.md`, written from the two lists of reasons, so that it says what the program counts.

use std::fmt::Write;

use softdpu_ebpf_common::maps::Reason;

use super::reason::DropReason;
use crate::offload::nic;

const HEAD: &str = "\
# Drop reasons

This page is generated from the lists in `dataplane/src/graph/reason.rs` and `ebpf/common/src/maps.rs`.

Every packet that is not delivered is counted under exactly one reason. `softdpu status` shows those that have counted
something, with the node that dropped; `softdpu status --json` has them under `drops`. The metric
`softdpu_drop_packets_total{reason=\"…\"}` has those of the workers, zeros included. Codes are stable. A damaged packet may be
met by the XDP program or by a worker: `truncated`, `bad_ip_header`, `too_many_extensions`, `bad_transport` and
`too_many_tags` are codes of both, and the node tells them apart.

The nodes stand in the order of the list, which is nearly the order a packet meets them; ARCHITECTURE.md has the walk.
";
const STEER: &str = "\
The XDP program, before any worker. It counts every packet under one verdict (`xdp` in `softdpu status --json`). These
verdicts are no drops:";
const NIC: &str = "The device, where it takes flows ([tier `nic`](operator.md#offload)).\n\n";
const TABLE: &str = "| reason | meaning |\n| --- | --- |\n";

/// The page, as Markdown.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    heading(&mut page, "nic", NIC);
    row(&mut page, nic::DROPPED.0, nic::DROPPED.1);
    let kept: Vec<String> =
        Reason::ALL.iter().filter(|r| r.drop_help(true).is_none()).map(|r| format!("`{}`", r.name())).collect();
    heading(&mut page, "steer", &format!("{STEER}\n{}.\n\n", kept.join(", ")));
    for reason in Reason::ALL {
        if let Some(help) = reason.drop_help(true) {
            row(&mut page, reason.name(), help);
        }
    }
    let mut node = "";
    for reason in DropReason::ALL {
        if reason.node() != node {
            node = reason.node();
            heading(&mut page, node, "");
        }
        row(&mut page, reason.code(), reason.help());
    }
    page
}

fn heading(page: &mut String, node: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = write!(page, "\n## `{node}`\n\n{text}{TABLE}");
}

fn row(page: &mut String, code: &str, help: &str) {
    let _ = writeln!(page, "| `{code}` | {} |", help.replace('|', "\\|"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu graph::reason_docs` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/drops.md");
        let page = markdown();
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap();
        assert!(on_disk == page, "docs/drops.md is out of date: see above this test how to write it");
    }

    #[test]
    fn every_reason_has_its_row() {
        let page = markdown();
        for reason in DropReason::ALL {
            assert!(page.contains(&format!("| `{}` | {} |\n", reason.code(), reason.help())), "no {reason} in\n{page}");
        }
        for reason in Reason::ALL {
            assert!(page.contains(&format!("`{}`", reason.name())), "no {} in\n{page}", reason.name());
        }
    }
}
