//! The part of a policy that speaks to applications: what there is to share out, what is allowed, and what holds for intents
//! that leave something open.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::at::At;
use super::intent::{Demand, IntentCompress};
use super::places::Name;
use super::policy::{Tunnel, TunnelKind};
use super::problem::{Code, Problem};
use super::rates::Bandwidth;
use super::schema::{self, Cipher, OnLoss};
use super::suggest::{listed, nearest};

/// What the host has to share out among applications. What is not written is not limited by the policy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Bandwidth that may be promised, both directions together. Default: not limited.
    pub bandwidth: Option<At<Bandwidth>>,
    /// Of it, what may be promised encrypted. Default: not limited.
    pub crypto: Option<At<Bandwidth>>,
    /// Connections that may be promised. Default: not limited.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub connections: Option<At<u32>>,
}

/// Who handles a flow's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The network device itself.
    Nic,
    /// The driver, in the XDP program.
    Xdp,
    /// A worker.
    Worker,
    /// The kernel's stack.
    Kernel,
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Xdp => "xdp",
            Self::Worker => "worker",
            Self::Kernel => "kernel",
        }
    }
}

/// What this host allows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Tiers that may handle flows. Without "xdp" nothing goes down into the driver; "worker" is needed. Default: all.
    pub tiers: Option<At<Vec<At<Tier>>>>,
    /// Ciphers that tunnels may have. Default: all.
    pub ciphers: Option<At<Vec<At<Cipher>>>>,
}

/// What holds for intents that do not say it themselves.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Whether flows are encrypted. Default "preferred".
    pub encrypt: Option<At<Demand>>,
    /// Whether flows may be compressed. Default "never".
    pub compress: Option<At<IntentCompress>>,
    /// What becomes of packets when no worker is there. Default "drop" where encryption is required, else "pass".
    pub on_loss: Option<At<OnLoss>>,
    /// From 0, the least, to 1000. Default 500.
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<At<u32>>,
}

/// Ceilings of one application, whatever its intent wishes for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Name of the application, as in its intent.
    pub name: At<Name>,
    /// Most bandwidth that all of its flows take together, and that its floor is promised of. Default: no ceiling.
    pub bandwidth: Option<At<Bandwidth>>,
    /// Most flows that it has at once; further ones are dropped until others have ended or closed. Default: no ceiling.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub connections: Option<At<u32>>,
}

/// What is being worked on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// Tunnels that no intent is given. The policy's own rules still use them.
    #[serde(default)]
    pub tunnels: Vec<At<Name>>,
    /// Why, and until when: shown to the applications concerned.
    pub note: Option<At<String>>,
}

/// A figure and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    pub value: T,
    pub span: Range<usize>,
}

impl<T> Written<T> {
    fn of<U>(at: Option<&At<U>>, value: impl FnOnce(&U) -> T) -> Option<Self> {
        at.map(|at| Self { value: value(at), span: at.span() })
    }
}

/// The ceilings of one application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// Bits per second.
    pub bandwidth: Option<Written<u64>>,
    pub connections: Option<Written<u64>>,
}

/// The same, checked.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Who answers for the policy.
    pub owner: Arc<str>,
    /// The folder of the intents.
    pub intents: Option<Written<PathBuf>>,
    /// Bits per second.
    pub bandwidth: Option<Written<u64>>,
    /// Bits per second.
    pub crypto: Option<Written<u64>>,
    pub connections: Option<Written<u64>>,
    /// `None`: all.
    pub tiers: Option<Written<Vec<Tier>>>,
    pub encrypt: Option<Written<Demand>>,
    pub compress: Option<Written<IntentCompress>>,
    pub on_loss: Option<Written<OnLoss>>,
    pub priority: Option<u32>,
    /// By the name of the application.
    pub ceilings: HashMap<String, Ceiling>,
    /// Indices of tunnels, and where they are named.
    pub maintenance: Vec<(usize, Range<usize>)>,
    pub maintenance_note: String,
    pub places: Places,
}

/// Where the parts of the policy stand that decide something.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub rules: Vec<Range<usize>>,
    /// Those of the operator; what the program adds behind them has none.
    pub steer: Vec<Range<usize>>,
    pub tunnels: Vec<Range<usize>>,
    pub idle: Option<Range<usize>>,
    pub offload: Option<Range<usize>>,
}

impl Terms {
    pub fn allows(&self, tier: Tier) -> bool {
        self.tiers.as_ref().is_none_or(|tiers| tiers.value.contains(&tier))
    }
}

