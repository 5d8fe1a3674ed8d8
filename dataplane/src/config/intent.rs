//! An application's intent: what its flows need. One file per application, `NAME.intent.toml`, in the folder that the policy
//! names. Its shape, and the same checked and typed.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::at::At;
use super::places::Name;
use super::policy::Match;
use super::problem::Source;
use super::rates::{Bandwidth, Latency};
use super::schema::OnLoss;
use super::terms::Written;
use super::values::{HostPattern, PortRange, Prefix, Protocol};

/// A softdpu intent: what the flows of one application need.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "softdpu intent")]
pub struct File {
    /// Name of the application: in the plan, in counters, and in the operator's `[[limit]]`.
    pub name: At<Name>,
    /// Who answers for it: shown to whoever reads the plan.
    pub owner: At<String>,
    /// Whether its flows are encrypted. Default: the policy's, else "preferred".
    pub encrypt: Option<At<Demand>>,
    /// Tunnels that may carry its flows, the best first, by their names in the policy. Default: whichever leads there.
    #[serde(default)]
    pub peers: Vec<At<Name>>,
    /// Whether its packets may be compressed inside the tunnel. Default: the policy's, else "never".
    pub compress: Option<At<IntentCompress>>,
    /// What its flows carry. Both at once: never compressed (CRIME, VORACLE).
    #[serde(default)]
    pub data: Vec<At<DataClass>>,
    /// Wish: 99 of 100 packets spend no longer than this in softdpu.
    pub latency_p99: Option<At<Latency>>,
    /// Bandwidth, both directions together.
    #[serde(default)]
    pub bandwidth: Bandwidths,
    /// Connections at a time, at most. Default: not said, none are booked.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub connections: Option<At<u32>>,
    /// Who comes first where there is not enough for all: from 0, the least, to 1000. Default: the policy's, else 500.
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<At<u32>>,
    /// What becomes of its packets when no worker is there. Default: the policy's, else "drop" where encryption is required and
    /// "pass" where not.
    pub on_loss: Option<At<OnLoss>>,
    /// Its flows. At least one.
    #[serde(default)]
    pub flow: Vec<Flow>,
}

/// Whether flows are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// In a tunnel or not at all.
    Required,
    /// In a tunnel where there is one, else in clear.
    #[default]
    Preferred,
    /// In clear.
    Never,
}

impl Demand {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Preferred => "preferred",
            Self::Never => "never",
        }
    }
}

/// Whether packets may be compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IntentCompress {
    /// Where the tunnel can, and where it makes packets smaller.
    Allow,
    /// Packets go as they are.
    #[default]
    Never,
}

/// What flows carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataClass {
    /// Passwords, tokens, personal data.
    Secrets,
    /// Text that an outsider can choose: what users type, request paths, headers.
    AttackerInput,
}

/// Bandwidth, both directions together.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidths {
    /// Booked for it. Default: none.
    pub floor: Option<At<Bandwidth>>,
    /// It never needs more. Default: no ceiling.
    pub ceiling: Option<At<Bandwidth>>,
}

/// Flows of an application. Terms of different kinds must hold together; of one kind, one of them. As in rules `from` is this
/// host's side, and both directions are meant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Source prefixes. Default: any.
    #[serde(default)]
    pub from: Vec<At<Prefix>>,
    /// Destination prefixes. Default: any.
    #[serde(default)]
    pub to: Vec<At<Prefix>>,
    /// Destinations by their DNS names: their addresses when the plan is made join `to`.
    #[serde(default)]
    pub name: Vec<At<HostPattern>>,
    /// IP protocol. Default "any".
    pub protocol: Option<At<Protocol>>,
    /// Source ports of TCP or UDP. Default: any.
    #[serde(default)]
    pub source_ports: Vec<At<PortRange>>,
    /// Destination ports of TCP or UDP. Default: any.
    #[serde(default)]
    pub ports: Vec<At<PortRange>>,
    /// Application protocols, as `softdpu flows` shows them. Default: any.
    #[serde(default)]
    pub class: Vec<At<String>>,
    /// Host names (TLS server name, HTTP host, DNS question). Default: any.
    #[serde(default)]
    pub host: Vec<At<HostPattern>>,
}

/// A checked intent.
#[derive(Clone, Debug)]
pub struct Intent {
    pub name: String,
    pub owner: Arc<str>,
    pub encrypt: Demand,
    /// `None`: the policy's default decided.
    pub encrypt_span: Option<Range<usize>>,
    /// Names of tunnels, not looked up yet.
    pub peers: Vec<Written<String>>,
    pub compress: IntentCompress,
    pub data: Vec<DataClass>,
    /// Where `data` or `compress` stands.
    pub data_span: Range<usize>,
    /// Microseconds.
    pub latency_p99: Option<Written<u64>>,
    /// Bits per second.
    pub floor: Option<Written<u64>>,
    /// Bits per second.
    pub ceiling: Option<Written<u64>>,
    pub connections: Option<Written<u64>>,
    /// 0..=1000.
    pub priority: u32,
    pub on_loss: OnLoss,
    pub flows: Vec<IntentFlow>,
    pub source: Arc<Source>,
    pub name_span: Range<usize>,
}

impl Intent {
    /// Secrets beside text that an outsider chooses: the length of what is compressed tells of the secret.
    pub fn mixes(&self) -> bool {
        self.data.contains(&DataClass::Secrets) && self.data.contains(&DataClass::AttackerInput)
    }

    pub fn may_compress(&self) -> bool {
        self.compress == IntentCompress::Allow && !self.mixes()
    }
}

/// Flows of an intent.
#[derive(Clone, Debug)]
pub struct IntentFlow {
    /// With the addresses of the names that could be resolved.
    pub matches: Match,
    pub classes: Arc<[String]>,
    pub hosts: Arc<[HostPattern]>,
    /// Asked for by name.
    pub names: Vec<Written<String>>,
    /// What each of these has, in order.
    pub addresses: Vec<(String, Vec<IpAddr>)>,
    /// Of these, those without an address.
    pub unresolved: Vec<Written<String>>,
}

impl IntentFlow {
    /// No address is known of it: as a match it would mean any destination.
    pub fn nowhere(&self) -> bool {
        !self.names.is_empty() && self.matches.to.is_empty()
    }
}
