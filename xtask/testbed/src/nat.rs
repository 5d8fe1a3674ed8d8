//! A NAT box in place of the bridge between the edges: edge-a is behind it, and only who has been spoken to by edge-a reaches it.
//!
//! ```text
//!   edge-a                 wire                       edge-b
//!   192.0.2.1 ── to-a [ a router ] to-b ──────────── 192.0.2.2
//!                       192.0.2.9 (outside)
//! ```
//!
//! No address of the edges changes: the box answers edge-a's ARP for edge-b, and edge-b's for its own outside address alone.

use std::{net::SocketAddrV4, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{
    netns::NetNs,
    process,
    topology::{EDGE_A, EDGE_B, Topology},
};

/// Longest that one command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The box at work, IPv4 only. It stays until the topology goes.
#[derive(Debug)]
pub struct Nat {
    namespace: String,
    outside: SocketAddrV4,
}

impl Nat {
    /// What edge-a sends by UDP appears to be from `outside`, one port for all of it: there must be one conversation only. Who has
    /// not been sent anything for `forgets` (whole seconds) is forgotten.
    ///
    /// # Errors
    /// When the kernel has no NAT, or `nft` is missing.
    pub fn start(topology: &Topology, outside: SocketAddrV4, forgets: Duration) -> Result<Self> {
        let wire = &topology.wire;
        for link in ["to-a", "to-b"] {
            wire.ip(&format!("link set dev {link} nomaster"))?;
        }
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/to-a/rp_filter", "0"),
            ("net/ipv4/conf/to-b/rp_filter", "0"),
            ("net/ipv4/conf/to-a/proxy_arp", "1"),
            ("net/ipv4/neigh/to-a/proxy_delay", "0"),
        ] {
            wire.sysctl(key, value)?;
        }
        wire.ip(&format!("route add {}/32 dev to-a", EDGE_A[0]))?;
        // What the edges know of each other from before.
        for edge in [&topology.edge_a, &topology.edge_b] {
            edge.ip("neigh flush dev uplink")?;
        }
        let this = Self { namespace: wire.name().to_owned(), outside };
        this.nft("add table ip nat; add chain ip nat out { type nat hook postrouting priority srcnat; }")?;
        this.map(outside)?;
        // Connections are tracked from the first rule on, so only now is there anything to set.
        forget_after(wire, forgets)?;
        Ok(this)
    }

    /// Where edge-a seems to be.
    pub fn outside(&self) -> SocketAddrV4 {
        self.outside
    }

    /// As after a restart of the box, or when its provider gives it another address: all it knew is forgotten, and edge-a seems to
    /// be elsewhere from its next packet on. Until then nothing reaches it.
    ///
    /// # Errors
    /// When a command fails.
    pub fn rebind(&mut self, outside: SocketAddrV4) -> Result<()> {
        // Masqueraded connections end with their address (nf_nat_masquerade).
        self.ip(&format!("addr del {}/32 dev to-b", self.outside.ip()))?;
        self.outside = outside;
        self.map(outside)
    }

    fn map(&self, outside: SocketAddrV4) -> Result<()> {
        let rule =
            format!("oifname \"to-b\" ip saddr {} meta l4proto udp masquerade to :{}", EDGE_A[0], outside.port());
        self.nft(&format!("flush chain ip nat out; add rule ip nat out {rule}"))?;
        self.ip(&format!("addr add {}/32 dev to-b", outside.ip()))?;
        // A link's routes go with its last address.
        self.ip(&format!("route replace {}/32 dev to-b", EDGE_B[0]))
    }

    fn ip(&self, words: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.namespace]).args(words.split_whitespace());
        process::run(&mut command, PATIENCE)?.ok().with_context(|| process::describe(&command)).map(|_| ())
    }

    fn nft(&self, text: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "nft", text]);
        process::run(&mut command, PATIENCE)?.ok().with_context(|| process::describe(&command)).map(|_| ())
    }
}

fn forget_after(wire: &NetNs, time: Duration) -> Result<()> {
    for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        wire.sysctl(&format!("net/netfilter/{key}"), &time.as_secs().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{SocketAddr, UdpSocket};

    use super::*;
    use crate::topology::Options;

    #[test]
    fn the_host_behind_it_shows_the_outside_address_until_that_changes() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let topology = Topology::new(&Options::new("unit-nat")).unwrap();
        let outside = "192.0.2.9:40001".parse().unwrap();
        let mut nat = Nat::start(&topology, outside, Duration::from_secs(30)).unwrap();
        let socket = |host: &NetNs, at: &str| {
            let socket = host.within(|| Ok(UdpSocket::bind(at)?)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        };
        let (inside, out) = (socket(&topology.edge_a, "192.0.2.1:4500"), socket(&topology.edge_b, "192.0.2.2:4500"));
        let mut buffer = [0; 16];
        assert!(out.send_to(b"nobody", "192.0.2.1:4500").is_ok() && inside.recv(&mut buffer).is_err());
        let seen = |inside: &UdpSocket| {
            let mut buffer = [0; 16];
            // The first waits for neighbours, and may be lost.
            process::eventually(Duration::from_secs(5), || {
                inside.send_to(b"from inside", "192.0.2.2:4500").ok()?;
                out.recv_from(&mut buffer).ok().map(|(_, from)| from)
            })
        };
        assert_eq!(seen(&inside), Some(SocketAddr::V4(outside)));
        let answered = |to: SocketAddrV4| {
            let mut buffer = [0; 16];
            while inside.recv(&mut buffer).is_ok() {}
            out.send_to(b"back", to).unwrap();
            inside.recv(&mut buffer).is_ok()
        };
        assert!(answered(outside));
        for new in ["192.0.2.9:40002", "192.0.2.10:40003"].map(|new| new.parse().unwrap()) {
            let old = nat.outside();
            nat.rebind(new).unwrap();
            assert!(!answered(old), "the old mapping is gone");
            while seen(&inside) != Some(SocketAddr::V4(new)) {}
            assert!(answered(new));
        }
    }
}
