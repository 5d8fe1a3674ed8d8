//! The policy file as it is written. The doc comment of every key is its description in `softdpu schema`, and the shape
//! check of a file walks the schema generated from these types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::at::At;
use super::host_glob::HostGlob;
use super::places::{
    Address, Endpoint, FileMode, FilePath, Group, Interface, LinkAddress, MetricsAddress, Name, WireGuardKey,
};
use super::terms::{Allow, Capacity, Defaults, Limit, Maintenance};
use super::values::{HostPattern, Interval, PortRange, Prefix, Protocol, Span};
use crate::offload::NicMode;

/// A softdpu policy: what the host has and allows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "softdpu policy")]
pub struct File {
    /// Name of the instance: in its control socket's name, its metrics and its logs. Default "softdpu".
    pub name: Option<At<Name>>,
    /// Who answers for this policy: applications are sent there. Default "network operator".
    pub owner: Option<At<String>>,
    /// Folder of the applications' intents, `NAME.intent.toml`. Default: there are none.
    pub intents: Option<At<FilePath>>,
    /// What the host has to share out among applications. What is not written is not limited by the policy.
    #[serde(default)]
    pub capacity: Capacity,
    /// What this host allows.
    #[serde(default)]
    pub allow: Allow,
    /// What holds for intents that do not say it themselves.
    #[serde(default)]
    pub defaults: Defaults,
    /// Ceilings of applications.
    #[serde(default)]
    pub limit: Vec<Limit>,
    /// What is being worked on.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// The control socket and the metrics.
    #[serde(default)]
    pub control: Control,
    /// How a changed policy comes into force: `softdpu reload`.
    #[serde(default)]
    pub apply: Apply,
    /// The worker threads.
    #[serde(default)]
    pub workers: Workers,
    /// The flow table.
    #[serde(default)]
    pub flows: Flows,
    /// Which flows go down into the driver (tier `xdp`).
    #[serde(default)]
    pub offload: Offload,
    /// Where flows are told of. Without it nowhere but on the control socket.
    #[serde(default)]
    pub export: Export,
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
    /// The operator's names for flows, for rules, counters and exports.
    #[serde(default)]
    pub application: Vec<Application>,
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
    /// Permission bits of the socket. Whoever may open it may ask; changes are for root and the instance's own user. Default "0660".
    pub socket_mode: Option<At<FileMode>>,
    /// Group of the socket, by name or number: those who may ask without being root. Default: the instance's own.
    pub socket_group: Option<At<Group>>,
    /// Loopback address and port for Prometheus. Without it /metrics is on the control socket only.
    pub metrics: Option<At<MetricsAddress>>,
}

/// How a changed policy comes into force.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Program and arguments, run without a shell after a change. It is run again until it ends with exit code 0, or until
    /// `within` is over: then the policy before is put back.
    pub health: Option<At<Vec<At<String>>>>,
    /// Time for the health check, at most "45s". Default "10s".
    pub within: Option<At<Span>>,
    /// Folder for the policies that were in force, the newest 64. Without it they are kept until the instance ends.
    pub history: Option<At<FilePath>>,
    /// How often the names that intents ask for are resolved again, "5s" to "1d"; "0s": at a reload only. Default "60s". Where a name
    /// has other addresses, the policy in force is made anew with them. An address that is not named any more counts for another
    /// hour, and where there is no answer, what is known stays.
    pub resolve: Option<At<Span>>,
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
    /// Most flows that are opening or one-sided, in percent of the capacity. When there are as many, the oldest of them makes
    /// way for a new one: a flood of new flows takes no more than this. Default 50.
    #[schemars(range(min = 1, max = 100))]
    pub unproven_percent: Option<At<u32>>,
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

/// Which flows go down into the driver (tier `xdp`), where they cost no worker anything.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Offload {
    /// Default true.
    pub enabled: Option<At<bool>>,
    /// Most flows in the driver's table, about 900 bytes each. Default 16384.
    #[schemars(range(min = 8, max = 4_194_304))]
    pub capacity: Option<At<u32>>,
    /// Packets that a worker sees of a flow before it goes down. Default 4.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub min_packets: Option<At<u32>>,
    /// Whether a flow stays with the worker until it is known what it carries. Where rules ask for classes or hosts a flow
    /// waits in any case until its rule is settled. Default true.
    pub wait_for_class: Option<At<bool>>,
    /// Whether SmartNICs are asked to drop what rules drop, in the device: "auto" asks each port's and goes on without those that
    /// refuse, "off" asks none, "require" does not start unless all take it. Default "auto".
    pub nic: Option<At<NicMode>>,
}

