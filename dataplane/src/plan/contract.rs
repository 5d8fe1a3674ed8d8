//! The contract: what became of each intent under a policy, who decided it and where. What `softdpu plan` and `/v1/plan` say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::rates::Bandwidth;

pub use super::reason::{Reason, Verdict};

/// A line of a file, and who can change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub owner: Arc<str>,
    /// The line itself. Neither file has secrets: keys are files of their own.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub quote: Arc<str>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One statement about an intent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Because {
    pub reason: Reason,
    /// In words, with names and figures.
    pub text: String,
    /// What decides it.
    pub by: Place,
}

/// Capacity that an intent takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Takes {
    /// Bits per second.
    pub bandwidth: u64,
    /// Bits per second of it, encrypted.
    pub crypto: u64,
    pub connections: u64,
}

/// What became of one intent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    pub name: String,
    pub owner: Arc<str>,
    /// Where the intent stands.
    pub at: Place,
    pub priority: u32,
    /// As asked: "required", "preferred", "never".
    pub encrypt: String,
    pub verdict: Verdict,
    /// What decided the verdict: the gravest of `all`.
    pub because: Because,
    /// Every statement, the gravest first.
    pub all: Vec<Because>,
    /// "nic", "xdp", "worker" or "kernel"; `None`: its flows are dropped, or no rule is made for them.
    pub tier: Option<String>,
    /// Nodes that its packets walk on the way out.
    pub nodes: Vec<String>,
    pub tunnel: Option<String>,
    pub compress: bool,
    /// Of packets when no worker is there: "pass" or "drop".
    pub on_loss: String,
    pub takes: Takes,
    /// Microseconds that 99 of 100 packets are wished to take at most. A wish: nothing is booked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99_us: Option<u64>,
    /// Names of the rules it became, in their order.
    pub rules: Vec<String>,
    /// What is not known, and other asides.
    pub notes: Vec<String>,
}

/// Something about two lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// "conflict", "shadowed", "stricter_wins" or "overbooked".
    pub kind: String,
    pub text: String,
    pub here: Place,
    pub other: Option<Place>,
}

/// How much of something is promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Budget {
    /// "bandwidth", "crypto" (bits per second) or "connections".
    pub what: String,
    /// `None`: not limited, or not known.
    pub have: Option<u64>,
    pub asked: u64,
    pub booked: u64,
    /// What limits it: the policy, the host or the persona.
    pub limited_by: String,
}

/// The whole contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Contract {
    /// Name of the instance.
    pub name: String,
    /// Path of the policy.
    pub policy: Arc<str>,
    pub owner: Arc<str>,
    /// What it was planned for: "this host's policy", "host NAME", "persona NAME".
    pub planned_for: String,
    /// In the order of their files.
    pub intents: Vec<Outcome>,
    pub findings: Vec<Finding>,
    pub budgets: Vec<Budget>,
    /// What is not known.
    pub notes: Vec<String>,
    /// Microseconds to make it.
    pub compile_us: u64,
}

/// One difference between two contracts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    pub intent: String,
    /// "new", "gone" or "changed".
    pub kind: String,
    /// As in "verdict: met -> refused".
    pub what: Vec<String>,
}

impl Contract {
    pub fn count(&self, verdict: Verdict) -> usize {
        self.intents.iter().filter(|intent| intent.verdict == verdict).count()
    }

    /// What changes from `self`, which runs, to `next`.
    pub fn difference(&self, next: &Self) -> Vec<Difference> {
        fn by_name(contract: &Contract) -> HashMap<&str, &Outcome> {
            contract.intents.iter().map(|intent| (intent.name.as_str(), intent)).collect()
        }
        let (was, is) = (by_name(self), by_name(next));
        let mut out = Vec::new();
        for gone in self.intents.iter().filter(|intent| !is.contains_key(intent.name.as_str())) {
            let what = vec![format!("was {}", gone.verdict.as_str())];
            out.push(Difference { intent: gone.name.clone(), kind: "gone".into(), what });
        }
        for intent in &next.intents {
            match was.get(intent.name.as_str()).copied() {
                None => out.push(Difference {
                    intent: intent.name.clone(),
                    kind: "new".into(),
                    what: vec![format!("{}: {}", intent.verdict.as_str(), intent.because.reason.code())],
                }),
                Some(before) => {
                    let what = changed(before, intent);
                    if !what.is_empty() {
                        out.push(Difference { intent: intent.name.clone(), kind: "changed".into(), what });
                    }
                }
            }
        }
        out
    }
}

fn changed(before: &Outcome, after: &Outcome) -> Vec<String> {
    let mut out = Vec::new();
    // Most are the same, so nothing is written out before it is known to differ.
    fn differing<T: PartialEq>(out: &mut Vec<String>, what: &str, a: &T, b: &T, text: impl Fn(&T) -> String) {
        if a != b {
            out.push(format!("{what}: {} -> {}", text(a), text(b)));
        }
    }
    let list = |list: &Vec<String>| list.join(" ");
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
    let takes = |t: &Takes| {
        format!("{}, {} encrypted, {} connections", Bandwidth(t.bandwidth), Bandwidth(t.crypto), t.connections)
    };
    differing(&mut out, "verdict", &before.verdict, &after.verdict, |verdict| verdict.as_str().to_owned());
    differing(&mut out, "reason", &before.because.reason, &after.because.reason, |reason| reason.code().to_owned());
    differing(&mut out, "owner", &before.owner, &after.owner, |owner| owner.as_ref().to_owned());
    differing(&mut out, "priority", &before.priority, &after.priority, u32::to_string);
    differing(&mut out, "encrypt", &before.encrypt, &after.encrypt, String::clone);
    differing(&mut out, "tier", &before.tier, &after.tier, or_none);
    differing(&mut out, "tunnel", &before.tunnel, &after.tunnel, or_none);
    differing(&mut out, "nodes", &before.nodes, &after.nodes, list);
    differing(&mut out, "on_loss", &before.on_loss, &after.on_loss, String::clone);
    differing(&mut out, "takes", &before.takes, &after.takes, takes);
    differing(&mut out, "rules", &before.rules, &after.rules, list);
    out
}
