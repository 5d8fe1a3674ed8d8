//! The policy as the rest of the program uses it: checked, typed, every reference resolved to an index.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Index;
pub use super::host_glob::HostGlob;
pub use super::intent::Intent;
pub use super::places::LinkAddress;
use super::problem::{Problem, Source};
pub use super::schema::{
    Checksum, Cipher, Compress, Encapsulation, Fallback, Idle, IpsecMode, Mode, OnLoss, RuleAction, RuleOffload,
    SequenceMode, SteerAction, TunnelType, ZeroCopy,
};
pub use super::terms::{Terms, Tier};
pub use super::values::{HostPattern, PortRange, Prefix, Protocol};
use crate::io::steer::Meter;
use crate::offload::Setting;
use crate::plan::contract::Contract;

/// A whole, valid policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name of the instance, default "softdpu".
    pub name: String,
    pub control: Control,
    pub apply: Apply,
    pub workers: Workers,
    pub flows: Flows,
    /// What goes down into the driver.
    pub offload: Setting,
    /// `None`: flows are told of nowhere.
    pub export: Option<Export>,
    /// In the order of the file; other parts refer to ports by index. At least one.
    pub ports: Vec<Port>,
    /// In the order of the file: first match wins.
    pub steer: Vec<Steer>,
    /// In the order of the file; rules refer to them by index.
    pub tunnels: Vec<Tunnel>,
    /// In the order of the file; rules refer to them by index.
    pub applications: Vec<Application>,
    /// In the order of the file: first match wins.
    pub rules: Vec<Rule>,
    /// What holds between operator and applications.
    pub terms: Terms,
    /// In the order of their files. Their rules are in `rules` already, in front of the operator's.
    pub intents: Vec<Intent>,
    /// What became of the intents.
    pub contract: Arc<Contract>,
    /// Finds the operator's rules, until intents are compiled.
    pub index: Option<Arc<Index>>,
    /// What is allowed but likely not meant.
    pub warnings: Vec<Problem>,
    /// The text it came from, for messages.
    pub source: Source,
}

/// The control socket and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub socket: PathBuf,
    /// Permission bits of the socket.
    pub socket_mode: u32,
    /// Group of the socket: a name of the host's, or a number.
    pub socket_group: Option<String>,
    /// A loopback address, or none.
    pub metrics: Option<SocketAddr>,
}

/// Where workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// So many workers, on cores of softdpu's choice. At least 1.
    Count(usize),
    /// One worker on each of these. At least one, no core twice.
    List(Vec<usize>),
}

impl Cores {
    /// Number of workers.
    pub fn workers(&self) -> usize {
        match self {
            Self::Count(n) => *n,
            Self::List(cores) => cores.len(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    pub cores: Cores,
    pub idle: Idle,
    /// Frames in each worker's UMEM.
    pub frames: u32,
    /// Most packets in a batch, 1..=256.
    pub batch: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    /// Most flows per worker.
    pub capacity: usize,
    /// Most that are opening or one-sided, percent of the capacity, 1 to 100.
    pub unproven_percent: u8,
    pub timeouts: Timeouts,
}

/// How long a silent flow is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_established: Duration,
    pub tcp_opening: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { tcp_established: s(7200), tcp_opening: s(30), tcp_closing: s(10), udp: s(60), other: s(30) }
    }
}

/// Where flows are told of: a collector, a file or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// IPFIX over UDP.
    pub ipfix: Option<SocketAddr>,
    pub observation_domain: u32,
    pub template_interval: Duration,
    pub active_timeout: Duration,
    /// One JSON object a line.
    pub log: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub checksum: Checksum,
    pub kind: PortKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    Xdp(XdpPort),
    Tap(TapPort),
    /// `read` and `write` may both be absent: `softdpu replay` names the files.
    Pcap {
        read: Option<PathBuf>,
        write: Option<PathBuf>,
        mtu: u32,
    },
    /// What is sent here is received on port `to`, which is a loopback port too.
    Loopback {
        to: usize,
        mtu: u32,
    },
}

