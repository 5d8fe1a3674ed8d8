//! What the API says, as JSON. Both sides use these types, and scripts rely on their field names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Change, HostPattern};
use crate::offload::FlowName;
use crate::telemetry::journal::Figures;
use crate::telemetry::snapshot::{ClassTraffic, Frames, Traffic};
use crate::wire::prefix::Prefix;
use std::net::SocketAddr;

/// A running instance at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Name of the instance.
    pub name: String,
    pub version: String,
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Path of the policy.
    pub policy: String,
    pub ports: Vec<PortStatus>,
    pub workers: Vec<WorkerStatus>,
    pub tunnels: Vec<TunnelStatus>,
    /// What runs each cipher on this machine, as measured at the start.
    #[serde(default)]
    pub ciphers: Vec<CipherStatus>,
    pub steer: Vec<SteerStatus>,
    /// What the XDP program did with the packets it saw, each under one verdict. Empty without ports of kind xdp.
    #[serde(default)]
    pub xdp: Vec<XdpVerdict>,
    /// Who handled packets, the highest tier first. Empty without ports of kind xdp.
    #[serde(default)]
    pub tiers: Vec<TierStatus>,
    pub rules: Vec<RuleStatus>,
    pub classes: Vec<ClassTraffic>,
    /// The operator's applications that have had flows.
    #[serde(default)]
    pub applications: Vec<ClassTraffic>,
    /// Applications that a `[[limit]]` lets have so many connections only.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
    /// Every reason that has counted something.
    pub drops: Vec<DropCount>,
    /// WireGuard messages that came to the control side, by what became of them: "initiation", "cookie_sent", "bad_mac" and so on.
    #[serde(default)]
    pub wireguard_messages: std::collections::BTreeMap<String, u64>,
    /// Flow records, where the policy exports them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportStatus>,
    /// Bytes that left in clear although a rule encrypts their flow. Stays zero.
    pub escaped_bytes: u64,
    /// The journal behind `/v1/events`.
    #[serde(default)]
    pub events: Figures,
}

/// How many connections an application has, of those that it may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitStatus {
    pub application: String,
    pub connections: u32,
    pub most: u32,
    /// Packets of further connections, which were dropped.
    pub refused: u64,
}

/// What became of flow records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportStatus {
    /// Address of the IPFIX collector.
    pub ipfix: Option<String>,
    /// Path of the log.
    pub log: Option<String>,
    /// Records made.
    pub records: u64,
    /// Records lost because the exporter was behind.
    pub lost: u64,
    /// IPFIX messages sent.
    pub messages: u64,
    /// IPFIX messages that the host could not send.
    pub unsent: u64,
    /// Lines that could not be written.
    pub unwritten: u64,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortStatus {
    pub name: String,
    /// "xdp", "pcap" or "loopback".
    pub kind: String,
    pub interface: Option<String>,
    /// Where the XDP program runs: "native" or "generic". None for other kinds.
    pub mode: Option<String>,
    /// "copy" or "zero-copy", as the kernel answered. None for other kinds.
    pub copy: Option<String>,
    /// Queues that workers own.
    pub queues: u32,
    pub rx: Traffic,
    pub tx: Traffic,
    /// The device itself, of ports of kind xdp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<NicStatus>,
    /// What is less than was asked for, in words: "native XDP refused: …".
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How it went with a port's device, tier `nic`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NicStatus {
    /// "loaded", "refused", "off", or "lost" when it was loaded once.
    pub state: String,
    /// Code of docs/offload-reasons.md, unless it is loaded.
    pub reason: Option<String>,
    /// Of the kernel, where it refused.
    pub errno: Option<i32>,
    /// What was refused and why, with the verifier's words if it had any.
    pub message: Option<String>,
    /// Flows that the device has room for.
    pub capacity: u32,
    /// Flows that it has.
    pub flows: u32,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerStatus {
    pub worker: usize,
    pub core: Option<usize>,
    /// "running", or why not.
    pub state: String,
    pub batches: u64,
    pub packets: u64,
    pub polls: u64,
    /// Flows in its table.
    pub flows: u64,
    /// Flows so far of which too little could be read for rules over class and host: those that protect hold for them.
    #[serde(default)]
    pub flows_unread: u64,
    pub frames: Frames,
}

/// A tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelStatus {
    pub name: String,
    /// As in the policy: "esp", "wireguard", "xfrm".
    #[serde(default)]
    pub kind: String,
    pub local: String,
    pub remote: String,
    /// As in the policy: "aes-256-gcm".
    pub cipher: String,
    pub spi_out: u32,
    pub spi_in: u32,
    /// Inner packets sent.
    pub sealed: Traffic,
    /// Inner packets received.
    pub opened: Traffic,
    pub replayed: u64,
    pub forged: u64,
    pub compress_in_bytes: u64,
    pub compress_out_bytes: u64,
    pub compressed: u64,
    pub left_alone: u64,
    pub expanded: u64,
    /// Bytes held back at the last moment because they were not sealed. Stays zero.
    #[serde(default)]
    pub escaped_bytes: u64,
    /// Of type wireguard: its peers.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// What is less than could be, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A cipher, and what runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CipherStatus {
    /// As in the policy: "aes-256-gcm".
    pub cipher: String,
    /// "ring", "avx512", "aws-lc-rs", "ipsec-mb".
    pub back_end: String,
    /// Nanoseconds that sealing 1400 bytes took at the start.
    pub ns_1400: u64,
}

