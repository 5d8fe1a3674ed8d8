//! UDP at a fixed rate: what is lost and how long requests take, while the offered load grows from a tenth of what each contender can
//! to a little more than that.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::latency::{self, Options, Turn};
use crate::net::topology::Napi;
use crate::path::contenders::{self as path, Contender, Kind};
use crate::path::turns::select;
use crate::path::{Hosts, cpu};
use crate::report::{Curve, Line, Section, Target};
use crate::stats::summary;
use crate::{progress, stop};

/// In the order of their turns.
pub const CONTENDERS: [Contender; 7] =
    [path::DIRECT_VETH, path::KERNEL, path::KERNEL_OWN_CORE, path::NAT, path::WORKER, path::CLASSIFY, path::XDP];

/// What may be lost where a contender is said to carry a load: on a machine with others' work, none at all is luck.
const BEARABLE: f64 = 0.01;

/// One step of a contender's, all rounds.
#[derive(Default)]
struct Step {
    /// Packets per second.
    offered: Vec<f64>,
    /// %.
    lost: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Steps by contender and level.
type Steps = BTreeMap<(&'static str, u32), Step>;

/// Runs all; the levels of `options` are the steps, in rising order.
///
/// # Errors
/// Without root, where the links cannot be made, or for an unknown name in `only`. A contender that fails is named as missing.
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let wanted = select(&CONTENDERS, &options.only)?;
    let last = options.levels.last().copied().unwrap_or(0);
    let mut sections = [
        Section::new("udp", "UDP of 64 B: the most that arrived with at most 1 % lost", "kpps"),
        Section::new("udp-lost", &format!("UDP of 64 B: lost at {last} % of each contender's most"), "%"),
        Section::new("udp-p99", &format!("request and answer, p99 at {last} % of each contender's most"), "µs"),
    ];
    for section in &mut sections {
        wanted.iter().for_each(|c| section.declare(c.name, c.title));
    }
    let inline = Hosts::new('v', Napi::Inline)?;
    let threads = Hosts::new('w', Napi::Thread(options.dut_core))?;
    let (mut steps, mut most) = (Steps::new(), BTreeMap::new());
    let bar = progress::bar((options.rounds * wanted.len()) as u64);
    for round in 0..options.rounds {
        for c in &wanted {
            if stop::asked() {
                break;
            }
            bar.set_message(format!("round {}: {}", round + 1, c.title));
            let hosts = if c.kind == Kind::KernelOwnCore { &threads } else { &inline };
            let turns = latency::turns(hosts, c, options, round as u64, &mut most);
            bar.inc(1);
            // A turn that was cut short says nothing.
            if stop::asked() {
                break;
            }
            match turns {
                Ok(turns) => put(&mut sections, &mut steps, c, &turns, options),
                Err(e) => sections.iter_mut().for_each(|s| s.missing(c.name, c.title, format!("{e:#}"))),
            }
        }
    }
    bar.finish_and_clear();
    finish(&mut sections, &steps, &wanted, options);
    Ok((sections.into(), Vec::new()))
}

fn put(sections: &mut [Section; 3], steps: &mut Steps, c: &Contender, turns: &[Turn], options: &Options) {
    let [carried, lost, p99] = sections;
    for (level, turn) in options.levels.iter().zip(turns) {
        let step = steps.entry((c.name, *level)).or_default();
        step.offered.push(turn.offered);
        step.lost.push(100.0 * turn.lost);
        step.p99_us.push(turn.seen.latencies.percentile(99.0) as f64 / 1000.0);
    }
    let Some(end) = turns.last() else { return };
    let line = carried.round(c.name, c.title, bearable(turns) / 1e3);
    for (name, value) in
        [("most kpps", end.most), ("offered at last kpps", end.offered), ("arrived at last kpps", end.arrived)]
    {
        line.more.entry(name.into()).or_default().push(value / 1e3);
    }
    cpu::Split::beside(&end.cpu, line, options.dut_core, options.client_core, "s");
    let at = |turn: &Turn| (100.0 * turn.lost, turn.seen.latencies.percentile(99.0) as f64 / 1000.0);
    let (lost_line, p99_line) = (lost.round(c.name, c.title, at(end).0), p99.round(c.name, c.title, at(end).1));
    for (level, turn) in options.levels.iter().zip(turns) {
        // Names in the order of the steps.
        let name = format!("at {level:>3} %");
        lost_line.more.entry(name.clone()).or_default().push(at(turn).0);
        p99_line.more.entry(name).or_default().push(at(turn).1);
    }
}

/// Packets per second that arrived at the highest step that lost little, as all below it did.
fn bearable(turns: &[Turn]) -> f64 {
    turns.iter().take_while(|t| t.lost <= BEARABLE).map(|t| t.arrived).fold(0.0, f64::max)
}

fn finish(sections: &mut [Section; 3], steps: &Steps, wanted: &[Contender], options: &Options) {
    for s in sections.iter_mut() {
        for (over, under) in
            [("worker", "kernel"), ("worker", "kernel-own-core"), ("xdp", "kernel"), ("classify", "worker")]
        {
            // Nothing is lost by many: ratios would be of noise.
            if s.name != "udp-lost" {
                s.ratio(over, under);
            }
        }
        s.notes = notes(options);
    }
    let percent = |level: u32, _: &Step| f64::from(level);
    let kpps = |_: u32, step: &Step| median(&step.offered) / 1e3;
    let curve = |title: &str, x: &str, y: &str, log, of_x: &dyn Fn(u32, &Step) -> f64, of_y: &dyn Fn(&Step) -> f64| {
        let lines = wanted.iter().filter_map(|c| {
            let mine = steps.iter().filter(|((name, _), _)| *name == c.name);
            let points: Vec<(f64, f64)> = mine.map(|((_, level), s)| (of_x(*level, s), of_y(s))).collect();
            (!points.is_empty()).then(|| Line { title: c.title.into(), points })
        });
        Curve { title: title.into(), x: x.into(), y: y.into(), log, lines: lines.collect(), mark: None }
    };
    let (of_most, offered) = ("load, % of each contender's most", "offered load, thousand packets per second");
    let (lost, p99) = (|s: &Step| median(&s.lost), |s: &Step| median(&s.p99_us));
    let [_, in_lost, in_p99] = sections;
    in_lost.curves = vec![
        curve("Lost, over offered load", offered, "%", (true, false), &kpps, &lost),
        curve("Lost, over load", of_most, "%", (false, false), &percent, &lost),
    ];
    in_p99.curves = vec![
        curve("Latency over offered load, p99", offered, "µs", (true, true), &kpps, &p99),
        curve("Latency over load, p99", of_most, "µs", (false, true), &percent, &p99),
    ];
}

fn median(values: &[f64]) -> f64 {
    summary(values).map_or(0.0, |s| s.median)
}

fn notes(options: &Options) -> Vec<String> {
    let levels: Vec<String> = options.levels.iter().map(u32::to_string).collect();
    vec![
        format!(
            "Steps of {} % of the most that one sender got through, {} ms each, in bursts every 200 µs; requests beside it as in `latency`. \
             Sender, requests and server share core {}, the thing under test has core {}.",
            levels.join(", "),
            options.turn.as_millis(),
            options.client_core,
            options.dut_core
        ),
        "Lost: what was offered in a step and had not come over the server's interface when nothing more came. What the sender's kernel did \
         not take counts as offered."
            .into(),
        "The row `direct` is the sender's own limit. Where a contender works on the sender's core (kernel, nftables, XDP), the sender slows \
         down before anything is lost, and cannot offer more than the contender's most."
            .into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::probe::Seen;

    fn step(arrived: f64, lost: f64) -> Turn {
        Turn { seen: Seen::default(), cpu: cpu::Split::default(), most: 1e6, offered: arrived, arrived, lost }
    }

    #[test]
    fn a_load_is_borne_up_to_the_first_step_that_loses_much() {
        assert_eq!(bearable(&[step(10.0, 0.0), step(50.0, 0.01), step(80.0, 0.02), step(90.0, 0.0)]), 50.0);
        assert_eq!(bearable(&[step(10.0, 0.5)]), 0.0);
        assert_eq!(bearable(&[]), 0.0);
    }

    #[test]
    fn every_step_is_in_the_tables_and_on_the_curves() {
        let options = Options { levels: vec![10, 110], ..Options::for_tests() };
        let mut sections = ["udp", "udp-lost", "udp-p99"].map(|n| Section::new(n, n, "kpps"));
        let mut steps = Steps::new();
        put(&mut sections, &mut steps, &path::KERNEL, &[step(1e5, 0.0), step(9e5, 0.25)], &options);
        finish(&mut sections, &steps, &[path::KERNEL], &options);
        assert_eq!(sections[0].contenders[0].rounds, [100.0]);
        assert_eq!(sections[1].contenders[0].rounds, [25.0]);
        let names: Vec<&String> = sections[1].contenders[0].more.keys().collect();
        assert_eq!(names, ["at  10 %", "at 110 %"]);
        assert_eq!(sections[1].curves[0].lines[0].points, [(100.0, 0.0), (900.0, 25.0)]);
        assert_eq!(sections[2].curves[1].lines[0].points.len(), 2);
    }
}
