//! The operator's applications: how long patterns take to compile and a name takes to be found, with few and with 100,000 of them;
//! and packets of established flows, which must not notice.

use std::time::Instant;

use anyhow::{Context, Result};

use softdpu::config::{self, Application, HostGlob, Policy};
use softdpu::l7::{Alpn, Class};
use softdpu::plan::applications::{Applications, Facts};

use crate::graph::{POLICY, graph};
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};

const FEW: u32 = 10;
const MANY: u32 = 100_000;
/// Names that are looked up in turn, so that caches and branch predictors have no easy life.
const NAMES: u32 = 4096;

/// A third of the patterns are for all below a domain.
fn pattern(n: u32) -> String {
    let star = if n.is_multiple_of(3) { "*." } else { "" };
    format!("{star}shop{n}.brand{}.example", n % 977)
}

/// `count` patterns in applications of up to 1,000.
fn applications(count: u32) -> Result<Vec<Application>> {
    let hosts = (0..count).map(|n| pattern(n).parse::<HostGlob>()).collect::<Result<Vec<_>, _>>();
    let hosts = hosts.map_err(|e| anyhow::anyhow!("{e}"))?;
    let app = |(n, part): (usize, &[HostGlob])| Application {
        name: format!("app{n}"),
        hosts: part.into(),
        ..Application::default()
    };
    Ok(hosts.chunks(1000).enumerate().map(app).collect())
}

fn policy(count: u32) -> Result<Policy> {
    let policy = config::parse(POLICY, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")?;
    Ok(Policy { applications: applications(count)?, ..policy })
}

fn find_case<'a>(name: &str, title: &str, count: u32, hit: bool) -> Result<Case<'a>> {
    let all = Applications::compile(&applications(count)?)?;
    let names: Vec<String> = (0..NAMES)
        // An odd multiplier goes over all patterns in no order that a prefetcher knows.
        .map(|i| (u64::from(i) * 7919 % u64::from(count)) as u32)
        .map(|n| match (hit, n.is_multiple_of(3)) {
            (true, true) => format!("eu.shop{n}.brand{}.example", n % 977),
            (true, false) => pattern(n),
            (false, _) => format!("www.shop{n}.brand{}.test", n % 977),
        })
        .collect();
    let mut at = 0;
    Ok(Case::new(name, title, move |n| {
        for _ in 0..n {
            let facts = Facts {
                ends: [([192, 0, 2, 1].into(), 443), ([10, 0, 0, 1].into(), 50_000)],
                protocol: 6,
                class: Class::Tls.number(),
                alpn: Alpn::H2,
                host: Some(&names[at]),
                ja4: None,
            };
            assert!(std::hint::black_box(all.find(std::hint::black_box(&facts))).is_some() == hit);
            at = (at + 1) % names.len();
        }
    }))
}

/// # Errors
/// Where a policy or memory fails.
pub fn run(effort: Effort) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut compile = Section::new("applications-compile", "compiling 100,000 host patterns, and their text", "ms");
    for _ in 0..effort.rounds {
        let texts: Vec<String> = (0..MANY).map(pattern).collect();
        let start = Instant::now();
        let parsed = texts.iter().filter(|text| text.parse::<HostGlob>().is_ok()).count();
        anyhow::ensure!(parsed == texts.len(), "{parsed} patterns of {}", texts.len());
        compile.round("parse-100k", "reading them", start.elapsed().as_secs_f64() * 1e3);
        let list = applications(MANY)?;
        let start = Instant::now();
        let all = Applications::compile(&list)?;
        compile.round("compile-100k", "compiling them", start.elapsed().as_secs_f64() * 1e3);
        compile.notes = vec![format!("They take {:.1} MB compiled.", all.memory() as f64 / 1e6)];
    }
    let mut find =
        Section::new("applications-find", "finding a flow's application by its host, per flow, one core", "ns");
    let mut cases = vec![
        find_case("hit-10", "found among 10 patterns", FEW, true)?,
        find_case("hit-100k", "found among 100,000", MANY, true)?,
        find_case("miss-10", "not among 10", FEW, false)?,
        find_case("miss-100k", "not among 100,000", MANY, false)?,
    ];
    alternate(&mut find, &mut cases, effort);
    drop(cases);
    find.notes.push(format!("{NAMES} names in turn, of four or five labels."));
    let mut packets = Section::new(
        "applications-packets",
        "packets of 1,000 established flows through graph and ports, per packet",
        "ns",
    );
    let mut cases = vec![
        graph("none", "no applications", 1000, policy(0)?)?,
        graph("10", "10 patterns", 1000, policy(FEW)?)?,
        graph("100k", "100,000 patterns", 1000, policy(MANY)?)?,
    ];
    alternate(&mut packets, &mut cases, effort);
    drop(cases);
    packets.notes.push("Sections of `graph` say what of it are the in-memory ports.".into());
    let more = packets.ratio("100k", "10");
    let targets = vec![
        Target::new("compiling 100,000 patterns, ms", Bound::AtMost, 200.0, compile.median("compile-100k")),
        Target::new("finding a name among 100,000, ns", Bound::AtMost, 1000.0, find.median("hit-100k")),
        Target::new("packets of established flows, time with 100,000 patterns over 10", Bound::AtMost, 1.03, more),
    ];
    Ok((vec![compile, find, packets], targets))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_found_or_not_as_the_case_says() {
        for hit in [true, false] {
            let mut section = Section::new("t", "T", "ns");
            let mut cases = [find_case("a", "a", 1000, hit).unwrap()];
            alternate(&mut section, &mut cases, Effort::new(1, 1000));
            assert!(section.median("a").unwrap() > 0.0);
        }
    }
}