/// A WireGuard peer. No secrets: those are on the configuration socket alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// As in the policy, or the start of its key.
    pub name: String,
    pub public_key: String,
    pub endpoint: Option<String>,
    pub allowed_ips: Vec<String>,
    /// Seconds since the last handshake; `None`: there was none.
    pub last_handshake_s: Option<f64>,
    /// Outer bytes of UDP payload, as `wg show` counts them.
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl TunnelStatus {
    /// Bytes before compression for each byte after it; `None` when nothing was offered.
    pub fn ratio(&self) -> Option<f64> {
        (self.compress_out_bytes > 0).then(|| self.compress_in_bytes as f64 / self.compress_out_bytes as f64)
    }
}

/// What came of a wish for new keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rekeyed {
    /// Handshakes begun. Peers without an endpoint cannot be asked.
    pub begun: usize,
}

/// A steering rule, as the XDP program counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SteerStatus {
    pub name: String,
    /// "worker", "pass" or "drop".
    pub action: String,
    /// "pass" or "drop".
    pub on_loss: String,
    pub packets: u64,
    pub bytes: u64,
}

/// What one tier handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TierStatus {
    /// "nic", "xdp", "worker" or "kernel".
    pub tier: String,
    pub packets: u64,
    /// Of tier nic without link headers, of the others with them.
    pub bytes: u64,
    /// Flows that it has now. `None`: it keeps none, or the kernel knows.
    pub flows: Option<u64>,
}

/// Packets that the XDP program counted under one verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct XdpVerdict {
    /// Stable code: "worker", "no_rule", "no_socket_drop" …
    pub verdict: String,
    pub packets: u64,
    pub bytes: u64,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleStatus {
    pub name: String,
    /// What it does, in words: "encrypt to-b, compress lz4".
    pub what: String,
    pub packets: u64,
    pub bytes: u64,
    /// Packets dropped over its meter, in the driver and by workers; packets sampled.
    #[serde(default)]
    pub metered: u64,
    #[serde(default)]
    pub sampled: u64,
    /// Packets copied to its `mirror`, and those that should have been and were not (`/v1/counters` says why).
    #[serde(default)]
    pub copied: u64,
    #[serde(default)]
    pub not_copied: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropCount {
    /// Stable code.
    pub reason: String,
    /// The node that drops, or "steer" for the XDP program.
    pub node: String,
    pub count: u64,
    /// What it means and what to do.
    pub help: String,
}

/// What came of `softdpu demote`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Demoted {
    pub flows: usize,
}