/// Checks that part of a policy.
pub fn check(
    file: &schema::File,
    tunnels: &[Tunnel],
    in_file: &[String],
    path: impl Fn(&std::path::Path) -> PathBuf,
    problems: &mut Vec<Problem>,
) -> Terms {
    let bits = |at: &Option<At<Bandwidth>>| Written::of(at.as_ref(), |b| b.0);
    let count = |at: &Option<At<u32>>| Written::of(at.as_ref(), |n| u64::from(*n));
    let (capacity, defaults) = (&file.capacity, &file.defaults);
    let terms = Terms {
        owner: file.owner.as_ref().map_or("network operator", |owner| owner).into(),
        intents: Written::of(file.intents.as_ref(), |folder| without_parents(path(&folder.0))),
        bandwidth: bits(&capacity.bandwidth),
        crypto: bits(&capacity.crypto),
        connections: count(&capacity.connections),
        tiers: Written::of(file.allow.tiers.as_ref(), |tiers| tiers.iter().map(|tier| **tier).collect()),
        encrypt: Written::of(defaults.encrypt.as_ref(), |demand| *demand),
        compress: Written::of(defaults.compress.as_ref(), |compress| *compress),
        on_loss: Written::of(defaults.on_loss.as_ref(), |on_loss| *on_loss),
        priority: defaults.priority.as_ref().map(|priority| **priority),
        ceilings: ceilings(&file.limit, problems),
        maintenance: maintenance(file, in_file, problems),
        maintenance_note: file.maintenance.note.as_ref().map_or_else(String::new, |note| (**note).clone()),
        places: Places {
            rules: file.rule.iter().map(|rule| rule.name.span()).collect(),
            steer: file.steer.iter().map(|steer| steer.name.span()).collect(),
            tunnels: file.tunnel.iter().map(|tunnel| tunnel.name.span()).collect(),
            idle: file.workers.idle.as_ref().map(At::span),
            offload: file.offload.enabled.as_ref().map(At::span),
        },
    };
    agree(file, &terms, problems);
    ciphers(file, tunnels, problems);
    if file.owner.as_ref().is_some_and(|owner| owner.trim().is_empty())
        && let Some(owner) = &file.owner
    {
        problems.push(Problem::error(
            Code::ImpossibleValue,
            owner.span(),
            "`owner` is empty",
            "write who answers for this policy: a team, a name, an address",
        ));
    }
    terms
}

fn agree(file: &schema::File, terms: &Terms, problems: &mut Vec<Problem>) {
    if let (Some(all), Some(crypto)) = (&terms.bandwidth, &terms.crypto)
        && crypto.value > all.value
    {
        let text =
            format!("{} can be promised encrypted, but {} in all", Bandwidth(crypto.value), Bandwidth(all.value));
        problems.push(
            Problem::error(Code::Conflict, crypto.span.clone(), text, "write at most `bandwidth` for `crypto`")
                .other(all.span.clone(), "in all"),
        );
    }
    if let Some(tiers) = &terms.tiers {
        if !tiers.value.contains(&Tier::Worker) {
            problems.push(Problem::error(
                Code::ImpossibleValue,
                tiers.span.clone(),
                "`tiers` leaves \"worker\" out",
                "every flow begins at a worker, which tells what it is: add \"worker\"",
            ));
        }
        if let (Some(enabled), false) = (&file.offload.enabled, tiers.value.contains(&Tier::Xdp))
            && **enabled
        {
            problems.push(
                Problem::error(
                    Code::Conflict,
                    enabled.span(),
                    "flows are offloaded to a tier that is not allowed",
                    "write enabled = false, or add \"xdp\" to `tiers` of [allow]",
                )
                .other(tiers.span.clone(), "without \"xdp\""),
            );
        }
    }
    if let (Some(demand), Some(on_loss)) = (&terms.encrypt, &terms.on_loss)
        && demand.value == Demand::Required
        && on_loss.value == OnLoss::Pass
    {
        problems.push(
            Problem::error(
                Code::Conflict,
                on_loss.span.clone(),
                "what must be encrypted cannot pass in clear when a worker is lost",
                "write on_loss = \"drop\", or leave it out",
            )
            .other(demand.span.clone(), "required"),
        );
    }
}