impl PortKind {
    /// As in the file: "xdp", "tap", "pcap" or "loopback".
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Xdp(_) => "xdp",
            Self::Tap(_) => "tap",
            Self::Pcap { .. } => "pcap",
            Self::Loopback { .. } => "loopback",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpPort {
    pub interface: String,
    /// Queues to take from queue 0; `None`: all there are.
    pub queues: Option<u32>,
    pub mode: Mode,
    pub zero_copy: ZeroCopy,
    pub busy_poll: bool,
    /// Descriptors per ring, a power of two.
    pub ring: u32,
}

/// This host's own kernel, through a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapPort {
    /// Name of the tap.
    pub interface: String,
    pub mtu: u32,
    pub addresses: Vec<LinkAddress>,
    /// What the kernel is to route by it.
    pub routes: Vec<Prefix>,
    /// Of packets to `routes` and [`Self::nets`], once nobody reads the tap any more. Already the stricter of what was written
    /// and what rules need.
    pub on_loss: OnLoss,
}

impl TapPort {
    /// The prefixes of `addresses` that are more than the host itself: the kernel routes these by the tap of its own accord.
    pub fn nets(&self) -> impl Iterator<Item = Prefix> + '_ {
        let net = |address: &LinkAddress| Prefix::new(address.addr, address.prefix_len);
        self.addresses.iter().filter_map(net).filter(|net| *net != Prefix::host(net.addr()))
    }
}

/// What packets a rule is about. An empty list means any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    pub from: Arc<[Prefix]>,
    pub to: Arc<[Prefix]>,
    /// With ports and no protocol: TCP and UDP.
    pub protocol: Protocol,
    pub source_ports: Arc<[PortRange]>,
    pub ports: Arc<[PortRange]>,
}

impl Match {
    /// The same for the answers: sources and destinations change places.
    pub fn reversed(&self) -> Self {
        Self {
            from: self.to.clone(),
            to: self.from.clone(),
            protocol: self.protocol,
            source_ports: self.ports.clone(),
            ports: self.source_ports.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    pub name: String,
    /// Index of the port; `None`: any.
    pub port: Option<usize>,
    pub matches: Match,
    pub action: SteerAction,
    /// Already the stricter of what was written and what rules need.
    pub on_loss: OnLoss,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub name: String,
    pub kind: TunnelKind,
    /// Largest outer packet in bytes; `None`: the port's.
    pub mtu: Option<u32>,
    /// Lower the MSS of TCP connections to what fits.
    pub mss_clamp: bool,
    /// Fragment after sealing instead of before.
    pub fragment_outer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    Esp(EspTunnel),
    WireGuard(WireGuardTunnel),
    Xfrm(XfrmTunnel),
}

impl TunnelKind {
    /// As in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Esp(_) => "esp",
            Self::WireGuard(_) => "wireguard",
            Self::Xfrm(_) => "xfrm",
        }
    }
}

/// ESP with keys from files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspTunnel {
    pub local: IpAddr,
    /// Of the family of `local`.
    pub remote: IpAddr,
    pub encapsulation: Encapsulation,
    pub cipher: Cipher,
    pub sequence: SequenceMode,
    pub mode: IpsecMode,
    /// Packets, a power of two, 64..=4096.
    pub replay_window: u32,
    /// For ESP in UDP; zero: none are sent.
    pub keepalive: Duration,
    pub lifetime: Lifetime,
    pub out: Sa,
    pub inbound: Sa,
}

/// How much each direction's keys may carry; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    pub packets: Option<u64>,
    /// Of inner packets.
    pub bytes: Option<u64>,
    /// Since the start.
    pub time: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuardTunnel {
    pub local: Option<IpAddr>,
    pub listen_port: u16,
    pub private_key_file: Option<PathBuf>,
    pub peers: Vec<WireGuardPeer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuardPeer {
    pub name: Option<String>,
    pub public_key: [u8; 32],
    pub preshared_key_file: Option<PathBuf>,
    pub endpoint: Option<SocketAddr>,
    pub allowed_ips: Vec<Prefix>,
    /// Seconds.
    pub persistent_keepalive: Option<u16>,
}

/// What the kernel's XFRM has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XfrmTunnel {
    pub fallback: Fallback,
}

/// One direction of a tunnel.
#[derive(Clone, Debug)]
pub struct Sa {
    /// 256..=u32::MAX.
    pub spi: u32,
    pub key_file: PathBuf,
    pub(super) key_span: std::ops::Range<usize>,
}

