//! The four hosts of the demo and the tests, and the wire between the edges:
//!
//! ```text
//!   client            edge-a             wire              edge-b            server
//!   eth0 ───────── apps  uplink ── to-a [wire] to-b ── uplink  apps ───────── eth0
//!   10.1.0.2      10.1.0.1  192.0.2.1               192.0.2.2  10.2.0.1      10.2.0.2
//!   fd01::2       fd01::1   fd0f::1                 fd0f::2    fd02::1       fd02::2
//! ```
//!
//! The wire is a host of its own because nothing on an edge can see what AF_XDP sends or takes: both pass below the
//! capture hooks. On the bridge every frame is an ordinary one.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{cleanup, netns::NetNs, process};

/// Addresses of the drawing above, IPv4 then IPv6.
pub const CLIENT: [&str; 2] = ["10.1.0.2", "fd01::2"];
pub const EDGE_A_APPS: [&str; 2] = ["10.1.0.1", "fd01::1"];
pub const EDGE_A: [&str; 2] = ["192.0.2.1", "fd0f::1"];
pub const EDGE_B: [&str; 2] = ["192.0.2.2", "fd0f::2"];
pub const EDGE_B_APPS: [&str; 2] = ["10.2.0.1", "fd02::1"];
pub const SERVER: [&str; 2] = ["10.2.0.2", "fd02::2"];
/// The two networks of applications.
pub const CLIENT_NET: [&str; 2] = ["10.1.0.0/24", "fd01::/64"];
pub const SERVER_NET: [&str; 2] = ["10.2.0.0/24", "fd02::/64"];

/// What may differ between topologies.
#[derive(Debug, Clone)]
pub struct Options {
    /// Part of every name, to tell runs apart.
    pub tag: String,
    /// MTU of the links of client and server.
    pub apps_mtu: u16,
    /// MTU of the links between the edges.
    pub uplink_mtu: u16,
    /// Whether client and server leave checksums and segmentation to the link, as hosts do.
    pub offload: bool,
    /// Queues of each port of the edges.
    pub queues: u8,
    /// One link between the edges in place of the wire: nothing can be captured on it, and the bridge costs nothing.
    pub direct: bool,
    /// Links are those of the VM of `cargo xtask vm`, each a pair of virtio devices, in place of veths. The edges are then on
    /// one link and nothing is on the wire.
    pub virtio: bool,
}

impl Options {
    /// MTU 1500 everywhere, offload on, one queue.
    pub fn new(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            apps_mtu: 1500,
            uplink_mtu: 1500,
            offload: true,
            queues: 1,
            direct: false,
            virtio: false,
        }
    }
}

/// The hosts. They forward by the kernel until something takes their traffic. Fields are dropped in order.
#[derive(Debug)]
pub struct Topology {
    pub client: NetNs,
    pub server: NetNs,
    pub edge_a: NetNs,
    pub edge_b: NetNs,
    pub wire: NetNs,
}

impl Topology {
    /// Makes hosts, links, addresses and routes. Removes first what killed runs left.
    ///
    /// # Errors
    /// Without root, or when a link cannot be made; what was made until then is removed.
    pub fn new(options: &Options) -> Result<Self> {
        ensure!(crate::is_root(), "network namespaces need root");
        cleanup::sweep();
        let base = cleanup::unique(&options.tag);
        let host = |name: &str| NetNs::new(&format!("{base}-{name}"));
        let this = Self {
            client: host("client")?,
            server: host("server")?,
            edge_a: host("edge-a")?,
            edge_b: host("edge-b")?,
            wire: host("wire")?,
        };
        this.links(options)?;
        this.addresses()?;
        Ok(this)
    }