fn ceilings(raw: &[Limit], problems: &mut Vec<Problem>) -> HashMap<String, Ceiling> {
    let mut out = HashMap::new();
    let mut first: HashMap<&str, Range<usize>> = HashMap::new();
    for limit in raw {
        if let Some(earlier) = first.get(limit.name.as_str()) {
            problems.push(
                Problem::error(
                    Code::DuplicateName,
                    limit.name.span(),
                    format!("two limits are for `{}`", *limit.name),
                    "write one [[limit]] for each application",
                )
                .label("again")
                .other(earlier.clone(), "first here"),
            );
            continue;
        }
        if limit.bandwidth.is_none() && limit.connections.is_none() {
            problems.push(Problem::error(
                Code::MissingKey,
                limit.name.span(),
                format!("the limit for `{}` limits nothing", *limit.name),
                "add `bandwidth` or `connections`",
            ));
        }
        first.insert(limit.name.as_str(), limit.name.span());
        let ceiling = Ceiling {
            bandwidth: Written::of(limit.bandwidth.as_ref(), |b| b.0),
            connections: Written::of(limit.connections.as_ref(), |n| u64::from(*n)),
        };
        out.insert(limit.name.as_str().to_owned(), ceiling);
    }
    out
}

fn maintenance(file: &schema::File, in_file: &[String], problems: &mut Vec<Problem>) -> Vec<(usize, Range<usize>)> {
    let mut out = Vec::new();
    for name in &file.maintenance.tunnels {
        let known = || file.tunnel.iter().map(|tunnel| tunnel.name.as_str());
        match known().position(|tunnel| tunnel == name.as_str()) {
            Some(at) => out.push((at, name.span())),
            None if in_file.iter().any(|tunnel| tunnel == name.as_str()) => {}
            None => {
                let help = match nearest(name.as_str(), known()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("there is {}", listed(known())),
                };
                let message = format!("no tunnel is called `{}`", **name);
                problems.push(Problem::error(Code::UnknownName, name.span(), message, help));
            }
        }
    }
    out
}

/// The cipher of a tunnel, where it is known before a peer has been spoken to.
pub fn cipher(tunnel: &Tunnel) -> Option<Cipher> {
    match &tunnel.kind {
        TunnelKind::Esp(esp) => Some(esp.cipher),
        TunnelKind::WireGuard(_) => Some(Cipher::ChaCha20Poly1305),
        TunnelKind::Xfrm(_) => None,
    }
}

/// As in the policy.
pub fn cipher_name(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aes256Gcm => "aes-256-gcm",
        Cipher::Aes128Gcm => "aes-128-gcm",
        Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
    }
}

fn ciphers(file: &schema::File, tunnels: &[Tunnel], problems: &mut Vec<Problem>) {
    let Some(allowed) = &file.allow.ciphers else { return };
    if allowed.is_empty() {
        problems.push(Problem::error(
            Code::ImpossibleValue,
            allowed.span(),
            "`ciphers` allows none",
            "name at least one, or leave it out to allow all",
        ));
        return;
    }
    for raw in &file.tunnel {
        let Some(tunnel) = tunnels.iter().find(|tunnel| tunnel.name == raw.name.as_str()) else { continue };
        match cipher(tunnel) {
            Some(cipher) if allowed.iter().all(|of| **of != cipher) => {
                let place = raw.cipher.as_ref().map_or_else(|| raw.name.span(), At::span);
                let names = listed(allowed.iter().map(|of| cipher_name(**of)));
                problems.push(
                    Problem::error(
                        Code::Conflict,
                        place,
                        format!("tunnel `{}` has cipher {}, which is not allowed", tunnel.name, cipher_name(cipher)),
                        format!("allowed are {names}: take one of them, or add it to `ciphers` of [allow]"),
                    )
                    .other(allowed.span(), "allowed"),
                );
            }
            Some(_) => {}
            None => problems.push(
                Problem::warning(
                    Code::NoEffect,
                    raw.name.span(),
                    format!(
                        "`ciphers` does not hold for tunnel `{}`, whose cipher the IKE daemon agrees on",
                        tunnel.name
                    ),
                    "allow the same ciphers in the daemon's proposals",
                )
                .other(allowed.span(), "allowed"),
            ),
        }
    }
}
/// Without `..`, where that is the same folder: its name is in all that is said of intents.
fn without_parents(path: PathBuf) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let mut short = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir if short.file_name().is_some() => drop(short.pop()),
            part => short.push(part),
        }
    }
    let at = |path: &PathBuf| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    // Behind a symbolic link `..` is somewhere else.
    if at(&short).is_some() && at(&short) == at(&path) { short } else { path }
}
