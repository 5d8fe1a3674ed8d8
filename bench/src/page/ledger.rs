//! The ledger on the page; what is modelled stands in a part of its own.

use super::{escaped, plots, prose, table};
use crate::gain::ALL;
use crate::gain::function::Function;
use crate::gain::ledger::{Entry, Ledger, Tier, cores, words};
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
    out += &saved(l);
    out += &flows(l);
    out += &why_not(l);
    out += &costs(l);
    if !l.scaling.is_empty() {
        let items: String = l.scaling.iter().map(|note| format!("<li>{}</li>", prose(note))).collect();
        out += &format!("<h3>With more cores</h3><p>Measured with 64-byte packets in memory.</p><ul>{items}</ul>");
    }
    out += "<ul class=\"soft\">";
    for note in &l.notes {
        out += &format!("<li>{}</li>", prose(note));
    }
    out + "</ul></section>"
}

/// Name of the section that is drawn of all traffic together.
pub const OVERVIEW: &str = "overview";

/// All traffic together, to be drawn: what each function takes of a core, and what is left of it in the driver.
fn overview(l: &Ledger) -> Section {
    let mut all = Section::new(OVERVIEW, "What this traffic takes", "cores per Gbit/s");
    for function in Function::ALL {
        for tier in [Tier::Worker, Tier::Xdp] {
            let entry = l.entries.iter().find(|e| e.class == ALL && e.function == function && e.tier == tier);
            if let Some((e, cores)) = entry.and_then(|e| Some((e, e.cores_per_gbit?))) {
                let (who, name) = match tier {
                    Tier::Xdp => ("in the driver (xdp)", "xdp"),
                    _ => ("in a worker", "worker"),
                };
                let title = format!("{}, {who}", function.name());
                let per_ns = cores / e.ns.unwrap_or(1.0);
                let rounds = e
                    .spread
                    .as_ref()
                    .map_or_else(|| vec![cores], |s| [s.min, s.median, s.max].map(|ns| ns * per_ns).to_vec());
                for round in rounds {
                    all.round(&format!("{}-{name}", function.name()), &title, round);
                }
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

/// A figure of cores per Gbit/s, or why there is none.
fn shown(f: Option<f64>) -> String {
    f.map_or_else(|| "–".into(), cores)
}

/// The ledger's first table: all traffic together.
fn saved(l: &Ledger) -> String {
    let of = |function, tier| l.entries.iter().find(|e| e.class == ALL && e.function == function && e.tier == tier);
    let rows = Function::ALL.map(|function| {
        let (worker, xdp) = (of(function, Tier::Worker), of(function, Tier::Xdp));
        let why = xdp.filter(|e| e.ns.is_none()).and_then(|e| e.why_not.clone());
        vec![
            function.title().to_owned(),
            shown(worker.and_then(|e| e.cores_per_gbit)),
            shown(xdp.and_then(|e| e.cores_per_gbit)),
            shown(xdp.and_then(|e| e.saved_per_gbit)),
            why.unwrap_or_default(),
        ]
    });
    let header = ["function", "worker", "driver (xdp)", "saved", "why the driver has none"];
    table("Measured: cores per Gbit/s of all this traffic, by function and tier", &header, &rows)
        + "<p class=\"soft\">The NIC's tier was not measured: no SmartNIC is here, and none is estimated.</p>"
}

/// Flows that do not pay, by class and reason.
fn why_not(l: &Ledger) -> String {
    let mut rows = Vec::new();
    for c in &l.classes {
        for (code, flows) in &c.reasons {
            let part = 100.0 * *flows as f64 / c.flows.max(1) as f64;
            rows.push(vec![
                c.class.clone(),
                flows.to_string(),
                format!("{part:.0} %"),
                code.clone(),
                words(code).replace('`', ""),
            ]);
        }
    }
    let mut out = String::from("<h3>Why flows do not pay</h3>");
    out += &if rows.is_empty() {
        "<p>All flows pay.</p>".to_owned()
    } else {
        table(
            "Measured: flows that do not pay for being offloaded",
            &["class", "flows", "of the class's", "reason", "what that is"],
            &rows,
        )
    };
    for (class, why) in &l.left_out {
        out += &format!("<p><strong>{}</strong> was left out: {}</p>", escaped(class), escaped(why));
    }
    out
}

fn costs(l: &Ledger) -> String {
    let mut rows = Vec::new();
    let mut refused: Vec<String> = Vec::new();
    for class in l.names() {
        for function in Function::ALL {
            let of = |tier| l.entries.iter().find(|e| e.class == class && e.function == function && e.tier == tier);
            let Some(worker) = of(Tier::Worker) else { continue };
            let xdp = of(Tier::Xdp);
            rows.push(vec![
                format!("{class}: {}", function.name()),
                if worker.bytes > 0.0 { format!("{:.0}", worker.bytes) } else { "–".into() },
                ns(worker),
                shown(worker.cores_per_gbit),
                xdp.map_or_else(|| "–".into(), ns),
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
        "worker, ns per packet (rounds)",
        "worker, cores per Gbit/s",
        "xdp, ns per packet (rounds)",
        "xdp, cores per Gbit/s",
        "saved, cores per Gbit/s",
    ];
    let why: String = refused.iter().map(|line| format!("<li>{}</li>", prose(line))).collect();
    let all = table("Measured: what a packet costs, by class, function and tier", &header, &rows);
    format!(
        "<details><summary>By class of flows, and where there is no figure</summary>{all}<p class=\"soft\">Where ranges of two \
         lines overlap, which of them takes more cannot be told.</p><ul>{why}</ul></details>"
    )
}

/// ns per packet, with the range of the rounds where it is known.
fn ns(e: &Entry) -> String {
    match (e.ns, &e.spread) {
        (Some(ns), Some(s)) => format!("{} ({} – {})", figure(ns), figure(s.min), figure(s.max)),
        (ns, _) => ns.map_or_else(|| "–".into(), figure),
    }
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
                c.break_even_size().map_or_else(
                    || "–".into(),
                    |b| format!("{b:.0} ({:.0})", c.bytes as f64 / c.packets.max(1) as f64),
                ),
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
        "break-even flow length, packets (rounds)",
        "break-even packet size (mean), bytes",
        "flows that pay",
        "worker's time saved",
    ];
    table("Measured: flows, and whether offloading them pays", &header, &rows)
        + "<p class=\"soft\">Break-even flow length: from so many packets on, offloading a flow costs less than leaving it. Break-even \
           packet size: a flow of as many bytes as the class's mean flow pays with packets up to this size; with larger ones \
           it has too few packets. Worker's time saved: of forwarding this class, less what the entries cost.</p>"
}

/// Empty where nothing is modelled.
pub fn modelled(rows: &[Modelled]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let limit = |f: Option<f64>| f.map_or_else(|| "–".into(), figure);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .filter(|r| r.is_known())
        .map(|r| {
            vec![
                format!("{}: {}", r.title, r.function.name()),
                limit(r.modelled_gbit),
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