/// Where flows are told of.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Address and UDP port of an IPFIX collector (RFC 7011), for example "192.0.2.10:4739".
    pub ipfix: Option<At<Endpoint>>,
    /// Number that the collector tells this instance by. Default 1.
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub observation_domain: Option<At<u32>>,
    /// How often the collector is told again what the fields are. Default "60s".
    pub template_interval: Option<At<Span>>,
    /// How often a flow that lasts is told of. Default "60s".
    pub active_timeout: Option<At<Span>>,
    /// File to append to, one JSON object a line and flow. It may be moved away at any time; a new one is begun.
    pub log: Option<At<FilePath>>,
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
    /// This host's own kernel, through a tap that softdpu makes: what the kernel routes to it goes to a worker, what a worker has
    /// for this host or for interfaces that are no ports goes to the kernel. At most one.
    Tap,
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
    /// The network interface. Kind xdp, and needed there; kind tap, where it is the tap's name and the default is the port's.
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
    /// What to do about L4 checksums that a sender left to its device. Not for kind tap, where the kernel says it of each
    /// packet. Default "auto".
    pub checksum: Option<At<Checksum>>,
    /// Largest IP packet sent here, in bytes. Not for kind xdp, which takes the interface's. Default 1500. On a tap the kernel
    /// keeps to it as well: what the tunnels carry whole spares fragments.
    #[schemars(range(min = 576, max = 65_535))]
    pub mtu: Option<At<u32>>,
    /// Capture file to read packets from. Kind pcap only.
    pub read: Option<At<FilePath>>,
    /// Capture file to write sent packets to. Kind pcap only.
    pub write: Option<At<FilePath>>,
    /// The loopback port that receives what is sent here; may be the port itself. Kind loopback only, and needed there.
    pub loop_to: Option<At<Name>>,
    /// Addresses given to the tap, for example "10.1.0.1/32". Kind tap only. Default: none; the kernel then sends from another
    /// address of this host.
    #[serde(default)]
    pub addresses: Vec<At<LinkAddress>>,
    /// Prefixes that the kernel is to route by the tap. Kind tap only. Default: none, they are the operator's
    /// (`ip route add PREFIX dev TAP`).
    #[serde(default)]
    pub routes: Vec<At<Prefix>>,
    /// What becomes of packets to `routes` when softdpu dies: to wherever the kernel routes them then, or away. Kind tap only.
    /// Default "drop" where a rule encrypts flows to or from them, else "pass".
    pub on_loss: Option<At<OnLoss>>,
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
    /// IPsec ESP (RFC 4303) with keys from files.
    #[default]
    Esp,
    /// WireGuard. Peers are written here, or set at run time with `wg`.
    Wireguard,
    /// IPsec ESP as the kernel's XFRM has it: what an IKE daemon or `ip xfrm` installs there, softdpu runs.
    Xfrm,
}

/// How an ESP tunnel counts its packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SequenceMode {
    /// 64 bits, in full in each packet's IV: both ends are softdpu, and either may restart at any time.
    #[default]
    Iv,
    /// Extended sequence numbers (RFC 4303 section 2.2.1), for any peer that has them.
    Extended,
    /// 32 bits, for any peer.
    Short,
}

/// What an ESP tunnel protects of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IpsecMode {
    /// All of it, in a new IP header from `local` to `remote`.
    #[default]
    Tunnel,
    /// What is behind its IP header. `local` and `remote` are then the hosts that talk.
    Transport,
}

