//! States and policies of the kernel as types. The names are the kernel's where it has them.

use super::replay::Replay;
use crate::crypto::aead::KeyMaterial;
use crate::wire::prefix::Prefix;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub const IPPROTO_ESP: u8 = 50;

/// A value that counts where `mask` has ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    pub value: u32,
    pub mask: u32,
}

impl Mark {
    /// As the kernel asks: `(mark & m) == v`.
    pub fn matches(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }
}

/// What a packet is to selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// IP protocol number of the transport header.
    pub protocol: u8,
    /// TCP, UDP, UDP-Lite, SCTP: the port. ICMP and ICMPv6: the type. Mobility: its type. GRE: the upper half of the key.
    /// Others, and fragments without transport header: 0.
    pub sport: u16,
    /// The port; ICMP and ICMPv6: the code; GRE: the lower half of the key; otherwise 0.
    pub dport: u16,
    pub mark: u32,
    /// Of the XFRM interface the packet is on, 0 for none.
    pub if_id: u32,
    /// Index of the interface it leaves by, 0 where not known.
    pub interface: u32,
}

impl Flow {
    /// Without mark and interface.
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, sport: u16, dport: u16) -> Self {
        Self { src, dst, protocol, sport, dport, mark: 0, if_id: 0, interface: 0 }
    }
}

/// Which packets a policy or a state is for (`xfrm_selector`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    pub src: Prefix,
    pub dst: Prefix,
    pub sport: u16,
    pub sport_mask: u16,
    pub dport: u16,
    pub dport_mask: u16,
    /// 0 for any.
    pub protocol: u8,
    /// Index of the outgoing interface, 0 for any.
    pub interface: u32,
}

impl Selector {
    /// As `xfrm_selector_match` does.
    pub fn matches(&self, flow: &Flow) -> bool {
        self.src.contains(flow.src)
            && self.dst.contains(flow.dst)
            && (self.sport ^ flow.sport) & self.sport_mask == 0
            && (self.dport ^ flow.dport) & self.dport_mask == 0
            && (self.protocol == 0 || self.protocol == flow.protocol)
            && (self.interface == 0 || self.interface == flow.interface)
    }
}

/// How the inner packet stands in the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Transport,
    Tunnel,
    /// Route optimisation, BEET, IP-TFS: the kernel's number.
    Other(u8),
}

impl Mode {
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Mode::Transport,
            1 => Mode::Tunnel,
            other => Mode::Other(other),
        }
    }

    pub fn number(self) -> u8 {
        match self {
            Mode::Transport => 0,
            Mode::Tunnel => 1,
            Mode::Other(number) => number,
        }
    }
}

/// `None`: no limit. Bytes and packets; seconds since the state was added and since it was first used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub bytes: Option<u64>,
    pub packets: Option<u64>,
    pub since_added: Option<u64>,
    pub since_used: Option<u64>,
}

/// At `soft` the key daemon is asked for a new SA, at `hard` the SA ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    pub soft: Limits,
    pub hard: Limits,
}

/// What was used so far, as the kernel counts. Times are seconds since 1970, 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub packets: u64,
    pub added: u64,
    pub first_use: u64,
}

/// What the kernel knows a state by. `mark` is part of it: states may differ by that alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    pub dst: IpAddr,
    pub spi: u32,
    pub protocol: u8,
    pub mark: Mark,
}

/// ESP in UDP (RFC 3948). Ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encap {
    pub sport: u16,
    pub dport: u16,
}

/// Why a state or policy stays the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// It has no keys yet: the key daemon is at it (`ALLOCSPI`, acquire).
    Larval,
    /// AH, IPComp, …: the protocol's number.
    Protocol(u8),
    /// Any cipher but AES-GCM and ChaCha20-Poly1305, or a key of another length: its name in the kernel.
    Cipher(Box<str>),
    /// A tag of other than 128 bits: this many.
    TagBits(u32),
    Mode(u8),
    /// Encapsulation other than `espinudp`: its type.
    Encapsulation(u16),
    /// Hardware does it.
    Offloaded,
    /// Padding to hide lengths (`tfcpad`).
    FlowPadding,
    /// Bound to a security label.
    Label,
    /// One per CPU.
    PerCpu,
    /// A window of more packets than [`super::replay::MAX_WINDOW`].
    Window(u32),
    /// A policy with several transforms that are not optional.
    Bundle(u8),
}

impl Unsupported {
    /// Stable, for status and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Unsupported::Larval => "larval",
            Unsupported::Protocol(_) => "protocol",
            Unsupported::Cipher(_) => "cipher",
            Unsupported::TagBits(_) => "tag-length",
            Unsupported::Mode(_) => "mode",
            Unsupported::Encapsulation(_) => "encapsulation",
            Unsupported::Offloaded => "offloaded",
            Unsupported::FlowPadding => "flow-padding",
            Unsupported::Label => "label",
            Unsupported::PerCpu => "per-cpu",
            Unsupported::Window(_) => "replay-window",
            Unsupported::Bundle(_) => "bundle",
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsupported::Larval => f.write_str("it has no keys yet"),
            Unsupported::Protocol(n) => write!(f, "IP protocol {n} is not ESP"),
            Unsupported::Cipher(name) => write!(f, "cipher {name} is not one of softdpu's"),
            Unsupported::TagBits(bits) => write!(f, "a tag of {bits} bits, softdpu has 128"),
            Unsupported::Mode(n) => write!(f, "mode {n} is neither transport nor tunnel"),
            Unsupported::Encapsulation(n) => write!(f, "encapsulation {n} is not ESP in UDP"),
            Unsupported::Offloaded => f.write_str("a device has it"),
            Unsupported::FlowPadding => f.write_str("traffic flow padding"),
            Unsupported::Label => f.write_str("a security label"),
            Unsupported::PerCpu => f.write_str("bound to one CPU"),
            Unsupported::Window(n) => write!(f, "a replay window of {n} packets"),
            Unsupported::Bundle(n) => write!(f, "{n} transforms on one packet"),
        }
    }
}

