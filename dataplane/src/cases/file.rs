//! A case file as it is written. The doc comment of every key is its description in `docs/config-tests.md`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::At;
use crate::config::places::{Address, FilePath, Name};
use crate::config::values::{Prefix, Protocol};

/// A softdpu case file: packets, and what is to become of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "softdpu case file")]
pub struct File {
    /// The policy to test, where the command line names none. A relative path starts at this file's folder.
    pub policy: Option<At<FilePath>>,
    /// Whether routes are made up, so that everything has a way out. Default true.
    pub invent: Option<bool>,
    /// Ports whose senders leave checksums to their device, as those behind a veth do.
    #[serde(default)]
    pub veth: Vec<At<Name>>,
    /// What the ports' links are like. Those that are not given have no neighbours to resolve.
    #[serde(default)]
    pub link: Vec<LinkLine>,
    /// Routes, before those that are made up.
    #[serde(default)]
    pub route: Vec<RouteLine>,
    /// Neighbours. A port for which one is given has those alone, and takes only frames to its own MAC.
    #[serde(default)]
    pub neighbour: Vec<NeighbourLine>,
    /// The cases. Each has a worker of its own, which knows nothing of the others.
    #[serde(default)]
    pub case: Vec<CaseLine>,
}

/// A port's link.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkLine {
    /// The port, by its name in the policy.
    pub port: At<Name>,
    /// The host's own addresses there: what ICMP errors are sent from.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Largest IP packet in bytes. Default 1500.
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<u16>,
    /// Its MAC address. Default 02:00:00:00:00:01 for the first port, and so on.
    pub mac: Option<At<String>>,
}

/// A route.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteLine {
    /// Where it leads.
    pub to: Prefix,
    /// The port by which. Without it the kernel has it: the host itself, or an interface that is no port.
    pub port: Option<At<Name>>,
    /// The next router. Default: whoever is addressed is on the link.
    pub via: Option<Address>,
}

/// A neighbour.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NeighbourLine {
    /// The port, by its name in the policy.
    pub port: At<Name>,
    /// Its address.
    pub address: Address,
    /// Its MAC address: "02:00:00:00:00:aa".
    pub mac: At<String>,
}

/// One case: either a `connection` or a list of `packet`s, and what is to become of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseLine {
    /// What it shows. Each name once in a file.
    pub name: At<String>,
    /// A whole connection, until it has settled: opened, data in both directions.
    pub connection: Option<At<ConnectionLine>>,
    /// Packets, one after the other.
    #[serde(default)]
    pub packet: Vec<PacketLine>,
    /// What became of the last packet that is no answer, and of its flow.
    pub expect: Option<At<Expect>>,
    /// What was counted by the end.
    #[serde(default)]
    pub counter: Vec<CounterLine>,
}

/// A connection: TCP with its handshake, or UDP to and fro.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionLine {
    /// The port that its first packet comes in by. Answers come back by the way it went out, sealed where it was sealed.
    pub port: At<Name>,
    /// Address and port of who opens it: "10.1.0.10:40000", "[2001:db8::10]:40000". Default port 40000.
    pub from: At<String>,
    /// Address and port of the other side.
    pub to: At<String>,
    /// tcp or udp. Default tcp.
    pub protocol: Option<At<Protocol>>,
    /// Begins with a TLS hello for this server name.
    pub sni: Option<String>,
    /// Begins with an HTTP request for this host.
    pub http_host: Option<String>,
    /// What is sent first.
    pub payload: Option<String>,
    /// What is answered first.
    pub answer: Option<String>,
    /// Packets with data, both directions together. Default 128: after those any flow is decided.
    #[schemars(range(min = 2, max = 10000))]
    pub packets: Option<u32>,
    /// VLAN tags, the outer one first.
    #[serde(default)]
    pub vlan: Vec<u16>,
    /// DSCP, 0 to 63.
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<u8>,
}