/// Who takes over flows of mirrored policies when no worker is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Nobody: their packets are dropped.
    #[default]
    Drop,
    /// The kernel, which has the same associations.
    Kernel,
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
    /// This end's outer address. Types esp, and needed there; and wireguard, where the default is any address of this host.
    pub local: Option<At<Address>>,
    /// The peer's outer address, of the same family. Type esp only, and needed there.
    pub remote: Option<At<Address>>,
    /// What carries the ESP packets. Type esp only. Default "none".
    pub encapsulation: Option<At<Encapsulation>>,
    /// The cipher, the same on both ends. Type esp only. Default "aes-256-gcm".
    pub cipher: Option<At<Cipher>>,
    /// How packets are counted, the same on both ends. Type esp only. Default "iv".
    pub sequence: Option<At<SequenceMode>>,
    /// What is protected of a packet. Type esp only. Default "tunnel".
    pub mode: Option<At<IpsecMode>>,
    /// Packets that may arrive out of order before the oldest is refused; a power of two. Type esp only. Default 1024.
    #[schemars(range(min = 64, max = 4096))]
    pub replay_window: Option<At<u32>>,
    /// Largest outer packet in bytes. Default: what the port it leaves by allows.
    #[schemars(range(min = 576, max = 65_535))]
    pub mtu: Option<At<u32>>,
    /// Lower the MSS that TCP connections through the tunnel announce to what fits it. Default true.
    pub mss_clamp: Option<At<bool>>,
    /// Fragment sealed packets that are larger than the link allows, in place of fragmenting or refusing them before. Default
    /// false.
    pub fragment_outer: Option<At<bool>>,
    /// Send a keepalive (RFC 3948 section 4) after so long without a packet; "0s" sends none. Type esp in UDP only. Default
    /// "20s".
    pub keepalive: Option<At<Interval>>,
    /// How much its keys may carry. Type esp only. Default: no limit.
    pub lifetime: Option<Lifetime>,
    /// The security association for what we send. Type esp only, and needed there.
    pub out: Option<Sa>,
    /// The security association for what we receive. Type esp only, and needed there.
    #[serde(rename = "in")]
    pub inbound: Option<Sa>,
    /// UDP port that peers send to. Type wireguard only. Default 51820.
    #[schemars(range(min = 1, max = 65_535))]
    pub listen_port: Option<At<u32>>,
    /// File with this end's private key, as `wg genkey` writes it; mode 0600. Type wireguard only. Default: none, until
    /// `wg set NAME private-key FILE`.
    pub private_key_file: Option<At<FilePath>>,
    /// Peers. Type wireguard only.
    #[serde(default)]
    pub peer: Vec<Peer>,
    /// Who takes over when no worker is there. Type xfrm only. Default "drop".
    pub fallback: Option<At<Fallback>>,
}

/// How much the keys of each direction may carry since the start. Beyond it nothing more is sent or accepted: its flows are
/// dropped until softdpu starts anew, with new keys. At nine tenths there is a warning in the log and in `softdpu status`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    /// Packets. Default: no limit.
    #[schemars(range(min = 1))]
    pub packets: Option<At<u64>>,
    /// Bytes of inner packets. Default: no limit.
    #[schemars(range(min = 1))]
    pub bytes: Option<At<u64>>,
    /// Time since the start. Default: no limit.
    pub time: Option<At<Span>>,
}

/// A WireGuard peer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Name of the peer, for status. Default: the start of its key.
    pub name: Option<At<Name>>,
    /// Its public key, as `wg pubkey` writes it.
    pub public_key: At<WireGuardKey>,
    /// File with the preshared key, as `wg genpsk` writes it; mode 0600. Default: none.
    pub preshared_key_file: Option<At<FilePath>>,
    /// Where it is, "192.0.2.2:51820" or "[2001:db8::2]:51820". Default: wherever it first authenticates from.
    pub endpoint: Option<At<Endpoint>>,
    /// What may come from it, and is sent to it. Default: nothing.
    #[serde(default)]
    pub allowed_ips: Vec<At<Prefix>>,
    /// Seconds between keepalives that keep a NAT's mapping alive. Default: none are sent.
    #[schemars(range(min = 1, max = 65_535))]
    pub persistent_keepalive: Option<At<u32>>,
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

/// Whether flows go down into the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleOffload {
    /// As soon as nothing is left to do for a worker.
    #[default]
    Auto,
    /// They stay with their worker.
    Never,
}

