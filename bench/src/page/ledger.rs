//! The ledger on the page; what is modelled stands in a part of its own.

use super::{escaped, plots, table};
use crate::gain::ALL;
use crate::gain::function::Function;
use crate::gain::ledger::{Ledger, Tier};
use crate::modelled::{Modelled, not_modelled};
use crate::report::{Section, figure};

pub fn measured(l: &Ledger) -> String {
    let mut out = "<section id=\"ledger\"><h2>The ledger: what offload gains for this traffic</h2>".to_owned();
    out += &plots::bars(&overview(l));
    let rows: Vec<Vec<String>> = l
        .sources
        .iter()
        .map(|s| {
            let left: u64 = s.left_out.values().sum();
            vec![
                s.file.clone(),
                s.packets.to_string(),
                s.bytes.to_string(),
                s.flows.to_string(),
                stretch(s.seconds),
                left.to_string(),
                s.regenerated.to_string(),
                s.damaged.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let header = [
        "file",
        "packets",
        "bytes of IP",
        "flows",
        "from first to last packet",
        "left out",
        "payloads made anew",
        "damage",
    ];
    out += &table("Captures", &header, &rows);
    out += &costs(l);
    out += &flows(l);
    out += "<h3>Why flows do not pay</h3><ul>";
    for c in &l.classes {
        for says in &c.says {
            out += &format!("<li><strong>{}</strong>: {}</li>", escaped(&c.class), escaped(says));
        }
    }
    for (class, why) in &l.left_out {
        out += &format!("<li><strong>{}</strong> was left out: {}</li>", escaped(class), escaped(why));
    }
    out += "</ul><ul class=\"soft\">";
    for note in &l.notes {
        out += &format!("<li>{}</li>", escaped(note));
    }
    out + "</ul></section>"
}

/// All traffic together, to be drawn: what each function takes of a core, and what is left of it in the driver.
fn overview(l: &Ledger) -> Section {
    let mut all = Section::new("overview", "What this traffic takes", "cores per Gbit/s");
    for function in Function::ALL {
        for tier in [Tier::Worker, Tier::Xdp] {
            let entry = l.entries.iter().find(|e| e.class == ALL && e.function == function && e.tier == tier);
            if let Some(cores) = entry.and_then(|e| e.cores_per_gbit) {
                let title = format!("{}, by {}", function.name(), tier.name());
                all.round(&format!("{}-{}", function.name(), tier.name()), &title, cores);
            }
        }
    }
    all
}

/// A stretch of time in the unit that suits it.
fn stretch(seconds: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(2.0 * 86400.0, "days"), (2.0 * 3600.0, "h"), (120.0, "min"), (0.0, "s")];
    let (_, unit) = UNITS.iter().find(|(least, _)| seconds >= *least).unwrap_or(&UNITS[3]);
    let of = match *unit {
        "days" => 86400.0,
        "h" => 3600.0,
        "min" => 60.0,
        _ => 1.0,
    };
    format!("{:.1} {unit}", seconds / of)
}

fn costs(l: &Ledger) -> String {
    let mut rows = Vec::new();
    let mut refused: Vec<String> = Vec::new();
    for class in l.names() {
        for function in Function::ALL {
            let of = |tier| l.entries.iter().find(|e| e.class == class && e.function == function && e.tier == tier);
            let Some(worker) = of(Tier::Worker) else { continue };
            let shown = |f: Option<f64>| f.map_or_else(|| "–".into(), figure);
            let xdp = of(Tier::Xdp);
            rows.push(vec![
                format!("{class}: {}", function.name()),
                format!("{:.0}", worker.bytes),
                shown(worker.ns),
                shown(worker.cores_per_gbit),
                shown(xdp.and_then(|e| e.ns)),
                shown(xdp.and_then(|e| e.cores_per_gbit)),
                shown(xdp.and_then(|e| e.saved_per_gbit)),
            ]);
            for tier in [Tier::Worker, Tier::Xdp, Tier::Nic] {
                if let Some(why) = of(tier).and_then(|e| e.why_not.as_ref()) {
                    let line = format!("{} by {}: {why}", function.name(), tier.name());
                    if !refused.contains(&line) {
                        refused.push(line);
                    }
                }
            }
        }
    }
    let header = [
        "traffic and function",
        "bytes per packet",
        "worker, ns per packet",
        "worker, cores per Gbit/s",
        "xdp, ns per packet",
        "xdp, cores per Gbit/s",
        "saved, cores per Gbit/s",
    ];
    let why: String = refused.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
    table("Measured: what a packet costs, by function and tier", &header, &rows)
        + &format!("<details><summary>Where there is no figure</summary><ul>{why}</ul></details>")
}

fn flows(l: &Ledger) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let rows: Vec<Vec<String>> = l
        .classes
        .iter()
        .map(|c| {
            vec![
                c.class.clone(),
                c.flows.to_string(),
                c.packets.to_string(),
                percent(c.share),
                format!("{}, {}, {}", c.length.0, c.length.1, c.length.2),
                c.compression.map_or_else(|| "–".into(), percent),
                c.break_even.map_or_else(|| "–".into(), |(m, low, high)| format!("{m:.0} ({low:.0} – {high:.0})")),
                c.paying_flows.to_string(),
                c.saved.map_or_else(|| "–".into(), percent),
            ]
        })
        .collect();
    let header = [
        "class",
        "flows",
        "packets",
        "of the bytes",
        "packets per flow: median, 9 in 10, most",
        "compressed to",
        "break-even, packets (rounds)",
        "flows that pay",
        "worker's time saved",
    ];
    table("Measured: flows, and whether offloading them pays", &header, &rows)
}

/// Empty where nothing is modelled.
pub fn modelled(rows: &[Modelled]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let shown = |f: Option<f64>| f.map_or_else(|| "–".into(), figure);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .filter(|r| r.is_known())
        .map(|r| {
            vec![
                format!("{}: {}", r.title, r.function.name()),
                shown(r.modelled_gbit),
                shown(r.modelled_cores_freed_per_gbit),
                r.says.clone(),
            ]
        })
        .collect();
    let header = ["DPU and function", "modelled limit, Gbit/s", "modelled host cores freed per Gbit/s", ""];
    let mut sources: Vec<String> = Vec::new();
    for r in rows {
        for s in &r.sources {
            let address = escaped(&s.source);
            let item = format!(
                "<li>{}: {} {}: {} (<a href=\"{address}\" rel=\"noreferrer\">{address}</a>)</li>",
                escaped(&r.persona),
                escaped(&s.key),
                escaped(&s.value),
                escaped(&s.says)
            );
            if !sources.contains(&item) {
                sources.push(item);
            }
        }
        for unknown in &r.unknown {
            let item = format!("<li>{}: not known: {}</li>", escaped(&r.persona), escaped(unknown));
            if !sources.contains(&item) {
                sources.push(item);
            }
        }
    }
    format!(
        "<section id=\"modelled\" class=\"modelled\"><h2>Modelled, not measured</h2><p>What DPUs would do with this traffic by \
         figures that others published. No such device was here. Freed cores are what the worker was measured to take, on the \
         assumption that the device does all of it at no cost to the host.</p>{}<p>{}</p><h3>Sources</h3><ul>{}</ul></section>",
        table("Modelled", &header, &cells),
        escaped(&not_modelled(rows)),
        sources.join("")
    )
}
