//! `docs/metrics.md`, written from the table of families.

use std::fmt::Write;

use super::{GROUPS, Kind};

const HEAD: &str = "\
# Metrics

This page is generated from the table in `dataplane/src/telemetry/prometheus/`.

An instance serves them at `/metrics` on its control socket, and on loopback where the policy says `[control] metrics =
\"127.0.0.1:9464\"`, as OpenMetrics 1.0 text. Names and labels are stable: one may be added, none is renamed. Counters begin with
0 when the instance starts; a rule that keeps its name goes on counting across `softdpu reload`. Per intent, application and
peer there are series for the first 1,000; intents and applications beyond are summed under the name `_other`.

The [dashboards](operator.md#dashboards) in `configs/grafana/` are made of them.
";

/// The page, as Markdown.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for (title, families) in GROUPS {
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {title}\n\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n");
        for family in *families {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(page, "| `{}` | {kind} | {} | {} |", family.sample_name(), labels.join(", "), family.help);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu prometheus::docs` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = super::markdown();
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap_or_default();
        assert!(on_disk == page, "docs/metrics.md is out of date: see above this test how to write it");
    }
}