/// The operator's name for some flows. Terms of one kind are alternatives, terms of several kinds must hold together. Of several
/// applications that fit a flow the one with the longest host pattern has it; then the one with the longest prefix; then the one that
/// asks for more kinds of terms; then the first in the file. At most 4,095, and 1,000,000 host patterns of all together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Name of the application, for rules, counters and exports.
    pub name: At<Name>,
    /// Host names (TLS server name, HTTP host, DNS question), also with `*`. Default: any.
    #[serde(default)]
    pub host: Vec<At<HostGlob>>,
    /// File with more of them, one a line; what follows `#` is a comment. For long lists.
    pub hosts_file: Option<At<FilePath>>,
    /// Prefixes of the server's address. Default: any.
    #[serde(default)]
    pub prefix: Vec<At<Prefix>>,
    /// The server's ports (TCP, UDP or SCTP). Default: any.
    #[serde(default)]
    pub port: Vec<At<PortRange>>,
    /// IP protocol. Default "any".
    pub protocol: Option<At<Protocol>>,
    /// Classes of flows, as `softdpu flows` shows them. Default: any.
    #[serde(default)]
    pub class: Vec<At<String>>,
    /// The protocol that a TLS or QUIC client offers first (ALPN, RFC 7301): "h2". Default: any.
    #[serde(default)]
    pub alpn: Vec<At<String>>,
    /// JA4 fingerprints of TLS and QUIC clients, as `softdpu classify --json` shows them. Default: any.
    #[serde(default)]
    pub ja4: Vec<At<String>>,
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
    /// Applications, by name. Known when class and host are. Default: any, and flows of none.
    #[serde(default)]
    pub application: Vec<At<Name>>,
    /// The tunnel that carries the flow. Default: none, the flow goes in clear.
    pub encrypt: Option<At<Name>>,
    /// Codec inside the tunnel. Default "never".
    pub compress: Option<At<Compress>>,
    /// What becomes of the flow. Default "forward".
    pub action: Option<At<RuleAction>>,
    /// Whether its flows may go down into the driver once nothing is left to do for a worker. Encrypted ones never do.
    /// Default "auto".
    pub offload: Option<At<RuleOffload>>,
    /// Bytes of IP packets per second that each direction of each flow may have; what is over is dropped and counted. Default: no
    /// limit.
    #[schemars(range(min = 1_000, max = 125_000_000_000u64))]
    pub meter_rate: Option<At<u64>>,
    /// Bytes at once, before `meter_rate` holds. Default: 50 ms of `meter_rate`, at least 65536.
    #[schemars(range(min = 1_500, max = 4_294_967_295u32))]
    pub meter_burst: Option<At<u64>>,
    /// DSCP that its packets leave with (RFC 2474), both directions. Default: as they came.
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<At<u8>>,
    /// One of so many packets of each direction of each flow is counted as sampled and, where the flow is in the driver, handed
    /// up to the worker. Default: none.
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub sample: Option<At<u32>>,
    /// Port that gets a copy of each of its packets as it came in, both directions: for an intrusion detection system, say. With
    /// `sample`, of one in so many. Only of flows in clear. Default: none.
    pub mirror: Option<At<Name>>,
}

impl Rule {
    /// Stands so many bytes further back than it did.
    pub(super) fn shift(&mut self, by: isize) {
        // Each key by its name, so that none is forgotten.
        let Self {
            name,
            from,
            to,
            protocol,
            source_ports,
            ports,
            class,
            host,
            application,
            encrypt,
            compress,
            action,
            offload,
            meter_rate,
            meter_burst,
            dscp,
            sample,
            mirror,
        } = self;
        fn each<'v, T: 'v>(values: impl IntoIterator<Item = &'v mut At<T>>, by: isize) {
            values.into_iter().for_each(|value| value.shift(by));
        }
        name.shift(by);
        each(from, by);
        each(to, by);
        each(protocol, by);
        each(source_ports, by);
        each(ports, by);
        each(class, by);
        each(host, by);
        each(application, by);
        each(encrypt, by);
        each(compress, by);
        each(action, by);
        each(offload, by);
        each(meter_rate, by);
        each(meter_burst, by);
        each(dscp, by);
        each(sample, by);
        each(mirror, by);
    }
}

/// The JSON Schema (draft 2020-12) of a policy file, references resolved in place.
pub fn json_schema() -> Value {
    json_schema_of::<File>()
}

/// The same of an intent file.
pub fn intent_json_schema() -> Value {
    json_schema_of::<super::intent::File>()
}

/// The same of any kind of file.
pub fn json_schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
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
