//! The first lines of a report: what offload gains here, and against whom.

use super::told::Told;
use crate::report::{Better, Ratio, Report, Section, figure};

/// One line of the answer.
pub struct Answer<'a> {
    pub says: String,
    pub ratio: &'a Ratio,
    /// Which way it is better.
    pub better: Better,
    pub told: Told,
}

impl Answer<'_> {
    /// Whether it is good, as far as that can be told.
    pub fn good(&self) -> Option<bool> {
        let median = self.ratio.summary.as_ref()?.median;
        match self.told {
            Told::Cannot(_) => None,
            _ => Some((median > 1.0) == (self.better == Better::Higher)),
        }
    }
}

/// Section, over, under, and what it is in words: the first question of somebody who thinks of offload, then the next.
const ASKED: [(&str, &str, &str, &str); 17] = [
    ("offload", "one", "worker", "packets/s of a flow in the driver's table, over a worker's (64 B)"),
    (
        "veth",
        "worker",
        "kernel-own-core",
        "packets/s of a worker, over the kernel's ip_forward on a core of its own (64 B)",
    ),
    ("veth", "worker", "kernel", "packets/s of a worker, over the kernel's ip_forward beside the sender (64 B)"),
    ("tunnels", "softdpu-wireguard", "wireguard-go", "TCP through softdpu's WireGuard, over wireguard-go's"),
    ("tunnels", "softdpu-esp-aes128", "strongswan-aes128", "TCP through softdpu's ESP, over strongSwan's libipsec"),
    (
        "functions",
        "all-text",
        "encrypt-text",
        "TCP of text: classified, compressed and encrypted, over encrypted alone",
    ),
    ("functions", "all-text-wire", "encrypt-text-wire", "the same on a wire of 500 Mbit/s"),
    (
        "functions",
        "all-noise",
        "encrypt-noise",
        "TCP of what cannot be compressed: all functions, over encrypted alone",
    ),
    ("bulk-8", "worker", "kernel", "bulk TCP, 8 connections: a worker, over the kernel"),
    ("https-1k", "worker", "kernel", "HTTPS requests/s for 1 KiB: through a worker, over the kernel"),
    ("connect", "worker", "kernel", "new connections/s: through a worker, over the kernel"),
    ("connect", "xdp", "kernel", "new connections/s: with flows in the driver's table, over the kernel"),
    ("latency", "worker", "kernel", "time of a request, p99, without load: through a worker, over the kernel"),
    ("latency", "xdp", "kernel", "time of a request, p99, without load: by the driver's table, over the kernel"),
    ("latency-10", "worker", "kernel", "time of a request, p99, at 10 % load: through a worker, over the kernel"),
    ("latency-10", "xdp", "kernel", "time of a request, p99, at 10 % load: by the driver's table, over the kernel"),
    ("classify", "softdpu", "ndpireader", "packets classified per second, over nDPI's reader"),
];

/// What this run has to say, in the order of the questions.
pub fn answers(report: &Report) -> Vec<Answer<'_>> {
    let asked = ASKED.iter().filter_map(|(section, over, under, says)| {
        let s = report.sections.iter().find(|s| s.name == *section)?;
        let ratio = s.ratios.iter().find(|r| r.over == *over && r.under == *under && r.summary.is_some())?;
        let told = Told::of(ratio, s.noise.as_ref());
        Some(Answer { says: (*says).to_owned(), ratio, better: s.better(), told })
    });
    asked.collect()
}

/// Frames of 64 bytes, with what Ethernet does not count (RFC 2544 counts frames), in 1 Gbit/s: millions.
const MILLION_FRAMES: f64 = 1000.0 / (64.0 * 8.0);

/// The answer in a few sentences.
pub fn sentences(report: &Report) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(l) = &report.ledger {
        out.push(l.sentence());
    }
    if let Some(s) = report.sections.iter().find(|s| s.name == "offload") {
        out.extend(cores(s));
    }
    if out.is_empty() {
        out.push(
            "This run measured no offload, so it does not say what offload gains: `softdpu-bench gain FILE.pcap` does for your \
             traffic, `softdpu-bench offload` for 64-byte packets."
                .to_owned(),
        );
    }
    out
}

/// Cores per Gbit/s of small packets with the worker and with the driver's table. The rates are those of one core each.
fn cores(s: &Section) -> Option<String> {
    let rounds = |name: &str| s.contenders.iter().find(|c| c.name == name).map(|c| &c.rounds);
    let (fast, slow) = (rounds("one")?, rounds("worker")?);
    let each = fast.iter().zip(slow).filter(|(f, w)| **f > 0.0 && **w > 0.0);
    let saved: Vec<f64> = each.map(|(f, w)| MILLION_FRAMES / w - MILLION_FRAMES / f).collect();
    let sum = crate::stats::summary(&saved)?;
    let of = |name: &str| s.median(name).map(|v| MILLION_FRAMES / v);
    Some(format!(
        "1 Gbit/s of 64-byte packets takes {} of a worker's core, or {} of a core where the driver's flow table forwards them, what sends \
         them included: offload saves {} cores per Gbit/s ({} to {} by round).",
        figure(of("worker")?),
        figure(of("one")?),
        figure(sum.median),
        figure(sum.min),
        figure(sum.max)
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn the_answer_is_in_cores_and_says_how_sure_it_is() {
        let mut s = Section::new("offload", "O", "Mpps");
        for (fast, slow) in [(10.0, 2.0), (9.5, 2.0)] {
            s.round("one", "One", fast);
            s.round("worker", "W", slow);
        }
        s.ratio("one", "worker");
        let mut late = Section::new("latency", "L", "µs");
        late.round("worker", "W", 30.0);
        late.round("kernel", "K", 10.0);
        late.ratio("worker", "kernel");
        let report = Report { sections: vec![s, late], ..Report::new(Machine::look()) };
        let all = answers(&report);
        assert_eq!(all.iter().map(Answer::good).collect::<Vec<_>>(), [Some(true), None]);
        // 1.953 million frames: 0.977 of a core at 2 Mpps.
        let said = sentences(&report);
        assert!(said[0].contains("takes 0.977 of a worker's core") && said[0].contains("saves 0.77"), "{said:?}");
        let none = sentences(&Report::new(Machine::look()));
        assert!(none[0].contains("no offload"));
    }
}