/// One flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowInfo {
    /// Worker and place, "1:4711": names the flow as long as it lives.
    #[serde(default)]
    pub id: String,
    pub worker: usize,
    /// Why it is on no higher tier: a code of `docs/offload-reasons.md`. `None`: it is, or nothing was tried yet.
    #[serde(default)]
    pub offload_reason: Option<String>,
    /// Why it is not in the device (tier `nic`), likewise. `None`: it is, or nothing was tried yet.
    #[serde(default)]
    pub nic_reason: Option<String>,
    /// "tcp", "udp", "icmp", or the protocol number.
    pub l4: String,
    /// The initiator, `ip:port`, IPv6 in brackets.
    pub a: String,
    /// The responder.
    pub b: String,
    /// Name of the class: "tls".
    pub class: String,
    pub host: Option<String>,
    /// The operator's name for it.
    #[serde(default)]
    pub application: Option<String>,
    /// Who handles it: "nic", "xdp", "worker" or "kernel".
    pub tier: String,
    /// From `a` to `b`.
    pub packets_ab: u64,
    pub bytes_ab: u64,
    /// From `b` to `a`.
    pub packets_ba: u64,
    pub bytes_ba: u64,
    /// Seconds since its first packet.
    pub age_s: f64,
    /// Seconds since its last packet.
    pub idle_s: f64,
    pub rule: Option<String>,
    /// The rule drops it.
    #[serde(default)]
    pub drops: bool,
    pub tunnel: Option<String>,
    /// State of the transport: "established".
    pub state: String,
    /// The overlay that its packets are within: "vxlan 5", "gre". `None` outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// Most flows in one answer.
pub const MAX_FLOWS: usize = 100_000;

/// Which flows are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    pub class: Option<String>,
    /// Name of the operator's application.
    pub app: Option<String>,
    /// A name, or `*.` and a domain.
    pub host: Option<HostPattern>,
    /// "worker", "xdp", "nic" or "kernel".
    pub tier: Option<String>,
    /// Of either end.
    pub port: Option<u16>,
    /// Of either end's address.
    pub prefix: Option<Prefix>,
    pub flow: Option<FlowName>,
    /// 1..=[`MAX_FLOWS`].
    pub limit: usize,
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self { class: None, app: None, host: None, tier: None, port: None, prefix: None, flow: None, limit: 1000 }
    }
}

impl FlowFilter {
    /// Whether a flow of this class and host is asked for.
    pub fn wants(&self, class: &str, host: Option<&str>) -> bool {
        self.class.as_deref().is_none_or(|c| c == class)
            && self.host.as_ref().is_none_or(|pattern| host.is_some_and(|h| pattern.matches(h)))
    }

    /// Whether a flow with these ends and tier is asked for.
    pub fn wants_ends(&self, tier: &str, a: SocketAddr, b: SocketAddr) -> bool {
        self.tier.as_deref().is_none_or(|t| t == tier)
            && self.port.is_none_or(|port| a.port() == port || b.port() == port)
            && self.prefix.as_ref().is_none_or(|prefix| prefix.contains(a.ip()) || prefix.contains(b.ip()))
    }

    /// Whether a flow of this name is asked for.
    pub fn wants_name(&self, info: &FlowInfo) -> bool {
        self.flow.as_ref().is_none_or(|name| name.is(&info.id, &info.l4, &info.a, &info.b))
    }
}

/// What came of a change of policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadReport {
    /// Whether the policy is another one now.
    pub applied: bool,
    /// Number of the plan in force.
    pub plan: u64,
    pub changes: Vec<Change>,
    /// Milliseconds to read, check and compile it.
    pub compile_ms: f64,
    /// Milliseconds until every worker and the driver had it. 0 where nothing changed.
    pub switch_ms: f64,
    /// What is allowed in it but likely not meant.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why the policy before was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
}

/// A policy that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanEntry {
    pub plan: u64,
    /// Seconds since 1970.
    pub since: u64,
    /// "start", "reload", "SIGHUP", "watch", "rollback to 3", "health check", "names: db.example has 192.0.2.7 too".
    pub by: String,
    /// Rules and other parts that changed with it.
    pub changes: usize,
    pub outcome: PlanOutcome,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanOutcome {
    Running,
    Replaced,
    RolledBack,
}

/// What the API answers when it cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    pub error: String,
    pub help: String,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayReport {
    pub packets_in: u64,
    pub packets_out: u64,
    /// Seconds it took.
    pub seconds: f64,
    pub tunnels: Vec<TunnelStatus>,
    pub drops: Vec<DropCount>,
    pub flows: Vec<FlowInfo>,
}
