//! The ledger: what each class of flows costs by function and tier, what offload saves, and from what length on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::function::Function;
use super::traffic::{FlowClass, OneFlow, Source};
use crate::stats::break_even::Costs;
use crate::stats::{Summary, median_of};

/// What offload gains for some traffic. All figures are measured here, or computed from such.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    pub sources: Vec<Source>,
    pub entries: Vec<Entry>,
    pub classes: Vec<ClassRow>,
    /// Classes that were left out, with their share of the bytes: too many, or nothing to send.
    #[serde(default)]
    pub left_out: BTreeMap<String, String>,
    pub notes: Vec<String>,
    /// What more cores bring, in words.
    #[serde(default)]
    pub scaling: Vec<String>,
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    Worker,
    Xdp,
    Nic,
}

impl Tier {
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Xdp => "xdp",
            Self::Nic => "nic",
        }
    }
}

/// One function on one tier for one class of flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// `all traffic` for the sum.
    pub class: String,
    pub function: Function,
    pub tier: Tier,
    /// Per packet.
    pub ns: Option<f64>,
    /// Of the rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Summary>,
    /// Mean length of the IP packets that were measured.
    pub bytes: f64,
    /// Cores that are busy with 1 Gbit/s of such IP packets.
    pub cores_per_gbit: Option<f64>,
    /// Cores per Gbit/s less than the worker takes.
    pub saved_per_gbit: Option<f64>,
    /// Why there is no figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

impl Entry {
    pub fn new(class: &str, function: Function, tier: Tier, bytes: f64) -> Self {
        Self {
            class: class.to_owned(),
            function,
            tier,
            ns: None,
            spread: None,
            bytes,
            cores_per_gbit: None,
            saved_per_gbit: None,
            why_not: None,
        }
    }

    /// With what a packet costs. `worker`: the same by a worker.
    #[must_use]
    pub fn costing(mut self, ns: f64, worker: Option<f64>) -> Self {
        // 1 Gbit/s is a bit per nanosecond: nanoseconds per bit are cores.
        let cores = |ns: f64| ns / (8.0 * self.bytes);
        self.ns = Some(ns);
        self.cores_per_gbit = Some(cores(ns));
        self.saved_per_gbit = worker.map(|w| cores(w) - cores(ns));
        self
    }

    #[must_use]
    pub fn refused(mut self, why: impl Into<String>) -> Self {
        self.why_not = Some(why.into());
        self
    }
}

/// A class's flows, and whether they pay.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClassRow {
    pub class: String,
    pub flows: u64,
    pub packets: u64,
    pub bytes: u64,
    /// Of the bytes of all classes, 0–1.
    pub share: f64,
    /// Packets per flow: median, nine in ten, most.
    pub length: (u64, u64, u64),
    /// Bytes of IP packets after and before compression, requests only; 1 where nothing shrinks.
    pub compression: Option<f64>,
    /// Packets after which an offload has paid for itself: median, lowest and highest of the rounds.
    pub break_even: Option<(f64, f64, f64)>,
    /// Flows that pay, and the packets that the driver would have had of them.
    pub paying_flows: u64,
    pub moved_packets: u64,
    /// Of the worker's time for known flows, 0–1, less the cost of the entries. Negative: offloading all that can be would cost.
    pub saved: Option<f64>,
    /// Least and most of both by the rounds' own costs: flows that pay, and the part of the worker's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_rounds: Option<((u64, u64), (f64, f64))>,
    /// Flows that do not pay, by the code of why; codes of docs/offload-reasons.md, and `too_short`, `pauses`, `no_gain`.
    pub reasons: BTreeMap<String, u64>,
    /// The same in words, for people.
    pub says: Vec<String>,
}

impl ClassRow {
    /// Bytes of the largest packets with which a flow of as many bytes as this class's mean flow pays: with larger ones it has fewer
    /// packets than break-even wants.
    pub fn break_even_size(&self) -> Option<f64> {
        let (packets, ..) = self.break_even?;
        (self.flows > 0 && packets > 0.0).then(|| self.bytes as f64 / self.flows as f64 / packets)
    }
}

