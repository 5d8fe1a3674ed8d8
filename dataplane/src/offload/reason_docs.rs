//! `docs/offload-reasons.md`, written from the list of reasons.

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Reason;
    use std::fmt::Write;

    const HEAD: &str = "\
# Why a flow is not offloaded

This page is generated from the list in `dataplane/src/offload/reason.rs`.

`softdpu flows --json` has a flow's code as `offload_reason`, `softdpu explain FLOW` says it in words. Codes are stable. Those
that pass by themselves are asked again every few packets, the others about every thousand.

| code | passes | meaning, and what would change it |
| --- | --- | --- |
";

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu offload::reason_docs` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/offload-reasons.md");
        let mut page = HEAD.to_owned();
        for reason in Reason::ALL {
            let passes = if reason.passes() { "yes" } else { "" };
            writeln!(page, "| `{}` | {passes} | {} |", reason.code(), reason.help().replace('|', "\\|")).unwrap();
        }
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == page, "out of date: see above this test how to write it");
    }
}
