//! The policy file as it is written. The doc comment of every key is its description in `softdpu schema`, and the shape
//! check of a file walks the schema generated from these types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::at::At;
use super::places::{Address, FileMode, FilePath, Interface, MetricsAddress, Name};
use super::values::{HostPattern, PortRange, Prefix, Protocol, Span};

/// A softdpu policy: what the host has and allows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "softdpu policy")]
pub struct File {
    /// Name of the instance: in its control socket's name, its metrics and its logs. Default "softdpu".
    pub name: Option<At<Name>>,
    /// The control socket and the metrics.
    #[serde(default)]
    pub control: Control,
    /// The worker threads.
    #[serde(default)]
    pub workers: Workers,
    /// The flow table.
    #[serde(default)]
    pub flows: Flows,
    /// Ports: the interfaces whose queues the dataplane owns.
    #[serde(default)]
    pub port: Vec<Port>,
    /// Steering rules, tried in order for each packet in the XDP program; the first that matches decides. A packet that none
    /// matches goes to the kernel, as does ARP and neighbour discovery always.
    #[serde(default)]
    pub steer: Vec<Steer>,
    /// Encrypted links to peers.
    #[serde(default)]
    pub tunnel: Vec<Tunnel>,
    /// What workers do with flows, tried in order; the first that matches decides. A flow that none matches is forwarded as it is.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// The control socket and the metrics.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Path of the Unix socket that answers HTTP + JSON. Default "/run/softdpu/NAME.sock".
    pub socket: Option<At<FilePath>>,
    /// Permission bits of the socket. Default "0660".
    pub socket_mode: Option<At<FileMode>>,
    /// Loopback address and port for Prometheus. Without it /metrics is on the control socket only.
    pub metrics: Option<At<MetricsAddress>>,
}

/// When a worker with nothing to do sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// Spins a little, then sleeps in poll until a packet comes.
    #[default]
    Adaptive,
    /// Never sleeps: least latency, a whole core.
    Busy,
    /// Sleeps as soon as a round finds nothing.
    Interrupt,
}

/// The worker threads: one per core, each owning one queue of every port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// Cores to pin workers to, one worker each. Not together with `count`.
    #[schemars(inner(range(min = 0, max = 1023)))]
    pub cores: Option<At<Vec<At<u32>>>>,
    /// Number of workers, on cores that softdpu chooses. Default 1.
    #[schemars(range(min = 1, max = 256))]
    pub count: Option<At<u32>>,
    /// When a worker with nothing to do sleeps. Default "adaptive".
    pub idle: Option<At<Idle>>,
    /// Frames of 4 KiB in the UMEM of each worker, shared by its ports. Default 8192.
    #[schemars(range(min = 256, max = 1_048_576))]
    pub frames: Option<At<u32>>,
    /// Most packets that walk the graph together. Default 64.
    #[schemars(range(min = 1, max = 256))]
    pub batch: Option<At<u32>>,
}

/// The flow table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flows {
    /// Most flows per worker. Default 65536.
    #[schemars(range(min = 64, max = 16_777_216))]
    pub capacity: Option<At<u32>>,
    /// How long a silent flow is remembered.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// How long a silent flow is remembered.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// TCP after the handshake. Default "7200s".
    pub tcp_established: Option<At<Span>>,
    /// TCP during the handshake. Default "30s".
    pub tcp_opening: Option<At<Span>>,
    /// TCP after FIN or RST. Default "10s".
    pub tcp_closing: Option<At<Span>>,
    /// UDP. Default "60s".
    pub udp: Option<At<Span>>,
    /// Everything else. Default "30s".
    pub other: Option<At<Span>>,
}

/// Where a port's packets come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A network interface, through XDP and AF_XDP.
    #[default]
    Xdp,
    /// Capture files, to run the graph without privileges.
    Pcap,
    /// Another port of this kind: what is sent on one is received on the other.
    Loopback,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the driver, or generically where the driver cannot; `softdpu status` says which.
    #[default]
    Auto,
    /// In the driver, or refuse to start.
    Native,
    /// In the kernel's generic hook: slow, everywhere.
    Generic,
}

/// Whether packets are copied between driver and UMEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroCopy {
    /// Without a copy where the driver can; `softdpu status` says which.
    #[default]
    Auto,
    /// Always copy.
    Never,
    /// Without a copy, or refuse to start.
    Require,
}

