//! What was measured, as a fragment of a policy whose comments give the figures behind each choice.

use std::fmt::Write;

use super::verdict::rests_better;
use super::{Candidate, Report, Setting, Verdict, judge};
use crate::rig::stats::summary;

/// What was chosen for one setting.
struct Choice {
    /// `None`: the policy's value stays.
    value: Option<toml::Value>,
    comments: Vec<String>,
}

/// The fragment: valid TOML, and with the ports' interfaces a valid policy.
pub fn fragment(report: &Report) -> String {
    let mut text = String::from(
        "# Written by `softdpu tune`: merge into the policy. Figures: median (least to most) of the rounds, and\n# ratios taken within each round. A line that is commented out was measured and is no better than what the policy has.\n",
    );
    // Writing to a String cannot fail, here and below.
    for line in &report.about {
        let _ = writeln!(text, "# {line}");
    }
    if report.interrupted {
        text.push_str("# Broken off: of the rounds only the whole ones count.\n");
    }
    let base = &report.candidates[0];
    let _ = writeln!(text, "# The policy as it is: {}", figures(base));
    for (setting, why) in &report.skipped {
        let _ = writeln!(text, "# {}: not measured, {why}", setting.key());
    }
    let choices: Vec<(Setting, Choice)> = Setting::ALL
        .into_iter()
        .filter(|s| report.candidates.iter().any(|c| c.setting == Some(*s)))
        .map(|s| (s, choose(report, s)))
        .collect();
    let write = |text: &mut String, of_workers: bool| {
        for (setting, choice) in choices.iter().filter(|(s, _)| s.of_workers() == of_workers) {
            for comment in &choice.comments {
                let _ = writeln!(text, "# {comment}");
            }
            let (mark, value) = match &choice.value {
                Some(value) => ("", value.clone()),
                None => ("# ", base.values.get(*setting)),
            };
            let _ = writeln!(text, "{mark}{} = {value}", setting.key());
        }
    };
    if choices.iter().any(|(s, _)| s.of_workers()) {
        text.push_str("\n[workers]\n");
        write(&mut text, true);
    }
    // Always, so that the fragment can be checked by itself.
    for (at, (name, interface)) in report.ports.iter().enumerate() {
        let (name, interface) = (toml::Value::from(name.as_str()), toml::Value::from(interface.as_str()));
        let _ = write!(text, "\n[[port]]\nname = {name}\ninterface = {interface}\n");
        if at == 0 {
            write(&mut text, false);
            continue;
        }
        for (setting, choice) in choices.iter().filter(|(s, _)| !s.of_workers()) {
            if let Some(value) = &choice.value {
                let _ = writeln!(text, "{} = {value}", setting.key());
            }
        }
    }
    text
}

fn choose(report: &Report, setting: Setting) -> Choice {
    let base = &report.candidates[0];
    let mut comments = Vec::new();
    let mut best: Option<(f64, &Candidate)> = None;
    let mut thrifty: Option<&Candidate> = None;
    let mut noisy = false;
    for candidate in report.candidates.iter().filter(|c| c.setting == Some(setting)) {
        let value = candidate.values.get(setting);
        if let Some(why) = &candidate.refused {
            comments.push(format!("{value}: could not be measured: {}", why.replace('\n', " ")));
            continue;
        }
        let (verdict, ratio) = judge(base, candidate);
        let ratio = ratio.map_or(String::new(), |r| format!("; ratio {:.3} ({:.3} to {:.3})", r.median, r.min, r.max));
        let said = match verdict {
            Verdict::Faster(gain) => {
                if best.is_none_or(|(g, _)| gain > g) {
                    best = Some((gain, candidate));
                }
                "faster"
            }
            Verdict::Slower(_) => "slower",
            Verdict::Alike => {
                if setting == Setting::Idle && rests_better(base, candidate) {
                    thrifty = Some(candidate);
                }
                "as fast"
            }
            Verdict::Noise => {
                noisy = true;
                "no conclusion: noise is larger than the difference"
            }
            Verdict::Unknown => "no conclusion: too few rounds, or nothing arrived",
        };
        comments.push(format!("{value}: {said}; {}{ratio}", figures(candidate)));
    }
    let now = base.values.get(setting);
    let value = match (best, thrifty) {
        (Some((gain, candidate)), _) => {
            comments.push(format!("instead of {now}: {:.1} % more", (gain - 1.0) * 100.0));
            Some(candidate.values.get(setting))
        }
        (None, Some(candidate)) => {
            comments.push(format!("instead of {now}: as fast, and less CPU without traffic"));
            Some(candidate.values.get(setting))
        }
        (None, None) => {
            let why = if noisy { "nothing was measured to be better" } else { "nothing is better" };
            comments.push(format!("stays {now}: {why}"));
            None
        }
    };
    Choice { value, comments }
}

fn figures(candidate: &Candidate) -> String {
    let of = |get: fn(&super::Turn) -> f64| summary(&candidate.turns.iter().map(get).collect::<Vec<_>>());
    let (Some(rate), Some(idle), Some(cpu)) = (of(|t| t.rate / 1e6), of(|t| t.idle_cpu), of(|t| t.cpu)) else {
        return "not measured".to_owned();
    };
    format!(
        "{:.3} Mpps ({:.3} to {:.3}), CPU {:.0} % of a core, {:.0} % without traffic",
        rate.median, rate.min, rate.max, cpu.median, idle.median
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;
    use crate::config::policy::{Idle, PortKind, ZeroCopy};
    use crate::tune::{Turn, Values};

    fn candidate(setting: Option<Setting>, values: Values, rate: f64) -> Candidate {
        let turns = (0..5).map(|n| Turn { rate: rate * (1.0 + f64::from(n) / 10.0), ..Turn::default() }).collect();
        Candidate { setting, values, turns, refused: None }
    }

    #[test]
    fn the_fragment_is_a_policy_with_the_choices_that_were_made() {
        let base = Values { ring: 2048, batch: 64, idle: Idle::Adaptive, zero_copy: ZeroCopy::Auto, busy_poll: false };
        let mut refused = candidate(Some(Setting::BusyPoll), Values { busy_poll: true, ..base }, 1e6);
        refused.refused = Some("no\nroom".into());
        let report = Report {
            candidates: vec![
                candidate(None, base, 1e6),
                candidate(Some(Setting::Ring), Values { ring: 512, ..base }, 1.3e6),
                candidate(Some(Setting::Ring), Values { ring: 1024, ..base }, 1.1e6),
                candidate(Some(Setting::Batch), Values { batch: 32, ..base }, 0.8e6),
                refused,
            ],
            ports: vec![("a".into(), "eth0".into()), ("b".into(), "eth1".into())],
            about: vec!["a machine".into()],
            skipped: vec![(Setting::Copy, "a veth only copies".into())],
            interrupted: false,
        };
        let text = fragment(&report);
        let policy = config::parse(&text, "x").unwrap();
        for port in &policy.ports {
            let PortKind::Xdp(xdp) = &port.kind else { panic!("{text}") };
            assert_eq!((xdp.ring, xdp.busy_poll), (512, false), "{text}");
        }
        assert_eq!(policy.workers.batch, 64);
        for part in [
            "# 1024: faster; ",
            "30.0 % more",
            "# batch = 64",
            "stays 64",
            "could not be measured: no room",
            "zero_copy: not measured",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
