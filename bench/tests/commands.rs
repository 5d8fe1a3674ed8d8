//! The program as people call it: exit codes and files. Nothing is measured here but a small capture.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use softdpu_bench::machine::Machine;
use softdpu_bench::report::{Report, Section};

fn call(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_softdpu-bench")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A record of one thing whose rounds are around `ns`.
fn record(path: &Path, ns: f64) {
    let mut section = Section::new("x", "X", "ns");
    for n in 0..7 {
        section.round("a", "A", ns * (1.0 + 0.002 * f64::from(n))).at.clear();
    }
    let mut report = Report { sections: vec![section], ..Report::new(Machine::look()) };
    report.machine.build = "release".into();
    report.write(path).unwrap();
}

#[test]
fn compare_ends_with_three_where_something_is_worse() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, other] = ["a.json", "b.json", "other.json"].map(|n| folder.path().join(n));
    record(&a, 100.0);
    record(&b, 110.0);
    let [a, b, other] = [&a, &b, &other].map(|p| p.to_str().unwrap());
    let worse = call(&["compare", a, b]);
    assert_eq!(worse.status.code(), Some(3), "{}", text(&worse.stdout));
    assert!(text(&worse.stdout).contains("1 worse"));
    let better = call(&["compare", b, a, "--json", "-"]);
    assert_eq!(better.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&better.stdout).unwrap();
    assert_eq!((json["version"].as_u64(), json["rows"][0]["verdict"].as_str()), (Some(1), Some("better")));
    let same = call(&["compare", a, a]);
    assert_eq!(same.status.code(), Some(0));
    assert!(text(&same.stdout).contains("cannot tell"));
    std::fs::write(other, "{}").unwrap();
    let bad = call(&["compare", a, other]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).contains("no record of a run"), "{}", text(&bad.stderr));
}

#[test]
fn report_writes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.json");
    record(&run, 100.0);
    let out = folder.path().join("out");
    let done = call(&["report", run.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("report.html"));
    for name in ["report.html", "run.json", "rounds.csv", "summary.md"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

#[test]
fn gain_measures_a_capture_and_says_what_is_wrong_with_others() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/tests/real/redis.pcap");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let done = call(&[
        "gain",
        capture.to_str().unwrap(),
        "--quick",
        "--rounds",
        "1",
        "--classes",
        "1",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("break-even") && text(&done.stdout).contains("redis/tcp"));
    let report = Report::read(&out.join("run.json")).unwrap();
    assert!(report.ledger.is_some() && !report.modelled.is_empty());
    let missing = call(&["gain", "/nonexistent.pcap"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("cannot read /nonexistent.pcap"), "{}", text(&missing.stderr));
    let persona = call(&["gain", capture.to_str().unwrap(), "--persona", "bluefeld-2"]);
    assert!(text(&persona.stderr).contains("did you mean bluefield-2"), "{}", text(&persona.stderr));
}

#[test]
fn latency_measures_those_asked_for() {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.json");
    let only = ["latency", "--quick", "--rounds", "1", "--only", "direct,kernel,nftables"];
    let done = call(&[&only[..], &["--json", run.to_str().unwrap()]].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let report = Report::read(&run).unwrap();
    let names: Vec<&str> = report.sections.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["latency", "latency-10"]);
    for section in &report.sections {
        for c in &section.contenders {
            // nft need not be there.
            if c.name == "nftables" && c.missing.is_some() {
                continue;
            }
            assert!(c.missing.is_none(), "{}: {:?}", c.name, c.missing);
            assert!(c.rounds[0] > 0.0 && c.latency.is_some(), "{}", c.name);
            assert!(c.more["p50 µs"][0] <= c.rounds[0] && c.rounds[0] <= c.more["max µs"][0], "{}", c.name);
        }
    }
    assert_eq!(report.sections[1].curves.len(), 2);
    let wrong = call(&["latency", "--only", "kernal"]);
    assert!(text(&wrong.stderr).contains("no contender `kernal`"), "{}", text(&wrong.stderr));
}

/// What was measured of contenders that need nothing but the kernel and the programs of Debian; those need not be there.
fn measured(what: &str, only: &str, sections: &[&str]) -> Option<Report> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: needs root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.json");
    let done = call(&[what, "--quick", "--rounds", "1", "--only", only, "--json", run.to_str().unwrap()]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let report = Report::read(&run).unwrap();
    assert_eq!(report.sections.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), sections);
    for c in report.sections.iter().flat_map(|s| &s.contenders) {
        match &c.missing {
            Some(why) => assert!(why.contains("apt-get install"), "{}: {why}", c.name),
            // Of `udp-lost`, 0 is the best.
            None => assert!(c.rounds.len() == 1 && c.rounds[0] >= 0.0, "{}", c.name),
        }
    }
    Some(report)
}

#[test]
fn connect_counts_what_both_ends_saw() {
    let sections = ["connect", "connect-latency"];
    let Some(report) = measured("connect", "direct,kernel,kernel-whole,haproxy", &sections) else { return };
    for c in report.sections.iter().flat_map(|s| &s.contenders).filter(|c| c.missing.is_none()) {
        assert!(c.more["p50 µs"][0] <= c.more["p99 µs"][0], "{}", c.name);
    }
}

#[test]
fn https_measures_what_it_compared() {
    let Some(report) = measured("https", "direct,kernel", &["https-1k", "https-100k"]) else { return };
    for s in &report.sections {
        assert!(s.contenders.iter().all(|c| c.missing.is_some() || c.more["CPU µs each"][0] >= 0.0));
    }
}

#[test]
fn bulk_has_a_section_for_each_number_of_connections() {
    let Some(report) = measured("bulk", "kernel,kernel-whole", &["bulk-1", "bulk-8", "bulk-64"]) else { return };
    for c in report.sections.iter().flat_map(|s| &s.contenders).filter(|c| c.missing.is_none()) {
        assert!(c.more["B a packet"][0] > 60.0 && c.more["least/most"][0] <= 1.0, "{}", c.name);
    }
}

#[test]
fn udp_has_every_step_and_curves() {
    let Some(report) = measured("udp", "direct,kernel", &["udp", "udp-lost", "udp-p99"]) else { return };
    assert!(report.sections[1].contenders.iter().all(|c| c.more.len() == 4));
    assert_eq!(report.sections.iter().map(|s| s.curves.len()).collect::<Vec<_>>(), [0, 2, 2]);
    assert!(report.sections[1].curves[0].lines.iter().all(|l| l.points.len() == 4));
}