/// What to do about L4 checksums that a sender left to its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// Finish them on virtual interfaces whose peer leaves them out, trust them elsewhere.
    #[default]
    Auto,
    /// Always compute them.
    Finish,
    /// Never touch them.
    Trust,
}

/// An interface whose queues the dataplane owns.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name of the port, for rules, metrics and `softdpu replay`.
    pub name: At<Name>,
    /// Where its packets come from. Default "xdp".
    pub kind: Option<At<Kind>>,
    /// The network interface. Kind xdp only, and needed there.
    pub interface: Option<At<Interface>>,
    /// How many queues to take, from queue 0. Kind xdp only. Default: all the interface has.
    #[schemars(range(min = 1, max = 256))]
    pub queues: Option<At<u32>>,
    /// How the XDP program is attached. Kind xdp only. Default "auto".
    pub mode: Option<At<Mode>>,
    /// Whether packets are copied between driver and UMEM. Kind xdp only. Default "auto".
    pub zero_copy: Option<At<ZeroCopy>>,
    /// Let the worker's system calls drive the device's NAPI. Kind xdp only. Default false.
    pub busy_poll: Option<At<bool>>,
    /// Descriptors in each of the four rings, a power of two. Kind xdp only. Default 2048.
    #[schemars(range(min = 64, max = 32_768))]
    pub ring: Option<At<u32>>,
    /// What to do about L4 checksums that a sender left to its device. Default "auto".
    pub checksum: Option<At<Checksum>>,
    /// Largest IP packet sent here, in bytes. Not for kind xdp, which takes the interface's. Default 1500.
    #[schemars(range(min = 576, max = 65_535))]
    pub mtu: Option<At<u32>>,
    /// Capture file to read packets from. Kind pcap only.
    pub read: Option<At<FilePath>>,
    /// Capture file to write sent packets to. Kind pcap only.
    pub write: Option<At<FilePath>>,
    /// The loopback port that receives what is sent here; may be the port itself. Kind loopback only, and needed there.
    pub loop_to: Option<At<Name>>,
}

/// What the XDP program does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SteerAction {
    /// To the worker that owns the queue.
    #[default]
    Worker,
    /// To the kernel.
    Pass,
    /// Away.
    Drop,
}

/// What becomes of a packet whose queue no worker serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// To the kernel, as if softdpu were not there.
    #[default]
    Pass,
    /// Away: nothing in clear.
    Drop,
}

/// A steering rule of the XDP program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Steer {
    /// Name of the rule, for counters.
    pub name: At<Name>,
    /// Only packets received on this port. Default: any.
    pub port: Option<At<Name>>,
    /// Source prefixes. Default: any.
    #[serde(default)]
    pub from: Vec<At<Prefix>>,
    /// Destination prefixes. Default: any.
    #[serde(default)]
    pub to: Vec<At<Prefix>>,
    /// IP protocol. Default "any".
    pub protocol: Option<At<Protocol>>,
    /// Source ports of TCP or UDP. Default: any.
    #[serde(default)]
    pub source_ports: Vec<At<PortRange>>,
    /// Destination ports of TCP or UDP. Default: any.
    #[serde(default)]
    pub ports: Vec<At<PortRange>>,
    /// What to do with a packet that matches. Default "worker".
    pub action: Option<At<SteerAction>>,
    /// What becomes of a packet whose queue no worker serves. Default "drop" where a rule encrypts such flows, else "pass".
    pub on_loss: Option<At<OnLoss>>,
}

/// Type of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelType {
    /// IPsec ESP in tunnel mode (RFC 4303).
    #[default]
    Esp,
}

/// What carries the ESP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// IP itself, protocol 50.
    #[default]
    None,
    /// UDP port 4500 (RFC 3948), for paths with NAT or firewalls.
    Udp,
}

/// Cipher of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cipher {
    /// AES-256-GCM with a 16-byte ICV (RFC 4106). Key file: 36 bytes.
    #[default]
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// AES-128-GCM with a 16-byte ICV (RFC 4106). Key file: 20 bytes.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    /// ChaCha20-Poly1305 (RFC 7634). Key file: 36 bytes.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

