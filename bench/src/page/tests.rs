#![allow(clippy::unwrap_used)]
use super::*;
use crate::absent::{Absent, Looked};
use crate::gain::function::Function;
use crate::gain::ledger::{ClassRow, Entry, Ledger, Tier};
use crate::machine::{Machine, Noise};
use crate::report::{Bound, CpuTime, Curve, Latency, Line, Section, Target};
use crate::stats::latency::Latencies;

/// A report that has something of everything.
fn full() -> Report {
    let mut s = Section::new("veth", "Forwarding <&> \"quoted\"", "Mpps");
    for (n, v) in [1.0, 1.1, 0.9].into_iter().enumerate() {
        s.round("a", "A", v).more.entry("sent Mpps".into()).or_default().push(n as f64);
        s.round("b", "B", 2.0 * v);
    }
    s.ratio("b", "a");
    s.missing("vpp", "VPP", "not installed");
    let mut l = Latencies::new();
    (1..5000u64).for_each(|v| l.record(v * 37));
    s.contenders[0].latency = Some(Latency { of: "a packet".into(), counts: l.counts() });
    s.curves.push(Curve {
        title: "Load and latency".into(),
        x: "Mpps".into(),
        y: "µs".into(),
        log: (false, true),
        lines: vec![Line { title: "A".into(), points: vec![(0.1, 5.0), (0.5, 9.0), (0.9, 80.0)] }],
        mark: Some((0.5, "half".into())),
    });
    let noise = Noise {
        cores: vec![CpuTime { user: 1.0, kernel: 2.0, softirq: 0.5, stolen: 0.1, idle: 3.0 }; 2],
        ..Noise::default()
    };
    s.noise = Some(noise.clone());
    let mut r = Report { sections: vec![s], noise, ..Report::new(Machine::look()) };
    r.targets.push(Target::new("t", Bound::AtLeast, 1.0, Some(2.0)));
    let entry = |class: &str, f| Entry::new(class, f, Tier::Worker, 700.0).costing(300.0, None);
    let mut ledger =
        Ledger { entries: Function::ALL.map(|f| entry(crate::gain::ALL, f)).to_vec(), ..Ledger::default() };
    ledger.classes.push(ClassRow {
        class: "tls/tcp".into(),
        flows: 3,
        break_even: Some((20.0, 18.0, 25.0)),
        says: vec!["2 × too_short: ends early".into()],
        ..ClassRow::default()
    });
    r.not_measured.push(Absent {
        name: "ipvs".into(),
        title: "kernel IPVS".into(),
        parts: vec!["connect".into()],
        why: "not there".into(),
        looked_for: vec![Looked { what: "/proc/net/ip_vs".into(), found: "no | file".into(), there: false }],
        how: "a kernel that has <it>".into(),
    });
    r.modelled = crate::modelled::model("bluefield-3", &ledger).unwrap();
    r.ledger = Some(ledger);
    r
}

/// Every element that is opened is closed, in order.
fn balanced(html: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        if tag.starts_with('!') || tag.ends_with('/') || ["meta", "br"].contains(&name.as_str()) {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "near {}", &rest[..rest.len().min(80)]);
        } else {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let page = html(&full());
    // The style sheet has no tags.
    let style = page.find("<style>").unwrap()..page.find("</style>").unwrap();
    balanced(&format!("{}<style>{}", &page[..style.start], &page[style.end..]));
    for outside in ["<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(
        page.contains("prefers-color-scheme: dark")
            && page.contains("@media print")
            && page.contains("width=device-width")
    );
    // Names from outside are text.
    assert!(page.contains("Forwarding &lt;&amp;&gt; &quot;quoted&quot;") && !page.contains("Forwarding <&>"));
    // A missing contender is named with why, in words.
    assert!(page.contains("VPP (missing): not installed"));
    // So is what would belong beside it, and what was looked for.
    assert!(page.contains("id=\"not-measured\"") && page.contains("Looked for: /proc/net/ip_vs: no | file"));
    assert!(page.contains("a kernel that has &lt;it&gt;"));
    let drawings = page.matches("role=\"img\"").count();
    assert_eq!(drawings, 5, "overview, bars, latencies, curve, CPU");
    assert_eq!(page.matches("<title>").count(), 1 + drawings);
    assert_eq!(page.matches("<summary>The figures</summary>").count(), drawings);
    for wrong in ["NaN", "inf\""] {
        assert!(!page.contains(wrong), "{wrong}");
    }
}

#[test]
fn measured_and_modelled_share_no_table() {
    let page = html(&full());
    for table in page.split("<table>").skip(1) {
        let table = &table[..table.find("</table>").unwrap()];
        assert!(!(table.contains("odelled") && table.contains("easured")), "{table}");
    }
    let csv = csv(&full());
    assert!(!csv.contains("modelled") && csv.lines().count() > 9);
    assert!(modelled_csv(&full()).lines().next().unwrap().contains("modelled_gbit"));
}

#[test]
fn every_raw_round_is_in_the_csv() {
    let csv = csv(&full());
    let of_b: Vec<&str> = csv.lines().filter(|l| l.starts_with("veth,b,B,figure,Mpps,higher,")).collect();
    assert_eq!(of_b.len(), 3);
    assert!(of_b[1].ends_with(",2,2.2"), "{of_b:?}");
}

#[test]
fn an_empty_report_and_one_without_figures_are_pages_too() {
    let mut r = Report::new(Machine::look());
    balanced(
        html(&r).split_once("</style>").unwrap().1.trim_start_matches("</head>").trim_end().trim_end_matches("</html>"),
    );
    let mut s = Section::new("x", "X", "ns");
    s.missing("a", "A", "gone");
    s.round("zero", "Zero", 0.0);
    r.sections.push(s);
    assert!(html(&r).contains("gone") && markdown(&r).contains("missing: A: gone"));
}

#[test]
fn all_files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("deep/er");
    write(&full(), &to).unwrap();
    for name in [HTML, "run.json", "rounds.csv", "modelled.csv", "summary.md"] {
        assert!(std::fs::metadata(to.join(name)).unwrap().len() > 100, "{name}");
    }
    let again = Report::read(&to.join("run.json")).unwrap();
    assert_eq!(again.sections[0].contenders[1].rounds, [2.0, 2.2, 1.8]);
    assert_eq!(again.not_measured, full().not_measured);
    let summary = std::fs::read_to_string(to.join("summary.md")).unwrap();
    assert!(summary.contains("Modelled, not measured") && summary.contains("https://"));
    assert!(
        summary.contains("## Not measured here, and why") && summary.contains("| kernel IPVS | connect | not there.")
    );
}