    fn links(&self, options: &Options) -> Result<()> {
        // Before any link exists, so that the wire never speaks by itself and addresses are usable at once.
        for ns in self.hosts() {
            ns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
            ns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
            ns.sysctl("net/ipv6/conf/default/router_solicitations", "0")?;
        }
        self.wire.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        self.wire.ip("link add wire type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        let (apps, uplink) = (options.apps_mtu, options.uplink_mtu);
        if options.virtio {
            for (hub, end, ns, name, mtu) in [
                (1, 1, &self.client, "eth0", apps),
                (1, 2, &self.edge_a, "apps", apps),
                (2, 1, &self.edge_a, "uplink", uplink),
                (2, 2, &self.edge_b, "uplink", uplink),
                (3, 1, &self.edge_b, "apps", apps),
                (3, 2, &self.server, "eth0", apps),
            ] {
                ns.take_link(&format!("52:54:00:00:{hub:02x}:{end:02x}"), name)?;
                ns.ip(&format!("link set dev {name} mtu {mtu} up"))?;
            }
            return Ok(());
        }
        self.pair(&self.edge_a, "apps", &self.client, "eth0", apps, options.queues)?;
        self.pair(&self.edge_b, "apps", &self.server, "eth0", apps, options.queues)?;
        if options.direct {
            self.pair(&self.edge_a, "uplink", &self.edge_b, "uplink", uplink, options.queues)?;
            return Ok(());
        }
        self.pair(&self.edge_a, "uplink", &self.wire, "to-a", uplink, options.queues)?;
        self.pair(&self.edge_b, "uplink", &self.wire, "to-b", uplink, options.queues)?;
        for port in ["to-a", "to-b"] {
            self.wire.ip(&format!("link set dev {port} master wire"))?;
        }
        self.wire.ip("link set wire up")?;
        if !options.offload {
            for host in [&self.client, &self.server] {
                let mut command = host.command("ethtool");
                command.args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"]);
                process::run(&mut command, Duration::from_secs(10))?.ok()?;
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // two ends of three things each
    fn pair(&self, left: &NetNs, name: &str, right: &NetNs, peer: &str, mtu: u16, queues: u8) -> Result<()> {
        left.ip(&format!(
            "link add {name} mtu {mtu} numtxqueues {queues} numrxqueues {queues} type veth peer name {peer} mtu {mtu} \
             numtxqueues {queues} numrxqueues {queues} netns {}",
            right.name()
        ))?;
        left.ip(&format!("link set dev {name} up"))?;
        right.ip(&format!("link set dev {peer} up"))?;
        Ok(())
    }

    fn addresses(&self) -> Result<()> {
        let give = |ns: &NetNs, link: &str, addresses: [&str; 2]| -> Result<()> {
            ns.ip(&format!("addr add {}/24 dev {link}", addresses[0]))?;
            ns.ip(&format!("addr add {}/64 dev {link} nodad", addresses[1]))?;
            Ok(())
        };
        give(&self.client, "eth0", CLIENT)?;
        give(&self.edge_a, "apps", EDGE_A_APPS)?;
        give(&self.edge_a, "uplink", EDGE_A)?;
        give(&self.edge_b, "uplink", EDGE_B)?;
        give(&self.edge_b, "apps", EDGE_B_APPS)?;
        give(&self.server, "eth0", SERVER)?;
        let route = |ns: &NetNs, to: [&str; 2], via: [&str; 2]| -> Result<()> {
            for (to, via) in to.iter().zip(via) {
                ns.ip(&format!("route add {to} via {via}"))?;
            }
            Ok(())
        };
        route(&self.client, ["default"; 2], EDGE_A_APPS)?;
        route(&self.server, ["default"; 2], EDGE_B_APPS)?;
        route(&self.edge_a, SERVER_NET, EDGE_B)?;
        route(&self.edge_b, CLIENT_NET, EDGE_A)?;
        for edge in [&self.edge_a, &self.edge_b] {
            edge.sysctl("net/ipv4/ip_forward", "1")?;
            edge.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    /// All hosts, the wire included.
    pub fn hosts(&self) -> [&NetNs; 5] {
        [&self.client, &self.server, &self.edge_a, &self.edge_b, &self.wire]
    }

    /// Waits until the server answers the client's ping.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn reachable(&self, address: &str, limit: Duration) -> Result<()> {
        let answered = process::eventually(limit, || {
            let mut ping = self.client.command("ping");
            ping.args(["-n", "-c", "1", "-W", "0.3", address]);
            process::run(&mut ping, Duration::from_secs(3)).ok()?.ok().ok()
        });
        ensure!(answered.is_some(), "{address} does not answer the client within {limit:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_topologies_forward_side_by_side_and_go() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let options = Options::new("unit-topo");
        let (one, two) = (Topology::new(&options).unwrap(), Topology::new(&options).unwrap());
        for topology in [&one, &two] {
            for server in SERVER {
                topology.reachable(server, Duration::from_secs(10)).unwrap();
            }
        }
        let names: Vec<String> = one.hosts().into_iter().chain(two.hosts()).map(|ns| ns.name().to_owned()).collect();
        drop((one, two));
        let left = cleanup::namespaces();
        assert!(names.iter().all(|name| !left.contains(name)));
    }
}