/// An encrypted link to a peer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// Name of the tunnel, for rules and counters.
    pub name: At<Name>,
    /// Type of the tunnel. Default "esp".
    #[serde(rename = "type")]
    pub kind: Option<At<TunnelType>>,
    /// This end's outer address.
    pub local: At<Address>,
    /// The peer's outer address, of the same family.
    pub remote: At<Address>,
    /// What carries the ESP packets. Default "none".
    pub encapsulation: Option<At<Encapsulation>>,
    /// The cipher, the same on both ends. Default "aes-256-gcm".
    pub cipher: Option<At<Cipher>>,
    /// Packets that may arrive out of order before the oldest is refused; a power of two. Default 1024.
    #[schemars(range(min = 64, max = 4096))]
    pub replay_window: Option<At<u32>>,
    /// Largest outer packet in bytes. Default: what the port it leaves by allows.
    #[schemars(range(min = 576, max = 65_535))]
    pub mtu: Option<At<u32>>,
    /// The security association for what we send.
    pub out: Sa,
    /// The security association for what we receive.
    #[serde(rename = "in")]
    pub inbound: Sa,
}

/// One direction of a tunnel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sa {
    /// Security parameter index. 1 to 255 are reserved (RFC 4303 section 2.1).
    #[schemars(range(min = 256, max = 4_294_967_295_u32))]
    pub spi: At<u32>,
    /// File with the cipher key and the 4-byte salt, raw or as hex; mode 0600.
    pub key_file: At<FilePath>,
}

/// Codec for a flow's packets inside its tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compress {
    /// Packets go as they are.
    #[default]
    Never,
    /// LZ4 in IPComp (RFC 3173), per packet and only where it makes the packet smaller.
    Lz4,
}

/// What a worker does with a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Forward it, with the services asked for.
    #[default]
    Forward,
    /// Drop it.
    Drop,
}

/// What a worker does with flows. A rule holds for both directions: what matches it as written goes into its tunnel, what
/// matches with sources and destinations exchanged must come out of it. So `from` is this host's side.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name of the rule, for counters.
    pub name: At<Name>,
    /// Source prefixes. Default: any.
    #[serde(default)]
    pub from: Vec<At<Prefix>>,
    /// Destination prefixes. Default: any.
    #[serde(default)]
    pub to: Vec<At<Prefix>>,
    /// IP protocol. Default "any".
    pub protocol: Option<At<Protocol>>,
    /// Source ports of TCP or UDP. Default: any.
    #[serde(default)]
    pub source_ports: Vec<At<PortRange>>,
    /// Destination ports of TCP or UDP. Default: any.
    #[serde(default)]
    pub ports: Vec<At<PortRange>>,
    /// Classes of flows, as `softdpu flows` shows them. Default: any.
    #[serde(default)]
    pub class: Vec<At<String>>,
    /// Host names (TLS server name, HTTP host, DNS question). Default: any.
    #[serde(default)]
    pub host: Vec<At<HostPattern>>,
    /// The tunnel that carries the flow. Default: none, the flow goes in clear.
    pub encrypt: Option<At<Name>>,
    /// Codec inside the tunnel. Default "never".
    pub compress: Option<At<Compress>>,
    /// What becomes of the flow. Default "forward".
    pub action: Option<At<RuleAction>>,
}

/// The JSON Schema (draft 2020-12) of a policy file, references resolved in place.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<File>().to_value();
    strip_null(&mut schema);
    schema
}

/// TOML has no null: what serde calls optional may be left out, and that is all.
fn strip_null(node: &mut Value) {
    let is_null = |v: &Value| v == "null" || v.get("type").is_some_and(|t| t == "null") || v.is_null();
    match node {
        Value::Array(items) => items.iter_mut().for_each(strip_null),
        Value::Object(map) => {
            map.retain(|key, value| !(key == "default" && value.is_null()));
            for key in ["type", "anyOf", "oneOf", "enum"] {
                let Some(Value::Array(choices)) = map.get_mut(key) else { continue };
                choices.retain(|c| !is_null(c));
                if choices.len() != 1 || key == "enum" {
                    continue;
                }
                let Some(only) = choices.pop() else { continue };
                map.remove(key);
                match only {
                    Value::Object(inner) => {
                        for (k, v) in inner {
                            map.entry(k).or_insert(v);
                        }
                    }
                    word => {
                        map.insert(key.to_owned(), word);
                    }
                }
            }
            map.values_mut().for_each(strip_null);
        }
        _ => {}
    }
}