/// `XFRM_STATE_…` and `XFRM_SA_XFLAG_…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub no_ecn: bool,
    pub decap_dscp: bool,
    pub no_path_mtu_discovery: bool,
    /// Opens for any destination; never used to send.
    pub wildcard_receive: bool,
    /// ICMP errors pass by what they quote.
    pub icmp: bool,
    pub any_family: bool,
    pub esn: bool,
    pub dont_encap_dscp: bool,
    /// The sequence number may start again (RFC 4303 §3.3.3 forbids it without manual keys).
    pub oseq_may_wrap: bool,
}

/// `XFRMA_SA_DIR`, where the daemon says it (Linux 6.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// One SA, one direction. `Debug` prints no key.
#[derive(Clone, Debug)]
pub struct State {
    pub key: StateKey,
    pub src: IpAddr,
    pub reqid: u32,
    pub mode: Mode,
    /// `None`: everything.
    pub selector: Option<Selector>,
    /// Shared, since key material is never copied.
    pub material: Option<Arc<KeyMaterial>>,
    /// Why softdpu does not run it. `material` is there where this is `None`.
    pub unsupported: Option<Unsupported>,
    pub encap: Option<Encap>,
    pub replay: Replay,
    pub lifetimes: Lifetimes,
    pub used: Used,
    pub flags: Flags,
    pub if_id: u32,
    /// Put on packets that were sealed (`output-mark`).
    pub output_mark: Option<Mark>,
    pub way: Option<Way>,
    /// A soft limit was hit: others go first.
    pub dying: bool,
    /// Of two states added in the same second the one with the higher number is younger.
    pub age: i64,
}

impl State {
    pub fn dst(&self) -> IpAddr {
        self.key.dst
    }

    pub fn spi(&self) -> u32 {
        self.key.spi
    }

    pub fn supported(&self) -> bool {
        self.unsupported.is_none() && self.material.is_some()
    }
}

/// Which packets a policy is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    In,
    Out,
    Forward,
}

impl Direction {
    pub const ALL: [Direction; 3] = [Direction::In, Direction::Out, Direction::Forward];

    /// `None` for the directions of policies of single sockets.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.number() == number)
    }

    pub fn number(self) -> u8 {
        match self {
            Direction::In => 0,
            Direction::Out => 1,
            Direction::Forward => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Block,
}

/// What must be (or have been) done to a packet of a policy (`xfrm_user_tmpl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Unspecified (all zero) for any.
    pub src: IpAddr,
    pub dst: IpAddr,
    /// 0 for any.
    pub spi: u32,
    pub protocol: u8,
    pub reqid: u32,
    pub mode: Mode,
    pub optional: bool,
    /// Bits of allowed ciphers (`aalgos`, `ealgos`, `calgos`), as they came.
    pub algorithms: [u32; 3],
}

impl Template {
    /// Whether a packet that `state` opened satisfies this (`xfrm_state_ok`).
    pub fn accepts(&self, state: &State, if_id: u32) -> bool {
        state.key.protocol == self.protocol
            && (self.spi == 0 || self.spi == state.key.spi)
            && (self.reqid == 0 || self.reqid == state.reqid)
            && state.mode == self.mode
            && (self.mode == Mode::Transport || self.src.is_unspecified() || self.src == state.src)
            && (if_id == 0 || if_id == state.if_id)
    }
}

/// What the kernel knows a policy by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    pub direction: Direction,
    /// Given by the kernel; grows, so of two policies the older has the lower one.
    pub index: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub key: PolicyKey,
    pub selector: Selector,
    /// The lower one wins; among equals the older policy.
    pub priority: u32,
    pub action: Action,
    /// Innermost first. Empty: in clear.
    pub templates: Vec<Template>,
    pub mark: Mark,
    pub if_id: u32,
    pub lifetimes: Lifetimes,
    /// A device has it (`offload packet`).
    pub offloaded: bool,
}

impl Policy {
    /// Order of precedence, the first wins.
    pub fn rank(&self) -> (u32, u32) {
        (self.priority, self.key.index)
    }

    /// As `xfrm_policy_match` does.
    pub fn matches(&self, flow: &Flow) -> bool {
        self.if_id == flow.if_id && self.mark.matches(flow.mark) && self.selector.matches(flow)
    }
}

/// What happens where no policy matches (`ip xfrm policy setdefault`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    pub input: Action,
    pub forward: Action,
    pub output: Action,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { input: Action::Allow, forward: Action::Allow, output: Action::Allow }
    }
}

impl Defaults {
    pub fn of(&self, direction: Direction) -> Action {
        match direction {
            Direction::In => self.input,
            Direction::Out => self.output,
            Direction::Forward => self.forward,
        }
    }
}