/// A packet: described by its ends, given whole, or an answer to the one before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PacketLine {
    /// The port it comes in by. Answers come by the port that what they answer went out of.
    pub port: Option<At<Name>>,
    /// Source: address and port, "10.1.0.10:40000". Default port 40000.
    pub from: Option<At<String>>,
    /// Destination.
    pub to: Option<At<String>>,
    /// Of a described packet. Default udp.
    pub protocol: Option<At<Protocol>>,
    /// Of TCP: "syn", "syn,ack", "psh,ack", "fin,ack", "rst". Default: "syn" for the first without data, else "psh,ack".
    pub flags: Option<At<String>>,
    /// What it carries.
    pub payload: Option<String>,
    /// A TLS hello for this server name, in place of `payload`.
    pub sni: Option<String>,
    /// An HTTP request for this host, in place of `payload`.
    pub http_host: Option<String>,
    /// Length of the IP packet in bytes: `payload` is repeated, or cut.
    #[schemars(range(min = 20, max = 9000))]
    pub length: Option<At<u16>>,
    /// What fills it up to `length`, where there is no `payload`. Default "text".
    pub fill: Option<Fill>,
    /// VLAN tags, the outer one first.
    #[serde(default)]
    pub vlan: Vec<u16>,
    /// DSCP, 0 to 63.
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<u8>,
    /// TTL or hop limit. Default 64.
    pub ttl: Option<u8>,
    /// The whole Ethernet frame, in hex digits.
    pub hex: Option<At<String>>,
    /// A capture (pcap or pcapng) of what comes in, one packet after the other. A relative path starts at this file's folder.
    pub capture: Option<At<FilePath>>,
    /// From the other side: ends are those of the packet before, the other way round.
    #[serde(default)]
    pub answer: bool,
    /// The other end of this tunnel sends it, sealed.
    pub sealed: Option<At<Name>>,
    /// How often it comes. Default once.
    #[schemars(range(min = 1, max = 100_000))]
    pub times: Option<u32>,
    /// What is to become of it: the last one, where there are several.
    pub expect: Option<At<Expect>>,
}

/// Bytes of which nothing is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// Words that repeat: compresses well.
    #[default]
    Text,
    /// Bytes that do not compress.
    Random,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It left by a port.
    Forwarded,
    /// The kernel's stack has it: the XDP program passed it, or the tap to the host took it.
    Kernel,
    /// Dropped, and counted under a reason.
    Dropped,
    /// Kept: for the rest of its fragments, or for something that did not come within 1.5 s.
    Waits,
}

/// Who handles a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The driver's flow table: proposed to it with nothing left to do for a worker.
    Xdp,
    /// A worker.
    Worker,
    /// The kernel's stack.
    Kernel,
}

/// Parts of an IP packet that are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ignore {
    /// TTL or hop limit, and the IPv4 header's checksum.
    Ttl,
    /// IPv4's identification, and its header's checksum.
    Id,
    /// The checksum of TCP, UDP or ICMP.
    Checksum,
}

/// What is to become of it. Only what is written is looked at.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What becomes of the packet.
    pub verdict: Option<At<Verdict>>,
    /// The port it leaves by.
    pub port: Option<At<Name>>,
    /// Why it is dropped: a code of docs/drops.md.
    pub reason: Option<At<String>>,
    /// The steering rule that decides in the driver; "tunnel:NAME" for a tunnel's own, "none".
    pub steer: Option<At<String>>,
    /// The rule of its flow; "none".
    pub rule: Option<At<String>>,
    /// The intent that its rule was made for; "none".
    pub intent: Option<At<String>>,
    /// The tunnel it leaves by; "none".
    pub tunnel: Option<At<String>>,
    /// Whether it leaves sealed.
    pub encrypted: Option<At<bool>>,
    /// Whether it leaves compressed.
    pub compressed: Option<At<bool>>,
    /// Where its flow settles.
    pub tier: Option<At<Tier>>,
    /// Why its flow is on no higher tier: a code of docs/offload-reasons.md; "none".
    pub offload: Option<At<String>>,
    /// What its flow carries: "tls", "http", "dns" and so on.
    pub class: Option<At<String>>,
    /// The host name its flow is for; "none".
    pub host: Option<At<String>>,
    /// The operator's application; "none".
    pub application: Option<At<String>>,
    /// How many packets leave.
    pub packets: Option<At<u32>>,
    /// Length of the IP packet that leaves, in bytes: before it was sealed.
    pub length: Option<At<u32>>,
    /// Its TTL or hop limit, likewise.
    pub ttl: Option<At<u8>>,
    /// Its DSCP, likewise.
    pub dscp: Option<At<u8>>,
    /// The whole frame as it leaves, in hex digits; `??` stands for any byte.
    pub bytes: Option<At<String>>,
    /// The IP packet before it was sealed, likewise.
    pub inner: Option<At<String>>,
    /// A capture of the IP packets that leave, before they are sealed. With several packets: of all.
    pub capture: Option<At<FilePath>>,
    /// Parts of `capture`'s packets that are not compared.
    #[serde(default)]
    pub ignore: Vec<Ignore>,
}

/// A counter at the end of a case.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CounterLine {
    /// As the instance's metrics name it, with the labels that matter: `softdpu_drop_packets_total{reason="ttl_expired"}`.
    pub name: At<String>,
    /// What it is.
    pub is: Option<At<u32>>,
    /// What it is at least.
    pub least: Option<At<u32>>,
}