/// Cores per Gbit/s: three digits, small as they are.
pub fn cores(v: f64) -> String {
    match v.abs() {
        a if a >= 0.1 => format!("{v:.3}"),
        a if a >= 0.01 => format!("{v:.4}"),
        _ => format!("{v:.5}"),
    }
}

/// Reasons of the ledger's own.
const OWN: [(&str, &str); 4] = [
    ("too_short", "The flow ends before its entries have paid for themselves."),
    ("pauses", "It falls silent for more than 5 s so often that putting it in again costs more than it gains."),
    ("no_gain", "The driver's program is not faster than the worker for such packets."),
    ("not_measured", "The driver's tier was not measured."),
];

/// The row of a class. `rounds`: per round, what offload costs there; `None` where the driver was not measured.
pub fn class_row(class: &FlowClass, total_bytes: u64, rounds: &[Costs]) -> ClassRow {
    let mut lengths: Vec<u64> = class.flows.iter().map(|f| f.seen).collect();
    lengths.sort_unstable();
    let at = |part: f64| lengths[((lengths.len() - 1) as f64 * part).round() as usize];
    let mut row = ClassRow {
        class: class.name.clone(),
        flows: class.flows.len() as u64,
        packets: class.packets(),
        bytes: class.bytes(),
        share: class.bytes() as f64 / total_bytes.max(1) as f64,
        length: (at(0.5), at(0.9), at(1.0)),
        ..ClassRow::default()
    };
    let middle = middle(rounds);
    row.break_even = middle.and_then(|_| {
        let mut each: Vec<f64> = rounds.iter().map(|c| c.break_even().unwrap_or(f64::INFINITY)).collect();
        let median = median_of(&mut each);
        // No number says "never" in JSON.
        (median.is_finite() && each[each.len() - 1].is_finite()).then(|| (median, each[0], each[each.len() - 1]))
    });
    let (mut saved, mut all) = (0.0, 0.0);
    for flow in &class.flows {
        let verdict = pays(flow, middle.as_ref());
        if let Some(costs) = &middle {
            all += flow.seen as f64 * costs.slow;
        }
        match verdict {
            Ok(gain) => {
                row.paying_flows += 1;
                row.moved_packets += flow.seen - flow.before.unwrap_or(flow.seen);
                saved += gain;
            }
            Err(code) => *row.reasons.entry(code.to_owned()).or_default() += 1,
        }
    }
    row.saved = middle.map(|_| saved / f64::max(all, f64::MIN_POSITIVE));
    let each: Vec<(u64, f64)> = rounds.iter().map(|costs| gained(class, costs)).collect();
    row.by_rounds = (!each.is_empty()).then(|| {
        let flows = each.iter().fold((u64::MAX, 0), |(low, high), (n, _)| (low.min(*n), high.max(*n)));
        let parts =
            each.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), (_, part)| (l.min(*part), h.max(*part)));
        (flows, parts)
    });
    row.says = row.reasons.iter().map(|(code, flows)| format!("{flows} × {code}: {}", words(code))).collect();
    row
}

/// Flows that pay at these costs, and the part of the worker's time that they save.
fn gained(class: &FlowClass, costs: &Costs) -> (u64, f64) {
    let gains: Vec<f64> = class.flows.iter().filter_map(|f| pays(f, Some(costs)).ok()).collect();
    let all = class.flows.iter().map(|f| f.seen as f64).sum::<f64>() * costs.slow;
    // What a worker does not need at all cannot be saved.
    (gains.len() as u64, gains.iter().sum::<f64>() / if all > 0.0 { all } else { f64::INFINITY })
}

/// The rounds' median, part by part.
pub fn middle(rounds: &[Costs]) -> Option<Costs> {
    let of = |part: fn(&Costs) -> f64| median_of(&mut rounds.iter().map(part).collect::<Vec<_>>());
    (!rounds.is_empty()).then(|| Costs {
        before: of(|c| c.before),
        once: of(|c| c.once),
        slow: of(|c| c.slow),
        fast: of(|c| c.fast),
    })
}

