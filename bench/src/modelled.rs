//! What a named DPU would do with the traffic, by figures that others published. Nothing here was measured, and it never stands in
//! one column with what was.

use anyhow::Result;
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use softdpu::plan::persona::Persona;

use crate::gain::ALL;
use crate::gain::function::Function;
use crate::gain::ledger::{Ledger, Tier};
use crate::report::{figure, right, style};

/// Personas that come with softdpu.
pub const PERSONAS: [&str; 4] = ["bluefield-2", "bluefield-3", "intel-ipu-e2000", "pensando-dsc2-100g"];

/// The cipher that the ledger's tunnels were measured with.
const CIPHER: &str = "aes-256-gcm";

/// One function of one persona.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Modelled {
    pub persona: String,
    pub title: String,
    pub function: Function,
    /// What it would carry, Gbit/s; `None`: not known, or not at all.
    pub modelled_gbit: Option<f64>,
    /// Host cores that it would free per Gbit/s, taken that it does all that the worker was measured to do, at no cost to the host.
    pub modelled_cores_freed_per_gbit: Option<f64>,
    /// What is behind it.
    pub sources: Vec<Sourced>,
    /// What nobody published.
    pub unknown: Vec<String>,
    pub says: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sourced {
    pub key: String,
    pub value: String,
    pub source: String,
    pub says: String,
}

/// All functions of a persona (a name, or a file), for the traffic of a ledger.
///
/// # Errors
/// There is no such persona, or it is damaged.
pub fn model(name: &str, ledger: &Ledger) -> Result<Vec<Modelled>> {
    let persona = Persona::load(name)?;
    let site = persona.site();
    let gbit = |bits: u64| bits as f64 / 1e9;
    let measured = |function: Function| {
        let of_worker =
            |e: &&crate::gain::ledger::Entry| e.class == ALL && e.function == function && e.tier == Tier::Worker;
        ledger.entries.iter().find(of_worker).and_then(|e| e.cores_per_gbit)
    };
    let mut rows = Vec::new();
    for function in Function::ALL {
        let (keys, limit, says): (&[&str], Option<f64>, &str) = match function {
            Function::None => (&["bandwidth"], site.bandwidth.map(gbit), "forwards as fast as its ports are"),
            Function::Encrypt => match &site.ciphers {
                Some(ciphers) if !ciphers.iter().any(|c| c == CIPHER) => {
                    (&["ciphers"], None, "has not the cipher that was measured")
                }
                _ => {
                    let least =
                        site.crypto.or(site.bandwidth).map(|rate| gbit(rate.min(site.bandwidth.unwrap_or(rate))));
                    let says = if site.crypto.is_some() {
                        "seals and opens as fast as was published"
                    } else {
                        "no published limit of its cipher: that of its ports is taken, which is the most it can be"
                    };
                    (&["bandwidth", "crypto", "ciphers"], least, says)
                }
            },
            Function::Classify | Function::Compress | Function::All => {
                (&[], None, "nobody published a figure for it: not modelled")
            }
        };
        let sources = persona.figure.iter().filter(|f| keys.contains(&f.key.as_str())).map(|f| Sourced {
            key: f.key.to_string(),
            value: f.value.0.as_str().map_or_else(|| f.value.0.to_string(), str::to_owned),
            source: f.source.to_string(),
            says: f.says.to_string(),
        });
        let unknown = persona.unknown.iter().filter(|u| keys.contains(&u.key.as_str()));
        rows.push(Modelled {
            persona: persona.name.clone(),
            title: persona.title.clone(),
            function,
            modelled_gbit: limit,
            modelled_cores_freed_per_gbit: limit.and_then(|_| measured(function)),
            sources: sources.collect(),
            unknown: unknown.map(|u| format!("{}: {}", *u.key, u.note)).collect(),
            says: says.to_owned(),
        });
    }
    Ok(rows)
}

impl Modelled {
    /// Whether there is anything to say but that nobody published a figure.
    pub fn is_known(&self) -> bool {
        self.modelled_gbit.is_some() || !self.sources.is_empty()
    }
}

/// The functions of which nothing is known, in a sentence. Empty where there are none.
pub fn not_modelled(rows: &[Modelled]) -> String {
    let names: std::collections::BTreeSet<Function> =
        rows.iter().filter(|r| !r.is_known()).map(|r| r.function).collect();
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = names.into_iter().map(Function::name).collect();
    format!("Not modelled, as nobody published a figure: {}.", names.join(", "))
}

/// A table for a terminal.
pub fn text(rows: &[Modelled]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    style(&mut table).set_header(["MODELLED", "function", "Gbit/s", "host cores freed per Gbit/s", ""]);
    let shown = |f: Option<f64>| f.map_or_else(|| "–".into(), figure);
    for row in rows.iter().filter(|r| r.is_known()) {
        table.add_row([
            row.title.clone(),
            row.function.name().to_owned(),
            shown(row.modelled_gbit),
            shown(row.modelled_cores_freed_per_gbit),
            row.says.clone(),
        ]);
    }
    right(&mut table, 2..4);
    let mut sources: Vec<String> = rows
        .iter()
        .flat_map(|r| &r.sources)
        .map(|s| format!("  {} {}: {} ({})", s.key, s.value, s.says, s.source))
        .collect();
    sources.sort();
    sources.dedup();
    format!(
        "\nmodelled, not measured: what others' figures say of DPUs\n{table}\n  {}\n{}\n",
        not_modelled(rows),
        sources.join("\n")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::gain::ledger::Entry;

    #[test]
    fn only_published_figures_are_modelled_and_each_has_its_source() {
        let entry = |f| Entry::new(ALL, f, Tier::Worker, 1000.0).costing(400.0, None);
        let ledger = Ledger { entries: Function::ALL.map(entry).to_vec(), ..Ledger::default() };
        for name in PERSONAS {
            let rows = model(name, &ledger).unwrap();
            assert_eq!(rows.len(), Function::ALL.len());
            for row in &rows {
                assert!(row.modelled_gbit.is_none() || row.sources.iter().all(|s| s.source.starts_with("https://")));
                assert!(row.modelled_gbit.is_none() || !row.sources.is_empty(), "{row:?}");
                let none = matches!(row.function, Function::Classify | Function::Compress | Function::All);
                assert!(!none || row.modelled_gbit.is_none());
            }
        }
        let bf3 = model("bluefield-3", &ledger).unwrap();
        let seal = bf3.iter().find(|r| r.function == Function::Encrypt).unwrap();
        assert_eq!(seal.modelled_gbit, Some(193.0));
        assert!((seal.modelled_cores_freed_per_gbit.unwrap() - 0.05).abs() < 1e-12);
        assert!(model("bluefeld-3", &ledger).is_err());
    }
}
