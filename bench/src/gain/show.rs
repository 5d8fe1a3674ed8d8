//! The ledger for a terminal.

use std::fmt::Write as _;

use comfy_table::Table;

use super::function::Function;
use super::ledger::{Ledger, Tier, cores};
use crate::report::{figure, right, style};

impl Ledger {
    /// Classes in the order of the ledger, the sum first.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for e in &self.entries {
            if !names.contains(&e.class.as_str()) {
                names.push(&e.class);
            }
        }
        names
    }

    /// The answer in a sentence or two.
    pub fn sentence(&self) -> String {
        let (mut flows, mut paying, mut cost, mut saved) = (0, 0, 0.0, 0.0);
        // Least and most by the rounds, as if all classes had their best and their worst round together.
        let (mut few, mut many, mut low, mut high) = (0, 0, 0.0, 0.0);
        let mut known = false;
        for c in &self.classes {
            flows += c.flows;
            paying += c.paying_flows;
            let none = |e: &&super::ledger::Entry| {
                e.class == c.class && e.function == Function::None && e.tier == Tier::Worker
            };
            let Some(ns) = self.entries.iter().find(none).and_then(|e| e.ns) else { continue };
            let part = c.saved.unwrap_or(0.0);
            let (counts, parts) = c.by_rounds.unwrap_or(((c.paying_flows, c.paying_flows), (part, part)));
            let time = ns * c.packets as f64;
            cost += time;
            saved += part * time;
            (few, many) = (few + counts.0, many + counts.1);
            (low, high) = (low + parts.0 * time, high + parts.1 * time);
            known |= c.saved.is_some();
        }
        let of = |tier| {
            let all =
                |e: &&super::ledger::Entry| e.class == super::ALL && e.function == Function::None && e.tier == tier;
            self.entries.iter().find(all).and_then(|e| e.cores_per_gbit)
        };
        let Some(worker) = of(Tier::Worker) else { return String::new() };
        let mut out = format!("Forwarding this traffic takes a worker {} cores per Gbit/s", cores(worker));
        if let (Some(xdp), true) = (of(Tier::Xdp), known && cost > 0.0) {
            let [part, low, high] = [saved, low, high].map(|v| v / cost);
            out += &format!(", the driver's flow table {}. ", cores(xdp));
            if high <= 0.0 {
                out += &format!("None of {flows} flows pays for being offloaded: offload saves nothing here");
            } else if low <= 0.0 {
                out += &format!(
                    "Whether offload saves anything here cannot be told: by round it is {:.0} to {:.0} % of the worker's time, with {few} \
                     to {many} of {flows} flows",
                    100.0 * low,
                    100.0 * high
                );
            } else {
                // Old records do not know it by round.
                let range = |text: String| if high > low { format!(" ({text})") } else { String::new() };
                out += &format!(
                    "{paying} of {flows} flows pay for being offloaded{}; with them in the driver, {:.0} % of the worker's time for \
                     forwarding is saved{}: at 10 Gbit/s, {} of {} cores",
                    range(format!("{few} to {many} by round")),
                    100.0 * part,
                    range(format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high)),
                    cores(10.0 * worker * part),
                    cores(10.0 * worker)
                );
            }
        } else {
            out += ". What offload gains is not known: the driver's tier was not measured (why is said below)";
        }
        out + "."
    }

    /// Tables for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        for s in &self.sources {
            let _ = writeln!(
                out,
                "{}: {} packets, {} bytes, {} flows, {:.1} s; {} payloads made anew",
                s.file, s.packets, s.bytes, s.flows, s.seconds, s.regenerated
            );
            for (why, n) in &s.left_out {
                let _ = writeln!(out, "  left out: {n} packets: {why}");
            }
            if let Some(why) = &s.damaged {
                let _ = writeln!(out, "  not read to its end: {why}");
            }
        }
        let _ = writeln!(out, "\n{}", self.sentence());
        let _ = writeln!(out, "\nmeasured: cores per Gbit/s (ns per packet)\n{}", self.costs());
        let _ = writeln!(out, "\nmeasured: flows and whether offloading them pays\n{}", self.flows());
        for c in &self.classes {
            for says in &c.says {
                let _ = writeln!(out, "  {}: {says}", c.class);
            }
        }
        for (class, why) in &self.left_out {
            let _ = writeln!(out, "  left out: {class}: {why}");
        }
        if !self.scaling.is_empty() {
            let _ = writeln!(out, "\nmeasured: more cores (64-byte packets in memory)");
        }
        for note in self.scaling.iter().chain(&self.notes) {
            let _ = writeln!(out, "  {note}");
        }
        out
    }

    fn costs(&self) -> Table {
        let mut table = Table::new();
        let mut header = vec!["class".to_owned(), "tier".into(), "bytes".into()];
        header.extend(Function::ALL.iter().map(|f| f.name().to_owned()));
        header.push("saved".into());
        style(&mut table).set_header(header);
        for class in self.names() {
            for tier in [Tier::Worker, Tier::Xdp] {
                let of = |f| self.entries.iter().find(|e| e.class == class && e.function == f && e.tier == tier);
                let Some(first) = of(Function::None) else { continue };
                // Where no packet of a known flow was measured, there is no mean of them.
                let bytes = if first.bytes > 0.0 { format!("{:.0}", first.bytes) } else { "–".into() };
                let mut row = vec![class.to_owned(), tier.name().to_owned(), bytes];
                row.extend(Function::ALL.iter().map(|f| match of(*f) {
                    Some(e) => match (e.cores_per_gbit, e.ns) {
                        (Some(c), Some(ns)) => format!("{} ({})", cores(c), figure(ns)),
                        _ => "–".into(),
                    },
                    None => String::new(),
                }));
                row.push(first.saved_per_gbit.map_or_else(String::new, cores));
                table.add_row(row);
            }
        }
        right(&mut table, 2..9);
        table
    }

    fn flows(&self) -> Table {
        let mut table = Table::new();
        style(&mut table).set_header([
            "class",
            "flows",
            "packets",
            "% of bytes",
            "packets per flow: median, 9 in 10, most",
            "compressed to",
            "break-even, packets",
            "break-even packet size",
            "flows that pay",
            "saved",
        ]);
        for c in &self.classes {
            let percent = |x: f64| format!("{:.1} %", 100.0 * x);
            table.add_row([
                c.class.clone(),
                c.flows.to_string(),
                c.packets.to_string(),
                percent(c.share),
                format!("{}, {}, {}", c.length.0, c.length.1, c.length.2),
                c.compression.map_or_else(|| "–".into(), percent),
                c.break_even.map_or_else(|| "–".into(), |(m, l, h)| format!("{m:.0} ({l:.0} – {h:.0})")),
                c.break_even_size().map_or_else(|| "–".into(), |b| format!("{b:.0}")),
                c.paying_flows.to_string(),
                c.saved.map_or_else(|| "–".into(), percent),
            ]);
        }
        right(&mut table, 1..10);
        table
    }
}