/// ns that offloading this flow saves, or the code of why it does not pay.
fn pays(flow: &OneFlow, costs: Option<&Costs>) -> Result<f64, &'static str> {
    let before = flow.before.map_err(|reason| reason.code())?;
    let costs = costs.ok_or("not_measured")?;
    let gain = costs.slow - costs.fast;
    if gain <= 0.0 {
        return Err("no_gain");
    }
    let gained = (flow.seen - before) as f64 * gain;
    let net = gained - costs.once * (1 + flow.pauses) as f64;
    match net {
        net if net > 0.0 => Ok(net),
        _ if gained > costs.once => Err("pauses"),
        _ => Err("too_short"),
    }
}

/// What a code means.
pub fn words(code: &str) -> &'static str {
    let own = OWN.iter().find(|(c, _)| *c == code).map(|(_, words)| *words);
    own.or_else(|| softdpu::offload::Reason::from_code(code).map(softdpu::offload::Reason::help)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use softdpu::offload::Reason;

    fn flow(seen: u64, before: Result<u64, Reason>, pauses: u64) -> OneFlow {
        let mut flow = OneFlow::for_tests("tls", seen, seen * 1000);
        (flow.before, flow.pauses) = (before, pauses);
        flow
    }

    #[test]
    fn cores_per_gbit_are_nanoseconds_per_bit() {
        // 1,250 bytes in 1 µs are 10 Gbit/s of one core.
        let e = Entry::new("x", Function::None, Tier::Worker, 1250.0).costing(1000.0, None);
        assert!((e.cores_per_gbit.unwrap() - 0.1).abs() < 1e-12);
        let x = Entry::new("x", Function::None, Tier::Xdp, 1250.0).costing(250.0, Some(1000.0));
        assert!((x.saved_per_gbit.unwrap() - 0.075).abs() < 1e-12);
        assert_eq!([0.4567, 0.0456, 0.00345].map(cores), ["0.457", "0.0456", "0.00345"]);
    }

    #[test]
    fn flows_that_do_not_pay_say_why() {
        let class = FlowClass {
            name: "tls/tcp".into(),
            flows: vec![
                flow(1000, Ok(4), 0),
                flow(10, Ok(4), 0),
                flow(1000, Ok(4), 200),
                flow(3, Err(Reason::FewPackets), 0),
                flow(50, Err(Reason::Carrier), 0),
            ],
        };
        let costs = Costs { before: 4.0, once: 1000.0, slow: 100.0, fast: 50.0 };
        let row =
            class_row(&class, 4_126_000, &[costs, Costs { once: 1200.0, ..costs }, Costs { once: 900.0, ..costs }]);
        assert_eq!((row.flows, row.paying_flows, row.moved_packets), (5, 1, 996));
        let reasons: Vec<(&str, u64)> = row.reasons.iter().map(|(c, n)| (c.as_str(), *n)).collect();
        assert_eq!(reasons, [("carrier", 1), ("few_packets", 1), ("pauses", 1), ("too_short", 1)]);
        assert_eq!(row.break_even, Some((24.0, 22.0, 28.0)));
        let ((least, most), (low, high)) = row.by_rounds.unwrap();
        assert_eq!((least, most), (1, 1));
        let part = |once: f64| (996.0 * 50.0 - once) / (2063.0 * 100.0);
        assert!((low - part(1200.0)).abs() < 1e-9 && (high - part(900.0)).abs() < 1e-9);
        assert!((row.break_even_size().unwrap() - row.bytes as f64 / 5.0 / 24.0).abs() < 1e-9);
        assert_eq!(row.length, (50, 1000, 1000));
        let saved = (996.0 * 50.0 - 1000.0) / (2063.0 * 100.0);
        assert!((row.saved.unwrap() - saved).abs() < 1e-9);
        assert!(row.says.iter().all(|s| s.len() > 30), "{:?}", row.says);
    }

    #[test]
    fn without_the_driver_nothing_is_said_of_it() {
        let class = FlowClass { name: "x/udp".into(), flows: vec![flow(100, Ok(4), 0)] };
        let row = class_row(&class, 100_000, &[]);
        assert_eq!((row.break_even, row.saved, row.paying_flows), (None, None, 0));
        assert_eq!(row.reasons["not_measured"], 1);
        let slower = Costs { before: 4.0, once: 1.0, slow: 50.0, fast: 60.0 };
        let row = class_row(&class, 100_000, &[slower]);
        assert_eq!((row.break_even, row.reasons["no_gain"]), (None, 1));
    }
}