/// Where in the file it stands is no part of it.
impl PartialEq for Sa {
    fn eq(&self, other: &Self) -> bool {
        (self.spi, &self.key_file) == (other.spi, &other.key_file)
    }
}

impl Eq for Sa {}

/// How a changed policy comes into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// A command that says by its exit code whether all is well, and its arguments. Empty: none.
    pub health: Vec<String>,
    /// Time it has to say so.
    pub within: Duration,
    /// Where former policies are kept. `None`: in memory.
    pub history: Option<PathBuf>,
    /// Between two questions for the names of intents; zero: none but at a reload.
    pub resolve: Duration,
}

impl Default for Apply {
    fn default() -> Self {
        Self { health: Vec::new(), within: Duration::from_secs(10), history: None, resolve: Duration::from_secs(60) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: Arc<str>,
    pub matches: Match,
    /// Of [`known_classes`](super::known_classes). Empty: any.
    pub classes: Arc<[String]>,
    /// Empty: any.
    pub hosts: Arc<[HostPattern]>,
    /// Indices of applications. Empty: any, and none.
    pub applications: Vec<usize>,
    /// Index of the tunnel.
    pub encrypt: Option<usize>,
    pub compress: Compress,
    pub action: RuleAction,
    pub offload: RuleOffload,
    pub meter: Option<Meter>,
    /// Of all flows of rules that name the same.
    pub ceiling: Option<Shared>,
    pub dscp: Option<u8>,
    /// 0: none.
    pub sample: u32,
    /// Index of the port that gets copies.
    pub mirror: Option<usize>,
}

/// What flows of several rules may take together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The application.
    pub of: Arc<str>,
    /// Of both directions.
    pub meter: Option<Meter>,
    /// Most of them at once.
    pub connections: Option<u32>,
}

/// The operator's name for some flows. Of each kind of terms an empty list means any.
#[derive(Clone, Debug, Default)]
pub struct Application {
    pub name: String,
    /// Those of the policy, and once it is loaded those of `hosts_file` behind them.
    pub hosts: Arc<[HostGlob]>,
    pub hosts_file: Option<PathBuf>,
    pub prefixes: Vec<Prefix>,
    pub ports: Vec<PortRange>,
    pub protocol: Protocol,
    /// Of [`known_classes`](super::known_classes).
    pub classes: Vec<String>,
    /// Identifiers that [`Alpn`](crate::l7::Alpn) has.
    pub alpn: Vec<String>,
    /// JA4 fingerprints, lower case.
    pub ja4: Vec<String>,
    /// Where its name, and its `hosts_file`, stand in the policy's text.
    pub span: std::ops::Range<usize>,
    pub hosts_file_span: std::ops::Range<usize>,
}

/// Of what it says, wherever in the file that stands.
impl PartialEq for Application {
    fn eq(&self, other: &Self) -> bool {
        let key = |app: &Self| {
            let lists =
                (app.prefixes.clone(), app.ports.clone(), app.classes.clone(), app.alpn.clone(), app.ja4.clone());
            (app.name.clone(), app.hosts.clone(), app.hosts_file.clone(), app.protocol, lists)
        };
        key(self) == key(other)
    }
}

impl Application {
    /// Whether flows without a host name are none of its. Also before its file is read.
    pub fn asks_host(&self) -> bool {
        !self.hosts.is_empty() || self.hosts_file.is_some()
    }
}

impl Policy {
    pub fn port(&self, name: &str) -> Option<usize> {
        self.ports.iter().position(|p| p.name == name)
    }

    pub fn tunnel(&self, name: &str) -> Option<usize> {
        self.tunnels.iter().position(|t| t.name == name)
    }

    /// Tunnels with keys from files, each with its index.
    pub fn esp_tunnels(&self) -> impl Iterator<Item = (usize, &EspTunnel)> {
        self.tunnels.iter().enumerate().filter_map(|(at, tunnel)| match &tunnel.kind {
            TunnelKind::Esp(esp) => Some((at, esp)),
            TunnelKind::WireGuard(_) | TunnelKind::Xfrm(_) => None,
        })
    }
}
